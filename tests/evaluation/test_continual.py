"""Metrics of a sequence against matrices worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histostudy.errors import StudyError
from histostudy.evaluation.continual import (
    TaskClasses,
    average_accuracy,
    backward_transfer,
    evaluate_sequence,
    forgetting,
    learning_accuracy,
)

SEQUENCE = [TaskClasses("a", ("x", "y")), TaskClasses("b", ("x", "y", "z"))]
COLUMNS = [column for task in SEQUENCE for column in task.columns]


def test_metrics_of_a_matrix_by_hand() -> None:
    matrix = np.array([[0.9, 0.5, 0.4], [0.95, 0.8, 0.3], [0.6, 0.7, 0.85]])
    assert average_accuracy(matrix) == pytest.approx((0.6 + 0.7 + 0.85) / 3)
    assert forgetting(matrix) == pytest.approx(((0.95 - 0.6) + (0.8 - 0.7)) / 2)  # the best since it was learned
    assert backward_transfer(matrix) == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)
    assert learning_accuracy(matrix) == pytest.approx((0.9 + 0.8 + 0.85) / 3)
    assert forgetting(np.array([[0.5, 0.9], [0.7, 0.9]])) == pytest.approx(-0.2)  # helped by a later task
    both = np.stack([matrix, matrix - 0.1])
    np.testing.assert_allclose(average_accuracy(both), [average_accuracy(matrix), average_accuracy(matrix) - 0.1])
    # what is not defined yet, in the reading of all classes, is not looked at
    matrix[np.triu_indices(3, 1)] = np.nan
    assert np.isfinite([f(matrix) for f in (average_accuracy, forgetting, backward_transfer, learning_accuracy)]).all()


def _frame(right: dict[tuple[str, str], float], n: int = 40, seed: int = 0, elsewhere: float = 0.0) -> pd.DataFrame:
    """Predictions of which a given share is right, task known; of a share `elsewhere` another task is the likeliest."""
    rng = np.random.default_rng(seed)
    rows = []
    for learned in SEQUENCE:
        for task in SEQUENCE:
            good = round(right[learned.name, task.name] * n)
            for i in range(n):
                truth = task.classes[i % len(task.classes)]
                other = task.classes[(i + 1) % len(task.classes)]
                prob = dict.fromkeys(COLUMNS, 0.01)
                prob[f"prob_{task.name}/{truth if i < good else other}"] = 0.5
                if i < elsewhere * n:
                    prob[f"prob_{'b' if task.name == 'a' else 'a'}/x"] = 0.9
                noise = {c: v + 1e-6 * rng.random() for c, v in prob.items()}
                rows.append({"repeat": 0, "fold": i % 4, "model": "m", "task_learned": learned.name, "task": task.name,
                             "patient_id": f"{task.name}{i:03d}", "truth": truth, **noise})  # fmt: skip
    return pd.DataFrame(rows)


RIGHT = {("a", "a"): 0.9, ("a", "b"): 0.3, ("b", "a"): 0.6, ("b", "b"): 0.8}


def test_both_readings_by_hand() -> None:
    scored = evaluate_sequence({"m": _frame(RIGHT, elsewhere=0.1)}, SEQUENCE, seed=0, resamples=300)
    cell = scored.matrix.set_index(["reading", "learned", "task"])
    for (learned, task), share in RIGHT.items():
        assert cell.loc[("task", learned, task), "estimate"] == pytest.approx(share)
    # the first tenth, all right where the task is known, go to another task once it is learned
    assert cell.loc[("class", "a", "a"), "estimate"] == pytest.approx(0.9)
    assert cell.loc[("class", "b", "a"), "estimate"] == pytest.approx(0.5)
    assert cell.loc[("class", "b", "b"), "estimate"] == pytest.approx(0.7)
    assert ("class", "a", "b") not in cell.index
    found = scored.metrics.set_index(["reading", "metric"])
    assert found.loc[("task", "average_accuracy"), "estimate"] == pytest.approx(0.7)
    assert found.loc[("task", "forgetting"), "estimate"] == pytest.approx(0.3)
    assert found.loc[("task", "backward_transfer"), "estimate"] == pytest.approx(-0.3)
    assert found.loc[("class", "average_accuracy"), "estimate"] == pytest.approx(0.6)
    assert found.loc[("class", "forgetting"), "estimate"] == pytest.approx(0.4)
    assert (found["low"] <= found["estimate"]).all() and (found["estimate"] <= found["high"]).all()
    assert (found["n"] == 80).all() and (found["runs"] == 4).all() and (scored.matrix["n"] == 40).all()
    course = scored.course.query("reading == 'task'")
    np.testing.assert_allclose(course["estimate"], [0.9, 0.7])
    assert course["n"].tolist() == [40, 80]
    assert not len(scored.comparison)


def test_the_interval_is_that_of_the_binomial() -> None:
    """Of one accuracy of n patients, the bootstrap's standard error is sqrt(p (1 - p) / n), nearly."""
    frame = _frame(RIGHT, n=120)
    scored = evaluate_sequence({"m": frame}, SEQUENCE, seed=0, resamples=2000)
    one = scored.matrix.query("reading == 'task' and learned == 'b' and task == 'a'").iloc[0]
    assert (one["high"] - one["low"]) / 3.92 == pytest.approx(np.sqrt(0.6 * 0.4 / 120), rel=0.12)


