"""The leakage audit: what a reviewer asks of folds, answered from the table of splits itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.splits.folds import TEST, TRAIN, VAL

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.cohort.outcomes import Outcome

EXAMPLES = 5


def audit(
    splits: pd.DataFrame,
    patients: pd.DataFrame,
    slides: pd.DataFrame,
    outcomes: Sequence[Outcome] = (),
    preserve: str | None = None,
) -> dict[str, Any]:
    """Check the folds for leaks and say how they are balanced.

    Parameters
    ----------
    splits : DataFrame
        `repeat`, `fold`, `patient_id`, `part`.
    patients, slides : DataFrame
        The cohort's tables.
    outcomes : sequence of Outcome
        Classes, events and means are counted a fold.
    preserve : str, optional
        Column whose values are to be on one side only: a shared one is a problem. Without it the sharing of the
        column `site` is counted, where there is one.

    Returns
    -------
    dict
        JSON-like. `ok`: no patient, slide or file on two sides and nobody unknown. `problems`: lines for a reader.
        `tested`: whether each patient is tested exactly once a repeat, and how many are never or more than once.
        `folds`: a fold's sizes, `shared_site_patients` (share of the test patients whose site is trained on too;
        None without sites) and `balance` by task. `patients_sha256`, `splits_sha256`: hashes of the sorted ids
        and rows. `published`: what was done to published folds.
    """
    problems: list[str] = []
    known = {str(p) for p in patients["patient_id"]}
    strangers = sorted(set(splits["patient_id"].astype(str)) - known)
    if strangers:
        problems.append(f"{len(strangers)} patients are not in the cohort: {_some(strangers)}")
    slides_of = slides.groupby("patient_id")["slide_id"].agg(list).to_dict()
    files = _files(slides)
    site_of: dict[str, str] = {}
    column = preserve or "site"
    if column in patients:
        named = patients.dropna(subset=[column])
        site_of = dict(zip(named["patient_id"].astype(str), named[column].astype(str), strict=True))
    folds = []
    two_sided: set[str] = set()
    for (repeat, fold), rows in splits.groupby(["repeat", "fold"], sort=True):
        parts = {part: set(rows.loc[rows["part"] == part, "patient_id"].astype(str)) for part in (TRAIN, VAL, TEST)}
        name = f"repeat {repeat} fold {fold}"
        for a, b in ((TRAIN, VAL), (TRAIN, TEST), (VAL, TEST)):
            both = parts[a] & parts[b]
            two_sided |= both
            if both:
                problems.append(f"{name}: {len(both)} patients in {a} and {b}: {_some(both)}")
            shared = _shared(parts[a], parts[b], files)
            if shared:
                problems.append(f"{name}: {len(shared)} slide files of patients in {a} and in {b}: {_some(shared)}")
        problems.extend(f"{name}: no {part} patient" for part in parts if not parts[part])
        outside = {site_of[p] for p in parts[TRAIN] | parts[VAL] if p in site_of}
        tested = [site_of[p] for p in sorted(parts[TEST]) if p in site_of]
        if preserve is not None and outside & set(tested):
            both = outside & set(tested)
            problems.append(f"{name}: {len(both)} values of {preserve} on both sides: {_some(both)}")
        folds.append(
            {
                "repeat": int(repeat),
                "fold": int(fold),
                **{part: len(parts[part]) for part in parts},
                **{f"{part}_slides": sum(len(slides_of.get(p, ())) for p in parts[part]) for part in parts},
                "test_sites": len(set(tested)),
                "shared_site_patients": sum(s in outside for s in tested) / len(tested) if tested else None,
                "balance": {o.name: _balance(o, parts) for o in outcomes},
            }
        )
    listed = [f"{r.repeat},{r.fold},{r.patient_id},{r.part}" for r in splits.itertuples(index=False)]
    return {
        "ok": not problems,
        "problems": problems,
        "patients": len(known),
        "slides": len(slides),
        "patients_on_two_sides": len(two_sided),
        "tested": _tested(splits, known),
        "site_column": column if site_of else None,
        "folds": folds,
        "patients_sha256": _hash(known),
        "splits_sha256": _hash(listed),
        "published": splits.attrs.get("published"),
    }


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:EXAMPLES]) + (" ..." if len(names) > EXAMPLES else "")


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _files(slides: pd.DataFrame) -> dict[str, set[str]]:
    """Files that stand for slides of two patients."""
    if "path" not in slides:
        return {}
    named = slides[slides["path"].fillna("") != ""]
    # by what the table says of them, which is the same on all machines
    said = named["path_given" if "path_given" in named else "path"]
    owners = named.groupby("path")["patient_id"].agg(lambda p: {str(x) for x in p})
    return {str(said[named["path"] == path].iloc[0]): found for path, found in owners.items() if len(found) > 1}


def _shared(a: set[str], b: set[str], files: dict[str, set[str]]) -> list[str]:
    return [path for path, owners in files.items() if owners & a and owners & b]


def _tested(splits: pd.DataFrame, known: set[str]) -> dict[str, Any]:
    """How often each patient is tested in a repeat."""
    test = splits[splits["part"] == TEST]
    never, more, repeats = 0, 0, sorted(set(splits["repeat"]))
    for repeat in repeats:
        counts = test.loc[test["repeat"] == repeat, "patient_id"].astype(str).value_counts()
        never += len(known - set(counts.index))
        more += int((counts > 1).sum())
    return {"once": never == 0 and more == 0, "never": never, "more_than_once": more, "repeats": len(repeats)}


def _balance(outcome: Outcome, parts: dict[str, set[str]]) -> dict[str, Any]:
    """Patients with the outcome in each part, and its classes, events or mean."""
    out = {}
    for part, people in parts.items():
        member = np.array([patient in people for patient in outcome.patient_ids], dtype=bool)
        counts: dict[str, Any] = {"n": int(member.sum())}
        if outcome.classes:
            counts |= {c: int((outcome.y[member] == k).sum()) for k, c in enumerate(outcome.classes)}
        elif outcome.event is not None:
            counts["events"] = int(outcome.event[member].sum())
        elif outcome.kind == "regression" and member.any():
            counts["mean"] = round(float(outcome.y[member].mean()), 6)
        out[part] = counts
    return out
