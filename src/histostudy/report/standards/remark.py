"""What a run knows of each item of REMARK (McShane et al., JNCI 2005; Altman et al., PLoS Med 2012)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from histostudy.report.methods import drawn
from histostudy.report.numbers import count, interval, listed, number, p_value
from histostudy.report.standards import tripod
from histostudy.report.standards.checklist import Checklist, fill
from histostudy.report.standards.facts import Facts
from histostudy.report.standards.tiles import preparation

if TYPE_CHECKING:
    import pandas as pd

RISK = "risk (per SD)"


def marker(f: Facts) -> str:
    """The marker is the out-of-fold risk of a model."""
    names = listed([t["name"] for t in f.survival])
    return f"The marker is the out-of-fold risk of a model ({listed(f.trained()) or 'none'}); endpoints: {names}."


def patients(f: Facts) -> str:
    return f"{tripod.source(f)} {tripod.eligibility(f)}"


def specimens(f: Facts) -> str:
    if what := drawn(f.study):
        return f"None: {what if what == 'slides' else 'vectors of tiles'} are drawn."
    return "Whole-slide images." if f.slides else "No slides."


def assay(f: Facts) -> str:
    text = preparation(f) if f.slides else ""
    made = f"Risks of {listed(f.foreign)} were made elsewhere." if f.foreign else ""
    own = (
        "Risks were computed without the test outcomes; the same study file and seed are to give the same bytes in the "
        "same environment on the same kind of device."
    )
    return f"{text} {made} {own if len(f.foreign) < len(f.models) else ''}"


def design(f: Facts) -> str:
    return f"{f.paragraph('Models were tested', 'Controls were tested')} {f.follow_up()}"


def endpoints(f: Facts) -> str:
    return f"{f.outcomes(f.survival)}."


def candidates(f: Facts) -> str:
    text = f"Risks of {count(len(f.trained()), 'model')}: {listed(f.trained())}." if f.trained() else ""
    return f"{text} Covariates: {f.covariates(f.survival) or 'none'}."


def sample_size(f: Facts) -> str:
    return tripod.sample_size(f)


def statistics(f: Facts) -> str:
    return (
        f"{f.paragraph('Intervals are')} Cox models of out-of-fold risk and covariates, one baseline a run, all "
        "covariates named in the study file and none selected by the run; proportional hazards tested by "
        f"residuals (Grambsch and Therneau). {tripod.missing(f)}"
    )


def cutpoints(f: Facts) -> str:
    text = "The risk is used as a number, standardised within the run that tested it. "
    if f.own or f.untrained or not f.foreign:
        text += (
            "Kaplan-Meier groups are cut at the median risk of the training part, not at a cut-point sought in the "
            "test part; a figure beside them shows what cutting at ranks within the fold, or at risks pooled over "
            "folds, gives. "
        )
    return text + (f"Of {listed(f.foreign)} groups are cut by rank within the test fold." if f.foreign else "")


def flow(f: Facts) -> str:
    return f"{f.flow()} {f.size(f.survival)}. {f.left_out()}"


def distributions(f: Facts) -> str:
    return f"Table 1: {', '.join(f.variables())}. {f.missing()}" if f.variables() else ""


def relation(f: Facts) -> str:
    parts = []
    for name in (t["name"] for t in f.real_survival):
        added = f.context.curves.get(name, {}).get("added")
        rows = [] if added is None else added[added["base"] == "clinical"].dropna(subset=["p"]).to_dict("records")
        parts += [f"{name}: {r['added']}, p {p_value(r['p'])}" for r in rows]
    return f"What a model adds to the clinical covariates (likelihood ratio): {'; '.join(parts)}." if parts else ""


def _shown(f: Facts, task: str, analysis: str) -> pd.DataFrame | None:
    """Cox rows of the model that stands for the task."""
    cox = f.context.curves.get(task, {}).get("cox")
    if cox is None or len(cox) == 0:
        return None
    model = f.reference if (cox["model"] == f.reference).any() else cox["model"].iloc[0]
    rows = cox[(cox["model"] == model) & (cox["analysis"] == analysis)]
    return rows if len(rows) else None


def _cox(f: Facts, analysis: str) -> str:
    parts = []
    several = analysis == "multivariable"
    for name in (t["name"] for t in f.real_survival if t.get("adjust") or not several):
        rows = _shown(f, name, analysis)
        for r in [] if rows is None else rows.to_dict("records"):
            term = f"{r['model']} {r['term']}" if r["term"] == RISK else r["term"]
            span = interval(r["low"], r["high"], 2)
            parts.append(
                f"{name}, {term}: HR {number(r['hazard_ratio'], 2)} ({span}), p {p_value(r['p'])}, n {int(r['n'])}, "
                f"events {int(r['events'])}"
            )
    return f"{'; '.join(parts)}." if parts else ""


def univariable(f: Facts) -> str:
    found = _cox(f, "univariable")
    return f"{found} Kaplan-Meier curves are in the report. {f.performance(f.survival)}" if found else ""


def multivariable(f: Facts) -> str:
    if not f.real_survival:
        return "Not done: every survival task is a null, its outcomes shuffled."
    if not f.covariates(f.real_survival):
        return "Not done: no covariates."
    return _cox(f, "multivariable") or "Not done: the study has no model whose risk differs between patients."


def standard(f: Facts) -> str:
    covariates = f.covariates(f.real_survival)
    if not covariates:
        return "The study names no covariates of survival: the risk was not looked at beside standard variables."
    return f"All of the covariates ({covariates}) are kept whatever their significance. {_cox(f, 'multivariable')}"


def further(f: Facts) -> str:
    parts = []
    for name in (t["name"] for t in f.real_survival):
        rows = _shown(f, name, "multivariable")
        risk = None if rows is None else rows[rows["term"] == RISK]
        if risk is not None and len(risk):
            parts.append(f"{name} p {p_value(risk['ph_p'].iloc[0])}")
    tested = f" Proportional hazards of the risk: {'; '.join(parts)}." if parts else ""
    return f"Internal validation: {tripod.partition(f)}{tested}"


def limitations(f: Facts) -> str:
    return tripod.limitations(f)


FILLERS: dict[str, Callable[[Facts], str]] = {
    one.__name__: one
    for one in (
        marker, patients, specimens, assay, design, endpoints, candidates, sample_size, statistics, cutpoints, flow,
        distributions, relation, univariable, multivariable, standard, further, limitations,
    )
}  # fmt: skip


def remark(facts: Facts) -> Checklist:
    """REMARK of a study with a survival task: 20 items."""
    return fill("remark", FILLERS, facts)
