"""Small inputs of every figure, and the figures drawn from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import result_tables

from histostudy.cohort.outcomes import Outcome
from histostudy.evaluation.appendix import Beside
from histostudy.evaluation.stage import Evaluation, evaluate_task
from histostudy.figures import FIGURES
from histostudy.figures.feature_pca import pca_table

N, FOLDS = 150, 5
IDS = np.array([f"P{i:03d}" for i in range(N)])
FOLD = np.arange(N) % FOLDS
STUDY = SimpleNamespace(
    seed=0, compare=SimpleNamespace(reference="abmil", resamples=200, correction="holm", confidence=0.95)
)
MODELS = {"prior": 0.0, "clinical": 0.6, "mean": 1.0, "abmil": 1.8, "abmil_aem_with_a_long_name": 2.0}


def few_shot_table() -> pd.DataFrame:
    """The few-shot curves of two models."""
    shots = np.array([1, 2, 4, 8] * 2)
    rise = 0.5 + 0.1 * np.log2(shots) + np.repeat([0.0, 0.05], 4)
    spread = {"low": rise - 0.03, "high": rise + 0.03, "draw_low": rise - 0.1, "draw_high": rise + 0.08}
    facts = {"draws": 50, "runs": 3, "n": 300, "patients": 20, "metric": "balanced_accuracy"}
    models = np.repeat(["shots", "other"], 4)
    return pd.DataFrame({"model": models, "shots": shots, "estimate": rise, **spread, **facts})


def _splits() -> pd.DataFrame:
    parts = [
        pd.DataFrame({"repeat": 0, "fold": k, "patient_id": IDS, "part": np.where(k == FOLD, "test", "train")})
        for k in range(FOLDS)
    ]
    return pd.concat(parts, ignore_index=True)


def outcome(kind: str, y: np.ndarray, about: dict[str, Any] | None = None, **more: Any) -> Outcome:
    """The real outcome of a task named ``t``, without covariates."""
    task = SimpleNamespace(name="t", kind=kind, positive=None, horizons=[365, 1095, 1825], **(about or {}))
    nothing = pd.DataFrame(index=pd.Index(IDS, name="patient_id"))
    return Outcome(task=task, patient_ids=IDS.astype(object), y=np.asarray(y, float), adjust=nothing, **more)  # type: ignore[arg-type]


def _evaluate(
    columns: Callable[[str, float], dict[str, Any]], known: Outcome, beside: Beside | None = None
) -> Evaluation:
    keys = {"patient_id": IDS, "repeat": 0, "fold": FOLD, "task": "t"}
    frames = {m: pd.DataFrame(keys | {"model": m} | columns(m, effect)) for m, effect in MODELS.items()}
    return evaluate_task(STUDY, known.task, frames, known, _splits(), beside or Beside())  # type: ignore[arg-type]


def classification(names: tuple[str, ...] = ("wild type", "mutant")) -> Evaluation:
    rng = np.random.default_rng(0)
    truth = rng.integers(len(names), size=N)

    def columns(model: str, effect: float) -> dict[str, Any]:
        logit = rng.normal(size=(N, len(names))) * (model != "prior") + effect * np.eye(len(names))[truth]
        prob = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
        return {"truth": np.array(names)[truth]} | {f"prob_{n}": prob[:, k] for k, n in enumerate(names)}

    return _evaluate(columns, outcome("classification", truth, classes=list(names)))


def follow_up(rng: np.random.Generator, hidden: np.ndarray) -> Outcome:
    died, left = rng.exponential(1200 * np.exp(-hidden)), rng.exponential(2500, N)
    time, event = np.minimum(np.minimum(died, left) + 1, 3000), (died <= left) & (died < 3000)
    return outcome("survival", time, time=time, event=event)


@cache
def survival() -> Evaluation:
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=N)
    known = follow_up(rng, hidden)

    def columns(model: str, effect: float) -> dict[str, Any]:
        risk = 0.6 * effect * hidden + 0.5 * rng.normal(size=N) * (model != "prior")
        days = [30, 91, 182, 365, 548, 730, 1095, 1461, 1825]
        return {"time": known.time, "event": np.asarray(known.event).astype(int), "risk": risk} | {
            f"surv_{d}": np.exp(-d / 1200 * np.exp(risk)) for d in days
        }

    return _evaluate(columns, known)


def regression() -> Evaluation:
    rng = np.random.default_rng(2)
    truth = rng.normal(30, 8, N)

    def columns(model: str, effect: float) -> dict[str, Any]:
        said = 30 + (truth - 30) * effect / 2 + 5 * rng.normal(size=N) * (model != "prior")
        return {"truth": truth, "prediction": said}

    return _evaluate(columns, outcome("regression", truth))


def expression(genes: int = 12) -> Evaluation:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(N, genes))

    def columns(model: str, effect: float) -> dict[str, Any]:
        strength = effect * np.linspace(1, 0, genes) ** 2
        said = truth * strength + rng.normal(size=(N, genes)) * (model != "prior")
        return {f"truth_G{g}": truth[:, g] for g in range(genes)} | {f"pred_G{g}": said[:, g] for g in range(genes)}

    return _evaluate(columns, outcome("expression", truth, genes=[f"G{g}" for g in range(genes)]))


def called_subtypes(genes: int = 16) -> Evaluation:
    """Genes that differ in their mean and between three planted subtypes, of which one lives shorter."""
    rng = np.random.default_rng(4)
    centres = rng.normal(0, 1.5, (3, genes))
    subtype, level = rng.integers(3, size=N), rng.normal(6, 2, genes)
    truth = level + centres[subtype] + rng.normal(0, 0.7, (N, genes))
    names = [f"G{g}" for g in range(genes)]

    def columns(model: str, effect: float) -> dict[str, Any]:
        noise = rng.normal(size=(N, genes)) * (model != "prior")
        said = level + effect / 2 * (truth - level) + noise
        return {f"truth_{g}": truth[:, k] for k, g in enumerate(names)} | {
            f"pred_{g}": said[:, k] for k, g in enumerate(names)
        }

    table = pd.DataFrame(centres.T, index=names, columns=["basal", "luminal A", "HER2-enriched"])
    beside = Beside(centroids=table, survival=follow_up(rng, 1.5 * (subtype == 0)))
    return _evaluate(columns, outcome("expression", truth, {"subtypes": True}, genes=names), beside)


def tissue(height: int = 300, width: int = 400) -> np.ndarray:
    """A thumbnail: a pink ellipse with darker spots on white."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2) / (0.4 * width)) ** 2 + ((y - height / 2) / (0.4 * height)) ** 2 < 1
    image = np.full((height, width, 3), 245, np.uint8)
    image[inside] = (225, 165, 200)
    spots = inside & (rng.uniform(size=inside.shape) < 0.15)
    image[spots] = (110, 70, 150)
    return image


