"""Every layout to every other, on files written here; read by readers written from the layouts' descriptions."""

from __future__ import annotations

import json
import logging
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from histostudy.cli import app
from histostudy.errors import FeatureError
from histostudy.features.convert import convert_folder, sources_of, summary
from histostudy.features.export import magnification_of
from histostudy.features.interchange import check_magnification, layout_of, read_exchange, trident_bin
from histostudy.features.layouts import open_precomputed, read_slide
from histostudy.features.store import write_features, writing
from histostudy.tiles.coarser import CoarserTiles

#: Numbers that float16 holds, so that what is not lost can be asked for exactly.
FEATURES = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float16).astype(np.float32)
#: A slide at 0.25 um/px, tiles of 256 px at 0.5 um/px: 512 px at level 0, on no lattice that starts at 0.
COORDS = np.array([[x, y] for y in range(3, 3 + 5 * 512, 512) for x in range(7, 7 + 8 * 512, 512)], np.int64)
MPP, SIDE, PX = 0.25, 512, 256
TOOLS = ("trident", "clam", "stamp", "atlaspatch", "plain")


def h5(path: Path) -> h5py.File:
    path.parent.mkdir(parents=True, exist_ok=True)
    return h5py.File(path, "w")


def source(tool: str, root: Path, name: str = "s1", features: np.ndarray = FEATURES, **other: Any) -> Path:
    """Write a slide as a tool does; returns the folder to convert."""
    coords = COORDS[: len(features)]
    if tool == "trident":
        with h5(root / "20x_256px_0px_overlap" / "features_uni_v1" / f"{name}.h5") as file:
            file.create_dataset("features", data=features, chunks=(1, 8), maxshape=(None, 8))
            file["features"].attrs.update(name=name, savetodir="/x", encoder="uni_v1")
            file.create_dataset("coords", data=coords, chunks=(1, 2), maxshape=(None, 2)).attrs.update({
                "patch_size": PX, "patch_size_level0": SIDE, "level0_magnification": 40, "target_magnification": 20,
                "overlap": 0, "name": name, "savetodir": "None", "level0_width": 9000, "level0_height": 8000, **other,
            })  # fmt: skip
    elif tool == "clam":
        level, down = other.get("level", 1), other.get("down", 2.0)
        with h5(root / "patches" / f"{name}.h5") as file:
            file.create_dataset("coords", data=coords).attrs.update(
                patch_size=round(SIDE / down), patch_level=level, downsample=np.array([down, down]),
                level_dim=np.array([4500, 4000]), downsampled_level_dim=np.array([4500, 4000]),
                name=name, save_path="x",
            )  # fmt: skip
        with h5(root / "uni_v1" / "h5_files" / f"{name}.h5") as file:
            file.create_dataset("features", data=features, chunks=(32, 8), maxshape=(None, 8))
            file.create_dataset("coords", data=coords.astype(np.int32))
        return root / "uni_v1"
    elif tool == "stamp":
        with h5(root / "uni_v1-0123abcd" / f"{name}.h5") as file:
            file["coords"], file["feats"] = (coords * MPP).astype(np.float32), features.astype(np.float16)
            file.attrs.update(
                stamp_version="2.5.0", extractor="uni_v1", unit="um", tile_size_um=128.0, tile_size_px=PX,
                code_hash="0123abcd", feat_type="tile",
            )  # fmt: skip
    elif tool == "atlaspatch":
        with h5(root / "patches" / f"{name}.h5") as file:
            windows = np.tile([SIDE, SIDE, 0], (len(coords), 1))
            file["coords"] = np.column_stack([coords, windows]).astype(np.int32)
            file["passports"] = np.array([b"s1__x1"] * len(coords), "S160")
            file["features/uni_v1"] = features
            file.attrs.update({
                "patch_size": PX, "patch_size_level0": SIDE, "level0_magnification": 40, "target_magnification": 20,
                "overlap": 0, "level0_width": 9000, "level0_height": 8000, "wsi_path": "/x/s1.svs",
                "passport_version": 2, "creation_date": "2026-01-02", "num_patches": len(coords), "filename": name,
                "mpp": MPP, **other,
            })  # fmt: skip
    else:
        identity = {"encoder": "uni_v1", "mpp_requested": 0.5, "mpp_slide": MPP, "tile_px": PX, "weights_sha256": "ab"}
        write_features(root / f"{name}.h5", features, coords, identity)
    return root


