"""Scores of masks: their definitions, and their means over patients."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histostudy.errors import StudyError
from histostudy.evaluation.segmentation import MEAN, evaluate_segmentation, scores
from histostudy.study import Study


def _study(**compare: object) -> Study:
    models = {"one": {"segmenter": "unet"}, "two": {"segmenter": "unet"}}
    task = {"name": "t", "kind": "segmentation", "annotations": "x", "classes": {"a": ["A"], "b": ["B"]}}
    cohort = {"name": "c", "slides": "s.csv", "patients": "p.csv"}
    return Study.model_validate(
        {"study": "s", "cohort": cohort, "tasks": [task], "models": models, "compare": {"resamples": 300} | compare}
    )


def _predictions(rng: np.random.Generator, quality: float, slides: int = 24, without_b: int = 6) -> pd.DataFrame:
    rows = []
    for k in range(slides):
        for name in ("a", "b"):
            there = 0 if name == "b" and k < without_b else int(rng.integers(500, 1500))
            tp = int(there * np.clip(quality + rng.normal(0, 0.05), 0, 1))
            rows.append({"slide_id": f"s{k:02d}", "patient_id": f"p{k // 2:02d}", "class": name, "repeat": 0,
                         "fold": k // 2 % 3, "tp": tp, "fp": int(rng.integers(50, 200)), "fn": there - tp,
                         "tn": 5000})  # fmt: skip
    return pd.DataFrame(rows)


def test_precision_and_recall_are_not_swapped() -> None:
    # everything called: nothing is missed (recall 1), most of the calls are wrong (precision 0.2)
    found = {k: v[0] for k, v in scores(*(np.array([v], float) for v in (20, 80, 0))).items()}
    assert found == {"dice": pytest.approx(1 / 3), "iou": 0.2, "precision": 0.2, "recall": 1.0}


def test_scores_against_sklearn() -> None:
    from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

    rng = np.random.default_rng(0)
    truth, mask = rng.random(500) < 0.3, rng.random(500) < 0.4
    found = scores(*(np.array([v.sum()], float) for v in (truth & mask, ~truth & mask, truth & ~mask)))
    for name, function in (("dice", f1_score), ("iou", jaccard_score), ("precision", precision_score),
                           ("recall", recall_score)):  # fmt: skip
        assert found[name][0] == pytest.approx(function(truth, mask))


def test_a_slide_without_the_class_has_no_dice_but_lowers_precision_and_the_pooled_one() -> None:
    found = scores(*(np.array(v, float) for v in ([10, 0, 0], [0, 5, 0], [0, 0, 0])))
    assert np.isnan(found["dice"][1:]).all() and np.isnan(found["recall"][1:]).all()
    assert found["precision"][1] == 0 and np.isnan(found["precision"][2])


def test_means_are_of_patients_and_classes() -> None:
    study, frame = _study(), _predictions(np.random.default_rng(1), 0.8)
    metrics, _, curves = evaluate_segmentation(study, study.tasks[0], {"one": frame})  # type: ignore[arg-type]
    table = metrics.set_index(["metric", "class"])
    dice = 2 * frame["tp"] / (2 * frame["tp"] + frame["fp"] + frame["fn"])
    held = frame.assign(dice=dice)[frame["tp"] + frame["fn"] > 0]
    by_class = held.groupby(["class", "patient_id"])["dice"].mean().groupby("class").mean()
    for name in ("a", "b"):
        row = table.loc[("dice", name)]
        assert row["estimate"] == pytest.approx(by_class[name]) and row["low"] < row["estimate"] < row["high"]
    assert table.loc[("dice", MEAN), "estimate"] == pytest.approx(by_class.mean())
    assert table.loc[("dice", "b"), ["n", "events", "undefined"]].tolist() == [12, 9, 3]
    summed = frame[frame["class"] == "a"][["tp", "fp", "fn"]].sum()
    pooled = 2 * summed["tp"] / (2 * summed["tp"] + summed["fp"] + summed["fn"])
    assert table.loc[("dice_pooled", "a"), "estimate"] == pytest.approx(pooled)
    assert len(curves["slides"]) == len(frame)


def test_a_better_model_is_found_better_and_an_equal_one_is_not() -> None:
    study, rng = _study(), np.random.default_rng(2)
    good, bad = _predictions(rng, 0.85), _predictions(rng, 0.6)
    for other, sure in ((bad, True), (good.copy(), False)):
        _, comparison, _ = evaluate_segmentation(study, study.tasks[0], {"prior": bad, "one": good, "two": other})  # type: ignore[arg-type]
        row = comparison.set_index("model").loc["two"]
        assert row["reference"] == "one" and row["metric"] == "dice"
        assert (row["high"] < 0 and row["p_adjusted"] < 0.05) if sure else (row["difference"] == 0 and row["p"] == 1)
        assert set(comparison["model"]) == {"prior", "two"}


def test_models_of_other_slides_are_not_compared() -> None:
    study, frame = _study(), _predictions(np.random.default_rng(3), 0.8)
    with pytest.raises(StudyError, match="s05"):
        evaluate_segmentation(
            study,
            study.tasks[0],
            {"one": frame, "two": frame[frame["slide_id"] != "s05"]},  # type: ignore[arg-type]
        )