def ellipse(width: float, height: float) -> np.ndarray:
    """The outline of `tissue`, in the units of its arguments."""
    angle = np.linspace(0, 2 * np.pi, 60)
    return np.stack([width / 2 + 0.4 * width * np.cos(angle), height / 2 + 0.4 * height * np.sin(angle)], 1)


def sheet(n: int = 14) -> dict[str, Any]:
    names = [f"TCGA-{i:02d}-A{i:03d}-01Z-00-DX1" for i in range(n)]
    table = pd.DataFrame({"slide_id": names, "status": "ok", "reason": "", "width_px0": 4000.0, "n_tiles": 100.0})
    table.loc[3, ["status", "reason", "n_tiles"]] = ["failed", "no_mpp", np.nan]
    table.loc[9, ["status", "reason", "n_tiles", "width_px0"]] = ["failed", "coarser_than_tiles", np.nan, np.nan]
    thumbnails = {s: tissue(*((300, 400) if i % 3 else (400, 250))) for i, s in enumerate(names) if i != 9}
    outlines = {
        s: [
            ("tissue", ellipse(4000, 4000 * t.shape[0] / t.shape[1])),
            ("pen", np.array([[50, 50], [900, 90], [800, 500]])),
        ]
        for s, t in thumbnails.items()
    }
    return {"table": table, "thumbnails": thumbnails, "outlines": outlines}


def attention(height: int = 300, width: int = 400) -> dict[str, Any]:
    x, y = (a.ravel() * 112 for a in np.meshgrid(np.arange(int(width / 11.2)), np.arange(int(height / 11.2))))
    middle = ((x + 56 - width * 5) / (width * 4)) ** 2 + ((y + 56 - height * 5) / (height * 4)) ** 2 < 1
    table = pd.DataFrame({"x_px0": x[middle], "y_px0": y[middle]})
    table["attention"] = np.exp(-((table["x_px0"] - width * 7) ** 2 + (table["y_px0"] - height * 4) ** 2) / 5e5)
    return {"table": table, "thumbnail": tissue(height, width), "width_px0": width * 10, "slide_mpp": 0.5,
            "size_px0": 112.0}  # fmt: skip


