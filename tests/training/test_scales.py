"""Parents at coarser scales reach the models that tell scales apart, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from training.trainingdata import folds_of, outcome_for, study_of

from histostudy.features.bags import Bags
from histostudy.training.attention import attention_of
from histostudy.training.stage import seen_by, train_model
from histostudy.training.tilestore import TileStore

DIM, SIDE = 6, 4
QUICK = {"epochs": 20, "min_epochs": 20, "batch_size": 16, "lr": 3e-3}
OPTIONS = {"hidden": 16, "layers": 1, "heads": 2, "feedforward": 32, "attention": 8, "pretrain_epochs": 0}


def bags_with_parents(n: int, seed: int = 0) -> tuple[Bags, np.ndarray]:
    """4 x 4 tiles of noise a patient; the label moves their 2 x 2 parents."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    ids = [f"p{i:03d}" for i in range(n)]
    fine = rng.normal(size=(n, SIDE * SIDE, DIM))
    far = rng.normal(size=(n, 4, DIM))
    far[y == 1, :, 0] += 3.0
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
    corners = np.stack(np.meshgrid(np.arange(2), np.arange(2)), -1).reshape(-1, 2)

    def packed(values: np.ndarray, places: np.ndarray, scales: np.ndarray | None) -> Bags:
        each = values.shape[1]
        return Bags(
            values.reshape(-1, DIM).astype(np.float32), np.arange(n + 1) * each, ids,
            np.tile(places, (n, 1)).astype(np.int64), np.repeat(np.arange(n), each).astype(np.int32), ids,
            {"mpp_requested": 0.5}, "px0", dict.fromkeys(ids, 100.0), scales=scales,
        )  # fmt: skip

    parents = packed(far, corners * 200, np.full(n * 4, 1.0, np.float32))
    return replace(packed(fine, grid * 100, None), coarser=parents), y


def test_the_store_gives_the_scale_of_every_tile() -> None:
    bags, _ = bags_with_parents(4)
    store = TileStore.of(seen_by("mixed_magnification", bags))
    batch = store.batch([0, 2])
    assert batch.scales is not None and batch.scales.dtype == torch.float32
    assert batch.scales.tolist() == ([0.5] * 16 + [1.0] * 4) * 2
    assert bags.coarser is not None
    torch.testing.assert_close(batch.features[36:], torch.from_numpy(bags.coarser.features[8:12]))
    few = store.batch([1], max_tiles=5, generator=torch.Generator().manual_seed(0))
    assert few.scales is not None and len(few.scales) == len(few.features) == 5
    assert TileStore.of(seen_by("abmil", bags)).batch([0]).scales is None
    assert seen_by("abmil", bags) is bags


def test_an_effect_at_the_coarse_scale_is_found_with_scales_alone(tmp_path: Path) -> None:
    bags, y = bags_with_parents(60)
    model = {"aggregator": "mixed_magnification", "options": OPTIONS, "training": QUICK}
    study = study_of({"name": "t", "kind": "classification", "target": "y"}, {"m": model}, tmp_path)
    outcome = outcome_for(study, bags.patient_ids, y=y.astype(float), classes=["no", "yes"])
    splits = folds_of(bags.patient_ids, y, 3)
    auc, identities = {}, {}
    for name, given in (("with", bags), ("without", replace(bags, coarser=None))):
        out = tmp_path / name
        runs = train_model(study, "t", "m", given, outcome, splits, out)
        frame = pd.concat(pd.read_parquet(out / f"r0f{k}" / "predictions.parquet") for k in range(3))
        auc[name], identities[name] = roc_auc_score(frame["truth"] == "yes", frame["prob_yes"]), runs["identity"][0]
    assert auc["with"] > 0.85
    assert auc["without"] < 0.7
    assert identities["with"] != identities["without"]
    attention = attention_of(tmp_path / "with" / "r0f0", bags, "p003")
    assert attention.shape == (16,) and np.isclose(attention.sum(), 1)
