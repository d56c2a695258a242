"""The feature file: what is written is read, the same bytes each time, never half, never NaN."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from histostudy.errors import FeatureError
from histostudy.features.layouts import detect, read_header, read_slide
from histostudy.features.store import encoding_of, identity_digest, read_features, write_features, writing
from histostudy.files import sha256

IDENTITY = {"encoder": "uni", "weights_sha256": "ab", "mpp_requested": 0.5, "tile_px": 224, "mpp_slide": 0.2271}


def arrays(n: int = 7, dim: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)).astype(np.float32), rng.integers(0, 9999, (n, 2))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path: Path, dtype: str):
    features, coords = arrays()
    path = tmp_path / "s.h5"
    write_features(path, features, coords, IDENTITY, dtype=dtype, coords_attrs={"patch_size_level0": 493})
    for read in (read_features(path), read_slide(path)):
        np.testing.assert_array_equal(read.features, features.astype(dtype))
        np.testing.assert_array_equal(read.coords, coords)
        assert read.identity["encoder"] == "uni" and read.positions == "px0"
        assert read.tile_px0 == pytest.approx(224 * 0.5 / 0.2271)  # exact, not TRIDENT's whole pixels
    with h5py.File(path) as file:
        assert file["features"].chunks is None and file["features"].dtype == dtype
        assert file["coords"].dtype == np.int64 and file["coords"].attrs["patch_size_level0"] == 493
    assert detect(path) == "plain" and read_header(path).shape == (7, 5)
    into = np.zeros((7, 5), np.float32)
    assert read_slide(path, into=into).features is into
    np.testing.assert_array_equal(into, features.astype(dtype))


def test_same_input_same_bytes(tmp_path: Path):
    import time

    features, coords = arrays()
    write_features(tmp_path / "a.h5", features, coords, IDENTITY)
    time.sleep(1.1)  # HDF5 keeps times in seconds
    with writing(tmp_path / "b.h5", coords=coords, dim=5, identity=dict(reversed(IDENTITY.items()))) as put:
        put(0, features[:4])
        put(4, features[4:])
    assert sha256(tmp_path / "a.h5") == sha256(tmp_path / "b.h5")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_never_written(tmp_path: Path, bad: float):
    features, coords = arrays()
    features[5, 2] = bad
    with (
        pytest.raises(FeatureError, match=r"s\.h5 row 5 column 2: feature is"),
        writing(tmp_path / "s.h5", coords=coords, dim=5, identity=IDENTITY) as put,
    ):
        put(0, features[:3])
        put(3, features[3:])
    assert list(tmp_path.iterdir()) == []


def test_overflow_of_float16_is_not_written(tmp_path: Path):
    features, coords = arrays()
    features[1, 1] = 1e6
    with pytest.raises(FeatureError, match="row 1 column 1"):
        write_features(tmp_path / "s.h5", features, coords, IDENTITY, dtype="float16")


def test_not_finite_is_never_read(tmp_path: Path):
    features, _ = arrays()
    features[3, 4] = np.nan
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["features"] = features
    with pytest.raises(FeatureError, match=r"s\.h5 row 3 column 4: feature is nan .*; extract"):
        read_slide(tmp_path / "s.h5")


def test_rows_left_out_are_noticed(tmp_path: Path):
    features, coords = arrays()
    with (
        pytest.raises(FeatureError, match="3 of 7"),
        writing(tmp_path / "s.h5", coords=coords, dim=5, identity={}) as put,
    ):
        put(0, features[:3])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_slide(tmp_path: Path):
    write_features(tmp_path / "s.h5", np.zeros((0, 5), np.float32), np.zeros((0, 2)), IDENTITY)
    assert read_features(tmp_path / "s.h5").features.shape == (0, 5)


def test_truncated_and_foreign_files(tmp_path: Path):
    features, coords = arrays(200)
    write_features(tmp_path / "s.h5", features, coords, IDENTITY)
    data = (tmp_path / "s.h5").read_bytes()
    (tmp_path / "s.h5").write_bytes(data[: len(data) // 2])
    for read in (read_features, read_slide):
        with pytest.raises(FeatureError, match="extract"):
            read(tmp_path / "s.h5")
        with pytest.raises(FeatureError):
            read(tmp_path / "none.h5")


def test_identity_shared_by_slides():
    other = IDENTITY | {"mpp_slide": 0.5, "tiles": "x"}
    assert identity_digest(other) == identity_digest(IDENTITY)
    assert identity_digest(other | {"mpp_requested": 1.0}) != identity_digest(IDENTITY)
    assert "mpp_slide" not in encoding_of(other)