def one(root: Path, pattern: str) -> Path:
    found = sorted(root.rglob(pattern))
    assert len(found) == 1, found
    return found[0]


# ---- what each tool's own reader does with a file, from the descriptions of the layouts; nothing of ours in them ----
def as_trident(root: Path, mpp: float = MPP) -> dict[str, Any]:
    path = one(root, "features_*/*.h5")
    coords_file = path.parent.parent / "patches" / f"{path.stem}_patches.h5"
    with h5py.File(path) as file, h5py.File(coords_file) as other:
        attrs = dict(file["coords"].attrs)
        assert {"patch_size", "level0_magnification", "target_magnification"} <= set(attrs)
        np.testing.assert_array_equal(file["coords"][:], other["coords"][:])
        assert file["features"].chunks == (1, file["features"].shape[1]) and file["coords"].chunks == (1, 2)
        assert file["coords"].dtype == np.int64 and file["coords"].maxshape == (None, 2)
        assert (
            attrs == dict(other["coords"].attrs) and path.parent.name == "features_" + file["features"].attrs["encoder"]
        )
        folder = "{target_magnification:g}x_{patch_size}px_{overlap}px_overlap".format(**attrs)
        assert path.parent.parent.name == folder
        side = int(attrs["patch_size"] * attrs["level0_magnification"] / attrs["target_magnification"])
        assert side == attrs["patch_size_level0"]
        return {"features": file["features"][:], "coords": file["coords"][:], "side_um": side * mpp,
                "encoder": file["features"].attrs["encoder"]}  # fmt: skip


def as_clam(root: Path, mpp: float = MPP) -> dict[str, Any]:
    import torch

    path = one(root, "h5_files/*.h5")
    with h5py.File(path) as file, h5py.File(root / "patches" / path.name) as other:
        attrs = dict(other["coords"].attrs)
        assert {"patch_size", "patch_level", "downsample", "downsampled_level_dim", "level_dim", "name"} < set(attrs)
        np.testing.assert_array_equal(file["coords"][:], other["coords"][:])
        assert file["features"].dtype == np.float32 and file["features"].chunks == (32, file["features"].shape[1])
        assert file["coords"].dtype == np.int32 and not dict(file["coords"].attrs)
        tensor = torch.load(path.parent.parent / "pt_files" / f"{path.stem}.pt", weights_only=True)
        np.testing.assert_array_equal(tensor.numpy(), file["features"][:])
        side = int(attrs["patch_size"]) * float(attrs["downsample"][0])  # read_region(xy, patch_level, patch_size)
        return {"features": file["features"][:], "coords": file["coords"][:], "side_um": side * mpp,
                "encoder": path.parent.parent.name}  # fmt: skip


def as_stamp(root: Path, mpp: float = MPP) -> dict[str, Any]:
    path = one(root, "*-*/*.h5")
    with h5py.File(path) as file:
        attrs = file.attrs
        assert attrs["unit"] == "um" and attrs["feat_type"] == "tile" and attrs["tile_size_px"] == PX
        assert tuple(int(v) for v in attrs["stamp_version"].split(".")) <= (2, 5, 0)
        assert path.parent.name == f"{attrs['extractor']}-{attrs['code_hash'][:8]}"
        assert file["coords"].dtype == np.float32 and file["feats"].dtype == np.float16
        return {"features": file["feats"][:], "coords": np.rint(file["coords"][:].astype(float) / mpp),
                "side_um": float(attrs["tile_size_um"]), "encoder": attrs["extractor"]}  # fmt: skip


