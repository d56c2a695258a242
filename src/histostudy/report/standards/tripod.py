"""What a run knows of each item of TRIPOD+AI (Collins et al., BMJ 2024;385:e078378)."""

from __future__ import annotations

from collections.abc import Callable

from histostudy.report.availability import code_availability, data_availability
from histostudy.report.findings import CONTROLS, key_findings
from histostudy.report.numbers import count, listed, number
from histostudy.report.standards.checklist import Checklist, fill
from histostudy.report.standards.facts import Facts
from histostudy.report.tasks import detectable_hazard_ratio, is_null

OUTPUTS = {
    "classification": "a probability of each class; no threshold is set, and where a class is called it is the "
    "likeliest",
    "survival": "a risk and a survival curve; groups at the median risk of the training part",
    "regression": "a number",
    "expression": "a number for each gene",
}


def title(f: Facts) -> str:
    return (
        f"Development and internal validation (no outside cohort), cohort {f.cohort.get('name')}; outcomes: "
        f"{listed([t['name'] for t in f.tasks])}."
    )


def purpose(f: Facts) -> str:
    kinds = ["prognostic"] * bool(f.survival) + ["not prognostic"] * (len(f.survival) < len(f.tasks))
    return f"Kinds of task: {listed(sorted({t['kind'] for t in f.tasks}))} ({listed(kinds)})."


def objectives(f: Facts) -> str:
    many = f", compared with {f.reference}, chosen before the results" if f.reference and len(f.models) > 1 else ""
    return (
        f"Development with internal validation of {count(len(f.trained()), 'model')} ({listed(f.trained())}){many}, "
        f"beside controls, for {count(len(f.tasks), 'outcome')}."
    )


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
    wheres = [f"{t['name']}: {k} {v}" for t in f.tasks for k, v in (t.get("where") or {}).items()]
    kept = f"Patients of a task: {'; '.join(wheres)}. " if wheres else ""
    return f"{kept}In the run: {f.flow()} {f.left_out()}"


def preparation(f: Facts) -> str:
    images = f.methods[1] if f.slides and len(f.methods) > 1 else ""
    return f"{images} The same for all patients."


def outcome(f: Facts) -> str:
    days = [f"{t['name']} at {listed([f'{d:,}' for d in t['horizons']])} days" for t in f.survival]
    horizons = f" Horizons: {'; '.join(days)}." if days else ""
    return f"{f.outcomes()}.{horizons}"


def predictors(f: Facts) -> str:
    text = "All tiles of each patient's slides, none chosen beforehand. " if f.slides else ""
    if f.covariates:
        text += f"Covariates of the clinical control, named in the study file: {listed(f.covariates)}. "
    tables = list(f.study.get("modalities") or {})
    return text + (f"Tables beside the slides: {listed(tables)}." if tables else "")


def measurement(f: Facts) -> str:
    if not f.slides:
        return ""
    encoders = listed([use.name for use in f.encoders]) or "no encoder that names itself"
    if (f.study.get("features") or {}).get("precomputed") and not f.simulated:
        return f"Tiles as vectors ({encoders}), made before the study; whether without the outcomes it cannot tell."
    return f"Tiles as vectors ({encoders}); they were made without the outcomes."


def judged(f: Facts) -> str:
    return "The vectors of tiles are computed; nobody judges them." if f.slides else ""


def sample_size(f: Facts) -> str:
    text = f"No calculation in the run. {f.size()}."
    found = [
        f"{t['name']} {number(detectable_hazard_ratio(int(f.of_tasks[t['name']]['events'])), 2)}"
        for t in f.survival
        if f.of_tasks.get(t["name"], {}).get("events")
    ]
    if found:
        text += f" Hazard ratio of two equal groups found with 80% power at 0.05: {'; '.join(found)}."
    return text


def missing(f: Facts) -> str:
    how = (
        " In the clinical control a missing number is the median of the training part, a missing category a category; "
        "Cox models leave such patients out."
        if f.covariates
        else ""
    )
    return f"Patients without an outcome are left out of its task. {f.left_out()} {f.missing()}{how}"


def partition(f: Facts) -> str:
    ok = (f.context.leakage or {}).get("ok")
    audit = "" if ok is None else " The leakage audit found no leak." if ok else " The leakage audit FOUND LEAKAGE."
    return f.paragraph("Models were tested", "Controls were tested") + audit


def handling(f: Facts) -> str:
    text = "Whatever scales the vectors of tiles is fitted to the training part. " if f.slides else ""
    if f.covariates:
        text += "Covariates of the clinical control: numbers standardised, categories one-hot. "
    return text + f.paragraph("Modalities,")


def model(f: Facts) -> str:
    at = [i for i, p in enumerate(f.methods) if p.startswith(("Models:", "There is no model", "Predictions made"))]
    return " ".join(f.methods[at[0] : at[0] + 2]) if at else ""


