"""Draw a synthetic cohort to disk: slides, tables, and the truth."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.files import write_json, write_text
from histostudy.log import progress
from histostudy.simulate.plan import Effects, Plan, SlidePlan, plan

if TYPE_CHECKING:
    from histostudy.simulate.layout import Layout
    from histostudy.simulate_keys import Simulate

__all__ = ["Effects", "Plan", "SlidePlan", "draw_slides", "plan", "simulate_cohort", "write_tables"]
logger = logging.getLogger(__name__)


def simulate_cohort(
    simulate: Simulate,
    seed: int,
    out_dir: str | Path,
    workers: int = 1,
    effects: Effects | None = None,
) -> Plan:
    """Draw a cohort.

    Writes `slides/<slide>.tiff`, `slides.csv`, `patients.csv`, `expression.csv`, `truth.json` (the planted
    effects and what was drawn), `truth/<slide>.geojson` (tissue and nests, level-0 px) and
    `annotations/<slide>.geojson` (what somebody would draw in QuPath: `Tumor` for nests, `Stroma`, `Glands`).

    Parameters
    ----------
    simulate : Simulate
        The study's `cohort.simulate`.
    seed : int
        The study's seed.
    out_dir : str or Path
        Folder to write to.
    workers : int
        Processes; the bytes do not depend on it.
    effects : Effects, optional
        Other effects than the default ones.

    Returns
    -------
    Plan
        What was drawn.
    """
    out_dir = Path(out_dir)
    drawn = plan(simulate, seed, effects)
    shares = draw_slides(drawn.slides, out_dir, workers)
    write_tables(drawn, out_dir, shares)
    if simulate.labelled_tiles is not None:
        from histostudy.simulate.labelled import labelled_tiles

        _write_csv(out_dir / "tiles.csv", labelled_tiles(drawn.slides, simulate.labelled_tiles))
    logger.info("drew %d slides of %d patients", len(drawn.slides), len(drawn.patient_ids))
    return drawn


def draw_slides(slides: Sequence[SlidePlan], out_dir: str | Path, workers: int = 1) -> dict[str, dict[str, float]]:
    """Draw slides and their truth; return the share of each tissue class a slide.

    Parameters
    ----------
    slides : sequence of SlidePlan
    out_dir : str or Path
        `slides/` and `truth/` are made in it.
    workers : int
        Processes.
    """
    out = [str(out_dir)] * len(slides)
    if workers <= 1 or len(slides) < 2:
        shares = list(progress(map(_draw_one, slides, out), "drawing slides", total=len(slides)))
    else:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(min(workers, len(slides)), mp_context=get_context("spawn")) as pool:
            work = pool.map(_draw_one, slides, out, chunksize=2)
            shares = list(progress(work, "drawing slides", total=len(slides)))
    return {slide.slide_id: share for slide, share in zip(slides, shares, strict=True)}


def write_tables(drawn: Plan, out_dir: str | Path, shares: Mapping[str, Mapping[str, float]]) -> None:
    """Write the tables and `truth.json` of a plan.

    Parameters
    ----------
    drawn : Plan
    out_dir : str or Path
    shares : mapping
        Share of each tissue class a slide, as drawn (see `draw_slides`).
    """
    out_dir = Path(out_dir)
    slides: dict[str, list[Any]] = {
        "slide_id": drawn.slide_ids,
        "patient_id": [s.patient_id for s in drawn.slides],
        "path": [f"slides/{s.slide_id}.tiff" for s in drawn.slides],
        "site": [s.site for s in drawn.slides],
        "stain": ["H&E"] * len(drawn.slides),
    }
    _write_csv(out_dir / "slides.csv", slides)
    _write_csv(out_dir / "patients.csv", drawn.patients)
    _write_csv(out_dir / "expression.csv", drawn.expression)
    columns = [key for key in drawn.latent if key != "patient_id"]
    patients = {
        patient: {column: drawn.latent[column][i] for column in columns} for i, patient in enumerate(drawn.patient_ids)
    }
    pens = [s.slide_id for s in drawn.slides if s.pen]
    truth = {**drawn.truth, "patients": patients, "slides": {k: dict(v) for k, v in shares.items()}, "pen": pens}
    write_json(out_dir / "truth.json", truth)


def _draw_one(slide: SlidePlan, out_dir: str) -> dict[str, float]:
    """Draw one slide and its truth; return the shares of its tissue classes."""
    import cv2

    from histostudy.simulate.pyramid import write_pyramid
    from histostudy.simulate.tissue_art import draw_slide

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a worker is a core
    try:
        rgb, layout = draw_slide(slide)
        write_pyramid(Path(out_dir) / "slides" / f"{slide.slide_id}.tiff", rgb, slide.mpp)
    finally:
        cv2.setNumThreads(threads)
    write_json(Path(out_dir) / "truth" / f"{slide.slide_id}.geojson", _geojson(layout, slide.mpp))
    write_json(Path(out_dir) / "annotations" / f"{slide.slide_id}.geojson", _annotations(layout, slide.mpp))
    return layout.shares()


def _annotations(layout: Layout, mpp: float) -> dict[str, Any]:
    """Nests, stroma and glands as annotations that QuPath writes, with holes, in level-0 px."""
    from histostudy.simulate.layout import COARSE_UM, GLANDS, NEST, STROMA
    from histostudy.tissue.geojson import polygons_of

    scale = (COARSE_UM / mpp, COARSE_UM / mpp)
    features = []
    for name, label in (("Stroma", STROMA), ("Glands", GLANDS), ("Tumor", NEST)):
        for polygon in polygons_of(layout.labels == label, scale):
            rings = [polygon.exterior, *polygon.interiors]
            shape = [[[round(x, 1), round(y, 1)] for x, y in ring.coords] for ring in rings]
            features.append({
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": shape},
                "properties": {"objectType": "annotation", "classification": {"name": name}},
            })  # fmt: skip
    return {"type": "FeatureCollection", "features": features}


def _geojson(layout: Layout, mpp: float) -> dict[str, Any]:
    """Tissue and nests as a FeatureCollection in level-0 px, as QuPath reads it."""
    import cv2
    import numpy as np

    from histostudy.simulate.layout import COARSE_UM, GLASS, NEST

    scale = COARSE_UM / mpp
    features = []
    for name, colour, mask in (
        ("tissue", [120, 60, 140], layout.labels != GLASS),
        ("nest", [200, 30, 30], layout.labels == NEST),
    ):
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for outline in sorted((o[:, 0] for o in outlines if len(o) >= 3), key=lambda o: tuple(o[0])):
            ring = [[round((float(x) + 0.5) * scale, 1), round((float(y) + 0.5) * scale, 1)] for x, y in outline]
            features.append({
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                "properties": {"objectType": "annotation", "classification": {"name": name, "color": colour}},
            })  # fmt: skip
    return {"type": "FeatureCollection", "features": features}


def _write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_text(path, text.getvalue())