def as_atlaspatch(root: Path, mpp: float = MPP) -> dict[str, Any]:
    path = one(root, "patches/*.h5")
    with h5py.File(path) as file:
        attrs, rows = dict(file.attrs), file["coords"][:]
        assert isinstance(file["features"], h5py.Group) and len(file["features"]) == 1
        (name,) = file["features"]
        assert rows.dtype == np.int32 and rows.shape[1] == 5 and file["passports"].dtype == "S160"
        assert attrs["passport_version"] == 2 and attrs["num_patches"] == len(rows) and attrs["filename"] == path.stem
        first = file["passports"][0].decode()
        assert first.startswith(f"{path.stem}__x{rows[0, 0]}_y{rows[0, 1]}_rw{rows[0, 2]}_rh{rows[0, 3]}_lv")
        assert first.endswith(
            f"_mag{attrs['level0_magnification']}_tmag{attrs['target_magnification']}_total{len(rows)}"
        )
        assert (rows[:, 2:] == [attrs["patch_size_level0"]] * 2 + [0]).all() and attrs["mpp"] == mpp
        return {"features": file["features"][name][:], "coords": rows[:, :2], "encoder": name,
                "side_um": attrs["patch_size_level0"] * mpp}  # fmt: skip


def as_plain(root: Path, mpp: float = MPP) -> dict[str, Any]:
    path = one(root, "*.h5")
    with h5py.File(path) as file:
        identity = json.loads(file.attrs["identity"])
        side = identity["tile_px"] * identity["mpp_requested"]
        return {"features": file["features"][:], "coords": file["coords"][:], "side_um": side,
                "encoder": identity["encoder"]}  # fmt: skip


READ = {"trident": as_trident, "clam": as_clam, "stamp": as_stamp, "atlaspatch": as_atlaspatch, "plain": as_plain}


@pytest.mark.parametrize(("first", "second"), list(product(TOOLS, TOOLS)))
def test_every_pair_there_and_back(tmp_path: Path, first: str, second: str):
    a = source(first, tmp_path / "a")
    done = convert_folder(a, tmp_path / "b", second, mpp=MPP)
    assert [c.error for c in done] == [""] and done[0].layout == first and all(f.is_file() for f in done[0].files)
    read = READ[second](tmp_path / "b")
    np.testing.assert_array_equal(read["coords"], COORDS)
    np.testing.assert_array_equal(read["features"], FEATURES)  # float16 holds them
    assert read["side_um"] == 128 and read["encoder"] == "uni_v1"
    assert not list((tmp_path / "b").rglob(".*"))  # no temporary is left
    # and back, now without being told the scale: our note in the file brings it along
    there = tmp_path / "b" / "uni_v1" if second == "clam" else tmp_path / "b"
    back = convert_folder(there, tmp_path / "c", first)
    assert [c.error for c in back] == [""]
    read = READ[first](tmp_path / "c")
    np.testing.assert_array_equal(read["coords"], COORDS)
    np.testing.assert_array_equal(read["features"], FEATURES)
    assert read["side_um"] == 128
    # the readers of the package agree with the tools' own
    (path,) = open_precomputed(tmp_path / "c" / "uni_v1" if first == "clam" else tmp_path / "c").values()
    ours = read_slide(path, mpp=MPP)
    np.testing.assert_array_equal(ours.coords, COORDS)
    assert ours.tile_px0 == SIDE and ours.positions == "px0"


def test_the_same_input_gives_the_same_bytes(tmp_path: Path):
    for tool in TOOLS:
        a = source(tool, tmp_path / tool)
        for to in TOOLS:
            x, y = (convert_folder(a, tmp_path / n, to, mpp=MPP)[0].files for n in (f"x{tool}{to}", f"y{tool}{to}"))
            assert [p.read_bytes() for p in x] == [p.read_bytes() for p in y]


def test_attributes_that_a_layout_holds_come_through(tmp_path: Path):
    a = source("trident", tmp_path / "a", overlap=16, level0_width=9001)
    convert_folder(a, tmp_path / "b", "atlaspatch", mpp=MPP)
    convert_folder(tmp_path / "b", tmp_path / "c", "trident")
    with h5py.File(one(tmp_path / "a", "*.h5")) as x, h5py.File(one(tmp_path / "c", "features_uni_v1/*.h5")) as y:
        before, after = dict(x["coords"].attrs), dict(y["coords"].attrs)
        assert {k: v for k, v in before.items() if k != "savetodir"} == {
            k: v for k, v in after.items() if k != "savetodir"
        }


