"""Made-up tables of the study's results, as tidy as the evaluation writes them, and what every figure must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histostudy.evaluation.cox import hazard_ratio
from histostudy.evaluation.survival_curves import STRATA, km_of_groups
from histostudy.figures import FIGURES

LONG = "transmil_uni2h_packed_latent_augmented_seed"
N, EVENTS, DAYS = 240, 98, 2400


def names(count: int) -> list[str]:
    """Names of `count` models: the controls, short ones, long ones."""
    some = ["clinical", "abmil", "prior", "mean", f"{LONG}_0", f"{LONG}_1", "clam_sb", "dsmil", "transmil", "panther",
            "mcat_with_hallmark_pathways"]  # fmt: skip
    return some[:count]


def _skill(k: int, model: str) -> float:
    return 0.0 if model == "prior" else 0.06 + 0.025 * (k % 5)


def td_auc(count: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(count)
    out = []
    for k, model in enumerate(names(count)):
        days = np.linspace(90, DAYS, 26)
        cases = np.round(EVENTS * (1 - np.exp(-days / 1100))).astype(int)
        middle = 0.5 + _skill(k, model) + 0.04 * np.exp(-days / 900) + rng.normal(0, 0.008, 26).cumsum()
        half = 1.0 / np.sqrt(np.maximum(cases, 1)) * 0.7
        frame = pd.DataFrame({"model": model, "days": days, "estimate": middle, "low": middle - half})
        frame = frame.assign(high=np.minimum(middle + half, 1), n=N, events=cases)
        frame.loc[0, ["estimate", "low", "high"]] = np.nan
        out.append(frame)
    return pd.concat(out, ignore_index=True)


def brier_curve(count: int = 5) -> pd.DataFrame:
    out = []
    for k, model in enumerate(names(count)):
        days = np.linspace(30, DAYS, 40)
        dead = 1 - np.exp(-days / 1400)
        reference = dead * (1 - dead)
        middle = reference * (1 - 1.2 * _skill(k, model) + (0.25 if model == "dsmil" else 0))
        frame = pd.DataFrame({"model": model, "days": days, "estimate": middle, "low": middle * 0.9})
        events = np.round(EVENTS * dead).astype(int)
        out.append(frame.assign(high=middle * 1.12, n=N, events=events, reference=reference))
    table = pd.concat(out, ignore_index=True)
    table.loc[table["model"] == "mean", ["estimate", "low", "high"]] = np.nan
    return table


def cox(count: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(count)
    terms = ["age (per SD)", "stage (per unit)", "sex: male v female", "grade: high or undifferentiated v low",
             "risk (per SD)"]  # fmt: skip
    rows = []
    for model in names(count):
        for analysis in ("univariable", "multivariable"):
            for k, term in enumerate(terms):
                beta, se = [0.35, 0.6, 0.05, 3.2, 0.45][k] + rng.normal(0, 0.05), [0.11, 0.13, 0.21, 1.1, 0.12][k]
                p = float(np.clip(np.exp(-((beta / se) ** 2) / 1.6), 1e-9, 1))
                n, events = (N, EVENTS) if analysis == "univariable" else (N - 21, EVENTS - 9)
                rows.append({"model": model, "analysis": analysis, "term": term, "hazard_ratio": np.exp(beta),
                             "low": np.exp(beta - 1.96 * se), "high": np.exp(beta + 1.96 * se), "p": p,
                             "ph_p": 0.01 if k == 1 else 0.4, "n": n, "events": events})  # fmt: skip
    table = pd.DataFrame(rows)
    alone = (table["model"] == "prior") & (table["term"] == "risk (per SD)")
    table.loc[alone | (table["term"].eq("sex: male v female") & table["model"].eq("abmil")),
              ["hazard_ratio", "low", "high", "p", "ph_p"]] = np.nan  # fmt: skip
    return table


def added(count: int = 5, bases: Sequence[str] = ("clinical",)) -> pd.DataFrame:
    rng = np.random.default_rng(count)
    rows = []
    for base in bases:
        for k, model in enumerate(m for m in names(count) if m != base):
            low, other = 0.655, 0.5 + 1.2 * _skill(k + 1, model)
            both = max(low, other) + 0.02
            for what, to, start in ((model, base, low), (base, model, other)):
                chi2 = float(rng.chisquare(1) * 4)
                if model == "clam_sb":
                    start, both = low, low - 0.004
                rows.append({"model": model, "base": base, "added": f"{what} added to {to}", "chi2": chi2, "df": 1,
                             "p": float(np.exp(-chi2 / 1.7)), "c_base": start, "c_both": both, "n": N,
                             "events": EVENTS})  # fmt: skip
    table = pd.DataFrame(rows)
    table.loc[table["model"] == "prior", ["chi2", "p", "c_base", "c_both"]] = np.nan
    return table


def folds(count: int = 5, repeats: int = 1, metric: str = "c_harrell", parts: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(count)
    hard = rng.normal(0, 0.06, (repeats, parts))
    rows = []
    for k, model in enumerate(names(count)):
        for r in range(repeats):
            for f in range(parts):
                value = 0.5 if model == "prior" else 0.5 + _skill(k, model) + hard[r, f] + rng.normal(0, 0.03)
                rows.append({"model": model, "metric": metric, "repeat": r, "fold": f, "estimate": value,
                             "n": 48 + f % 2, "events": [5, 24, 19, 21, 29][f % 5]})  # fmt: skip
    table = pd.DataFrame(rows)
    table.loc[(table["model"] == "mean") & (table["fold"] == 0), "estimate"] = np.nan
    return table


def decision(count: int = 5, classes: Sequence[str] = ("mutant",)) -> pd.DataFrame:
    out = []
    at = np.linspace(0.01, 0.95, 60)
    for c, name in enumerate(classes):
        share = [0.32, 0.5, 0.18][c % 3]
        everybody = share - (1 - share) * at / (1 - at)
        for k, model in enumerate(names(count)):
            skill = _skill(k, model) * 3
            middle = np.maximum(everybody, 0) + skill * share * np.exp(-((at - share) ** 2) / 0.06) - 0.01 * at
            frame = pd.DataFrame({"model": model, "class": name, "threshold": at, "net_benefit": middle})
            out.append(frame.assign(low=middle - 0.03, high=middle + 0.03, treat_all=everybody, n=N,
                                    events=round(share * N)))  # fmt: skip
    table = pd.concat(out, ignore_index=True)
    table.loc[table.index % 60 == 59, ["net_benefit", "low", "high"]] = np.nan
    return table


def transfer(count: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(count)
    tasks = ["os", "dss", "pfi", "brca_overall_survival_site_preserved", "brca_dss", "luad_os", "luad_dss", "stad_os",
             "stad_dss", "coadread_dss", "kirc_os"][:count]  # fmt: skip
    rows = []
    for i, source in enumerate(tasks):
        for j, target in enumerate(tasks):
            c = 0.66 if i == j else float(np.clip(rng.normal(0.54, 0.06), 0.3, 0.8))
            rows.append({"source": source, "target": target, "estimate": c, "low": c - 0.09, "high": c + 0.08,
                         "n": 180 + 31 * j, "events": 40 + 7 * j})  # fmt: skip
    table = pd.DataFrame(rows)
    table.loc[[1], ["estimate", "low", "high"]] = np.nan
    return table


def epochs(count: int = 5, metric: str = "c_harrell", parts: int = 5) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(count)
    rows, chosen = [], []
    for k, model in enumerate(m for m in names(count) if m not in ("clinical", "prior")):
        best, last = [], []
        for f in range(parts):
            length = 20 - (f == 2) * 6
            wander = rng.normal(0, 0.02, length).cumsum() * 0.6
            line = 0.5 + (0.09 * (1 - np.exp(-np.arange(length) / 4)) + wander + rng.normal(0, 0.03))
            rows += [{"model": model, "repeat": 0, "fold": f, "epoch": e + 1, "metric": metric, "estimate": v}
                     for e, v in enumerate(line)]  # fmt: skip
            best.append(line.max())
            last.append(line[-1])
        base = float(np.mean(last))
        for choice, at in (
            ("last", base),
            ("inner", base + 0.008),
            ("best on the reported fold", np.mean(best)),
        ):
            at = np.nan if k == 1 and choice == "inner" else float(at)
            chosen.append({"model": model, "choice": choice, "estimate": at, "low": at - 0.05, "high": at + 0.05,
                           "difference_to_last": at - base, "n": N, "events": EVENTS})  # fmt: skip
    return pd.DataFrame(rows), pd.DataFrame(chosen)


def km_pooled(count: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=N)
    died, left = rng.exponential(1500 * np.exp(-hidden)), rng.exponential(2500, N)
    time, event = np.minimum(died, left).clip(1, DAYS).round(), (died <= left) & (died < DAYS)
    fold = np.arange(N) % 5
    one = np.zeros(N, str)
    out = []
    for k, model in enumerate(m for m in names(count) if m != "prior"):
        risk = hidden * 0.25 * k + rng.normal(size=N)
        raw = risk + 3 * fold
        within = np.zeros(N, bool)
        for f in range(5):
            within[fold == f] = risk[fold == f] > np.median(risk[fold == f])
        for pooling, high in (("rank within fold", within), ("raw risk pooled", raw > np.median(raw))):
            ratio, low, upper = hazard_ratio(time, event, high, one, 0.95)
            table = km_of_groups(time, event, np.array(STRATA)[high.astype(int)], one, 0.95, STRATA)
            out.append(table.assign(model=model, pooling=pooling, hr=ratio, hr_low=low, hr_high=upper))
    return pd.concat(out, ignore_index=True)


def gene_scatter(count: int = 5, genes: int = 6) -> pd.DataFrame:
    rng = np.random.default_rng(count)
    parts = []
    for k, model in enumerate(m for m in names(count) if m != "prior"):
        for g in range(genes):
            truth = rng.normal(6, 1, 80)
            said = 6 + 0.4 * (truth - 6) + rng.normal(0, 0.5 + 0.1 * k, 80)
            part = pd.DataFrame({"model": model, "gene": f"GENE{g}", "unit_id": np.arange(80), "truth": truth})
            parts.append(part.assign(prediction=said, fold=np.arange(80) % 5))
    return pd.concat(parts, ignore_index=True)


def spatial(count: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(count)
    x, y = (a.ravel() * 400 for a in np.meshgrid(np.arange(12), np.arange(9)))
    truth = np.sin(x / 1500) + 0.3 * rng.normal(size=x.size)
    parts = []
    for k, model in enumerate(names(count)):
        part = pd.DataFrame({"model": model, "slide_id": "A1", "x_px0": x, "y_px0": y, "gene": "ERBB2"})
        parts.append(
            part.assign(truth=truth, prediction=truth * (model != "prior") + 0.2 * k * rng.normal(size=x.size))
        )
    return pd.concat(parts, ignore_index=True)


SUBTYPES = {"basal-like": 45, "HER2-enriched": 23, "luminal A": 112, "luminal B": 60}


def subtype_scores(count: int = 5, subtypes: Mapping[str, int] = SUBTYPES) -> pd.DataFrame:
    rng = np.random.default_rng(count)
    n, rows = sum(subtypes.values()), []
    for k, model in enumerate(names(count)):
        skill, blind = _skill(k, model) * 2, model == "prior"
        for name, events in subtypes.items():
            middle, half = (
                0.5 + skill + (0 if blind else rng.normal(0, 0.03)),
                (0.0 if blind else 0.6 / np.sqrt(events)),
            )
            rows.append({"model": model, "subtype": name, "metric": "auroc", "estimate": middle, "low": middle - half,
                         "high": min(middle + half, 1), "n": n, "events": events})  # fmt: skip
        for metric, middle in (("accuracy", 0.45 + skill), ("kappa", skill * 1.5)):
            rows.append({"model": model, "subtype": "all", "metric": metric, "estimate": middle,
                         "low": middle - 0.07, "high": middle + 0.07, "n": n, "events": None})  # fmt: skip
    return pd.DataFrame(rows).astype({"events": "Int64"})


def subtype_km(count: int = 5) -> pd.DataFrame:
    """As `evaluation.appendix` makes it: the prior calls everybody alike and has measured curves only."""
    rng = np.random.default_rng(0)
    measured = np.repeat(list(SUBTYPES), list(SUBTYPES.values()))
    mean = np.repeat([900.0, 1300.0, 3200.0, 1900.0], list(SUBTYPES.values()))
    died, left = rng.exponential(mean), rng.exponential(2500, N)
    time, event = np.minimum(died, left).clip(1, DAYS).round(), (died <= left) & (died < DAYS)
    out = []
    for k, model in enumerate(names(count)):
        wrong = rng.uniform(size=N) > 0.45 + 0.08 * (k % 5)
        predicted = np.where(wrong, rng.permutation(measured), measured)
        for calls, groups in (("measured", measured), ("predicted", predicted)):
            if calls == "measured" or model != "prior":
                table = km_of_groups(time, event, groups, np.arange(N) % 5, 0.95)
                out.append(table.assign(model=model, calls=calls))
    return pd.concat(out, ignore_index=True)


def within(count: int = 5) -> pd.DataFrame:
    rows = []
    for k, model in enumerate(names(count)):
        blind = model == "prior"
        for measure, base, null in (("across genes", 0.81, 0.79), ("gene-centred", 0.0, 0.0)):
            middle = base + (0.0 if blind else 0.2 * _skill(k, model) + (0.15 if base == 0 else -0.015))
            half = 0.006 if base else 0.04
            undefined = blind and base == 0
            rows.append({"model": model, "measure": measure, "mean": np.nan if undefined else middle,
                         "low": np.nan if undefined else middle - half, "high": np.nan if undefined else middle + half,
                         "median": middle, "permuted": np.nan if undefined else base if blind else null,
                         "n": 0 if undefined else N, "genes": 138})  # fmt: skip
    return pd.DataFrame(rows)


def modalities(tasks: Sequence[str] = ("os", "subtype", "progression_free_survival")) -> pd.DataFrame:
    rows = [
        {"modality": "rna", "columns": 1577, "groups": 50, "patients": 221, "missing": 19},
        {"modality": "mutations", "columns": 48, "groups": 0, "patients": 96, "missing": 144},
        {"modality": "clinical", "columns": 6, "groups": 0, "patients": 240, "missing": 0},
    ]
    for k, row in enumerate(rows):
        row |= {
            f"missing_{t}": int(row["missing"]) * max(3 - j, 1) // 3 * (k != 0 or j != 1) for j, t in enumerate(tasks)
        }
    return pd.DataFrame(rows)


def overview(count: int = 5, tasks: int = 5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All models over tasks, with their ranks; the first two are controls, the third is the reference."""
    from histostudy.evaluation.overview import COLUMNS, rank_table

    rng = np.random.default_rng(count)
    rows = []
    for task in [f"task_{k}" for k in range(tasks)]:
        for k, model in enumerate(["prior", "clinical", "abmil", *(f"model_number_{i}" for i in range(count))]):
            own = 0.5 if model == "prior" else 0.8 + 0.03 * rng.normal()
            difference = np.nan if model == "abmil" else own - 0.8
            rows.append({
                "task": task, "model": model, "metric": "auroc", "estimate": own, "low": own - 0.05, "high": own + 0.04,
                "n": 900, "events": 320, "reference": "abmil" if model != "abmil" else np.nan, "difference": difference,
                "difference_low": difference - 0.03, "difference_high": difference + 0.03,
                "p_adjusted": 0.01 if abs(own - 0.8) > 0.04 else 0.4, "seconds": 3.0 * k,
                "epochs": 20, "parameters": 0 if k == 0 else 30_000 * 3**min(k, 4), "runs": 5,
            })  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table, rank_table(table)


