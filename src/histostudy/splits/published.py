"""Published folds: CLAM's ``splits_<k>.csv``, STAMP's ``splits.json``, our own ``splits.csv``.

What is published is taken as it stands, as far as it is honest. Folds are often of slides, and then a patient
may sit on both sides (in each of the ten folds of TCGA lung of the HIPT paper 4 to 12 test patients have another
slide in training): he is tested, and leaves the other parts. Folds without a test part report the part they call
val: that becomes the test part, and an inner validation part is drawn from training.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from histostudy.cohort.barcodes import parse_barcode
from histostudy.cohort.folder import slide_id_of
from histostudy.cohort.tables import read_table
from histostudy.errors import SplitError
from histostudy.files import read_json
from histostudy.seeds import derive_seed
from histostudy.splits.folds import TEST, TRAIN, VAL, as_frame, inner_parts
from histostudy.splits.strata import strata_of

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.cohort.outcomes import Outcome

logger = logging.getLogger(__name__)

PARTS = (TRAIN, VAL, TEST)
#: Listed ids by part, of one fold.
Listed = dict[str, list[str]]


def read_published(
    path: str | Path,
    patients: pd.DataFrame,
    slides: pd.DataFrame | None = None,
    *,
    outcomes: Sequence[Outcome] = (),
    inner: float = 0.2,
    seed: int = 0,
    overlap: Literal["test", "refuse"] = "test",
    repeats: int = 1,
) -> pd.DataFrame:
    """Read published folds and keep the patients of this cohort.

    Parameters
    ----------
    path : str or Path
        A folder of ``splits_<k>.csv`` (columns train, val, test of slide or patient ids), or with a ``splits.json``
        or ``splits.csv``; or one of those files.
    patients : DataFrame
        `patient_id` of the cohort.
    slides : DataFrame, optional
        `slide_id` and `patient_id`. A listed slide that is not in it still finds its patient by a TCGA barcode.
    outcomes : sequence of Outcome
        Balanced in inner parts that have to be drawn.
    inner : float
        Share of the training part for those.
    seed : int
        The study's seed.
    overlap : {'test', 'refuse'}
        A patient on two sides: test before val before train, or an error that names him.
    repeats : int
        Times the folds are used; published ones that say their repeats are used as they say.

    Returns
    -------
    DataFrame
        As `make_splits`; ``attrs['published']`` counts, a fold, what was listed, unknown, moved and drawn.

    Raises
    ------
    SplitError
        If no folds are found, no listed id is known, a fold has no test or training patient, or a patient is on
        two sides and `overlap` is ``refuse``.
    """
    path = Path(path)
    known = sorted(str(p) for p in patients["patient_id"])
    finder = _Finder(known, slides)
    rows: list[tuple[int, int, str, str]] = []
    notes: list[dict[str, Any]] = []
    found = _read(path)
    if repeats > 1 and {repeat for repeat, _ in found} == {0}:
        found = {(repeat, fold): listed for (_, fold), listed in found.items() for repeat in range(repeats)}
    for (repeat, fold), (name, listed) in sorted(found.items()):
        part_of, note = _resolve(listed, finder, name, overlap)
        if not note["known"]:
            first = next((i for ids in listed.values() for i in ids), "nothing")
            raise SplitError(
                f"none of its {note['listed']} ids is in the cohort (the first: {first})",
                where=name,
                todo=f"the cohort has {known[0]}; are these the folds of another cohort?" if known else "",
            )
        for part in (TEST, TRAIN):
            if part not in part_of.values():
                raise SplitError(
                    f"no {part} patient of this cohort ({len(listed.get(part, []))} ids listed)",
                    where=name,
                    todo="check that the cohort has the slides these folds were made for",
                )
        if VAL not in part_of.values():
            ids = sorted(p for p, q in part_of.items() if q == TRAIN)
            labels, _ = strata_of(ids, outcomes, 2)
            rng = np.random.default_rng(derive_seed(seed, "splits", "published", repeat, fold))
            part_of |= dict(zip(ids, inner_parts(labels, inner, rng).tolist(), strict=True))
            note["drawn_val"] = sum(q == VAL for q in part_of.values())
        note |= {"repeat": repeat, "fold": fold, "not_listed": len(known) - len(part_of)}
        notes.append(note)
        rows.extend((repeat, fold, p, q) for p, q in part_of.items())
    _warn(path, notes)
    frame = as_frame(rows)
    frame.attrs["published"] = notes
    return frame


class _Finder:
    """Listed ids to patients of the cohort."""

    def __init__(self, known: list[str], slides: pd.DataFrame | None) -> None:
        self.patients = set(known)
        self.of_slide: dict[str, str] = {}
        if slides is not None:
            self.of_slide = dict(zip(slides["slide_id"].astype(str), slides["patient_id"].astype(str), strict=True))

    def __call__(self, listed: str) -> str | None:
        for name in (listed, slide_id_of(Path(listed)) or listed):
            patient = self.of_slide.get(name, name)
            if patient in self.patients:
                return patient
        barcode = parse_barcode(listed)
        return barcode.patient if barcode is not None and barcode.patient in self.patients else None


def _resolve(
    listed: Listed, finder: _Finder, name: str, overlap: Literal["test", "refuse"]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Part of each patient of one fold, and the counts of what had to be done for it."""
    ids = {part: list(listed.get(part, [])) for part in PARTS}
    note: dict[str, Any] = {"listed": sum(map(len, ids.values())), "drawn_val": 0, "val_is_test": False}
    if TEST not in listed and ids[VAL]:
        ids[TEST], ids[VAL] = ids[VAL], []
        note["val_is_test"] = True
    found = {part: [finder(i) for i in ids[part]] for part in PARTS}
    note["unknown"] = sum(p is None for people in found.values() for p in people)
    note["known"] = note["listed"] - note["unknown"]
    part_of: dict[str, str] = {}
    moved: Counter[str] = Counter()
    for part in (TEST, VAL, TRAIN):
        for patient in sorted({p for p in found[part] if p is not None}):
            other = part_of.setdefault(patient, part)
            if other == part:
                continue
            if overlap == "refuse":
                raise SplitError(
                    f"patient {patient} is in {part} and in {other}",
                    where=name,
                    todo="these are folds of slides, and they leak: let the patient be tested only",
                )
            moved[f"{part}_and_{other}"] += 1
    note["on_two_sides"] = dict(sorted(moved.items()))
    return part_of, note