def losses(done: Any) -> str:
    return "\n".join(f"{loss.what} {loss.detail}" for loss in done[0].losses)


def test_what_is_lost_is_said(tmp_path: Path):
    odd = FEATURES + np.float32(1e-4)
    a = source("plain", tmp_path / "a", features=odd)
    done = convert_folder(a, tmp_path / "stamp", "stamp")
    told = losses(done)
    assert "float32 to float16" in told and "float32 micrometres" in told and "no weights" in told
    with h5py.File(done[0].files[0]) as file:
        apart = np.abs(file["feats"][:].astype(float) - odd).max()
    assert f"by at most {apart:.2g}" in told and apart > 0
    assert "CLAM has no scale" in losses(convert_folder(a, tmp_path / "clam", "clam"))
    assert "512 px at level 0, cut for 256 px" in losses(convert_folder(a, tmp_path / "clam", "clam"))
    assert "TRIDENT has no um/px 0.25" in losses(convert_folder(a, tmp_path / "trident", "trident"))
    assert convert_folder(a, tmp_path / "again", "plain")[0].losses == []
    exact = convert_folder(source("plain", tmp_path / "e"), tmp_path / "f", "stamp")
    assert "float16" not in losses(exact)  # nothing is lost where float16 holds the numbers
    assert "lost, 1 slides: CLAM has no scale: neither um/px nor magnification" in summary(
        convert_folder(a, tmp_path / "clam", "clam")
    )


def test_numbers_past_float16_are_refused_not_made_infinite(tmp_path: Path):
    a = source("plain", tmp_path / "a", features=FEATURES * 1e6)
    (done,) = convert_folder(a, tmp_path / "b", "stamp")
    assert "do not fit float16" in done.error and not list((tmp_path / "b").rglob("*.*"))


# ---- the traps of scale ----
@pytest.mark.parametrize(("level", "down", "target"), [(0, 1.0, 40), (1, 2.0, 20), (1, 4.0001, 10), (2, 16.0, 2.5)])
def test_clam_patch_size_is_in_pixels_of_its_level(tmp_path: Path, level: int, down: float, target: float):
    a = source("clam", tmp_path / "a", level=level, down=down)
    convert_folder(a, tmp_path / "b", "trident", mpp=MPP)
    with h5py.File(one(tmp_path / "b", "features_*/*.h5")) as file:
        attrs = dict(file["coords"].attrs)
    assert attrs["level0_magnification"] == 40 and attrs["target_magnification"] == target
    assert attrs["patch_size"] == round(SIDE / down) and attrs["patch_size_level0"] == SIDE
    convert_folder(tmp_path / "b", tmp_path / "c", "clam")  # at level 0 now, the same side on the slide
    with h5py.File(tmp_path / "c" / "patches" / "s1.h5") as file:
        attrs = dict(file["coords"].attrs)
    assert int(attrs["patch_size"]) * attrs["downsample"][0] == pytest.approx(SIDE, abs=0.1)
    convert_folder(a, tmp_path / "d", "clam")
    with h5py.File(tmp_path / "a" / "patches" / "s1.h5") as x, h5py.File(tmp_path / "d" / "patches" / "s1.h5") as y:
        for key in ("patch_size", "patch_level", "downsample"):
            np.testing.assert_array_equal(x["coords"].attrs[key], y["coords"].attrs[key])


