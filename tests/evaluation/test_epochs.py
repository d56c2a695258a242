"""What choosing the best epoch on the reported part adds: never less than nothing, and more than nothing on a null."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sksurv.metrics import concordance_index_censored

from histostudy.evaluation.epochs import INNER, LAST, REPORTED, epoch_tables
from histostudy.files import write_table

N, FOLDS, EPOCHS = 180, 3, 8
CHOICE = [
    "model", "choice", "estimate", "low", "high", "difference_to_last", "difference_low", "difference_high", "n",
    "events",
]  # fmt: skip
STUDY = SimpleNamespace(seed=0, compare=SimpleNamespace(resamples=300, confidence=0.95))


def runs(folder: Path, kind: str, strength: list[float], best: int = 5, seed: int = 0) -> Path:
    """A traced model whose score after each epoch knows the outcome by `strength`; the inner part chose `best`."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=N)
    died, left = rng.exponential(900 * np.exp(-hidden)), rng.exponential(1500, N)
    fold = np.arange(N) % FOLDS
    for k in range(FOLDS):
        rows, frames = np.flatnonzero(fold == k), []
        for epoch, share in enumerate(strength, start=1):
            score = share * hidden + rng.normal(size=N)
            frame = pd.DataFrame({"epoch": epoch, "patient_id": [f"p{i:03d}" for i in range(N)]})
            if kind == "survival":
                frame["risk"] = score
                frame["time"], frame["event"] = np.minimum(died, left), died <= left
            elif kind == "classification":
                frame["prob_yes"] = 1 / (1 + np.exp(-score))
                frame["prob_no"] = 1 - frame["prob_yes"]
                frame["truth"] = np.where(hidden > 0, "yes", "no")
            else:
                frame["prediction"], frame["truth"] = score, hidden
            frames.append(frame.iloc[rows])
        table = pd.concat(frames, ignore_index=True).assign(repeat=0, fold=k, model="m")
        write_table(folder / f"r0f{k}" / "epochs.parquet", table)
        epochs = np.arange(1, len(strength) + 1)
        history = pd.DataFrame({"epoch": epochs, "val_loss": 0.5, "best": epochs == best})
        write_table(folder / f"r0f{k}" / "history.csv", history)
    return folder


def tables(folder: Path, kind: str = "survival") -> dict[str, pd.DataFrame]:
    task = SimpleNamespace(name="t", kind=kind, positive=None)
    outcome = SimpleNamespace(classes=["no", "yes"])
    return epoch_tables(STUDY, task, {"m": folder}, outcome)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "metric"), [("survival", "c_harrell"), ("classification", "auroc"), ("regression", "pearson")]
)
def test_tables_of_each_kind_of_task(kind: str, metric: str, tmp_path: Path) -> None:
    found = tables(runs(tmp_path, kind, [0.0, 0.5, 1, 2, 2, 2, 2, 2]), kind)
    epochs, choice = found["epochs"], found["epoch_choice"].set_index("choice")
    assert list(epochs.columns) == ["model", "repeat", "fold", "epoch", "estimate", "metric"]
    assert len(epochs) == FOLDS * EPOCHS and set(epochs["metric"]) == {metric}
    assert list(found["epoch_choice"].columns) == CHOICE
    assert choice.index.tolist() == [LAST, INNER, REPORTED] and (choice["n"] == N).all()
    rising = epochs.groupby("epoch")["estimate"].mean()
    assert rising[8] > rising[1] + 0.15
    assert choice.loc[LAST, "estimate"] == pytest.approx(rising[8])
    assert choice.loc[INNER, "estimate"] == pytest.approx(rising[5])
    wanted = epochs.groupby("fold")["estimate"].max().mean()
    assert choice.loc[REPORTED, "estimate"] == pytest.approx(wanted)
    assert choice.loc[LAST, "difference_to_last"] == choice.loc[LAST, "difference_low"] == 0
    assert ((choice["low"] <= choice["estimate"]) & (choice["estimate"] <= choice["high"]))[[LAST, INNER]].all()
    frames = [pd.read_parquet(tmp_path / f"r0f{k}/epochs.parquet").query("epoch == 1") for k in range(FOLDS)]
    tested = pd.concat(frames)
    wanted = {"survival": "event", "classification": "truth == 'yes'"}.get(kind)
    if wanted is None:
        assert choice["events"].isna().all()
    else:
        assert (choice["events"] == len(tested.query(wanted))).all() and 0 < choice.loc[LAST, "events"] < N


def test_estimates_are_scikit_survivals(tmp_path: Path) -> None:
    epochs = tables(runs(tmp_path, "survival", [1.0] * 3, best=2))["epochs"]
    frame = pd.read_parquet(tmp_path / "r0f1/epochs.parquet").query("epoch == 2")
    wanted = concordance_index_censored(frame["event"].to_numpy(bool), frame["time"], frame["risk"])[0]
    assert epochs.query("fold == 1 and epoch == 2")["estimate"].item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_on_the_reported_fold_is_never_below_the_others(seed: int, tmp_path: Path) -> None:
    choice = tables(runs(tmp_path, "survival", [0.5] * EPOCHS, seed=seed))["epoch_choice"].set_index("choice")
    assert (choice.loc[REPORTED, "estimate"] >= choice.loc[[LAST, INNER], "estimate"]).all()
    assert choice.loc[REPORTED, "difference_low"] >= 0  # on every resample it is chosen anew
    assert choice.loc[REPORTED, "difference_to_last"] == pytest.approx(
        choice.loc[REPORTED, "estimate"] - choice.loc[LAST, "estimate"]
    )


def test_scores_that_know_nothing_look_good_when_the_epoch_is_chosen_on_them(tmp_path: Path) -> None:
    gained = []
    for seed in range(4):
        choice = tables(runs(tmp_path / str(seed), "survival", [0.0] * EPOCHS, seed=seed))["epoch_choice"]
        gained.append(choice.set_index("choice")["estimate"] - 0.5)
    mean = pd.concat(gained, axis=1).mean(axis=1)
    assert mean[REPORTED] > 0.05
    assert abs(mean[LAST]) < 0.03 and abs(mean[INNER]) < 0.03


def test_nothing_is_made_without_a_trace_and_of_genes(tmp_path: Path) -> None:
    assert tables(tmp_path) == {}
    assert tables(runs(tmp_path, "regression", [1.0] * 3, best=1), "expression") == {}


def test_one_epoch_leaves_no_choice(tmp_path: Path) -> None:
    choice = tables(runs(tmp_path, "survival", [1.0], best=1))["epoch_choice"]
    assert choice["estimate"].nunique() == 1 and (choice["difference_high"] == 0).all()
