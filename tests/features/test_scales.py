"""Several scales from the tiles to the bags; without them nothing changes; threads and a fast scale beside."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile

from histostudy.encoders.builtin import Builtin
from histostudy.errors import FeatureError
from histostudy.features.bagfile import COARSER_FILES, FILES, open_bags, write_bags
from histostudy.features.bags import Bags
from histostudy.features.scales import of_all_scales
from histostudy.features.stage import embed_slides
from histostudy.features.store import read_coarser
from histostudy.files import fingerprint, sha256
from histostudy.slides.reader import open_slide
from histostudy.study import Features, Tiles
from histostudy.tiles.coarser import coarser_tiles
from histostudy.tiles.lattice import Lattice
from histostudy.tiles.store import TileSet, write_tiles

MPP, SIZE = 0.5, 32
SCALES = [1.0, 2.0]
FEATURES = Features(encoder="builtin", batch_size=5)


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    """Three slides of two patients, their tiles with parents at 1 and 2 um/px."""
    slides, tiled, folder = [], [], tmp_path / "tiles"
    for k in range(3):
        image = np.random.default_rng(k).integers(0, 256, (300, 420, 3), np.uint8)
        path = tmp_path / f"s{k}.tiff"
        tifffile.imwrite(
            path, image, tile=(128, 128), photometric="rgb", compression="jpeg", resolution=(1e4 / MPP,) * 2,
            resolutionunit="CENTIMETER",
        )  # fmt: skip
        slides.append({"slide_id": f"s{k}", "path": str(path), "mpp": MPP, "fingerprint": fingerprint(path)})
        lattice = Lattice(420, 300, MPP, MPP, SIZE)
        keep = np.random.default_rng(k).random(len(lattice)) < 0.2
        attrs = {**lattice.facts(), "slide_id": f"s{k}", "identity": "x"}
        grid = lattice.grid[keep]
        laid = TileSet(lattice.coords[keep], grid, np.ones(len(grid), np.float32), attrs)
        write_tiles(folder / "plain" / f"s{k}.h5", laid)
        laid = TileSet(*list(laid.__dict__.values())[:4], coarser_tiles(lattice, grid, SCALES))
        write_tiles(folder / f"s{k}.h5", laid)
        tiled.append({"slide_id": f"s{k}", "status": "ok", "file": f"s{k}.h5", "sha256": f"t{k}"})
    return pd.DataFrame(slides), pd.DataFrame(tiled), folder


def embedded(cohort: tuple, out: Path, workers: int = 0, plain: bool = False, **tiles: object) -> pd.DataFrame:
    slides, tiled, folder = cohort
    asked = Tiles(mpp=MPP, size=SIZE, **tiles)
    return embed_slides(slides, tiled, folder / "plain" if plain else folder, FEATURES, asked, out, workers=workers)


def bags_of(out: Path, scales: list[float]) -> Bags:
    paths = {f"s{k}": out / f"s{k}.h5" for k in range(3)}
    return Bags.load(paths, {"s0": "b", "s1": "a", "s2": "b"}, scales=scales)


def test_parents_are_encoded_at_their_own_scale(cohort: tuple, tmp_path: Path) -> None:
    out = tmp_path / "out"
    index = embedded(cohort, out, scales=SCALES)
    assert (index["status"] == "ok").all()
    with open_slide(cohort[0]["path"][0], mpp=MPP) as slide, h5py.File(out / "s0.h5") as file:
        assert len(file["features"]) == index["n_tiles"][0]  # parents are beside the tiles, not among them
        for mpp in SCALES:
            vectors, coords = read_coarser(out / "s0.h5", mpp)
            tiles = np.stack(list(slide.read_tiles(coords, SIZE, mpp)))
            np.testing.assert_array_equal(vectors, Builtin(mpp).encode(tiles))
            parent = file[f"parent@{mpp:g}"][:]
            assert (np.abs(file["coords"][:] - coords[parent]) <= mpp / MPP * SIZE).all()
        identity = json.loads(file.attrs["identity"])
    assert {k: v["transform"]["mpp"] for k, v in identity["scales"].items()} == {"1": 1.0, "2": 2.0}
    with pytest.raises(FeatureError, match="no tiles at 4 um/px"):
        read_coarser(out / "s0.h5", 4.0)


def test_without_scales_files_are_those_of_before(cohort: tuple, tmp_path: Path) -> None:
    embedded(cohort, tmp_path / "plain", plain=True)
    with h5py.File(tmp_path / "plain" / "s0.h5") as file:
        assert set(file) == {"features", "coords"}
        assert not {"scales", "jpeg_scale"} & set(json.loads(file.attrs["identity"]))
    bags = bags_of(tmp_path / "plain", [])
    write_bags(bags, tmp_path / "bags")
    assert bags.coarser is None and sorted(p.name for p in (tmp_path / "bags").iterdir()) == sorted(FILES)
    assert "coarser" not in json.loads((tmp_path / "bags" / "bags.json").read_text())


def test_reading_ahead_changes_no_byte_of_the_features(cohort: tuple, tmp_path: Path) -> None:
    for workers in (0, 3):
        embedded(cohort, tmp_path / str(workers), workers, scales=SCALES)
    for k in range(3):
        assert sha256(tmp_path / "0" / f"s{k}.h5") == sha256(tmp_path / "3" / f"s{k}.h5")


def test_a_fast_scale_is_another_identity(cohort: tuple, tmp_path: Path) -> None:
    slides, tiled, folder = cohort
    made = {}
    for kind in ("exact", "fast"):
        tiles = Tiles(mpp=1.0, size=SIZE, jpeg_scale=kind)
        index = embed_slides(slides, tiled, folder / "plain", FEATURES, tiles, tmp_path / kind)
        with h5py.File(tmp_path / kind / "s0.h5") as file:
            made[kind] = index["identity"][0], json.loads(file.attrs["identity"]), file["features"][:]
    assert made["exact"][0] != made["fast"][0]
    assert made["fast"][1] == made["exact"][1] | {"jpeg_scale": "fast"}
    assert np.abs(made["exact"][2] - made["fast"][2]).max() > 0
    paths = {"s0": tmp_path / "exact" / "s0.h5", "s1": tmp_path / "fast" / "s1.h5"}
    with pytest.raises(FeatureError, match="jpeg_scale is 'fast'"):
        Bags.load(paths, {"s0": "a", "s1": "b"})


def test_bags_hold_parents_beside_the_tiles(cohort: tuple, tmp_path: Path) -> None:
    out = tmp_path / "out"
    embedded(cohort, out, scales=SCALES)
    plain, bags = bags_of(out, []), bags_of(out, SCALES)
    np.testing.assert_array_equal(plain.features, bags.features)
    assert plain.coarser is None and bags.coarser is not None and bags.coarser.scales is not None
    assert write_bags(plain, tmp_path / "plain") != write_bags(bags, tmp_path / "bags")
    for name in COARSER_FILES:
        assert (tmp_path / "bags" / name).is_file()
    opened = open_bags(tmp_path / "bags")
    assert opened.coarser is not None
    for name in ("features", "offsets", "coords", "scales", "slide_index"):
        np.testing.assert_array_equal(getattr(opened.coarser, name), getattr(bags.coarser, name))
    write_bags(bags_of(out, SCALES[:1]), tmp_path / "bags" / "coarser")
    with pytest.raises(FeatureError, match="of other bags"):
        open_bags(tmp_path / "bags")
    write_bags(plain, tmp_path / "bags")
    assert open_bags(tmp_path / "bags").coarser is None and not (tmp_path / "bags" / "coarser").exists()


def test_all_scales_in_one_bag(cohort: tuple, tmp_path: Path) -> None:
    """Against a slow loop over patients, slides and scales."""
    out = tmp_path / "out"
    embedded(cohort, out, scales=SCALES)
    bags = bags_of(out, SCALES)
    seen = of_all_scales(bags)
    assert seen.scales is not None and seen.patient_ids == ["a", "b"]
    for patient, slides in (("a", ["s1"]), ("b", ["s0", "s2"])):
        rows = seen.rows(patient)
        vectors, coords, scales = [bags.bag(patient)], [bags.coords[bags.rows(patient)]], [MPP] * len(bags.bag(patient))
        for slide in slides:
            for mpp in SCALES:
                v, c = read_coarser(out / f"{slide}.h5", mpp)
                vectors.append(v)
                coords.append(c)
                scales += [mpp] * len(v)
        np.testing.assert_array_equal(seen.features[rows], np.concatenate(vectors))
        np.testing.assert_array_equal(seen.coords[rows], np.concatenate(coords))
        np.testing.assert_array_equal(seen.scales[rows], np.float32(scales))
        names = [seen.slide_ids[i] for i in seen.slide_index[rows]][len(bags.bag(patient)) :]
        assert names == sorted(names) and set(names) == set(slides)
    assert of_all_scales(bags_of(out, [])).scales is None
    few = seen.take(["b"])
    np.testing.assert_array_equal(few.scales, seen.scales[seen.rows("b")])