def test_clam_tiles_shrunk_further_keep_their_side(tmp_path: Path):
    a = source("clam", tmp_path / "a", level=1, down=2.0)
    with h5py.File(tmp_path / "a" / "patches" / "s1.h5", "r+") as file:
        file["coords"].attrs["custom_downsample"] = 2
    done = convert_folder(a, tmp_path / "b", "clam")
    assert "512 px at level 1, cut for 256 px" in losses(done)
    with h5py.File(tmp_path / "b" / "patches" / "s1.h5") as file:
        attrs = dict(file["coords"].attrs)
    assert attrs["patch_level"] == 1 and attrs["patch_size"] * attrs["downsample"][0] == 2 * SIDE
    assert read_slide(one(tmp_path / "b", "h5_files/*.h5")).tile_px0 == 2 * SIDE


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_another_scale_of_the_slide_keeps_the_side_of_its_tiles(tmp_path: Path, mpp: float):
    identity = {"encoder": "uni_v1", "mpp_requested": 0.5, "mpp_slide": MPP, "tile_px": 224}
    write_features(tmp_path / "a" / "s1.h5", FEATURES, COORDS, identity)
    (done,) = convert_folder(tmp_path / "a", tmp_path / "b", "plain", mpp=mpp, allow=True)
    found = read_slide(done.files[0])
    assert found.tile_px0 == 448 and found.identity["mpp_slide"] == mpp
    assert found.identity["mpp_requested"] == 2 * mpp


def test_a_scale_is_never_taken_from_a_magnification(tmp_path: Path):
    for tool in ("trident", "clam"):
        (done,) = convert_folder(source(tool, tmp_path / tool), tmp_path / "b", "stamp")
        assert "um/px" in done.error and "--mpp" in done.error
    (done,) = convert_folder(source("clam", tmp_path / "clam"), tmp_path / "b", "trident")
    assert "does not state magnification or um/px" in done.error
    for to in ("trident", "clam", "atlaspatch", "plain"):  # micrometres are no pixels
        (done,) = convert_folder(source("stamp", tmp_path / "stamp"), tmp_path / "b", to)
        assert "coordinates are micrometres" in done.error
    assert not (tmp_path / "b").exists() or not list((tmp_path / "b").rglob("*.h5"))
    (done,) = convert_folder(tmp_path / "stamp", tmp_path / "c", "stamp")  # nothing to know
    assert not done.error
    with h5py.File(done.files[0]) as x, h5py.File(one(tmp_path / "stamp", "*.h5")) as y:
        np.testing.assert_array_equal(x["coords"][:], y["coords"][:])
        assert x.attrs["code_hash"] == "0123abcd" and x.attrs["tile_size_um"] == 128


@pytest.mark.parametrize(("mpp", "width_um", "warned"), [(0.25, 128, False), (0.20, 102.4, True), (0.29, 148.48, True)])
def test_trident_calls_scales_by_one_name(
    tmp_path: Path, mpp: float, width_um: float, warned: bool, caplog: pytest.LogCaptureFixture
):
    """0.20 and 0.29 um/px are both 40x: 512 px at level 0 are 102 and 148 um, not the 128 of 256 px at 20x."""
    a = source("trident", tmp_path / "a")
    logging.getLogger("histostudy").propagate = True
    with caplog.at_level(logging.WARNING, "histostudy"):
        (done,) = convert_folder(a, tmp_path / "b", "stamp", mpp=mpp)
    assert not done.error and ("40x stands for 0.25 um/px" in caplog.text) == warned
    with h5py.File(done.files[0]) as file:
        assert file.attrs["tile_size_um"] == pytest.approx(width_um)
        np.testing.assert_allclose(file["coords"][:], COORDS * mpp, rtol=1e-6)


@pytest.mark.parametrize("mpp", [0.19, 0.31, 0.5, 1.0, 3.0])
def test_a_magnification_of_another_bin_is_refused(tmp_path: Path, mpp: float):
    a = source("trident", tmp_path / "a")
    (done,) = convert_folder(a, tmp_path / "b", "plain", mpp=mpp)
    assert "states 40x at level 0" in done.error and not list(tmp_path.glob("b/*"))
    (done,) = convert_folder(a, tmp_path / "b", "plain", mpp=mpp, allow=True)
    assert not done.error and read_slide(done.files[0]).tile_px0 == pytest.approx(SIDE)
    wrong = source("atlaspatch", tmp_path / "c", mpp=mpp)  # it prefers the objective's power to the um/px it states
    assert "states 40x" in convert_folder(wrong, tmp_path / "d", "plain")[0].error


def test_a_scale_that_contradicts_the_file_is_refused(tmp_path: Path):
    a = source("plain", tmp_path / "a")
    assert "states 0.25 um/px, not 0.5" in convert_folder(a, tmp_path / "b", "stamp", mpp=0.5)[0].error


