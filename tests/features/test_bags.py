"""Bags: order, offsets, and what does not mix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histostudy.errors import FeatureError
from histostudy.features.bags import Bags
from histostudy.features.store import write_features

IDENTITY = {"encoder": "uni", "weights_sha256": "ab", "mpp_requested": 0.5, "tile_px": 224, "dtype": "float32"}
PATIENTS = {"s3": "a", "s1": "b", "s2": "a", "s4": "c", "unused": "z"}


def cohort(folder: Path, dtype: str = "float32", **changes: dict) -> dict[str, Path]:
    paths = {}
    for k, slide in enumerate(("s1", "s2", "s3", "s4")):
        n = 0 if slide == "s4" else 3 + k
        features = np.arange(n * 4).reshape(n, 4) + 100 * k
        identity = IDENTITY | {"mpp_slide": 0.25 + k, "tiles": slide} | changes.get(slide, {})
        paths[slide] = folder / f"{slide}.h5"
        write_features(paths[slide], features.astype(np.float32), np.full((n, 2), k), identity, dtype=dtype)
    return paths


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_lie_by_patient_and_slide(tmp_path: Path, dtype: str):
    paths = cohort(tmp_path, dtype)
    bags = Bags.load(dict(reversed(paths.items())), PATIENTS)
    assert bags.patient_ids == ["a", "b", "c"] and bags.slide_ids == ["s2", "s3", "s1", "s4"]
    np.testing.assert_array_equal(bags.offsets, [0, 9, 12, 12])
    assert bags.features.dtype == np.float32 and bags.features.flags.c_contiguous and bags.dim == 4
    np.testing.assert_array_equal(bags.bag("a")[:, 0], [100, 104, 108, 112, 200, 204, 208, 212, 216])
    np.testing.assert_array_equal(bags.coords[:, 0], [1] * 4 + [2] * 5 + [0] * 3)
    assert bags.slides("a") == ["s2", "s3"] and bags.slides("c") == [] and len(bags.bag("c")) == 0
    assert bags.slide_rows("s3") == slice(4, 9) and bags.slide_rows("s4") == slice(0, 0)
    assert bags.positions == "px0" and bags.identity["encoder"] == "uni" and "mpp_slide" not in bags.identity
    assert bags.tile_px0["s1"] == pytest.approx(448)
    assert bags.bag("a").base is not None  # a view


def test_take_keeps_the_order_asked_for(tmp_path: Path):
    bags = Bags.load(cohort(tmp_path), PATIENTS)
    some = bags.take(["b", "a"])
    assert some.patient_ids == ["b", "a"] and len(some) == 2
    np.testing.assert_array_equal(some.offsets, [0, 3, 12])
    for patient in ("a", "b"):
        np.testing.assert_array_equal(some.bag(patient), bags.bag(patient))
        assert some.slides(patient) == bags.slides(patient)
    assert len(bags.take([]).features) == 0
    for call in (bags.bag, some.bag, lambda p: bags.take([p])):
        with pytest.raises(FeatureError, match="patient zz has no bag"):
            call("zz")


@pytest.mark.parametrize(
    ("key", "value"), [("encoder", "phikon"), ("weights_sha256", "cd"), ("mpp_requested", 1.0), ("dtype", "float16")]
)
def test_identities_never_mix(tmp_path: Path, key: str, value: object):
    paths = cohort(tmp_path, s1={key: value})
    with pytest.raises(FeatureError, match=rf"s1\.h5: {key} is .*{value}.*two identities do not mix"):
        Bags.load(paths, PATIENTS)


def test_other_faults(tmp_path: Path):
    paths = cohort(tmp_path)
    with pytest.raises(FeatureError, match="no patient .s1"):
        Bags.load(paths, {"s2": "a", "s3": "a", "s4": "c"})
    with pytest.raises(FeatureError, match="no slide has features"):
        Bags.load({}, PATIENTS)
    with pytest.raises(FeatureError, match="need 0.0 GB of"):
        Bags.load(paths, PATIENTS, max_bytes=100)
    write_features(paths["s1"], np.zeros((3, 6), np.float32), np.zeros((3, 2)), IDENTITY)
    with pytest.raises(FeatureError, match=r"s1\.h5: features are 6 wide, those of .*s2\.h5 4"):
        Bags.load(paths, PATIENTS)
    import h5py

    cohort(tmp_path)
    with h5py.File(paths["s3"], "a") as file:
        file["features"][2, 1] = np.nan
    with pytest.raises(FeatureError, match=r"s3\.h5 row 2 column 1"):
        Bags.load(paths, PATIENTS)


def test_unknown_positions_stay_unknown(tmp_path: Path):
    paths = cohort(tmp_path)
    np.save(tmp_path / "s9.npy", np.zeros((2, 4), np.float32))
    bags = Bags.load({"s9": tmp_path / "s9.npy"}, {"s9": "p"})
    assert bags.positions == "unknown" and (bags.coords == -1).all()
    assert Bags.load(paths, PATIENTS).positions == "px0"