STEPS = ["brca_subtype", "lung_subtype_of_two", "kidney", "colon_msi", "stomach", "brain"]


def continual_matrix(models: int = 5, tasks: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(models)
    rows = []
    for model in names(models):
        for reading in ("task", "class"):
            for t, learned in enumerate(STEPS[:tasks]):
                for j, task in enumerate(STEPS[:tasks]):
                    if reading == "class" and j > t:
                        continue
                    value = float(np.clip(0.9 - 0.1 * (t - j) + rng.normal(0, 0.05), 0, 1)) if j <= t else 0.5
                    rows.append({"model": model, "reading": reading, "learned": learned, "task": task,
                                 "estimate": value, "low": value - 0.06, "high": value + 0.06,
                                 "n": 120 + 7 * j})  # fmt: skip
    return pd.DataFrame(rows)


def continual_course(models: int = 5, tasks: int = 4) -> pd.DataFrame:
    cells = continual_matrix(models, tasks)
    past = cells[[STEPS.index(j) <= STEPS.index(t) for t, j in zip(cells["learned"], cells["task"], strict=True)]]
    kept = past.groupby(["model", "reading", "learned"], sort=False)
    table = kept.agg(estimate=("estimate", "mean"), low=("low", "mean"), high=("high", "mean"), n=("n", "sum"))
    table = table.reset_index()
    return table.assign(steps=[1 + STEPS.index(t) for t in table["learned"]])


def stain_audit(
    methods: tuple[str, ...] = ("none", "macenko", "reinhard", "vahadane"), site: bool = True
) -> pd.DataFrame:
    """What a stain audit measured."""
    from histostudy.evaluation.stain_audit import COLUMNS, MEASURES

    rows = []
    for k, method in enumerate(methods):
        for j, measure in enumerate(m for m in MEASURES if site or m != "site_knn"):
            middle = 0.3 + 0.08 * j - 0.05 * k
            rows.append({
                "method": method, "in_use": method == "macenko", "measure": measure, "estimate": middle,
                "low": middle - 0.06, "high": middle + 0.05, "chance": np.nan if "cosine" in measure else 0.05,
                "n": 200, "slides": 20, "patients": 20, "pairs": 36 if j > 2 else 0, "fallbacks": 2 * (k == 3),
                "warning": "collapsed" if measure == "cosine" and k == 1 else None,
            })  # fmt: skip
    return pd.DataFrame(rows)[COLUMNS]


def segmentation_part(which: str) -> dict[str, Any]:
    """A slide with its true and its found outline."""
    ring = np.array([[10, 10], [300, 10], [300, 200], [10, 10]], float)
    rgb = np.full((80, 100, 3), 200, np.uint8)
    return {"slide_id": "s", "dice": 0.5, "which": which, "rgb": rgb, "width_px0": 400, "truth": {"a": [ring]},
            "found": {"a": [ring + 20]}}  # fmt: skip


def segmentation_metrics() -> pd.DataFrame:
    """Metrics of two segmenters, by class."""
    rows = [
        {"model": model, "metric": metric, "class": name, "estimate": 0.6, "low": 0.5, "high": 0.7, "n": 12,
         "events": 9}
        for model in ("prior", "unet") for metric in ("dice", "iou") for name in ("a", "b", "mean")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def drawn(count: int = 5) -> dict[str, Any]:
    """Each figure of these tables, drawn with `count` models."""
    draw = {name: entry.draw for name in FIGURES for entry in [FIGURES[name]]}
    table, chosen = epochs(count)
    return {
        "td_auc": draw["td_auc"](td_auc(count)),
        "brier": draw["brier"](brier_curve(count)),
        "cox_forest": draw["cox_forest"](cox(count), reference="abmil"),
        "added_value": draw["added_value"](added(count)),
        "folds": draw["folds"](folds(count)),
        "decision_curve": draw["decision_curve"](decision(count)),
        "transfer_matrix": draw["transfer_matrix"](transfer(count)),
        "epoch_choice": draw["epoch_choice"](table, choice=chosen),
        "km_pooled": draw["km_pooled"](km_pooled(count)),
        "gene_scatter": draw["gene_scatter"](gene_scatter(count)),
        "spatial_gene": draw["spatial_gene"](spatial(count), slide_mpp=0.5),
        "subtypes": draw["subtypes"](subtype_scores(count)),
        "subtype_survival": draw["subtype_survival"](subtype_km(count), scores=subtype_scores(count)),
        "within_patient": draw["within_patient"](within(count)),
        "modalities": draw["modalities"](modalities()),
        "continual_matrix": draw["continual_matrix"](continual_matrix(count)),
        "continual_course": draw["continual_course"](continual_course(count)),
        "stain_audit": draw["stain_audit"](stain_audit()),
        "segmentation_forest": draw["segmentation_forest"](segmentation_metrics()),
        "segmentation_overlay": draw["segmentation_overlay"](
            pd.DataFrame({"x": [1]}), parts=[segmentation_part("worst"), segmentation_part("best")], classes=["a", "b"]
        ),
        "model_overview": draw["model_overview"](overview(count)[0], ranks=overview(count)[1]),
    }


def words(fig: Any) -> str:
    """Everything a figure says, a line each text."""
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in fig.findobj(Text) if t.get_text().strip() and t.get_visible())


def assert_words_apart(fig: Any) -> None:
    """No text lies on another, and none runs off the page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(fig).get_renderer()
    fig.draw(renderer)
    page, hidden = fig.bbox, _unpainted(fig)
    shown = [t for t in fig.findobj(Text) if t.get_text().strip() and t.get_visible() and t not in hidden]
    corners = [_corners(t, renderer) for t in shown]
    for text, box in zip(shown, corners, strict=True):
        inside = (box >= (page.x0 - 1, page.y0 - 1)).all() and (box <= (page.x1 + 1, page.y1 + 1)).all()
        assert inside, f"{text.get_text()!r} runs off the page"
    for i, one in enumerate(corners):
        for j, other in enumerate(corners[:i]):
            if (one.max(0) <= other.min(0)).any() or (other.max(0) <= one.min(0)).any():
                continue
            assert not _meet(one, other), f"{shown[i].get_text()!r} lies on {shown[j].get_text()!r}"


def _corners(text: Any, renderer: Any) -> np.ndarray:
    """The four corners of a text, turned as it is."""
    angle = text.get_rotation()
    if angle % 90 == 0 or not text.get_text():
        box = text.get_window_extent(renderer)
        return np.array([(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)])
    anchor = np.asarray(text.get_transform().transform(text.get_unitless_position()))
    text.set_rotation(0)
    box = text.get_window_extent(renderer)
    text.set_rotation(angle)
    flat = np.array([(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)])
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return (flat - anchor) @ np.array([[c, s], [-s, c]]) + anchor


def _meet(one: np.ndarray, other: np.ndarray, slack: float = 2.0) -> bool:
    """Whether two rectangles overlap by more than `slack` pixels along every separating axis."""
    for box in (one, other):
        for edge in (box[1] - box[0], box[3] - box[0]):
            axis = edge / (np.linalg.norm(edge) or 1.0)
            a, b = one @ axis, other @ axis
            if min(a.max(), b.max()) - max(a.min(), b.min()) <= slack:
                return False
    return True


def _unpainted(fig: Any) -> set:
    """Tick labels outside the limits of their axis, and those of axes that are off: never painted."""
    out = set()
    for axes in fig.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted(limits)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not axes.axison or not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    out |= {tick.label1, tick.label2}
    return out


def assert_same_bytes(name: str, tmp_path: Path, *tables: pd.DataFrame, **more: Any) -> None:
    """Drawn and written twice, a figure is the same three files."""
    from histostudy.figures.style import save_figure

    first = save_figure(FIGURES[name].draw(*tables, **more), tmp_path / "a" / name)
    second = save_figure(FIGURES[name].draw(*tables, **more), tmp_path / "b" / name)
    assert [f.suffix for f in first] == [".svg", ".pdf", ".png"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def assert_says_empty(name: str) -> None:
    """A table without rows gives the figure that says why."""
    fig = FIGURES[name].draw(pd.DataFrame())
    assert fig.texts[0].get_text().startswith("No ") and not fig.axes