def test_a_slide_off_the_bins_keeps_its_scale(tmp_path: Path):
    """0.29 um/px in plain: TRIDENT would call it 40x, which would make its tiles a sixth too wide."""
    identity = {"encoder": "uni_v1", "mpp_requested": 0.5, "mpp_slide": 0.29, "tile_px": PX}
    write_features(tmp_path / "a" / "s1.h5", FEATURES, COORDS, identity)
    done = convert_folder(tmp_path / "a", tmp_path / "b", "trident")
    with h5py.File(done[0].files[0]) as file:
        attrs = dict(file["coords"].attrs)
    assert attrs["patch_size_level0"] == round(PX * 0.5 / 0.29) == 441
    assert attrs["patch_size"] * attrs["level0_magnification"] // attrs["target_magnification"] == pytest.approx(
        441, rel=0.02
    )
    told = losses(done)
    assert "is 40x to it, written as 34x" in told and "435 px at level 0, not 441.38" in told
    convert_folder(tmp_path / "b", tmp_path / "c", "plain")  # and nothing of it is lost to us
    assert read_slide(tmp_path / "c" / "s1.h5").tile_px0 == pytest.approx(PX * 0.5 / 0.29)


def test_bins_and_magnifications():
    bins = {0.1: 80, 0.16: 60, 0.19: 60, 0.2: 40, 0.29: 40, 0.3: 20, 0.59: 20, 0.6: 10, 1.2: 5, 2.4: None}
    assert {mpp: trident_bin(mpp) for mpp in bins} == bins
    assert [magnification_of(m) for m in (0.25, 0.2527, 0.5, 1.0, 4.0, 0.29)] == [40, 40, 20, 10, 2.5, 34]
    check_magnification(40, 0.2527, "x")
    with pytest.raises(FeatureError, match="20x to TRIDENT"):
        check_magnification(40, 0.5, "x")


# ---- folders, coordinates alone, tensors ----
def test_a_bad_file_is_one_line_and_the_rest_go_on(tmp_path: Path):
    a = source("trident", tmp_path / "a")
    for name in ("s0", "s2", "s3"):
        source("trident", a, name)
    folder = tmp_path / "a" / "20x_256px_0px_overlap" / "features_uni_v1"
    (folder / "s0.h5").write_bytes((folder / "s0.h5").read_bytes()[:2000])  # cut short
    with h5py.File(folder / "s2.h5", "r+") as file:
        file["features"][3, 1] = np.nan
    result = CliRunner().invoke(app, ["features", "convert", str(a), str(tmp_path / "b"), "--to", "clam"])
    assert result.exit_code == 2 and "2 of 4 slides converted" in result.output
    assert result.output.count("s0.h5") == result.output.count("s2.h5") == 1
    table = result.output[result.output.index("failed, 2 slides") :]
    assert "cannot be read as HDF5" in table and "feature is nan" in table
    assert sorted(p.stem for p in (tmp_path / "b").rglob("*.h5")) == ["s1", "s1", "s3", "s3"]
    (folder / "s0.h5").unlink()
    (folder / "s2.h5").unlink()
    result = CliRunner().invoke(app, ["features", "convert", str(a), str(tmp_path / "c"), "--to", "clam"])
    assert result.exit_code == 0 and "2 of 2" in result.output


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("text", ["uni v2", "0.3", "[1]", "null"])
def test_attributes_of_the_same_name_are_not_ours(tmp_path: Path, tool: str, text: str):
    a = source(tool, tmp_path / "a")
    want = read_exchange(one(a, "s1.h5"), tool, mpp=MPP)
    with h5py.File(one(a, "s1.h5"), "r+") as file:
        file.attrs.update(identity=text, histostudy=text, encoder="uni_v1")
    (done,) = convert_folder(a, tmp_path / "b", "plain", mpp=MPP)
    assert not done.error and done.layout == tool
    found = read_slide(done.files[0])
    np.testing.assert_array_equal(found.features, want.features)
    np.testing.assert_array_equal(found.coords, COORDS)
    assert found.identity["encoder"] == "uni_v1"
    assert found.tile_px0 == (None if tool == "plain" else SIDE)  # a plain file says it in its identity alone


