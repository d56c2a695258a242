"""The few-shot curve against a loop over its draws, and intervals that know of patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score

from histostudy.evaluation.few_shot import few_shot_table
from histostudy.training.runfolder import SHOTS

CLASSES = ["a", "b", "c"]


def drawn(folder: Path, seed: int = 0, clustered: bool = False) -> tuple[pd.DataFrame, dict[str, str], np.ndarray]:
    """Two folds of 12 patients with 5 tiles; hits by chance, of a patient together where `clustered`."""
    rng = np.random.default_rng(seed)
    tiles = [f"t{p:02d}-{k}" for p in range(12) for k in range(5)]
    owners = {tile: tile.split("-")[0] for tile in tiles}
    truth = rng.integers(3, size=60)
    right = np.repeat(rng.random(12) < 0.5, 5) if clustered else rng.random(60) < 0.5
    called = np.stack([np.where(right, truth, (truth + 1) % 3) for _ in range(4)], 1)
    if not clustered:
        called = rng.integers(3, size=(60, 4))
    frames = []
    for fold in range(2):
        rows = np.arange(60) // 30 == fold
        codes = {f"s2_d{d}": called[rows, d].astype(np.int8) for d in range(4)}
        (folder / f"r0f{fold}").mkdir(parents=True)
        pd.DataFrame({"patient_id": np.array(tiles)[rows], **codes}).to_parquet(folder / f"r0f{fold}" / SHOTS)
        frames.append(pd.DataFrame({"repeat": 0, "fold": fold, "patient_id": np.array(tiles)[rows],
                                    "truth": [CLASSES[t] for t in truth[rows]]}))  # fmt: skip
    return pd.concat(frames, ignore_index=True), owners, np.column_stack([truth, called])


def table(folder: Path, frame: pd.DataFrame, owners: dict[str, str]) -> pd.DataFrame:
    return few_shot_table({"m": folder}, {"m": frame}, CLASSES, owners, resamples=400, confidence=0.95, seed=1)


def test_a_point_is_the_mean_over_draws_of_balanced_accuracy(tmp_path: Path) -> None:
    frame, owners, codes = drawn(tmp_path)
    (row,) = table(tmp_path, frame, owners).to_dict("records")
    each = [balanced_accuracy_score(codes[:, 0], codes[:, d + 1]) for d in range(4)]
    assert abs(row["estimate"] - np.mean(each)) < 1e-12
    assert abs(row["draw_low"] - np.quantile(each, 0.025)) < 1e-12 and row["draws"] == 4 and row["shots"] == 2
    assert row["n"] == 60 and row["patients"] == 12 and row["low"] < row["estimate"] < row["high"]


def test_tiles_of_a_patient_are_resampled_together(tmp_path: Path) -> None:
    frame, owners, _ = drawn(tmp_path / "a", clustered=True)
    (whole,) = table(tmp_path / "a", frame, owners).to_dict("records")
    (apart,) = table(tmp_path / "a", frame, {tile: tile for tile in owners}).to_dict("records")
    assert whole["high"] - whole["low"] > 1.5 * (apart["high"] - apart["low"])


def test_shots_that_a_fold_could_not_draw_are_left_out(tmp_path: Path) -> None:
    frame, owners, _ = drawn(tmp_path)
    file = tmp_path / "r0f0" / SHOTS
    more = pd.read_parquet(file)
    more.assign(s4_d0=more["s2_d0"]).to_parquet(file)
    assert table(tmp_path, frame, owners)["shots"].tolist() == [2]
    assert few_shot_table({}, {}, CLASSES, {}, resamples=100, confidence=0.95, seed=0).empty
