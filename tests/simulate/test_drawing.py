"""Slides are drawn as planned, and the files are what OpenSlide and QuPath expect."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import openslide
import pandas as pd
import pytest

from histostudy.simulate.cohort import plan, simulate_cohort
from histostudy.simulate.layout import COARSE_UM, GLASS, NEST, NEST_TILE_UM, STROMA, lay_out
from histostudy.simulate.textures import PERIOD, fibres, granules
from histostudy.simulate.tissue_art import draw_slide
from histostudy.simulate_keys import Simulate

SMALL = Simulate(patients=12, slides_extra=0.0, size_px=(1300, 1500), sites=2, pen_share=0.25, genes=3)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return folder, simulate_cohort(SMALL, 4, folder)


def test_files(cohort):
    folder, drawn = cohort
    slides = pd.read_csv(folder / "slides.csv", dtype=str)
    patients = pd.read_csv(folder / "patients.csv")
    expression = pd.read_csv(folder / "expression.csv")
    truth = json.loads((folder / "truth.json").read_text())
    assert slides["slide_id"].tolist() == drawn.slide_ids
    assert all((folder / path).is_file() for path in slides["path"])
    assert patients["patient_id"].tolist() == drawn.patient_ids == expression["patient_id"].tolist()
    assert expression.shape == (12, 4)
    assert set(truth) >= {"effects", "subtype", "survival", "expression", "regression", "site", "slides", "patients"}
    assert set(truth["slides"]) == set(drawn.slide_ids)


def test_openslide_reads_the_pyramid_with_its_scale(cohort):
    folder, drawn = cohort
    plan_ = drawn.slides[0]
    with openslide.OpenSlide(folder / "slides" / f"{plan_.slide_id}.tiff") as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.dimensions == (plan_.width_px0, plan_.height_px0)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-4)
        assert slide.level_count == 2
        assert slide.level_downsamples[1] == pytest.approx(4, rel=0.01)


def test_bytes_do_not_depend_on_workers_or_order(cohort, tmp_path):
    from histostudy.simulate.cohort import draw_slides

    folder, drawn = cohort
    few = drawn.slides[:4][::-1]
    draw_slides(few, tmp_path, workers=2)
    for slide in few:
        for name in (f"slides/{slide.slide_id}.tiff", f"truth/{slide.slide_id}.geojson"):
            one, two = (hashlib.sha256((f / name).read_bytes()).hexdigest() for f in (folder, tmp_path))
            assert one == two


def test_layout_meets_the_planned_shares():
    for slide in plan(Simulate(patients=12), 1).slides[:6]:
        shares = lay_out(slide).shares()
        assert shares["stroma"] == pytest.approx(slide.stroma, abs=0.005)
        assert shares["fat"] == pytest.approx(slide.fat, abs=0.005)
        assert shares["nest"] == pytest.approx(slide.nests, abs=0.06)
        assert (shares["nest"] > 0) == (slide.nests > 0)


def test_a_nest_fills_a_whole_tile():
    side = int(NEST_TILE_UM / COARSE_UM)
    for slide in plan(Simulate(patients=24), 2).slides:
        if slide.nests > 0:
            nest = lay_out(slide).labels == NEST
            rows, columns = (n // side for n in nest.shape)
            tiles = nest[: rows * side, : columns * side].reshape(rows, side, columns, side).mean((1, 3))
            assert tiles.max() > 0.9


def test_tissue_looks_like_tissue():
    slide = max(plan(Simulate(patients=12), 0).slides, key=lambda s: s.grade * (s.nests > 0))
    rgb, layout = draw_slide(slide)
    assert rgb.shape == (slide.height_px0, slide.width_px0, 3)
    small = rgb[:: int(COARSE_UM / slide.mpp), :: int(COARSE_UM / slide.mpp)].astype(float)
    labels = layout.labels[: small.shape[0], : small.shape[1]]
    assert small[labels == GLASS].mean() > 235
    stroma, nest = small[labels == STROMA].mean(0), small[labels == NEST].mean(0)
    assert stroma[0] > stroma[1] + 30  # pink
    assert nest[2] > nest[1] + 20  # purple
    assert nest.mean() < stroma.mean() - 25


def test_pen_marks_add_ink(cohort):
    from dataclasses import replace

    slide = replace(cohort[1].slides[0], pen=False)
    plain, _ = draw_slide(slide)
    marked, _ = draw_slide(replace(slide, pen=True))
    changed = np.abs(plain.astype(int) - marked).max(2) > 40
    assert 0.005 < changed.mean() < 0.3
    assert (marked.astype(int) <= plain.astype(int) + 1).all()


def test_truth_geojson_closes_its_rings(cohort):
    folder, drawn = cohort
    positive = next(s for s in drawn.slides if s.nests > 0)
    collection = json.loads((folder / "truth" / f"{positive.slide_id}.geojson").read_text())
    names = {f["properties"]["classification"]["name"] for f in collection["features"]}
    assert names == {"tissue", "nest"}
    for feature in collection["features"]:
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert (ring[0] == ring[-1]).all()
        assert ring.min() >= 0
        assert (ring.max(0) <= [positive.width_px0 + 16, positive.height_px0 + 16]).all()


@pytest.mark.parametrize("texture", [fibres()[0], granules()])
def test_textures_are_seamless(texture):
    step = np.abs(np.diff(texture.astype(float), axis=0)).mean()
    seam = np.abs(texture[0].astype(float) - texture[-1]).mean()
    assert texture.shape == (PERIOD, PERIOD)
    assert seam < 1.6 * step


def test_a_slide_at_another_scale():
    slide = plan(SMALL.model_copy(update={"mpp": 0.25, "size_px": (1500, 1500)}), 0).slides[0]
    rgb, layout = draw_slide(slide)
    assert rgb.shape == (1500, 1500, 3)
    assert layout.labels.shape == (47, 47)
