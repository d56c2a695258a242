"""Files as each tool lays them out, written here from the layouts' descriptions, at scales that tell them apart."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import h5py
import numpy as np
import pytest

from histostudy.errors import FeatureError
from histostudy.features.layouts import detect, open_precomputed, read_slide

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(6, 8)).astype(np.float32)
#: A slide at 0.25 um/px, tiles of 256 px at 0.5 um/px: 512 px at level 0.
COORDS = np.array([[x, y] for y in (1024, 1536) for x in (512, 1024, 1536)], np.int64)


def trident(path: Path, features: np.ndarray = FEATURES, level0: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, chunks=(1, 8) if features.size else None)
        file["features"].attrs.update(name=path.stem, savetodir="/x", encoder="uni_v1")
        coords = file.create_dataset("coords", data=COORDS[: len(features)])
        coords.attrs.update(
            patch_size=256, level0_magnification=40, target_magnification=20, overlap=0, name=path.stem,
            savetodir="None", level0_width=9000, level0_height=8000,
        )  # fmt: skip
        if level0:
            coords.attrs["patch_size_level0"] = 512
    return path


@pytest.mark.parametrize("level0", [True, False])
def test_trident(tmp_path: Path, level0: bool):
    path = trident(tmp_path / "20x_256px_0px_overlap" / "features_uni_v1" / "s1.h5", level0=level0)
    for folder in (tmp_path, path.parent.parent, path.parent):
        assert open_precomputed(folder, "trident") == {"s1": path}
    (path.parent.parent / "patches").mkdir()
    (path.parent.parent / "patches" / "s1_patches.h5").write_bytes(b"")
    assert open_precomputed(tmp_path) == {"s1": path}
    read = read_slide(path)
    assert detect(path) == "trident" and read.tile_px0 == 512 and read.positions == "px0"
    assert read.identity["encoder"] == "uni_v1"
    np.testing.assert_array_equal(read.coords, COORDS)
    np.testing.assert_array_equal(read.features, FEATURES)


def test_trident_several_encoders_and_empty_slides(tmp_path: Path):
    for encoder in ("uni_v1", "phikon"):
        trident(tmp_path / "20x" / f"features_{encoder}" / "s1.h5")
    with pytest.raises(FeatureError, match="2 sets of features .*features_phikon"):
        open_precomputed(tmp_path)
    assert open_precomputed(tmp_path, encoder="phikon")["s1"].parent.name == "features_phikon"
    for shape in ((0,), (0, 8)):
        path = trident(tmp_path / "e.h5", np.zeros(shape, np.float32))
        assert read_slide(path).features.shape[0] == 0


@pytest.mark.parametrize(("level", "downsample", "size"), [(0, 1.0, 512), (1, 4.0, 128), (1, 4.0001, 256)])
def test_clam_patch_size_is_at_its_level(tmp_path: Path, level: int, downsample: float, size: int):
    features, patches = tmp_path / "feat_uni" / "h5_files" / "s1.h5", tmp_path / "patches" / "s1.h5"
    for path in (features, patches):
        path.parent.mkdir(parents=True)
        with h5py.File(path, "w") as file:
            coords = file.create_dataset("coords", data=COORDS.astype(np.int32))
            if path is features:
                file.create_dataset("features", data=FEATURES, chunks=(6, 8))
            else:
                coords.attrs.update(patch_size=size, patch_level=level, downsample=[downsample] * 2, name="s1")
    (tmp_path / "feat_uni" / "pt_files").mkdir()
    assert open_precomputed(tmp_path / "feat_uni") == {"s1": features}
    read = read_slide(features)
    assert detect(features) == "clam" and read.identity["encoder"] == "feat_uni"
    assert read.tile_px0 == pytest.approx(size * downsample)
    np.testing.assert_array_equal(read.coords, COORDS)
    patches.unlink()
    assert read_slide(features).tile_px0 is None  # not stated is not guessed


def test_clam_tensors(tmp_path: Path):
    import torch

    (tmp_path / "pt_files").mkdir()
    torch.save(torch.from_numpy(FEATURES), tmp_path / "pt_files" / "s1.pt")
    path = open_precomputed(tmp_path)["s1"]
    read = read_slide(path)
    assert read.positions == "unknown" and (read.coords == -1).all()
    np.testing.assert_array_equal(read.features, FEATURES)


def stamp(path: Path, coords: np.ndarray, vectors: str = "feats", **attrs: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[vectors] = FEATURES.astype(np.float16)
        file["coords"] = coords.astype(np.float32)
        file.attrs.update(attrs)
    return path


def test_stamp_coordinates_are_micrometres(tmp_path: Path):
    um = (COORDS + 3) * 0.25  # not whole micrometres
    new = stamp(
        tmp_path / "uni-abcd1234" / "sub" / "s1.h5", um, stamp_version="2.5.0", extractor="uni", unit="um",
        feat_type="tile", tile_size_um=128.0, tile_size_px=224, code_hash="abcd1234",
    )  # fmt: skip
    assert open_precomputed(tmp_path) == {"s1": new}
    read = read_slide(new)
    assert detect(new) == "stamp" and read.positions == "um" and read.tile_px0 == 128
    np.testing.assert_array_equal(read.coords, np.rint(um))
    read = read_slide(new, mpp=0.25)
    assert read.positions == "px0" and read.tile_px0 == 512
    np.testing.assert_array_equal(read.coords, COORDS + 3)
    v20 = stamp(tmp_path / "v20.h5", um, unit="um", tile_size=128.0)
    np.testing.assert_array_equal(read_slide(v20, mpp=0.25).coords, COORDS + 3)


def test_stamp_before_it_wrote_sizes(tmp_path: Path):
    grid = np.array([[x, y] for y in (0, 224) for x in (0, 224, 448)])
    old = stamp(tmp_path / "old.h5", grid, vectors="patch_embeddings")
    read = read_slide(old, mpp=0.5)
    np.testing.assert_array_equal(read.coords, grid / 224 * 256 / 0.5)
    assert read.tile_px0 == 512
    with pytest.raises(FeatureError, match="states no tile size"):
        read_slide(stamp(tmp_path / "odd.h5", grid * 2))
    with pytest.raises(FeatureError, match="holds slide features"):
        read_slide(stamp(tmp_path / "slide.h5", grid, feat_type="slide"))


def atlaspatch(path: Path, *encoders: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.column_stack([COORDS, np.full((6, 2), 512), np.zeros(6, int)]).astype(np.int32)
    with h5py.File(path, "w") as file:
        file["coords"] = rows  # x, y, width, height, level
        file["passports"] = np.array([b"s1__x1"] * 6)
        for k, encoder in enumerate(encoders):
            file[f"features/{encoder}"] = FEATURES + k
        file["features/__tmp_half"] = FEATURES[:2]
        file.attrs.update(patch_size=256, patch_size_level0=512, level0_magnification=40, target_magnification=20)
    return path


def test_atlaspatch(tmp_path: Path):
    path = atlaspatch(tmp_path / "patches" / "s1.h5", "uni_v1")
    assert open_precomputed(tmp_path) == {"s1": path} and detect(path) == "atlaspatch"
    read = read_slide(path)
    np.testing.assert_array_equal(read.coords, COORDS)
    assert read.tile_px0 == 512 and read.identity["encoder"] == "uni_v1"
    path = atlaspatch(tmp_path / "two.h5", "phikon", "uni_v1")
    with pytest.raises(FeatureError, match="features of phikon, uni_v1"):
        read_slide(path)
    np.testing.assert_array_equal(read_slide(path, encoder="uni_v1").features, FEATURES + 1)


def test_plain_files(tmp_path: Path):
    import torch

    np.save(tmp_path / "a.npy", FEATURES)
    np.savez(tmp_path / "b.npz", features=FEATURES)
    torch.save(torch.from_numpy(FEATURES)[None], tmp_path / "c.pt")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["features"], file["coords"] = FEATURES, COORDS
    paths = open_precomputed(tmp_path)
    assert list(paths) == ["a", "b", "c", "d"]
    for slide, path in paths.items():
        read = read_slide(path)
        np.testing.assert_array_equal(read.features, FEATURES)
        assert read.positions == ("px0" if slide == "d" else "unknown")
    np.save(tmp_path / "d.npy", FEATURES)
    assert open_precomputed(tmp_path)["d"].suffix == ".h5"  # it has coordinates


def test_bags_of_the_hipt_tool(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch):
    script = shared_data.parent / "tools" / "explode_hipt.py"
    with h5py.File(tmp_path / "cohort.h5", "w") as file:
        file["features"], file["offset"] = FEATURES.astype(np.float16), [0, 2, 6]
        file["slide_id"] = np.array([b"TCGA-1", b"TCGA-2"])
        file.attrs["source"] = "x"
    spec = importlib.util.spec_from_file_location("explode_hipt", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["explode_hipt.py", str(tmp_path / "cohort.h5"), str(tmp_path / "bags")])
    assert module.main() == 0
    paths = open_precomputed(tmp_path / "bags")
    assert list(paths) == ["TCGA-1", "TCGA-2"] and {detect(p) for p in paths.values()} == {"plain"}
    read = read_slide(paths["TCGA-2"])
    assert read.positions == "unknown" and read.identity["encoder"] == "hipt_vit256mean"
    np.testing.assert_array_equal(read.features, FEATURES.astype(np.float16)[2:])


def test_wrong_folders_and_files(tmp_path: Path):
    with pytest.raises(FeatureError, match="no such folder"):
        open_precomputed(tmp_path / "none")
    with pytest.raises(FeatureError, match="no feature files"):
        open_precomputed(tmp_path)
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "s.npy", FEATURES)
    with pytest.raises(FeatureError, match="two feature files for slide s"):
        open_precomputed(tmp_path)
    np.save(tmp_path / "flat.npy", FEATURES[0])
    with pytest.raises(FeatureError, match=r"shape \(8,\), not"):
        read_slide(tmp_path / "flat.npy")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FeatureError):  # never unpickled
        read_slide(tmp_path / "object.npy")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = FEATURES
    for layout in ("auto", "trident", "clam", "stamp", "plain", "atlaspatch"):
        with pytest.raises(FeatureError, match=r"other\.h5"):
            read_slide(tmp_path / "other.h5", layout)
    with h5py.File(tmp_path / "short.h5", "w") as file:
        file["features"], file["coords"] = FEATURES, COORDS[:3]
    with pytest.raises(FeatureError, match="6 vectors but coords"):
        read_slide(tmp_path / "short.h5")
