"""The transfer matrix: its diagonal, its average row, its refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sksurv.metrics import concordance_index_censored

from histostudy.errors import StudyError
from histostudy.evaluation.bootstrap import bootstrap_weights
from histostudy.evaluation.transfer import AVERAGE, COLUMNS, transfer

N, FOLDS = 300, 3
NAMES = ("breast", "colon", "lung")


def planted(seed: int = 0, strength: float = 1.5) -> pd.DataFrame:
    """Each target has a factor of its own; a source knows its own factor, with noise and in units of its own."""
    rng = np.random.default_rng(seed)
    parts = []
    for target in NAMES:
        factors = rng.normal(size=(N, 3))
        time = rng.exponential(np.exp(-strength * factors[:, NAMES.index(target)]))
        end = rng.exponential(2, N)
        for number, source in enumerate(NAMES):
            risk = factors[:, number] + rng.normal(size=N) * 0.5
            fold = np.arange(N) % FOLDS
            parts.append(
                pd.DataFrame(
                    {"source": source, "target": target, "patient_id": [f"{target}{i:03d}" for i in range(N)]}
                    | {"repeat": 0, "fold": fold, "risk": 10.0**number * risk + 5 * fold}
                    | {"time": np.minimum(time, end), "event": (time <= end).astype(int)}
                )
            )
    return pd.concat(parts, ignore_index=True)


def settings(predictions: pd.DataFrame) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    patients, weights = {}, {}
    for target, frame in predictions.groupby("target"):
        rows = frame.drop_duplicates("patient_id")
        patients[str(target)] = rows["patient_id"].tolist()
        weights[str(target)] = bootstrap_weights(rows["fold"], 300, 0)
    return patients, weights


def test_a_planted_matrix_is_dominated_by_its_diagonal() -> None:
    table = transfer(planted(), *settings(planted()))
    assert list(table.columns) == COLUMNS
    assert len(table) == 3 * 4
    matrix = table.pivot(index="source", columns="target", values="estimate")
    for name in NAMES:
        assert matrix.loc[name, name] > 0.75
        assert (matrix.loc[[other for other in NAMES if other != name], name] < 0.58).all()
    assert ((table["low"] <= table["estimate"]) & (table["estimate"] <= table["high"])).all()
    assert (table["n"] == N).all()


def test_estimates_are_the_mean_over_folds_of_scikit_survivals() -> None:
    predictions = planted(1)
    table = transfer(predictions, *settings(predictions)).set_index(["source", "target"])
    frame = predictions[(predictions["source"] == "lung") & (predictions["target"] == "lung")]
    folds = [
        concordance_index_censored(part["event"].to_numpy(bool), part["time"], part["risk"])[0]
        for _, part in frame.groupby("fold")
    ]
    assert table.loc[("lung", "lung"), "estimate"] == pytest.approx(np.mean(folds), abs=1e-12)
    assert table.loc[("lung", "lung"), "events"] == frame["event"].sum()


def test_nothing_planted_covers_a_half() -> None:
    predictions = planted(2, strength=0.0)
    table = transfer(predictions, *settings(predictions))
    assert ((table["low"] < 0.5) & (table["high"] > 0.5)).mean() > 0.8


def test_the_average_leaves_out_the_targets_own_and_knows_no_units() -> None:
    predictions = planted(3)
    one = transfer(predictions, *settings(predictions))
    scaled = predictions.copy()
    colon = scaled["source"] == "colon"
    scaled.loc[colon, "risk"] = scaled.loc[colon, "risk"] * 1000 + 7 * scaled.loc[colon, "fold"]
    own = scaled["source"] == scaled["target"]
    scaled.loc[own & (scaled["target"] == "lung"), "risk"] = 0.0  # and a constant risk does no harm
    two = transfer(scaled, *settings(scaled))
    for table in (one, two):
        assert list(table.loc[table["target"] == "lung", "source"]) == [*NAMES, AVERAGE]
    pick = one["source"] == AVERAGE
    pd.testing.assert_frame_equal(one[pick], two[pick])
    lung = two[(two["source"] == "lung") & (two["target"] == "lung")]
    assert lung["estimate"].item() == 0.5


def test_wrong_predictions_are_one_line() -> None:
    predictions = planted()
    about = settings(predictions)
    with pytest.raises(StudyError, match="no column fold"):
        transfer(predictions.drop(columns="fold"), *about)
    with pytest.raises(StudyError, match="not the same patients as"):
        transfer(predictions.drop(index=0), *about)
    with pytest.raises(StudyError, match="no resampling weights of breast"):
        transfer(predictions, about[0], {})
    with pytest.raises(StudyError, match="twice in repeat 0"):
        transfer(pd.concat([predictions, predictions[:1]]), *about)
    with pytest.raises(StudyError, match="breast000 is no test patient"):
        transfer(predictions, about[0] | {"breast": about[0]["breast"][1:]}, about[1])
