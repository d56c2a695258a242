"""What a run knows of each item of TRIPOD+AI (Collins et al., BMJ 2024;385:e078378)."""

from __future__ import annotations

from collections.abc import Callable

from histostudy.report.availability import code_availability, data_availability
from histostudy.report.continual import continual_paragraph
from histostudy.report.findings import CONTROLS, key_findings
from histostudy.report.labelled import labelled_paragraph
from histostudy.report.licences import UNKNOWN
from histostudy.report.modelling import models_paragraph, training_paragraph
from histostudy.report.numbers import count, listed, number
from histostudy.report.segmentation import segmentation_paragraph
from histostudy.report.standards.checklist import Checklist, fill
from histostudy.report.standards.facts import Facts
from histostudy.report.standards.fitting import calculation, imbalance
from histostudy.report.standards.tiles import encoder_saw, judged, measurement, poor_input, predictors, preparation
from histostudy.report.tasks import detectable_hazard_ratio, is_null

OUTPUTS = {
    "classification": "a probability of each class; no threshold is set, and where a class is called it is the "
    "likeliest",
    "survival": "a risk and a survival curve; groups at the median risk of the training part",
    "regression": "a number",
    "expression": "a number for each gene",
}
FOREIGN_OUTPUT = "a risk, and a survival curve only where their file holds one; groups by rank within the test fold"


def title(f: Facts) -> str:
    what = "Development and internal validation" if f.own else f"Evaluation of {_not_trained(f)}"
    return (
        f"{what} (no outside cohort), cohort {f.cohort.get('name')}; outcomes: {listed([t['name'] for t in f.tasks])}."
    )


def _not_trained(f: Facts) -> str:
    """What a study evaluates that trains no model."""
    parts = ["predictions made elsewhere"] * bool(f.foreign) + ["untrained models"] * bool(f.untrained)
    return listed(parts) or "controls alone"


def purpose(f: Facts) -> str:
    kinds = f"Kinds of task: {listed(sorted({t['kind'] for t in f.tasks}))}."
    rest = " Whether the others are prognostic or diagnostic the run cannot tell." * (len(f.survival) < len(f.tasks))
    return kinds + (f" Survival is prognostic.{rest}" if f.survival else rest.replace("the others are", "they are"))


def objectives(f: Facts) -> str:
    many = f", compared with {f.reference}, named in the study file" if f.reference and len(f.models) > 1 else ""
    parts = []
    if f.own:
        parts.append(f"development with internal validation of {count(len(f.own), 'model')} ({listed(f.own)})")
    if f.foreign:
        parts.append(f"evaluation of predictions made elsewhere ({listed(f.foreign)})")
    if f.untrained:
        parts.append(f"evaluation of models that are not trained ({listed(f.untrained)})")
    what = f"{'; '.join(parts)}{many}, beside controls" if parts else "evaluation of controls alone"
    return f"{what[0].upper()}{what[1:]}, for {count(len(f.tasks), 'outcome')}."


def source(f: Facts) -> str:
    return f.methods[0] if f.methods else ""


def centres(f: Facts) -> str:
    table = f.context.table_one
    column = f.splits.get("preserve") or (f.context.leakage or {}).get("site_column")
    if table is None or not column or column not in set(table["variable"]):
        return ""
    levels = table[(table["variable"] == column) & (table["level"] != "")]
    each = ", ".join(f"{row.level} {row.overall}" for row in levels.itertuples())
    return f"{count(len(levels), 'site')} in the column {column}: {each}."


def eligibility(f: Facts) -> str:
    kept = f"Patients of a task: {f.wheres()}. " if f.wheres() else ""
    return f"{kept}In the run: {f.flow()} {f.left_out()}"


def outcome(f: Facts) -> str:
    days = [f"{t['name']} at {listed([f'{d:,}' for d in t['horizons']])} days" for t in f.survival]
    horizons = f" Horizons: {'; '.join(days)}." if days else ""
    return f"{f.outcomes()}.{horizons}"


def sample_size(f: Facts) -> str:
    text = f"No calculation in the run. {f.size()}."
    found = [
        f"{t['name']} {number(detectable_hazard_ratio(int(f.of_tasks[t['name']]['events'])), 2)}"
        for t in f.real_survival
        if f.of_tasks.get(t["name"], {}).get("events")
    ]
    if found:
        text += f" Hazard ratio of two equal groups found with 80% power at 0.05: {'; '.join(found)}."
    return text