def _warn(path: Path, notes: list[dict[str, Any]]) -> None:
    leaking = [sum(n for pair, n in note["on_two_sides"].items() if pair.endswith(TEST)) for note in notes]
    if any(leaking):
        logger.warning(
            "%s leaks: %d to %d test patients a fold are in another part too; they are tested only",
            path, min(leaking), max(leaking),
        )  # fmt: skip
    if any(note["val_is_test"] for note in notes):
        logger.warning("%s has no test part: its val part is tested, an inner part drawn from train", path)
    for key, what in (("unknown", "listed ids are not in the cohort"), ("not_listed", "patients are in no part")):
        counts = [note[key] for note in notes]
        if any(counts):
            logger.warning("%s: %d to %d %s (a fold)", path, min(counts), max(counts), what)


def _read(path: Path) -> dict[tuple[int, int], tuple[str, Listed]]:
    """Listed ids by (repeat, fold), with the file they come from."""
    files = [path]
    if path.is_dir():
        folds = {int(m.group(1)): p for p in path.iterdir() if (m := re.fullmatch(r"splits_(\d+)\.csv", p.name))}
        if folds:
            return {(0, k): (str(p), _clam(p)) for k, p in sorted(folds.items())}
        files = [path / "splits.csv", path / "splits.json"]
    for file in files:
        if file.is_file():
            return _stamp(file) if file.suffix == ".json" else _single(file)
    raise SplitError(
        "no folds here", where=path, todo="expected splits_<k>.csv (train, val, test), splits.csv or splits.json"
    )


def _clam(path: Path) -> Listed:
    table = read_table(path)
    if TRAIN not in table or not {VAL, TEST} & set(table.columns):
        raise SplitError("not the columns train, val, test", where=path, todo="one column of ids a part")
    return {part: table[part].dropna().tolist() for part in PARTS if part in table}


def _single(path: Path) -> dict[tuple[int, int], tuple[str, Listed]]:
    """Our own table of all folds, or one CLAM file."""
    table = read_table(path)
    if "part" not in table:
        return {(0, 0): (str(path), _clam(path))}
    table = read_table(path, required=("repeat", "fold", "patient_id", "part"))
    wrong = table[~table["part"].isin(PARTS)]
    if len(wrong):
        raise SplitError(f"{wrong['part'].iloc[0]!r} is no part", where=path, todo=f"one of {', '.join(PARTS)}")
    out: dict[tuple[int, int], tuple[str, Listed]] = {}
    for row in table.itertuples(index=False):
        try:
            key = (int(str(row.repeat)), int(str(row.fold)))
        except ValueError:
            raise SplitError("repeat and fold are whole numbers", where=path, todo="mend the columns") from None
        out.setdefault(key, (str(path), {TRAIN: [], VAL: [], TEST: []}))[1][str(row.part)].append(str(row.patient_id))
    return out


def _stamp(path: Path) -> dict[tuple[int, int], tuple[str, Listed]]:
    """STAMP: ``{"splits": [{"train_patients": [...], "test_patients": [...]}]}``."""
    try:
        return {
            (0, k): (f"{path} split {k}", {part: list(s[f"{part}_patients"]) for part in (TRAIN, TEST)})
            for k, s in enumerate(read_json(path)["splits"])
        }
    except (ValueError, KeyError, TypeError) as error:
        raise SplitError(f"not STAMP's splits ({error!r})", where=path, todo="check the file") from None