@pytest.mark.parametrize("to", TOOLS)
def test_parents_at_coarser_scales_are_said_to_be_lost(tmp_path: Path, to: str):
    identity = {"encoder": "uni_v1", "mpp_requested": 0.5, "mpp_slide": MPP, "tile_px": PX, "scales": {"1": {}}}
    parents = CoarserTiles(1.0, COORDS[:3], np.zeros((3, 2), np.int32), np.zeros(len(COORDS), np.int32))
    path = tmp_path / "a" / "s1.h5"
    with writing(path, coords=COORDS, dim=8, identity=identity, coarser=[parents]) as put:
        put(0, FEATURES)
        put(0, FEATURES[:3], 1.0)
    done = convert_folder(tmp_path / "a", tmp_path / "b", to)
    assert "the tiles at coarser scales at 1 um/px" in losses(done)
    for file in done[0].files:
        assert file.suffix == ".pt" or "scales" not in read_exchange(file).facts.identity
    assert "scales" not in read_slide(done[0].files[0]).identity


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from histostudy.features import export

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    a = source("trident", tmp_path / "a")
    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError, match="No space"):  # of the machine: not a bad file
        convert_folder(a, tmp_path / "b", "clam")
    assert not [p for p in (tmp_path / "b").rglob("*") if p.is_file()]
    monkeypatch.undo()
    convert_folder(a, tmp_path / "b", "clam")
    before = {p: p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()}
    monkeypatch.setattr(export, "_common_losses", full)  # an old result survives a failing new one
    with pytest.raises(OSError):
        convert_folder(a, tmp_path / "b", "clam")
    assert {p: p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()} == before