def missing(f: Facts) -> str:
    how = (
        " In the clinical control a missing number is the median of the training part, a missing category a category; "
        "Cox models leave such patients out."
        if f.covariates()
        else ""
    )
    return f"Patients without an outcome are left out of its task. {f.left_out()} {f.missing()}{how}"


def partition(f: Facts) -> str:
    ok = (f.context.leakage or {}).get("ok")
    audit = "" if ok is None else " The leakage audit found no leak." if ok else " The leakage audit FOUND LEAKAGE."
    return f.paragraph("Models were tested", "Controls were tested") + audit


def handling(f: Facts) -> str:
    text = "Whatever scales the vectors of tiles is fitted to the training part. " if f.slides else ""
    if f.covariates():
        text += "Covariates of the clinical control: numbers standardised, categories one-hot. "
    return text + f.paragraph("Modalities,")


def model(f: Facts) -> str:
    told = (
        models_paragraph, training_paragraph, labelled_paragraph, segmentation_paragraph, continual_paragraph,
    )  # fmt: skip
    return " ".join(text for text in (paragraph(f.study) for paragraph in told) if text)


def clusters(f: Facts) -> str:
    column = f.splits.get("preserve")
    if column:
        return f"No {column} is on both sides of a split: performance is that on patients of another {column}."
    shared = f.shared_sites
    if shared is None:
        return "Nothing was done in the run."
    if max(shared) == 0:
        return "No site is on both sides of a split."
    return f"Not dealt with: {_share(shared)} of the test patients are from a site that is in training too."


def _share(shared: list[float]) -> str:
    low, high = number(100 * min(shared), 0), number(100 * max(shared), 0)
    return f"{low}%" if low == high else f"{low} to {high}%"


def measures(f: Facts) -> str:
    plots = listed(sorted({figure.title for figure in f.context.figures}))
    shown = f" Plots: {plots}." if plots else ""
    return f"{f.paragraph('Intervals are')} Measures in the tables: {', '.join(f.heads())}.{shown}"


def updating(f: Facts) -> str:
    return "None: no model was updated or recalibrated after evaluation."


def fairness(f: Facts) -> str:
    apart = f"apart from tasks of chosen patients ({f.wheres()}) " if f.wheres() else ""
    return f"Nothing was done in the run; {apart}no metric is reported by demographic group."


def output(f: Facts) -> str:
    texts = {kind: OUTPUTS[kind] for kind in dict.fromkeys(t["kind"] for t in f.tasks)}
    if "survival" in texts and f.foreign:
        theirs = f"{FOREIGN_OUTPUT} ({listed(f.foreign)})"
        trained = f.own or f.untrained
        texts["survival"] = f"{texts['survival']}; of predictions made elsewhere {theirs}" if trained else theirs
    return "; ".join(f"{kind}: {text}" for kind, text in texts.items()) + "."


def differences(f: Facts) -> str:
    column = f.splits.get("preserve")
    text = "All parts are patients of one cohort" + (f", apart by {column}." if column else ".")
    if moved := (f.study.get("compare") or {}).get("transfer"):
        text += f" {listed(list(moved))} were also tried on patients of other survival tasks than they learned from."
    if sourced := [n for n, m in f.models.items() if m.get("sources")]:
        text += f" {listed(sourced)} build on runs on the study's other tasks too."
    return text + (f" Tasks choose their patients: {f.wheres()}." if f.wheres() else "")


def ethics(f: Facts) -> str:
    return "The cohort is synthetic: there are no patients." if f.simulated else ""


def protocol(f: Facts) -> str:
    return "The study file (study.yaml, shown in the report) fixes cohort, tasks, models and comparisons."


def data_sharing(f: Facts) -> str:
    return " ".join(data_availability(f))


def code_sharing(f: Facts) -> str:
    return " ".join(code_availability(f))


def flow(f: Facts) -> str:
    return f"{f.flow()} {f.size()}. {f.left_out()} {f.follow_up()}"


def follow_up(f: Facts) -> str:
    return f.follow_up()