def clusters(f: Facts) -> str:
    column = f.splits.get("preserve")
    if column:
        return f"No {column} is on both sides of a split, so that performance is that on patients of other sites."
    shared = [fold.get("shared_site_patients") for fold in (f.context.leakage or {}).get("folds") or []]
    if not shared or any(s is None for s in shared):
        return "Not dealt with."
    low, high = number(100 * min(shared), 0), number(100 * max(shared), 0)
    share = f"{low}%" if low == high else f"{low} to {high}%"
    return f"Not dealt with: {share} of the test patients are from a site that is in training too."


def measures(f: Facts) -> str:
    plots = listed(sorted({figure.title for figure in f.context.figures}))
    drawn = f" Plots: {plots}." if plots else ""
    return f"{f.paragraph('Intervals are')} Measures in the tables: {', '.join(f.heads())}.{drawn}"


def updating(f: Facts) -> str:
    return "None: no model was updated or recalibrated after evaluation."


def calculation(f: Facts) -> str:
    elsewhere = f" Of {listed(f.foreign)} they were made elsewhere and scored as they are." if f.foreign else ""
    return (
        "Each test part was predicted once, by the run of its fold, with the code of this study; out-of-fold "
        f"predictions are in predictions/<task>/<model>.parquet.{elsewhere}"
    )


def imbalance(f: Facts) -> str:
    balanced = [n for n, m in f.models.items() if (m.get("training") or {}).get("sampling") == "balanced"]
    weighted = [n for n, m in f.models.items() if (m.get("training") or {}).get("alpha")]
    used = [f"balanced drawing of patients ({listed(balanced)})"] * bool(balanced)
    used += [f"extra weight of patients with an event ({listed(weighted)})"] * bool(weighted)
    counts = class_counts(f)
    sizes = f" Test parts together: {counts}." if counts else ""
    if not used:
        return f"None was used; losses and the drawing of patients are unweighted.{sizes}"
    return f"Used: {listed(used)}; no recalibration after.{sizes}"


def class_counts(f: Facts) -> str:
    """Patients of each class in the test parts of the first repeat."""
    totals: dict[str, dict[str, int]] = {}
    for fold in (f.context.leakage or {}).get("folds") or []:
        if fold.get("repeat", 0):
            continue
        for task in (t["name"] for t in f.tasks if t["kind"] == "classification"):
            for name, n in ((fold.get("balance") or {}).get(task) or {}).get("test", {}).items():
                if name != "n":
                    totals.setdefault(task, {})[name] = totals.get(task, {}).get(name, 0) + int(n)
    return "; ".join(f"{t}: {', '.join(f'{c} {n}' for c, n in mine.items())}" for t, mine in totals.items())


def fairness(f: Facts) -> str:
    return "Nothing was done in the run; no metric is reported by demographic group."


def output(f: Facts) -> str:
    return "; ".join(f"{k}: {OUTPUTS[k]}" for k in dict.fromkeys(t["kind"] for t in f.tasks)) + "."


def differences(f: Facts) -> str:
    column = f.splits.get("preserve")
    return "None by design: all parts are patients of one cohort" + (f", apart by {column}." if column else ".")


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
    return text


def specification(f: Facts) -> str:
    bound = [f"{use.name} ({use.licence})" for use in f.encoders if use.limits or use.gated]
    limits = f" Restricted by the licence of {listed(bound)}." if bound else ""
    return f"Weights of every run are in runs/<task>/<model>/, the code builds them from study.yaml.{limits}"


def performance(f: Facts) -> str:
    return f"{f.performance()} All metrics: metrics/<task>.csv and the report."


def heterogeneity(f: Facts) -> str:
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
    few = [t["name"] for t in f.survival if (f.of_tasks.get(t["name"], {}).get("events") or 0) < 100]
    if few:
        parts.append(f"fewer than 100 events in {listed(few)}")
    if not f.splits.get("preserve") and not f.splits.get("published"):
        parts.append("sites may be on both sides of a split")
    if (f.context.leakage or {}).get("ok") is False:
        parts.append("leakage between parts")
    pretrain = f.study.get("pretrain")
    if pretrain and not pretrain.get("where"):
        parts.append("an encoder that may have seen images of tested patients")
    if f.foreign:
        parts.append(f"predictions of {listed(f.foreign)} made elsewhere, on their makers' word")
    nulls = [t["name"] for t in f.tasks if is_null(t)]
    if nulls:
        parts.append(f"{listed(nulls)} with shuffled outcomes, a null")
    if not f.trained():
        parts.append(f"no model, only the controls {listed(list(CONTROLS))}")
    return f"From the run: {'; '.join(parts)}. {f.missing()}"


def poor_input(f: Facts) -> str:
    if not f.slides:
        return ""
    return (
        "A slide that cannot be read, has no scale or no tissue is left out with its reason; vectors that are NaN or "
        "infinite stop the run."
    )


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
