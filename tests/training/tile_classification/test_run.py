"""Runs of labelled tiles: written, kept, redone, and no patient on two sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from training.tiledata import write_tiles

from histostudy.cohort.tables import read_patients
from histostudy.errors import ModelError
from histostudy.study import Study
from histostudy.training.tile_classification.embed import LabelledTiles
from histostudy.training.tile_classification.run import options_of, train_tiles
from histostudy.training.tile_classification.table import Scale, read_tile_table, tile_outcome

MODELS = {
    "probe": {"classifier": "linear_probe"}, "knn": {"classifier": "knn", "options": {"k": 5}},
    "shots": {"classifier": "prototypes", "options": {"shots": [1, 2], "draws": 3}},
    "dct": {"classifier": "dct_histotransformer", "options": {"widths": [8], "heads": 2, "input_px": 16},
            "training": {"epochs": 1, "batch_size": 8}},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A study, its outcome, folds, and tiles whose vectors know the class."""
    folder = tmp_path_factory.mktemp("tiles")
    task = write_tiles(folder)
    study = Study.model_validate({
        "study": "s", "cohort": {"name": "c", "patients": str(folder / "patients.csv")}, "models": MODELS,
        "tasks": [task.model_dump()],
    })  # fmt: skip
    outcome = tile_outcome(task, read_tile_table(task), read_patients(folder / "patients.csv"), "patients.csv")
    rng = np.random.default_rng(0)
    n = len(outcome)
    vectors = (rng.normal(size=(n, 6)) + 2 * np.eye(6)[outcome.y.astype(int)]).astype(np.float32)
    pixels = rng.integers(0, 255, (n, 16, 16, 3), dtype=np.uint8)
    ids = outcome.patient_ids
    tiles = LabelledTiles(ids, vectors, rng.uniform(size=(n, 3)).astype(np.float32), "d", np.arange(n), pixels)
    rows = [(0, f, f"p{p}", "test" if p % 3 == f else "val" if p % 3 == (f + 1) % 3 and p < 3 else "train")
            for f in range(3) for p in range(9)]  # fmt: skip
    return study, outcome, tiles, pd.DataFrame(rows, columns=["repeat", "fold", "patient_id", "part"])


def train(made, model: str, folder: Path, tiles: LabelledTiles | None = None) -> pd.DataFrame:
    study, outcome, all_tiles, splits = made
    return train_tiles(study, "texture", model, tiles or all_tiles, Scale(1.0, 16), outcome, splits, folder)


@pytest.mark.parametrize("model", ["prior", "colour", *MODELS])
def test_every_model_predicts_each_tile_once_and_is_kept(made, tmp_path: Path, model: str) -> None:
    _, outcome, _, splits = made
    index = train(made, model, tmp_path)
    assert index["status"].tolist() == ["trained"] * 3 and index["n_test"].sum() == 54
    frames = [pd.read_parquet(tmp_path / f"r0f{f}" / "predictions.parquet") for f in range(3)]
    for fold, frame in enumerate(frames):
        tested = set(splits[(splits["fold"] == fold) & (splits["part"] == "test")]["patient_id"])
        assert {outcome.patient_of[t] for t in frame["patient_id"]} == tested
        np.testing.assert_allclose(frame[["prob_dots", "prob_plain", "prob_stripes"]].sum(axis=1), 1)
    found = pd.concat(frames)
    assert sorted(found["patient_id"]) == sorted(outcome.patient_ids)
    right = (found[["prob_dots", "prob_plain", "prob_stripes"]].to_numpy().argmax(1) == [
        outcome.classes.index(t) for t in found["truth"]]).mean()  # fmt: skip
    if model in ("probe", "knn", "shots"):
        assert right > 0.7
    assert (tmp_path / "r0f0" / "few_shot.parquet").is_file() == (model == "shots")
    assert ("retrieval_map" in found) == (model in ("colour", "knn"))
    again = train(made, model, tmp_path)
    assert again["status"].tolist() == ["kept"] * 3
    (tmp_path / "r0f1" / "predictions.parquet").write_bytes(b"x")
    mended = train(made, model, tmp_path)
    assert mended["status"].tolist() == ["kept", "trained", "kept"]
    assert mended["sha256"].tolist() == index["sha256"].tolist()  # the same bytes


def test_tiles_that_could_not_be_read_take_no_part(made, tmp_path: Path) -> None:
    _, _, tiles, _ = made
    fewer = LabelledTiles(tiles.tile_ids[1:], tiles.vectors[1:], tiles.colour[1:], "e", tiles.rows[1:], None)
    index = train(made, "knn", tmp_path, fewer)
    assert index["without_features"].tolist() == [1, 1, 1] and index["n_test"].sum() == 53
    with pytest.raises(ModelError, match="learns from pixels"):
        train(made, "dct", tmp_path / "dct", fewer)


def test_unknown_options_are_refused_by_name() -> None:
    for classifier, options in (
        ("knn", {"neighbours": 3}),
        ("finetune", {"lr": 1}),
        ("dct_histotransformer", {"w": 1}),
    ):
        with pytest.raises(ModelError, match=next(iter(options))):
            options_of(classifier, options)
    options, architecture = options_of("dct_histotransformer", {"input_px": 32, "widths": [8], "heads": 2})
    assert options.input_px == 32 and architecture == {"widths": [8], "heads": 2}