def test_slides_of_different_scales(tmp_path: Path):
    a = source("clam", tmp_path / "a", level=0, down=1.0)
    source("clam", tmp_path / "a", "s2", level=0, down=1.0)
    table = tmp_path / "slides.csv"
    table.write_text("slide_id,mpp\ns1,0.25\ns2,0.5\ns3,\n")
    command = ["features", "convert", str(a), str(tmp_path / "b"), "--to", "stamp", "--slides", str(table)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    sides = {p.stem: h5py.File(p).attrs["tile_size_um"] for p in (tmp_path / "b").rglob("*.h5")}
    assert sides == {"s1": 128, "s2": 256}
    for text, line in (("slide_id\ns1\n", "no column mpp"), ("slide_id,mpp\ns1,x\n", "row 2")):
        table.write_text(text)
        result = CliRunner().invoke(app, command)
        assert result.exit_code and line in str(result.exception)


@pytest.mark.parametrize("to", ["trident", "clam", "atlaspatch", "plain"])
def test_coordinates_alone(tmp_path: Path, to: str):
    a = source("trident", tmp_path / "a")
    convert_folder(a, tmp_path / "b", "trident")
    patches = one(tmp_path / "b", "*_patches.h5")
    one(tmp_path / "b", "features_uni_v1/*.h5").unlink()
    assert sources_of(tmp_path / "b") == {"s1": patches}
    (done,) = convert_folder(tmp_path / "b", tmp_path / "c", to, mpp=MPP)
    assert not done.error and len(done.files) == 1
    again = read_exchange(done.files[0])
    # coordinates alone of ours are coordinates alone of TRIDENT's
    assert again.features is None and layout_of(done.files[0]) == ("trident" if to == "plain" else to)
    np.testing.assert_array_equal(again.coords, COORDS)
    assert again.facts.tile_px0 == SIDE and again.facts.mpp_slide == MPP
    (done,) = convert_folder(tmp_path / "b", tmp_path / "d", "stamp", mpp=MPP)
    assert "coordinates alone" in done.error


def test_our_tile_files(tmp_path: Path):
    from histostudy.tiles.store import TileSet, write_tiles

    facts = {
        "slide_id": "s1", "mpp_requested": 0.5, "mpp_effective": 0.5, "mpp_slide": 0.29, "size_px": 256,
        "overlap_px": 0, "size_px0": 256 * 0.5 / 0.29, "width_px0": 9000, "height_px0": 8000, "identity": {},
    }  # fmt: skip
    tiles = TileSet(COORDS, COORDS.astype(np.int32), np.ones(len(COORDS), np.float32), facts)
    write_tiles(tmp_path / "a" / "s1.h5", tiles)
    found = read_exchange(tmp_path / "a" / "s1.h5")
    assert found.facts.mpp_slide == 0.29 and found.facts.tile_px0 == pytest.approx(441.379, abs=1e-3)
    (done,) = convert_folder(tmp_path / "a" / "s1.h5", tmp_path / "b", "atlaspatch")
    with h5py.File(done.files[0]) as file:
        assert file.attrs["patch_size_level0"] == 441 and file.attrs["mpp"] == 0.29


def test_tensors_find_their_places_or_do_without(tmp_path: Path):
    import torch

    a = source("clam", tmp_path / "a")
    (a / "pt_files").mkdir()
    torch.save(torch.from_numpy(FEATURES), a / "pt_files" / "s1.pt")
    (a / "h5_files" / "s1.h5").rename(tmp_path / "s1.h5")
    (done,) = convert_folder(a / "pt_files", tmp_path / "b", "plain")
    read = read_slide(done.files[0])
    assert read.positions == "unknown" and done.losses[0].what == "the source has no coordinates"
    np.testing.assert_array_equal(read.features, FEATURES)
    assert "has no coordinates" in convert_folder(a / "pt_files", tmp_path / "b", "trident")[0].error
    (done,) = convert_folder(a / "pt_files", tmp_path / "c", "clam")
    assert [p.suffix for p in done.files] == [".pt"]
    (tmp_path / "s1.h5").rename(a / "h5_files" / "s1.h5")
    (done,) = convert_folder(a / "pt_files", tmp_path / "d", "trident", mpp=MPP)
    np.testing.assert_array_equal(as_trident(tmp_path / "d")["coords"], COORDS)


@pytest.mark.parametrize(("first", "second"), list(product(("trident", "atlaspatch", "plain"), TOOLS)))
def test_a_slide_without_tiles(tmp_path: Path, first: str, second: str):
    a = source(first, tmp_path / "a", features=FEATURES[:0])
    (done,) = convert_folder(a, tmp_path / "b", second, mpp=MPP)
    assert not done.error
    assert read_slide(done.files[0]).features.shape[0] == 0


def test_atlaspatch_windows_and_encoders(tmp_path: Path):
    a = source("atlaspatch", tmp_path / "a")
    with h5py.File(one(a, "*.h5"), "r+") as file:
        file["features/phikon"] = FEATURES + 1
        file["coords"][:, 2:] = [256, 256, 1]
    assert "features of phikon, uni_v1" in convert_folder(a, tmp_path / "b", "plain")[0].error
    done = convert_folder(a, tmp_path / "b", "trident", encoder="phikon")
    assert "level and window" in losses(done)
    np.testing.assert_array_equal(as_trident(tmp_path / "b")["features"], FEATURES + 1)
    (done,) = convert_folder(a, tmp_path / "c", "atlaspatch", encoder="phikon")
    with h5py.File(done.files[0]) as file:
        assert (file["coords"][:, 2:] == [256, 256, 1]).all() and file.attrs["creation_date"] == "2026-01-02"


def test_what_cannot_start(tmp_path: Path):
    a = source("trident", tmp_path / "a")
    for target, to, line in ((a / "x", "clam", "lies in the source"), (tmp_path / "b.h5", "clam", "no folder"),
                             (tmp_path / "b", "zarr", "no layout 'zarr'")):  # fmt: skip
        with pytest.raises(FeatureError, match=line):
            convert_folder(a, target, to)
    source("trident", tmp_path / "a" / "two")
    with pytest.raises(FeatureError, match="no such folder"):
        convert_folder(tmp_path / "none", tmp_path / "b", "clam")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeatureError, match="no feature files"):
        convert_folder(tmp_path / "empty", tmp_path / "b", "clam")
