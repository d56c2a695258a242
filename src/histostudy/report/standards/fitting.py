"""What a run knows of how its models were fitted and used: items of TRIPOD+AI on imbalance and prediction."""

from __future__ import annotations

from histostudy.report.modelling import is_shifted, is_solved
from histostudy.report.numbers import count, listed
from histostudy.report.standards.facts import Facts


def calculation(f: Facts) -> str:
    repeats = int(f.splits.get("repeats") or 1)
    each = f" in each of {count(repeats, 'repeat')}" if repeats > 1 else ""
    text = (
        f"Each test part was predicted by the run of its fold{each}, with the code of this study; out-of-fold "
        "predictions are in predictions/<task>/<model>.parquet."
    )
    if not f.own and not f.untrained:
        text = "Of the controls alone predictions were made by this study, of each test part by the run of its fold."
    if ((f.context.leakage or {}).get("tested") or {}).get("more_than_once"):
        text += " Patients whom several folds test were predicted by the run of each."
    if traced := [n for n in f.own if (f.models[n].get("training") or {}).get("trace")]:
        text += f" {listed(traced)} predicted it after every epoch too."
    if f.study.get("sequence"):
        text += " Models that learn the sequence predicted after each task of it."
    if moved := (f.study.get("compare") or {}).get("transfer"):
        text += f" {listed(list(moved))} predicted the test patients of the other survival tasks too."
    return text + (f" Of {listed(f.foreign)} they were made elsewhere and scored as they are." if f.foreign else "")


def imbalance(f: Facts) -> str:
    counts = class_counts(f)
    sizes = f" Test parts together: {counts}." if counts else ""
    theirs = f" What was done for {listed(f.foreign)} their makers must say." if f.foreign else ""
    stepped = {n: f.models[n] for n in f.own if f.models[n].get("aggregator") and not is_solved(f.models[n])}
    used, shifted = [], dict[str, None]()
    for task in f.tasks:
        kind = task["kind"]
        settings = {n: m.get("training") or {} for n, m in stepped.items()}
        drawing = kind in ("classification", "survival")
        balanced = [n for n, t in settings.items() if drawing and t.get("sampling") == "balanced"]
        likely = [n for n, t in settings.items() if kind == "survival" and (t.get("loss") or "nll") == "nll"]
        weighted = [n for n in likely if settings[n].get("alpha")]
        ways = [f"balanced drawing of patients ({listed(balanced)})"] * bool(balanced)
        ways += [f"extra weight of patients with an event ({listed(weighted)})"] * bool(weighted)
        used += [f"{task['name']}: {listed(ways)}"] * bool(ways)
        shifted |= dict.fromkeys(n for n, m in stepped.items() if is_shifted(m, {kind}))
    if not used:
        trained = "No drawing or weighting of patients by their outcome was used" if f.own else "No model was trained"
        return f"{trained}.{theirs}{sizes}"
    after = (
        f"predicted probabilities of {listed(list(shifted))}, not the risks, were shifted back to the training part's "
        "shares"
        if shifted
        else "no recalibration after"
    )
    return f"Used: {'; '.join(used)}; {after}.{theirs}{sizes}"


def class_counts(f: Facts) -> str:
    """Patients of each class in the test parts of the first repeat."""
    totals: dict[str, dict[str, int]] = {}
    if ((f.context.leakage or {}).get("tested") or {}).get("more_than_once"):
        return ""  # they would be counted once a fold
    for fold in (f.context.leakage or {}).get("folds") or []:
        if fold.get("repeat", 0):
            continue
        for task in (t["name"] for t in f.tasks if t["kind"] == "classification"):
            for name, n in ((fold.get("balance") or {}).get(task) or {}).get("test", {}).items():
                if name != "n":
                    totals.setdefault(task, {})[name] = totals.get(task, {}).get(name, 0) + int(n)
    return "; ".join(f"{t}: {', '.join(f'{c} {n}' for c, n in mine.items())}" for t, mine in totals.items())
