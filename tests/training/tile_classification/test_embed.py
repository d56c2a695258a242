"""Vectors, colours and pixels of labelled tiles: right, kept, and bad tiles left out with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from training.tiledata import write_tiles

from histostudy.encoders.registry import load_encoder
from histostudy.errors import FeatureError, StudyError
from histostudy.files import write_table
from histostudy.study import Features
from histostudy.training.tile_classification.embed import INDEX, PIXELS, VECTORS, embed_labelled, load_labelled
from histostudy.training.tile_classification.table import Scale, read_tile_table

SCALE = Scale(1.0, None)


def embed(folder: Path, scale: Scale = SCALE, *, pixels: bool = True, **options: object):
    from histostudy.tasks import TileClassification

    task = TileClassification(name="t", kind="tile_classification", table=folder / "tiles.csv", mpp=1.0)
    out = folder / "out"
    index = embed_labelled(read_tile_table(task), scale, None, Features(), out, pixels=pixels, **options)  # type: ignore[arg-type]
    write_table(out / INDEX, index)
    return index, load_labelled(out)


def test_vectors_are_the_encoders_and_colours_the_means(tmp_path: Path) -> None:
    write_tiles(tmp_path, patients=3, each=1)
    index, tiles = embed(tmp_path)
    assert (index["status"] == "ok").all() and len(tiles.tile_ids) == 9
    images = np.stack([np.asarray(Image.open(tmp_path / "images" / f"{t}.png")) for t in tiles.tile_ids])
    np.testing.assert_array_equal(tiles.pixels, images)
    np.testing.assert_allclose(tiles.colour, images.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(tiles.vectors, load_encoder(Features(), 1.0).encode(images), rtol=1e-5, atol=1e-6)
    assert tiles.places(["p1-dots-0", "p0-plain-0"]).tolist() == [3, 1]
    with pytest.raises(KeyError):
        tiles.places(["nobody"])


def test_a_second_call_keeps_and_a_changed_image_or_file_does_not(tmp_path: Path) -> None:
    write_tiles(tmp_path, patients=3, each=1)
    _, first = embed(tmp_path)
    written = (tmp_path / "out" / VECTORS).stat().st_mtime_ns
    embed(tmp_path)
    assert (tmp_path / "out" / VECTORS).stat().st_mtime_ns == written
    image = tmp_path / "images" / "p0-dots-0.png"
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    _, second = embed(tmp_path)
    assert second.digest != first.digest and (second.vectors[0] != first.vectors[0]).any()
    np.testing.assert_array_equal(second.vectors[1:], first.vectors[1:])
    (tmp_path / "out" / VECTORS).write_bytes(b"damaged")
    with pytest.raises(FeatureError, match="embed-tiles"):
        load_labelled(tmp_path / "out")


def test_pixels_are_kept_only_where_asked(tmp_path: Path) -> None:
    write_tiles(tmp_path, patients=3, each=1)
    _, tiles = embed(tmp_path, pixels=False)
    assert tiles.pixels is None and np.load(tmp_path / "out" / PIXELS).shape[0] == 0
    _, tiles = embed(tmp_path)
    assert tiles.pixels is not None and tiles.pixels.shape == (9, 32, 32, 3)


def test_bad_tiles_are_data_and_too_many_an_error(tmp_path: Path) -> None:
    write_tiles(tmp_path, patients=3, each=1)
    (tmp_path / "images" / "p0-dots-0.png").write_bytes(b"\x89PNG broken")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "images" / "p1-dots-0.png")
    index, tiles = embed(tmp_path, max_failed=0.3)
    bad = index[index["status"] == "failed"].set_index("tile_id")["reason"].to_dict()
    assert bad == {"p0-dots-0": "unreadable", "p1-dots-0": "another_size"}
    assert len(tiles.tile_ids) == 7 and not set(bad) & set(tiles.tile_ids)
    with pytest.raises(StudyError, match="1 of 9 tiles failed"):
        embed(tmp_path, Scale(1.0, 32), max_failed=0.1, pixels=False)


def test_images_are_brought_to_the_scale_and_cut_to_their_middle(tmp_path: Path) -> None:
    write_tiles(tmp_path, patients=3, each=1, side=64)
    table = pd.read_csv(tmp_path / "tiles.csv")
    table.assign(mpp=0.5).to_csv(tmp_path / "tiles.csv", index=False)
    _, tiles = embed(tmp_path, Scale(1.0, 16))
    assert tiles.pixels is not None and tiles.pixels.shape[1:] == (16, 16, 3)
    whole = np.asarray(Image.open(tmp_path / "images" / f"{tiles.tile_ids[0]}.png")).astype(float)
    half = whole.reshape(32, 2, 32, 2, 3).mean((1, 3))[8:24, 8:24]
    assert np.abs(tiles.pixels[0] - half).max() <= 1
    with pytest.raises(StudyError, match="too_small"):
        embed(tmp_path, Scale(1.0, 48))
