"""Slides to features through the stages; what is kept, what is done again, what is memory's bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from histostudy.encoders.builtin import NAMES, Builtin
from histostudy.errors import FeatureError
from histostudy.features.bags import Bags
from histostudy.features.stage import COLUMNS, embed_slides, index_precomputed
from histostudy.features.store import read_features
from histostudy.files import fingerprint
from histostudy.slides.reader import open_slide
from histostudy.study import Features, Tiles
from histostudy.tiles.store import TileSet, write_tiles

MPP = 0.5
TILES = Tiles(mpp=1.0, size=64)


def slide(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (512, 640, 3), np.uint8)
    tifffile.imwrite(
        path, image, tile=(256, 256), photometric="rgb", resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER"
    )


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    slides, tiled = [], []
    folder = tmp_path / "tiles"
    for k in range(3):
        name = f"s{k}"
        path = tmp_path / f"{name}.tiff"
        slide(path, k)
        slides.append({"slide_id": name, "path": str(path), "mpp": MPP, "fingerprint": fingerprint(path)})
        if k == 2:
            tiled.append({"slide_id": name, "status": "failed", "file": "", "sha256": ""})
            continue
        coords = np.array([[x, y] for y in (0, 128, 256) for x in (0, 128, 256, 384)], np.int64)
        attrs = {
            "slide_id": name, "mpp_requested": 1.0, "mpp_effective": 1.0, "mpp_slide": MPP, "size_px": 64,
            "overlap_px": 0, "size_px0": 128.0, "width_px0": 640, "height_px0": 512, "identity": "x",
        }  # fmt: skip
        write_tiles(
            folder / f"{name}.h5", TileSet(coords, (coords // 128).astype(np.int32), np.ones(12, np.float32), attrs)
        )
        tiled.append({"slide_id": name, "status": "ok", "file": f"{name}.h5", "sha256": f"t{k}"})
    return pd.DataFrame(slides), pd.DataFrame(tiled), folder


def test_slides_to_features(cohort, tmp_path: Path):
    slides, tiled, folder = cohort
    out = tmp_path / "features"
    settings = Features(encoder="builtin", batch_size=5)
    index = embed_slides(slides, tiled, folder, settings, TILES, out)
    assert list(index.columns) == COLUMNS and list(index.slide_id) == ["s0", "s1"]
    assert (index.status == "ok").all() and (index.n_tiles == 12).all() and (index.dim == len(NAMES)).all()
    read = read_features(out / "s1.h5")
    with open_slide(slides.path[1], mpp=MPP) as opened:
        tiles = np.stack(list(opened.read_tiles(read.coords, 64, 1.0)))
    np.testing.assert_array_equal(read.features, Builtin(1.0).encode(tiles))
    assert read.tile_px0 == 128 and read.identity["tiles"] == "t1" and read.identity["mpp_slide"] == MPP

    files = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    again = embed_slides(slides, tiled, folder, settings, TILES, out)
    pd.testing.assert_frame_equal(again, index)
    assert files == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    tiled.loc[0, "sha256"] = "changed"
    (out / "s1.h5").write_bytes(b"half")
    third = embed_slides(slides, tiled, folder, settings, TILES, out)
    assert third.identity[0] != index.identity[0] and third.sha256[1] == index.sha256[1]
    bags = Bags.load({r.slide_id: out / r.file for r in third.itertuples()}, {"s0": "p", "s1": "p"})
    assert bags.bag("p").shape == (24, len(NAMES))


def test_the_batch_size_changes_nothing(cohort, tmp_path: Path):
    slides, tiled, folder = cohort
    indexes = [
        embed_slides(slides, tiled, folder, Features(encoder="builtin", batch_size=b), TILES, tmp_path / str(b))
        for b in (1, 64)
    ]
    pd.testing.assert_frame_equal(*indexes)


def test_precomputed(tmp_path: Path):
    folder = tmp_path / "bags"
    folder.mkdir()
    for name, n in (("a", 3), ("TCGA-1.uuid", 2), ("empty", 0)):
        np.save(folder / f"{name}.npy", np.zeros((n, 4), np.float32))
    slides = pd.DataFrame({"slide_id": ["TCGA-1", "a", "empty", "none"]})
    settings = Features(precomputed=folder)
    index = index_precomputed(slides, settings).set_index("slide_id")
    assert list(index.status) == ["ok", "ok", "failed", "failed"]
    assert list(index.reason[2:]) == ["no_tiles", "missing"] and "none" not in index.path["none"]
    assert index.n_tiles["TCGA-1"] == 2 and index.dim["a"] == 4 and len(index.sha256["a"]) == 64
    assert Path(index.path["a"]) == folder / "a.npy" and index.layout["a"] == "plain"
    with pytest.raises(FeatureError, match="none of the 1 slides .*such as TCGA-1.uuid"):
        index_precomputed(pd.DataFrame({"slide_id": ["x"]}), settings)
    np.save(folder / "none.npy", np.zeros((3, 6), np.float32))
    with pytest.raises(FeatureError, match=r"none\.npy: features are 6 wide"):
        index_precomputed(slides, settings)
