"""The table of labelled tiles: what is read, what is refused, whose tiles they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from training.tiledata import write_tiles

from histostudy.cohort.tables import read_patients
from histostudy.errors import TableError
from histostudy.study import Tiles
from histostudy.training.tile_classification.embed import side_of
from histostudy.training.tile_classification.table import (
    Scale,
    read_tile_table,
    scale_of,
    strata_outcomes,
    tile_outcome,
)


def changed(folder: Path, **columns: object) -> None:
    table = pd.read_csv(folder / "tiles.csv").assign(**columns)
    table.to_csv(folder / "tiles.csv", index=False)


def test_images_are_found_beside_the_table_and_sorted(tmp_path: Path) -> None:
    task = write_tiles(tmp_path)
    table = read_tile_table(task)
    assert not table.from_slides and len(table.files) == 54 and all(file.is_file() for file in table.files)
    assert table.frame["tile_id"].is_monotonic_increasing
    assert scale_of(task, table, Tiles()).mpp == 1.0 and scale_of(task, table, Tiles()).size is None


def test_places_in_slides_are_read_and_seen_at_the_tiles_scale(tmp_path: Path) -> None:
    task = write_tiles(tmp_path)
    table = pd.read_csv(tmp_path / "tiles.csv").drop(columns="path")
    table.assign(slide_id="s1", x_px0=[10.4] * len(table), y_px0=7).to_csv(tmp_path / "tiles.csv", index=False)
    read = read_tile_table(task)
    assert read.from_slides and read.frame["x_px0"].tolist() == [10] * len(table) and read.files == []
    plain = task.model_copy(update={"mpp": None})
    assert scale_of(plain, read, Tiles(mpp=0.7, size=96)).mpp == 0.7
    assert scale_of(task.model_copy(update={"size": 64}), read, Tiles(size=96)).size == 64


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"tile_id": "same"}, ["tile 'same' is there twice", "row 3"]),
        ({"path": "images/none.png"}, ["no image images/none.png", "row 2 column path"]),
        ({"patient_id": ""}, ["no patient_id"]),
        ({"mpp": "fine"}, ["'fine' is not a number", "column mpp"]),
        ({"mpp": -1}, ["mpp that is not above 0", "row 2"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, columns: dict, words: list[str]) -> None:
    task = write_tiles(tmp_path)
    changed(tmp_path, **columns)
    with pytest.raises(TableError) as error:
        read_tile_table(task)
    assert all(word in str(error.value) for word in ["tiles.csv", *words]), str(error.value)


def test_a_table_of_neither_images_nor_places_says_what_it_needs(tmp_path: Path) -> None:
    task = write_tiles(tmp_path)
    pd.read_csv(tmp_path / "tiles.csv").drop(columns="path").to_csv(tmp_path / "tiles.csv", index=False)
    with pytest.raises(TableError, match="slide_id, x_px0 and y_px0"):
        read_tile_table(task)


def test_scales_must_be_one_or_chosen(tmp_path: Path) -> None:
    task = write_tiles(tmp_path).model_copy(update={"mpp": None})
    with pytest.raises(TableError, match="without a scale"):
        scale_of(task, read_tile_table(task), Tiles())
    changed(tmp_path, mpp=[0.25, 0.5] * 27)
    with pytest.raises(TableError, match="2 scales, from 0.25 to 0.5"):
        scale_of(task, read_tile_table(task), Tiles())
    changed(tmp_path, mpp=0.5)
    assert scale_of(task, read_tile_table(task), Tiles()).mpp == 0.5


def test_tiles_of_patients_and_their_classes(tmp_path: Path) -> None:
    task = write_tiles(tmp_path)
    patients = read_patients(tmp_path / "patients.csv")
    outcome = tile_outcome(task, read_tile_table(task), patients, "patients.csv")
    assert outcome.kind == "classification" and outcome.classes == ["dots", "plain", "stripes"] and len(outcome) == 54
    assert all(outcome.patient_of[tile] == tile.split("-")[0] for tile in outcome.patient_ids)
    of_a = tile_outcome(task.model_copy(update={"where": {"site": "a"}}), read_tile_table(task), patients, "p.csv")
    assert {of_a.patient_of[t] for t in of_a.patient_ids} == {"p0", "p3", "p6"}
    null = tile_outcome(task.model_copy(update={"permute": 1}), read_tile_table(task), patients, "p.csv")
    assert (null.y != outcome.y).any() and np.array_equal(np.sort(null.y), np.sort(outcome.y))
    with pytest.raises(TableError, match="no tile of task 'texture' is of a patient"):
        tile_outcome(task, read_tile_table(task), patients.assign(patient_id=[f"q{k}" for k in range(9)]), "p.csv")


def test_folds_balance_who_has_tiles_of_a_class(tmp_path: Path) -> None:
    task = write_tiles(tmp_path)
    patients = read_patients(tmp_path / "patients.csv")
    table = pd.read_csv(tmp_path / "tiles.csv")
    assert strata_outcomes(tile_outcome(task, read_tile_table(task), patients, "p")) == []  # everybody has all
    some = table[(table["label"] != "dots") | table["patient_id"].isin(["p0", "p1", "p2"])]
    some.to_csv(tmp_path / "tiles.csv", index=False)
    (only,) = strata_outcomes(tile_outcome(task, read_tile_table(task), patients, "p"))
    assert only.name == "texture dots" and only.y.tolist() == [1.0] * 3 + [0.0] * 6
    one = table[table["label"] == np.where(table["patient_id"] < "p5", "dots", "plain")]
    one.to_csv(tmp_path / "tiles.csv", index=False)
    (only,) = strata_outcomes(tile_outcome(task, read_tile_table(task), patients, "p"))
    assert only.classes == ["dots", "plain"] and only.y.tolist() == [0.0] * 5 + [1.0] * 4
    table[(table["label"] != "dots") | (table["patient_id"] == "p0")].to_csv(tmp_path / "tiles.csv", index=False)
    with pytest.raises(TableError, match="class 'dots' are all of one patient"):
        strata_outcomes(tile_outcome(task, read_tile_table(task), patients, "p"))


def test_where_asks_patients_though_tiles_have_a_column_of_that_name(tmp_path: Path) -> None:
    task = write_tiles(tmp_path)
    patients = read_patients(tmp_path / "patients.csv")
    named = patients.assign(**{task.target: patients["site"]})
    asked = task.model_copy(update={"where": {task.target: "a"}})
    outcome = tile_outcome(asked, read_tile_table(task), named, "p.csv")
    assert outcome.classes == ["dots", "plain", "stripes"] and set(outcome.patient_of.values()) == {"p0", "p3", "p6"}
    one = task.model_copy(update={"where": {"patient_id": ["p0", "p3"]}})
    assert set(tile_outcome(one, read_tile_table(task), patients, "p.csv").patient_of.values()) == {"p0", "p3"}
    with pytest.raises(TableError, match="a column that says which tile it is"):
        read_tile_table(task.model_copy(update={"target": "tile_id"}))


def test_the_side_is_that_of_the_first_image_at_the_scale(tmp_path: Path) -> None:
    from PIL import Image

    task = write_tiles(tmp_path)
    table = read_tile_table(task)
    side = min(Image.open(table.files[0]).size)
    assert side_of(table, Scale(1.0, None)) == side and side_of(table, Scale(1.0, 20)) == 20
    table.frame["mpp"] = 0.5
    assert side_of(table, Scale(1.0, None)) == side // 2
