"""Numbers as a reader of a paper expects them."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Any

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
#: Name for a reader, main metric first within a kind; digits after the point.
METRICS: dict[str, tuple[str, int]] = {
    "auroc": ("AUROC", 3),
    "auprc": ("AUPRC", 3),
    "balanced_accuracy": ("Balanced accuracy", 3),
    "f1_macro": ("F1 (macro)", 3),
    "retrieval_acc@1": ("Retrieval, 1 nearest", 3),
    "retrieval_acc@3": ("Retrieval, 3 nearest", 3),
    "retrieval_acc@5": ("Retrieval, 5 nearest", 3),
    "retrieval_map": ("Retrieval, mean average precision", 3),
    "brier": ("Brier score", 3),
    "ece": ("Calibration error", 3),
    "c_harrell": ("C (Harrell)", 3),
    "c_uno": ("C (Uno)", 3),
    "c_harrell_rank": ("C, ranks within folds", 3),
    "c_harrell_pooled": ("C, risks pooled", 3),
    "ibs": ("Integrated Brier", 3),
    "ibs_skill": ("Integrated Brier skill", 3),
    "calibration_slope": ("Calibration slope", 2),
    "pearson": ("Pearson r", 3),
    "spearman": ("Spearman rho", 3),
    "r2": ("R\N{SUPERSCRIPT TWO}", 3),
    "mae": ("Mean absolute error", 3),
    "skill": ("Skill over the training mean", 3),
    "dice": ("Dice", 3),
    "iou": ("Intersection over union", 3),
    "precision": ("Precision", 3),
    "recall": ("Recall", 3),
    "dice_pooled": ("Dice, pixels pooled", 3),
}
#: Metrics at a time, ``<name>@<days>``.
AT_A_TIME = {"auroc_td": "AUROC", "brier": "Brier score", "observed_expected": "Observed / expected"}
#: What a model without information scores, for the line in the plot.
CHANCE = {
    "skill": 0.0,
    "ibs_skill": 0.0,
    "auroc": 0.5,
    "c_harrell": 0.5,
    "c_uno": 0.5,
    "pearson": 0.0,
    "spearman": 0.0,
    "r2": 0.0,
}
LOWER_IS_BETTER = frozenset({"brier", "ece", "ibs", "mae"})


def file_name(path: Any) -> str:
    """Name of a file without its folder."""
    return PurePath(str(path)).name


def known(value: Any) -> bool:
    """Whether a value is there: not None, not NaN or NA, not an empty text."""
    if value is None or isinstance(value, str):
        return bool(value)
    text = str(value)
    return text not in ("nan", "<NA>", "NaT")


def number(value: Any, digits: int = 3, *, sign: bool = False) -> str:
    """A number with a true minus sign, or a dash where there is none."""
    if not known(value):
        return DASH
    value = float(value)
    if math.isinf(value):
        return ("" if value > 0 else MINUS) + "\N{INFINITY}"
    text = f"{abs(value):,.{digits}f}" if abs(value) < 1e6 else f"{abs(value):.{digits}g}"
    zero = not text.strip("0.,")
    lead = "" if zero else MINUS if value < 0 else "+" if sign else ""
    return lead + text


def interval(low: Any, high: Any, digits: int = 3, *, sign: bool = False) -> str:
    """`0.88 to 0.97`, or nothing where there is none."""
    if not (known(low) and known(high)):
        return ""
    return f"{number(low, digits, sign=sign)} to {number(high, digits, sign=sign)}"


def p_value(value: Any) -> str:
    """`<0.001`, `0.012`, `0.35`."""
    if not known(value):
        return DASH
    value = float(value)
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def metric_name(metric: str) -> str:
    """A metric's name for a reader; `auroc_td@365` is the AUROC at a time, `auroc@10` that of values from 10."""
    name, _, days = metric.partition("@")
    if days and name in AT_A_TIME:
        return f"{AT_A_TIME[name]} at {int(days):,} d"
    if days and name == "auroc":
        return f"AUROC of {days} or more"
    return METRICS.get(metric, (metric, 3))[0]


def metric_order(metric: str) -> tuple[float, str]:
    """Sort key of metrics: as in `METRICS`, those at a time after the concordances, by time."""
    names = list(METRICS)
    name, _, days = metric.partition("@")
    if days and name in AT_A_TIME:
        return names.index("c_uno") + 0.5, f"{list(AT_A_TIME).index(name)} {int(days):09d}"
    return (names.index(metric) if metric in METRICS else len(names)), metric


def count(value: Any, singular: str, plural: str | None = None) -> str:
    """`1 slide`, `1,024 slides`."""
    value = int(value)
    return f"{value:,} {singular if value == 1 else plural or singular + 's'}"


def listed(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]
