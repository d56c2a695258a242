"""Runs of a sequence: written, kept, the same again, and the test part met once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from training.continual.streams import Stream, keys_of, stream

from histostudy.cohort.outcomes import Outcome
from histostudy.errors import ConfigError, ModelError, StudyError
from histostudy.evaluation.continual import TaskClasses, evaluate_sequence, prior_predictions
from histostudy.evaluation.runs import gather
from histostudy.files import read_json
from histostudy.models.io import load_tensors
from histostudy.study import Training
from histostudy.training.continual.sequence import SequenceModel, SequenceTest, train_sequence
from histostudy.training.guard import LeakError
from histostudy.training.runfolder import write_index

COLUMNS = [f"prob_t{t}/{name}" for t in range(2) for name in ("no", "yes")]


@pytest.fixture(scope="module")
def data() -> Stream:
    return stream(0, patients=24, tasks=2)


def _spec(epochs: int = 3, options: dict[str, Any] | None = None, **keys: Any) -> SequenceModel:
    training = Training(epochs=epochs, lr=2e-3, patience=5)
    return SequenceModel(keys_of(**{"method": "finetune", **keys}), training, options or {"hidden": 16})


def _train(data: Stream, folder: Path, spec: SequenceModel, **more: Any) -> pd.DataFrame:
    sequence = more.pop("sequence", None) or data.outcomes()
    splits = more.pop("splits", None)
    splits = data.splits() if splits is None else splits
    index = train_sequence(more.pop("seed", 0), "m", spec, sequence, data.bags, splits, folder)  # type: ignore[arg-type]
    write_index(folder, index, timings=False)
    return index


@pytest.mark.parametrize(
    "keys",
    [{}, {"method": "joint"}, {"method": "replay", "memory": 64, "tiles": 8},
     {"method": "conslide", "region": 16, "memory": 64, "first_epochs": 1}, {"method": "comel"}],
    ids=lambda keys: keys.get("method", "finetune"),
)  # fmt: skip
def test_each_method_writes_its_runs(data: Stream, tmp_path: Path, keys: dict[str, Any]) -> None:
    index = _train(data, tmp_path, _spec(epochs=2, **keys))
    assert list(index["status"]) == ["trained"] * 3
    table = gather(tmp_path)
    assert list(table.columns) == ["repeat", "fold", "model", "task_learned", "task", "patient_id", "truth", *COLUMNS]
    np.testing.assert_allclose(table[COLUMNS].sum(axis=1), 1)
    # everybody is tested once after each task, by truth that is his
    assert table.groupby(["task_learned", "task"])["patient_id"].nunique().eq(24).all() and len(table) == 96
    truth = dict(zip(data.bags.patient_ids, np.array(["no", "yes"])[data.y], strict=True))
    assert (table["truth"] == table["patient_id"].map(truth)).all()
    side = data.splits().query("part == 'test'").set_index("patient_id")["fold"]
    assert (table["fold"] == table["patient_id"].map(side)).all()
    history = pd.read_csv(tmp_path / "r0f0" / "history.csv")
    assert list(history["task"].unique()) == ["t0", "t1"] and history.groupby("task")["best"].sum().eq(1).all()
    tensors, config = load_tensors(tmp_path / "r0f1" / "weights.safetensors")
    assert config["classes"] == [["t0", ["no", "yes"]], ["t1", ["no", "yes"]]] and len(tensors) > 3
    run = read_json(tmp_path / "r0f2" / "run.json")
    assert run["n_test"] == 16 and run["n_train"] == 24 and run["n_val"] == 8
    if keys.get("method") in ("replay", "conslide"):
        assert 0 < index["kept_tiles"].max() <= 64


def test_a_planted_stream_is_learned_and_its_evaluation_agrees(tmp_path: Path) -> None:
    data = stream(0, patients=60, tasks=2)
    _train(data, tmp_path, _spec(epochs=12, options={"hidden": 32}))
    sequence = [TaskClasses(f"t{t}", ("no", "yes")) for t in range(2)]
    models = {"prior": prior_predictions(data.outcomes(), data.splits()), "m": gather(tmp_path)}
    scored = evaluate_sequence(models, sequence, seed=0, resamples=200, reference="prior")
    found = scored.metrics.set_index(["model", "reading", "metric"])["estimate"]
    assert found["m", "task", "learning_accuracy"] > 0.9 and found["m", "class", "forgetting"] > 0.3
    assert found["prior", "task", "average_accuracy"] == pytest.approx(0.5)
    assert found["prior", "task", "forgetting"] == 0


def test_what_still_holds_is_kept_and_what_does_not_is_trained_again(data: Stream, tmp_path: Path) -> None:
    first = _train(data, tmp_path, _spec(epochs=1))
    weights = (tmp_path / "r0f0" / "weights.safetensors").read_bytes()
    again = _train(data, tmp_path, _spec(epochs=1))
    assert list(again["status"]) == ["kept"] * 3 and list(again["sha256"]) == list(first["sha256"])
    (tmp_path / "r0f1" / "history.csv").write_text("")
    mended = _train(data, tmp_path, _spec(epochs=1))
    assert list(mended["status"]) == ["kept", "trained", "kept"] and list(mended["sha256"]) == list(first["sha256"])
    _train(data, tmp_path / "other", _spec(epochs=1))  # the same bytes elsewhere
    assert (tmp_path / "other" / "r0f0" / "weights.safetensors").read_bytes() == weights
    changed = data.outcomes()
    y = changed[1].y.copy()
    y[:2] = y[:2][::-1]
    changed[1] = Outcome(changed[1].task, changed[1].patient_ids, y, changed[1].adjust, classes=["no", "yes"])
    for more in ({"seed": 1}, {"sequence": changed}, {"sequence": data.outcomes()[::-1]}):
        assert (_train(data, tmp_path, _spec(epochs=1), **more)["status"] == "trained").all()
    assert (_train(data, tmp_path, _spec(epochs=1, method="joint"))["status"] == "trained").all()
    splits = data.splits()
    left = _train(data, tmp_path, _spec(epochs=1), splits=splits[splits["fold"] < 2])
    assert len(left) == 2 and not (tmp_path / "r0f2").exists()


def test_test_labels_change_nothing_that_is_predicted(data: Stream, tmp_path: Path) -> None:
    """Turn the classes of the patients that a fold tests: its predictions are the same bytes."""
    splits = data.splits()
    tested = set(splits.query("fold == 0 and part == 'test'")["patient_id"])
    turned = [
        Outcome(o.task, o.patient_ids, np.where([p in tested for p in o.patient_ids], 1 - o.y, o.y), o.adjust,
                classes=list(o.classes))
        for o in data.outcomes()
    ]  # fmt: skip
    only = splits[splits["fold"] == 0]
    _train(data, tmp_path / "a", _spec(epochs=2), splits=only)
    _train(data, tmp_path / "b", _spec(epochs=2), splits=only, sequence=turned)
    one, other = gather(tmp_path / "a"), gather(tmp_path / "b")
    assert (one["truth"] != other["truth"]).all()
    pd.testing.assert_frame_equal(one[COLUMNS], other[COLUMNS], check_exact=True)


def test_the_truth_comes_once_and_last(data: Stream) -> None:
    sequence = data.outcomes()
    ids = {o.name: list(o.patient_ids[:3]) for o in sequence}
    test = SequenceTest(sequence, ids)
    assert test.pairs == [("t0", "t0"), ("t0", "t1"), ("t1", "t0"), ("t1", "t1")]
    for learned, task in test.pairs:
        with pytest.raises(LeakError, match="truth was asked for before"):
            test.score()
        test.hand_in(learned, task, pd.DataFrame({"patient_id": ids[task], "prob_t0/no": 0.5}))
    with pytest.raises(LeakError, match="predicted before"):
        test.hand_in("t0", "t1", pd.DataFrame({"patient_id": ids["t1"], "prob_t0/no": 0.5}))
    assert len(test.score()) == 12
    with pytest.raises(LeakError, match="predicted once"):
        test.score()


def test_patients_of_several_tasks_are_read_with_the_task_known_alone(data: Stream, tmp_path: Path) -> None:
    sequence = data.outcomes(shared=True)
    _train(data, tmp_path, _spec(epochs=1), sequence=sequence)
    names = [TaskClasses(o.name, tuple(o.classes)) for o in sequence]
    scored = evaluate_sequence({"m": gather(tmp_path)}, names, seed=0, resamples=100)
    assert set(scored.metrics["reading"]) == {"task"} and (scored.metrics["n"] == 48).all()


def test_bad_input_is_refused(data: Stream, tmp_path: Path) -> None:
    one, two = data.outcomes()
    bad: list[tuple[type[StudyError], str, dict[str, Any]]] = [
        (ConfigError, "two tasks at least", {"sequence": [one]}),
        (ConfigError, "two tasks at least", {"sequence": [one, one]}),
        (ConfigError, "is not one of the two classes", {"spec": _spec(method="comel", negatives={"t0": "maybe"})}),
        (ConfigError, "is not one of the two classes", {"spec": _spec(method="comel", negatives={"t9": "no"})}),
        (ModelError, "unknown option", {"spec": _spec(options={"wide": 1})}),
        (ModelError, "wrong option", {"spec": _spec(options={"hidden": 0})}),
    ]
    for error, words, given in bad:
        with pytest.raises(error, match=words):
            _train(data, tmp_path, given.pop("spec", _spec()), **given)
    for wrong in ({"l1": 0.1}, {"sampling": "balanced"}, {"trace": True}, {"epochs": 0}):
        with pytest.raises(ConfigError):
            SequenceModel(keys_of(method="finetune"), Training(**wrong)).check()
    splits = data.splits()
    gone = splits[~((splits["part"] != "test") & splits["patient_id"].isin(set(two.patient_ids)))]
    with pytest.raises(ModelError, match="task t1: no patient in the training part"):
        _train(data, tmp_path, _spec(), splits=gone)