def tiles() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal((200, 150, 190), 30, (16, 64, 64, 3)), 0, 255).astype(np.uint8)
    rank = [*range(1, 9), *range(993, 1001)]
    table = pd.DataFrame({"group": ["highest"] * 8 + ["lowest"] * 8, "rank": rank})
    return {"table": table.assign(label=[f"TCGA-A{i}-0001" for i in range(16)]), "images": images, "mpp": 0.5}


def pca() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    site, label = rng.integers(4, size=80), rng.integers(2, size=80)
    x = rng.normal(size=(80, 30)) + 2 * rng.normal(size=(4, 30))[site] + label[:, None] * np.eye(30)[0] * 5
    groups = pd.DataFrame({"site": [f"site {s}" for s in site], "subtype": np.array(["LUAD", "LUSC"])[label]})
    return pca_table(x, groups)


FLOW = {
    "steps": [
        {"step": "in the table", "slides": 1206, "patients": 1042, "excluded": []},
        {"step": "readable", "slides": 1150, "patients": 1001, "excluded": [
            {"reason": "no scale (mpp) in the file or the slide table", "slides": 40, "patients": 30},
            {"reason": "fluorescence", "slides": 1, "patients": 1},
            {"reason": "unreadable", "slides": 15, "patients": 10}]},
        {"step": "with tissue", "slides": 1149, "patients": 1001, "excluded": [
            {"reason": "no_tissue", "slides": 1, "patients": 0}]},
        {"step": "with features", "slides": 1149, "patients": 1001, "excluded": []},
    ],
    "tasks": {
        "os": {"patients": 990, "events": 312, "excluded": [{"reason": "os_days is missing", "patients": 11}]},
        "subtype": {"patients": 1001, "events": None, "excluded": []},
    },
}  # fmt: skip


def all_figures() -> dict[str, Any]:
    """Every registered figure drawn, some of them from a second input as well."""
    draw = {name: FIGURES[name].draw for name in FIGURES}
    two, three, surv = classification(), classification(("basal", "luminal A", "her2")), survival()
    few, many, number, called = expression(), expression(60), regression(), called_subtypes().curves
    return result_tables.drawn() | {
        "roc": draw["roc"](two.curves["roc"]),
        "roc_three": draw["roc"](three.curves["roc"]),
        "pr": draw["pr"](two.curves["pr"]),
        "calibration": draw["calibration"](two.curves["calibration"]),
        "calibration_survival": draw["calibration"](surv.curves["calibration"]),
        "confusion": draw["confusion"](two.curves["confusion"]),
        "confusion_three": draw["confusion"](three.curves["confusion"]),
        "few_shot": draw["few_shot"](few_shot_table(), classes=3),
        "kaplan_meier": draw["kaplan_meier"](surv.curves["km"]),
        "metrics_forest": draw["metrics_forest"](two.metrics),
        "metrics_forest_survival": draw["metrics_forest"](surv.metrics),
        "metrics_forest_expression": draw["metrics_forest"](few.metrics),
        "comparison_forest": draw["comparison_forest"](two.comparison),
        "regression_scatter": draw["regression_scatter"](number.curves["scatter"], unit="%"),
        "genes": draw["genes"](few.curves["genes"]),
        "genes_many": draw["genes"](many.curves["genes"]),
        "gene_scatter": draw["gene_scatter"](few.curves["gene_scatter"]),
        "within_patient": draw["within_patient"](called["within"]),
        "subtypes": draw["subtypes"](called["subtype_scores"]),
        "subtype_survival": draw["subtype_survival"](called["subtype_km"], scores=called["subtype_scores"]),
        "km_pooled": draw["km_pooled"](surv.curves["km_pooled"]),
        "td_auc": draw["td_auc"](surv.curves["td_auc"]),
        "brier": draw["brier"](surv.curves["brier_curve"]),
        "decision_curve": draw["decision_curve"](two.curves["decision"]),
        "folds": draw["folds"](surv.curves["folds"]),
        "feature_pca": draw["feature_pca"](pca()),
        "contact_sheet": draw["contact_sheet"](**sheet()),
        "attention_map": draw["attention_map"](**attention()),
        "attention_map_wide": draw["attention_map"](**attention(200, 600)),
        "top_tiles": draw["top_tiles"](**tiles()),
        "cohort_flow": draw["cohort_flow"](FLOW),
    }
