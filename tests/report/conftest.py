"""A report's context, made up."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from histostudy.report.context import FigureItem, ReportContext
from histostudy.studyfile import parse_study, resolve

SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 200"><path d="M20 180 C80 20 140 20 280 20" '
    b'fill="none" stroke="#6b2d73" stroke-width="3"/><path d="M20 180H280M20 180V20" stroke="#333"/></svg>'
)


def _jpeg(rng: np.random.Generator) -> bytes:
    from PIL import Image

    image = np.full((48, 64, 3), 243, np.uint8)
    image[8:40, 10:54] = rng.integers(120, 220, (1, 1, 3))
    out = io.BytesIO()
    Image.fromarray(image).save(out, "jpeg")
    return out.getvalue()


def _metrics(task: str, rng: np.random.Generator, wanted: dict[str, float], events: int | None) -> pd.DataFrame:
    rows = []
    for i, model in enumerate(["prior", "clinical", "mean", "max", "abmil"]):
        for metric, middle in wanted.items():
            estimate = middle + 0.05 * i + rng.normal(0, 0.01)
            half = 0.0 if model == "prior" else 0.06
            rows.append({"task": task, "model": model, "metric": metric, "estimate": estimate, "low": estimate - half,
                         "high": estimate + half, "n": 64, "events": events})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def context() -> ReportContext:
    """A whole study: four tasks, five models, sixty slides."""
    rng = np.random.default_rng(0)
    covariates = ["age", "stage"]
    study = resolve(parse_study({
        "study": "demo_study", "cohort": {"name": "demo", "simulate": {"patients": 64}}, "tiles": {"mpp": 1.0},
        "tasks": [
            {"name": "subtype", "kind": "classification", "target": "subtype", "adjust": covariates},
            {"name": "os", "kind": "survival", "time": "os_days", "event": "os_event", "adjust": covariates},
            {"name": "stroma", "kind": "regression", "target": "stroma_percent"},
            {"name": "genes", "kind": "expression", "table": "expression.csv"},
        ],
        "models": {"mean": {"aggregator": "mean"}, "max": {"aggregator": "max"},
                   "abmil": {"aggregator": "abmil", "options": {"gated": True}}},
        "compare": {"reference": "mean"},
    }))  # fmt: skip
    metrics = {
        "subtype": _metrics("subtype", rng, {"auroc": 0.55, "auprc": 0.6, "brier": 0.2}, None),
        "os": _metrics("os", rng, {"c_harrell": 0.5, "c_uno": 0.5, "auroc_td@365": 0.5, "ibs": 0.2}, 42),
        "stroma": _metrics("stroma", rng, {"pearson": 0.7, "r2": 0.5, "mae": 6.0}, None),
        "genes": pd.concat([
            _metrics("genes", rng, {"pearson": 0.2}, None).assign(gene=gene)
            for gene in ["all", "GENE01", "GENE02", "GENE<3>"]
        ]),
    }  # fmt: skip
    comparison = {
        "subtype": pd.DataFrame({
            "task": "subtype", "model": ["max", "abmil"], "reference": "mean", "metric": "auroc",
            "difference": [0.05, 0.10], "low": [-0.01, 0.04], "high": [0.11, 0.16], "p": [0.1, 0.0004],
            "p_adjusted": [0.1, 0.0008], "n": 64, "correction": "holm",
        }),
    }  # fmt: skip
    ids = [f"SIM-{i:03d}" for i in range(1, 61)]
    slides = pd.DataFrame({
        "slide_id": [f"{p}-S1" for p in ids], "patient_id": ids, "status": ["ok"] * 57 + ["failed"] * 3,
        "reason": [""] * 57 + ["no_mpp", "no_mpp", "fluorescence"], "detail": [""] * 57 + ["no scale in the file"] * 3,
        "mpp": [0.5] * 57 + [np.nan] * 2 + [0.5], "mpp_source": "metadata", "vendor": "generic-tiff",
        "width_px0": rng.integers(3000, 4000, 60), "height_px0": rng.integers(3000, 4000, 60),
        "tissue_area_um2": [*rng.uniform(1e6, 3e6, 57), *[np.nan] * 3],
        "n_tiles": [*rng.integers(30, 50, 57).astype(float), *[np.nan] * 3],
    })  # fmt: skip
    splits = pd.DataFrame([
        {"repeat": 0, "fold": f, "patient_id": p, "part": "test" if i % 5 == f else "val" if i % 5 == (f + 1) % 5
         and i % 2 else "train"} for f in range(5) for i, p in enumerate(ids)
    ])  # fmt: skip
    flow = {
        "steps": [
            {"step": "In the tables", "slides": 60, "patients": 60, "excluded": []},
            {"step": "Readable", "slides": 57, "patients": 57, "excluded": [
                {"reason": "the file does not say its scale", "slides": 2, "patients": 2},
                {"reason": "fluorescence", "slides": 1, "patients": 1}]},
            {"step": "With tiles", "slides": 57, "patients": 57, "excluded": []},
        ],
        "tasks": {
            "subtype": {"patients": 57, "events": None, "excluded": []},
            "os": {"patients": 55, "events": 36, "excluded": [{"reason": "no time", "patients": 2}]},
        },
    }  # fmt: skip
    table_one = pd.DataFrame(
        [["n", "", "", "64", "32", "32", ""], ["age", "", "0", "62 [55, 69]", "61 [55, 68]", "63 [56, 70]", "0.11"],
         ["sex", "female", "0", "30 (47)", "16 (50)", "14 (44)", "0.12"], ["sex", "male", "", "34", "16", "18", ""]],
        columns=["variable", "level", "missing", "overall", "alpha", "beta", "smd"],
    )  # fmt: skip
    figures = [
        FigureItem("ROC", "Curves with bands of the resamples.", SVG, task="subtype"),
        FigureItem("Calibration", "Predicted against seen.", SVG, task="subtype"),
        FigureItem("Contact sheet", "Masks over the thumbnails.", SVG, wide=True),
    ]
    return ReportContext(
        study=study, flow=flow, table_one=table_one, splits=splits,
        leakage={
            "ok": True, "problems": [], "patients": 60, "slides": 60, "patients_on_two_sides": 0,
            "tested": {"once": True, "never": 0, "more_than_once": 0, "repeats": 1}, "site_column": "site",
            "folds": [{"repeat": 0, "fold": f, "train": 42, "val": 6, "test": 12, "shared_site_patients": 1.0,
                       "balance": {"subtype": {"test": {"n": 12, "alpha": 5, "beta": 7}},
                                   "os": {"test": {"n": 12, "events": 8}}, "stroma": {"test": {"n": 12, "mean": 37.25}},
                                   "genes": {"test": {"n": 12}}}} for f in range(5)],
            "patients_sha256": "ab" * 8, "published": None,
        },
        metrics=metrics, comparison=comparison, figures=figures, slides=slides,
        thumbnails={s: _jpeg(rng) for s in slides["slide_id"][:57]},
        planted=pd.DataFrame({"effect": ["hazard ratio per SD of stroma"], "planted": [2.7], "found": [2.5]}),
        software={"histostudy": "0.1.0", "torch": "2.14.1"},
        data=pd.DataFrame({"file": ["slides.csv"], "rows": [60], "sha256": ["cd" * 8]}),
    )  # fmt: skip
