"""Stain normalisation on the way to features: fitted a slide, in the identity, counted where it cannot be fitted."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from histostudy.encoders.builtin import Builtin
from histostudy.encoders.stain.fit import HE_REFERENCE, IO
from histostudy.encoders.stain.normaliser import Macenko
from histostudy.errors import EncoderError, FeatureError
from histostudy.features.bags import Bags
from histostudy.features.stage import embed_slides
from histostudy.features.staining import (
    COLUMNS,
    FACTS,
    FIT_TILES,
    NormalisedSource,
    describe_slides,
    load_normaliser,
    slide_pixels,
    spaced,
    stain_facts,
    stain_identity,
)
from histostudy.features.store import read_features
from histostudy.files import fingerprint
from histostudy.slides.reader import open_slide
from histostudy.stain_keys import Stain
from histostudy.study import Features, Tiles
from histostudy.tiles.store import TileSet, write_tiles

MPP = 0.5
TILES = Tiles(mpp=1.0, size=64)
COORDS = np.array([[x, y] for y in (0, 128, 256) for x in (0, 128, 256, 384)], np.int64)


def stained(seed: int, shape: tuple[int, int] = (512, 640), vectors: np.ndarray = HE_REFERENCE, strong: float = 1.0):
    """An image of blocks of 8 px, each of its own amounts of both stains."""
    rng = np.random.default_rng(seed)
    n = (shape[0] // 8, shape[1] // 8)
    kind = rng.integers(0, 3, n)
    h = np.choose(kind, [rng.uniform(0.6, 2.0, n), rng.uniform(0, 0.05, n), rng.uniform(0.2, 0.8, n)])
    e = np.choose(kind, [rng.uniform(0, 0.05, n), rng.uniform(0.8, 1.3, n), rng.uniform(0.2, 0.8, n)])
    density = np.stack([h, e], -1).repeat(8, 0).repeat(8, 1) @ vectors.T * strong
    return np.clip(IO * np.exp(-density) - 1, 0, 255).astype(np.uint8)


def write_slide(path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(
        path, image, tile=(256, 256), photometric="rgb", resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER"
    )


def test_a_target_that_cannot_be_read_is_found_before_any_work(tmp_path: Path) -> None:
    from histostudy.layout import Layout
    from histostudy.study import Study
    from histostudy.verbs.check import check_study

    (tmp_path / "no.png").write_text("none")
    study = Study.model_validate({
        "study": "s", "cohort": {"name": "c", "slides": "s.csv"},
        "features": {"stain": {"method": "macenko", "target": str(tmp_path / "no.png")}},
    })  # fmt: skip
    with pytest.raises(EncoderError, match="cannot read the stain target"):
        check_study(study, Layout(study))


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    """Two stained slides, one of other vectors, and one of glass."""
    other = HE_REFERENCE + np.array([[0.1, 0.15], [-0.05, -0.05], [-0.1, -0.2]])
    images = [stained(0), stained(1, vectors=other, strong=0.8), np.full((512, 640, 3), 243, np.uint8)]
    slides, tiled = [], []
    for k, image in enumerate(images):
        name, path = f"s{k}", tmp_path / f"s{k}.tiff"
        write_slide(path, image)
        slides.append({"slide_id": name, "path": str(path), "mpp": MPP, "fingerprint": fingerprint(path)})
        attrs = {
            "slide_id": name, "mpp_requested": 1.0, "mpp_effective": 1.0, "mpp_slide": MPP, "size_px": 64,
            "overlap_px": 0, "size_px0": 128.0, "width_px0": 640, "height_px0": 512, "identity": "x",
        }  # fmt: skip
        tiles = TileSet(COORDS, (COORDS // 128).astype(np.int32), np.ones(12, np.float32), attrs)
        write_tiles(tmp_path / "tiles" / f"{name}.h5", tiles)
        tiled.append({"slide_id": name, "status": "ok", "file": f"{name}.h5", "sha256": f"t{k}"})
    return pd.DataFrame(slides), pd.DataFrame(tiled), tmp_path / "tiles"


def test_places_are_even_and_few_enough() -> None:
    np.testing.assert_array_equal(spaced(3, 64), [0, 1, 2])
    many = spaced(1000, FIT_TILES)
    assert len(many) == FIT_TILES and many[0] == 0 and many[-1] == 999 and np.ptp(np.diff(many)) <= 1
    assert len(spaced(0, 5)) == 0


def test_features_are_of_normalised_tiles_and_say_so(cohort, tmp_path: Path) -> None:
    slides, tiled, folder = cohort
    settings = Features(encoder="builtin", stain=Stain(method="macenko"))
    index = embed_slides(slides, tiled, folder, settings, TILES, tmp_path / "features").set_index("slide_id")
    assert list(index["stain_fallback"]) == ["", "", "few_pixels"] and (index["status"] == "ok").all()
    one = Macenko()
    with open_slide(slides.path[1], mpp=MPP) as slide:
        fit = one.fit(slide_pixels(slide, COORDS, TILES))
        raw = np.stack(list(slide.read_tiles(COORDS, 64, 1.0)))
        source = NormalisedSource(slide, one, COORDS, TILES)
        some = np.stack(list(source.read_tiles(COORDS[3:5], 64, 1.0)))
    moved = one.apply(raw, fit)
    np.testing.assert_array_equal(some, moved[3:5])
    assert np.abs(moved.astype(int) - raw).mean() > 5
    read = read_features(tmp_path / "features" / "s1.h5")
    np.testing.assert_array_equal(read.features, Builtin(1.0).encode(moved))
    assert read.identity["stain"]["method"] == "macenko"
    # slides that kept their stain share the identity of the others, and lie in one bag set with them
    paths = {s: tmp_path / "features" / f"{s}.h5" for s in ("s0", "s2")}
    assert len(Bags.load(paths, {"s0": "p", "s2": "p"}).bag("p")) == 24


def test_another_method_or_target_is_another_identity(cohort, tmp_path: Path) -> None:
    slides, tiled, folder = cohort
    Image.fromarray(stained(5, strong=0.7)).save(tmp_path / "target.png")
    settings = [None, Stain(method="macenko"), Stain(method="vahadane"), Stain(method="reinhard")]
    settings.append(Stain(method="macenko", target=tmp_path / "target.png"))
    seen = set()
    for k, stain in enumerate(settings):
        out = tmp_path / str(k)
        index = embed_slides(slides[:1], tiled[:1], folder, Features(encoder="builtin", stain=stain), TILES, out)
        seen.add(index.identity[0])
        assert ("stain_fallback" in index) == (stain is not None)
    assert len(seen) == len(settings)
    with pytest.raises(FeatureError, match="stain"):
        Bags.load({"a": tmp_path / "1" / "s0.h5", "b": tmp_path / "2" / "s0.h5"}, {"a": "p", "b": "p"})


def test_a_target_is_an_image_or_a_slide_with_stain(cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slides, _, _ = cohort
    Image.fromarray(stained(1)).save(tmp_path / "like_s0.png")
    plain = Macenko().target
    for path in (tmp_path / "like_s0.png", Path(slides.path[0])):
        target = load_normaliser(Stain(method="macenko", target=path), TILES).target
        np.testing.assert_allclose(target.vectors, plain.vectors, atol=0.05)
    with pytest.raises(EncoderError, match="no macenko stain target: few pixels"):
        load_normaliser(Stain(method="macenko", target=Path(slides.path[2])), TILES)
    (tmp_path / "no.png").write_text("none")
    with pytest.raises(EncoderError, match="cannot read the stain target"):
        load_normaliser(Stain(method="macenko", target=tmp_path / "no.png"), TILES)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(EncoderError, match="cannot read the stain target"):
        load_normaliser(Stain(method="macenko", target=tmp_path / "like_s0.png"), TILES)
    assert stain_identity(Macenko(), "cuda:1")["device"] == "cuda"


def test_the_stain_of_each_slide_is_written_down(cohort, tmp_path: Path) -> None:
    slides, tiled, folder = cohort
    index = describe_slides(slides, tiled, folder, TILES, tmp_path / "stain")
    assert list(index.columns) == COLUMNS
    rows = index.set_index("slide_id")
    assert rows.loc["s0", "haematoxylin_off_deg"] < 3 and rows.loc["s0", "eosin_off_deg"] < 3
    assert rows.loc["s1", "eosin_off_deg"] > 5 and rows.loc["s2", "stain_fallback"] == "few_pixels"
    assert np.isnan(rows.loc["s2", "between_deg"]) and rows.loc["s2", "haematoxylin_mean"] < 0.1
    assert rows.loc["s0", "haematoxylin_mean"] > 0.2
    again = describe_slides(slides, tiled, folder, TILES, tmp_path / "stain")
    pd.testing.assert_frame_equal(again, index)
    assert set(stain_facts(np.zeros((0, 3), np.uint8))) == set(FACTS)


def test_pairs_are_changed_versions_of_normalised_tiles(cohort, tmp_path: Path) -> None:
    from histostudy.features.pairing import pair_slides
    from histostudy.features.pairs import PairSettings

    slides, tiled, folder = cohort
    drawn = {}
    for name, stain in (("own", None), ("macenko", Stain(method="macenko"))):
        out = tmp_path / name
        settings = Features(encoder="builtin", stain=stain)
        index = pair_slides(slides[1:2], tiled[1:2], folder, settings, TILES, PairSettings(tiles=3, versions=1), out)
        with h5py.File(out / "s1.h5") as file:
            drawn[name] = (index.identity.iloc[0], file["features"][:], file["coords"][:])
    assert drawn["own"][0] != drawn["macenko"][0]
    with open_slide(slides.path[1], mpp=MPP) as slide:
        source = NormalisedSource(slide, Macenko(), COORDS, TILES)
        expected = Builtin(1.0).encode(np.stack(list(source.read_tiles(drawn["macenko"][2], 64, 1.0))))
    np.testing.assert_allclose(drawn["macenko"][1], expected, rtol=1e-2, atol=1e-3)
    assert np.abs(drawn["own"][1] - expected).max() > 0.01
