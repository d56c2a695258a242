"""Pairs of a shard: what they hold, what is kept, whose are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from histostudy.encoders.augment import REACH, augment
from histostudy.encoders.builtin import NAMES, Builtin
from histostudy.errors import FeatureError, StudyError
from histostudy.features.pairing import COLUMNS, pair_slides
from histostudy.features.pairs import PairReader, PairSettings, read_pairs, write_pairs
from histostudy.files import fingerprint
from histostudy.slides.reader import open_slide
from histostudy.study import Features, Tiles
from histostudy.tiles.store import TileSet, write_tiles

MPP = 0.5
TILES = Tiles(mpp=1.0, size=64)
BUILTIN = Features(encoder="builtin")
FEW = PairSettings(tiles=5, versions=2)

Cohort = tuple[pd.DataFrame, pd.DataFrame, Path]


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Three slides of twelve tiles; the last one's tiles failed."""
    slides, tiled = [], []
    folder = tmp_path / "tiles"
    coords = np.array([[x, y] for y in (0, 128, 256) for x in (0, 128, 256, 384)], np.int64)
    for k in range(3):
        name, path = f"s{k}", tmp_path / f"s{k}.tiff"
        image = np.random.default_rng(k).integers(0, 256, (512, 640, 3), np.uint8)
        tifffile.imwrite(
            path, image, tile=(256, 256), photometric="rgb", resolution=(1e4 / MPP, 1e4 / MPP),
            resolutionunit="CENTIMETER",
        )  # fmt: skip
        slides.append({"slide_id": name, "path": str(path), "mpp": MPP, "fingerprint": fingerprint(path)})
        attrs = {
            "slide_id": name, "mpp_requested": 1.0, "mpp_effective": 1.0, "mpp_slide": MPP, "size_px": 64,
            "overlap_px": 0, "size_px0": 128.0, "width_px0": 640, "height_px0": 512, "identity": "x",
        }  # fmt: skip
        grid = (coords // 128).astype(np.int32)
        write_tiles(folder / f"{name}.h5", TileSet(coords, grid, np.ones(12, np.float32), attrs))
        tiled.append({"slide_id": name, "status": "ok", "file": f"{name}.h5", "sha256": f"t{k}"})
    tiled[2] |= {"status": "failed", "file": "", "sha256": ""}
    return pd.DataFrame(slides), pd.DataFrame(tiled), folder


def paired(cohort: Cohort, out: Path, settings: PairSettings = FEW) -> pd.DataFrame:
    return pair_slides(*cohort, BUILTIN, TILES, settings, out)


def times(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")}


def test_pairs_are_of_the_tiles_and_changes_that_they_name(cohort: Cohort, tmp_path: Path) -> None:
    index = paired(cohort, tmp_path / "pairs")
    assert list(index.columns) == COLUMNS and list(index["slide_id"]) == ["s0", "s1"]
    assert (index["n_tiles"] == 5).all() and (index["dim"] == len(NAMES)).all()
    read, identity = read_pairs(tmp_path / "pairs" / "s1.h5")
    assert identity["pairs"]["encoder"] == "builtin" and identity["pairs"]["intensity"] == 0.2
    assert len({tuple(place) for place in read["coords"]}) == 5
    with open_slide(cohort[0]["path"][1], mpp=MPP) as slide:
        tiles = list(slide.read_tiles(read["coords"], 64, 1.0))
    np.testing.assert_array_equal(read["features"], Builtin(1.0).encode(np.stack(tiles)))
    changed = [augment(tiles[i], read["values"][i, j], read["positions"][i, j]) for i in range(5) for j in range(2)]
    np.testing.assert_array_equal(read["augmented"].reshape(10, -1), Builtin(1.0).encode(np.stack(changed)))


def test_pairs_are_of_the_pixels_that_the_features_are_of(tmp_path: Path, cohort: Cohort) -> None:
    """Those of a decoder that shrinks, where the study says so."""
    for k, path in enumerate(cohort[0]["path"]):
        image = np.random.default_rng(k).integers(0, 256, (512, 640, 3), np.uint8)
        tifffile.imwrite(
            path, image, tile=(256, 256), photometric="ycbcr", subsampling=(2, 2), compression="jpeg",
            resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER",
        )  # fmt: skip
    cohort[0]["fingerprint"] = [fingerprint(path) for path in cohort[0]["path"]]
    fast = TILES.model_copy(update={"jpeg_scale": "fast"})
    made = {}
    for name, tiles in (("exact", TILES), ("fast", fast)):
        pair_slides(*cohort, BUILTIN, tiles, FEW, tmp_path / name)
        made[name] = read_pairs(tmp_path / name / "s0.h5")
    assert made["fast"][1]["pairs"] == made["exact"][1]["pairs"] | {"jpeg_scale": "fast"}
    assert (made["fast"][0]["features"] != made["exact"][0]["features"]).any()
    coords = made["fast"][0]["coords"]
    with open_slide(cohort[0]["path"][0], mpp=MPP) as slide:
        tiles = np.stack(list(slide.read_tiles(coords, 64, 1.0, fast_scale=True)))
    np.testing.assert_array_equal(made["fast"][0]["features"], Builtin(1.0).encode(tiles))


def test_pairs_that_hold_are_kept(cohort: Cohort, tmp_path: Path) -> None:
    out = tmp_path / "pairs"
    index, first = paired(cohort, out), times(out)
    pd.testing.assert_frame_equal(paired(cohort, out), index)
    assert times(out) == first
    (out / "s1.h5").write_bytes(b"half")
    pd.testing.assert_frame_equal(paired(cohort, out), index)  # to the same bytes
    second = times(out)
    assert second["s0.h5"] == first["s0.h5"] and second["s1.h5"] != first["s1.h5"]
    cohort[1].loc[0, "sha256"] = "changed"
    assert paired(cohort, out)["identity"][0] != index["identity"][0]
    other = paired(cohort, out, PairSettings(tiles=5, versions=2, intensity=0.4))
    assert (other["sha256"] != index["sha256"]).all()


def test_a_slide_draws_for_itself(cohort: Cohort, tmp_path: Path) -> None:
    both = paired(cohort, tmp_path / "both")
    alone = paired((cohort[0], cohort[1][1:], cohort[2]), tmp_path / "alone")
    assert alone["sha256"][0] == both["sha256"][1]
    one, other = (read_pairs(tmp_path / "both" / f"s{k}.h5")[0] for k in (0, 1))
    assert (one["values"] != other["values"]).any()
    many = paired(cohort, tmp_path / "many", PairSettings(tiles=99, versions=1))
    assert (many["n_tiles"] == 12).all()


def test_only_the_files_of_those_asked_for_are_opened(cohort: Cohort, tmp_path: Path) -> None:
    out = tmp_path / "pairs"
    index = paired(cohort, out).assign(patient_id=["a", "b"])
    reader = PairReader(out, index, FEW)
    (out / "s0.h5").unlink()
    pairs = reader(["b", "unknown"])
    assert len(pairs) == 10 and set(pairs.patients) == {"b"} and pairs.reach == REACH * 0.2
    read, _ = read_pairs(out / "s1.h5")
    np.testing.assert_array_equal(pairs.features[[0, 1]], read["features"][[0, 0]])  # a tile beside each version
    np.testing.assert_array_equal(pairs.augmented[3], read["augmented"][1, 1])
    np.testing.assert_array_equal(pairs.positions[3], read["positions"][1, 1])
    assert len(pairs.take(np.arange(10) < 3)) == 3
    with pytest.raises(StudyError, match=r"s0\.h5: is gone"):
        reader(["a"])
    with pytest.raises(FeatureError, match="no training patient has pairs"):
        reader(["unknown"])
    moved = PairReader(out, index.assign(patient_id=["a", "c"]), FEW)
    assert moved.digest != reader.digest == PairReader(out, index, FEW).digest


def test_what_is_no_pair_is_refused(tmp_path: Path) -> None:
    shapes = {"features": (1, 4), "augmented": (1, 1, 4), "values": (1, 1, 13), "positions": (1, 1, 13)}
    arrays = {name: np.zeros(shape) for name, shape in shapes.items()} | {"coords": np.zeros((1, 2), np.int64)}
    arrays["augmented"][0, 0, 2] = np.nan
    with pytest.raises(FeatureError, match="not a finite number"):
        write_pairs(tmp_path / "a.h5", arrays, {})
    assert not (tmp_path / "a.h5").exists()
    (tmp_path / "a.h5").write_bytes(b"no")
    with pytest.raises(FeatureError, match="holds no pairs"):
        read_pairs(tmp_path / "a.h5")


def test_settings_of_a_recipe() -> None:
    assert PairSettings.of({"aem": {}}) is None
    assert PairSettings.of({"histaug": {}}) == PairSettings()
    assert PairSettings.of({"histaug": None}).name == "i0.2_t16_v4"
    settings = PairSettings.of({"histaug": {"intensity": 1, "tiles": 8, "steps": 5}})
    assert settings.name == "i1_t8_v4"
    assert settings.folder(Path("f")) == Path("f/pairs/i1_t8_v4")