def characteristics(f: Facts) -> str:
    names = f.variables()
    return f"Table 1: {', '.join(names)}. {f.missing()} {f.follow_up()}" if names else ""


def balance(f: Facts) -> str:
    folds = (f.context.leakage or {}).get("folds") or []
    return f"Outcomes of training, inner and test part of each of {count(len(folds), 'fold')}: leakage.json." * bool(
        folds
    )


def numbers(f: Facts) -> str:
    folds = (f.context.leakage or {}).get("folds") or []
    text = f"{f.size()}."
    for key, name in (("train", "training"), ("val", "inner"), ("test", "test")):
        sizes = [int(fold[key]) for fold in folds if key in fold]
        if sizes:
            span = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
            text += f" Patients of the {name} part: {span}."
    if f.wheres() or f.left_out():
        text += " Parts are of the whole cohort; a task has fewer where it leaves patients out."
    last = [n for n in f.own if (f.models[n].get("training") or {}).get("epoch") == "last"]
    return text + (f" {listed(last)} were trained on the inner part too." if last else "")


def specification(f: Facts) -> str:
    uses = [use for use in f.weights if use.limits or use.gated or use.licence == UNKNOWN]
    bound = [f"{use.name} ({f'licence {UNKNOWN}' if use.licence == UNKNOWN else use.licence})" for use in uses]
    limits = f" Restricted by the licence of {listed(bound)}." if bound else ""
    text = "No model was trained here."
    if f.own or f.untrained:
        text = "Weights of every run are in runs/<task>/<model>/, the code builds them from study.yaml."
    return text + (f" Of {listed(f.foreign)} predictions alone are here." if f.foreign else "") + limits


def performance(f: Facts) -> str:
    return f"{f.performance()} All metrics: metrics/<task>.csv and the report."


def heterogeneity(f: Facts) -> str:
    column = (f.context.leakage or {}).get("site_column") or "site"
    if any(column in (task.get("where") or {}) for task in f.tasks):
        return f"By fold (tables/<task>_curves.json), and by task where tasks choose patients by {column}."
    return "By fold only (tables/<task>_curves.json); not by centre."


def updated(f: Facts) -> str:
    return "None."


def findings(f: Facts) -> str:
    found = f.context.findings
    if found is None:
        found = key_findings(f.study, f.context.metrics, f.context.comparison)
    return " ".join(found)


def limitations(f: Facts) -> str:
    parts = ["internal validation only, no outside cohort"]
    if f.simulated:
        parts.append("a synthetic cohort, which says nothing about patients")
    few = [t["name"] for t in f.real_survival if (f.of_tasks.get(t["name"], {}).get("events") or 0) < 100]
    if few:
        parts.append(f"fewer than 100 events in {listed(few)}")
    shared = f.shared_sites
    if not f.splits.get("preserve") and shared is None:
        parts.append("sites may be on both sides of a split")
    elif shared and max(shared) > 0:
        parts.append(f"{_share(shared)} of the test patients are from a site that is in training too")
    if (f.context.leakage or {}).get("ok") is False:
        parts.append("leakage between parts")
    parts += [encoder_saw(f)] * bool(encoder_saw(f))
    if f.foreign:
        parts.append(f"predictions of {listed(f.foreign)} made elsewhere, on their makers' word")
    nulls = [t["name"] for t in f.tasks if is_null(t)]
    if nulls:
        parts.append(f"{listed(nulls)} with shuffled outcomes, a null")
    if not f.trained():
        parts.append(f"no model, only the controls {listed(list(CONTROLS))}")
    return f"From the run: {'; '.join(parts)}. {f.missing()}"


FILLERS: dict[str, Callable[[Facts], str]] = {
    one.__name__: one
    for one in (
        title, purpose, objectives, source, follow_up, centres, eligibility, preparation, outcome, predictors,
        measurement, judged, sample_size, missing, partition, handling, model, clusters, measures, updating,
        calculation, imbalance, fairness, output, differences, ethics, protocol, data_sharing, code_sharing, flow,
        characteristics, balance, numbers, specification, performance, heterogeneity, updated, findings, limitations,
        poor_input,
    )
}  # fmt: skip


def tripod_ai(facts: Facts) -> Checklist:
    """TRIPOD+AI of a study: 27 items, 52 with their parts."""
    return fill("tripod_ai", FILLERS, facts)