def test_models_are_compared_on_the_same_patients() -> None:
    models = {"worse": _frame(RIGHT | {("b", "a"): 0.3}), "ref": _frame(RIGHT), "twin": _frame(RIGHT, seed=1)}
    scored = evaluate_sequence(models, SEQUENCE, seed=0, resamples=500, reference="ref")
    found = scored.comparison.query("reading == 'task'").set_index(["model", "metric"])
    assert len(found) == 8 and set(found["reference"]) == {"ref"}
    worse = found.loc[("worse", "forgetting")]
    assert worse["difference"] == pytest.approx(0.3) and worse["low"] > 0.1 and worse["p_adjusted"] < 0.05
    assert found.loc[("worse", "average_accuracy"), "difference"] == pytest.approx(-0.15)
    twin = found.loc[("twin", "average_accuracy")]
    assert twin["difference"] == 0 and twin["p_adjusted"] == 1 and twin["low"] == twin["high"] == 0
    assert (found["p_adjusted"] >= found["p"]).all()


def test_repeats_count_a_patient_once() -> None:
    frame = _frame(RIGHT)
    twice = pd.concat([frame, frame.assign(repeat=1, fold=(frame["fold"] + 1) % 4)], ignore_index=True)
    scored = evaluate_sequence({"m": twice}, SEQUENCE, seed=0, resamples=200)
    once = evaluate_sequence({"m": frame}, SEQUENCE, seed=0, resamples=200)
    np.testing.assert_allclose(scored.metrics["estimate"], once.metrics["estimate"])
    assert (scored.metrics["n"] == 80).all() and (scored.metrics["runs"] == 8).all()


def test_a_patient_of_two_tasks_has_no_one_class() -> None:
    frame = _frame(RIGHT)
    frame["patient_id"] = frame["patient_id"].str[1:]
    scored = evaluate_sequence({"m": frame}, SEQUENCE, seed=0, resamples=100)
    assert set(scored.metrics["reading"]) == {"task"} and (scored.metrics["n"] == 40).all()


def test_predictions_that_cannot_be_compared_are_refused() -> None:
    frame = _frame(RIGHT)
    bad = [
        ({}, "no predictions"),
        ({"m": pd.concat([frame, frame.iloc[:1]])}, "twice"),
        ({"m": frame[frame["task_learned"] == "a"]}, "nobody of a was predicted after b"),
        ({"m": frame.drop(index=frame.index[0])}, "not the same patients"),
        ({"m": frame, "o": frame[frame["patient_id"] != "a000"]}, "not the same patients as m"),
    ]
    for models, words in bad:
        with pytest.raises(StudyError, match=words):
            evaluate_sequence(models, SEQUENCE, seed=0, resamples=100)
