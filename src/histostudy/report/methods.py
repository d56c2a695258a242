"""The methods paragraphs of a study, from its configuration and counts: what was done, as it was done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histostudy.model_kinds import BAG_KINDS, FAMILIES
from histostudy.report.continual import continual_paragraph
from histostudy.report.labelled import labelled_paragraph
from histostudy.report.modelling import (
    inner_choice,
    is_foreign,
    modalities_paragraph,
    models_of,
    models_paragraph,
    training_paragraph,
)
from histostudy.report.numbers import count, file_name, known, listed, number
from histostudy.report.pretraining import pretraining_text
from histostudy.report.segmentation import segmentation_paragraph
from histostudy.report.stain import audit_paragraph, stain_sentence
from histostudy.report.tasks import detectable_hazard_ratio, is_null, task_text, unit_of

MU = "\N{MICRO SIGN}m"


def methods_paragraphs(
    study: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
    software: Mapping[str, str] | None = None,
    tasks: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Paragraphs for the methods section.

    Parameters
    ----------
    study : mapping
        The resolved study.
    counts : mapping, optional
        patients, slides (used), slides_all, tiles, folds, once (1 where each patient is tested once a repeat).
    software : mapping, optional
        Versions by name.
    tasks : mapping, optional
        By task: patients, events.

    Returns
    -------
    list of str
    """
    counts = counts or {}
    paragraphs = [_cohort(study, counts)]
    if has_slides(study):
        if any(task["kind"] != "tile_classification" for task in study.get("tasks") or [{"kind": ""}]):
            paragraphs.append(_images(study, counts) + stain_sentence(study))
        paragraphs.append(audit_paragraph(study))
    if study.get("tasks"):
        paragraphs += [
            _tasks(study), _splits(study, counts), modalities_paragraph(study), models_paragraph(study),
            training_paragraph(study), labelled_paragraph(study), segmentation_paragraph(study),
            continual_paragraph(study), _statistics(study, counts),
            _survival(study, tasks or {}),
        ]  # fmt: skip
    paragraphs.append(_software(study, software or {}))
    return [p for p in paragraphs if p]


def has_slides(study: Mapping[str, Any]) -> bool:
    """Whether a study has slides, not tables alone."""
    cohort = study.get("cohort") or {}
    other = cohort.get("patients") or cohort.get("thumbnails")
    return bool(cohort.get("simulate") or cohort.get("slides") or not other)


def drawn(study: Mapping[str, Any]) -> str:
    """What was drawn of a synthetic cohort: slides or features; empty for a real one."""
    simulate = (study.get("cohort") or {}).get("simulate")
    return "" if not simulate else "features" if simulate.get("features") else "slides"


def _cohort(study: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    name = (study.get("cohort") or {}).get("name", "")
    if what := drawn(study):
        text = (
            f"The cohort {name} is synthetic: {what if what == 'slides' else 'features of tiles'} and outcomes were "
            "drawn with known effects, to show that the analysis finds what is there."
        )
    elif has_slides(study):
        text = f"The cohort {name} was read from tables of slides and patients."
    else:
        text = f"The cohort {name} was read from a table of patients; the study has no slides."
    if "patients" not in counts:
        return text
    patients = count(counts["patients"], "patient")
    if not has_slides(study):
        return f"{text} It has {patients}."
    if "slides" not in counts:
        return text
    of = f" of {counts['slides_all']:,}" if counts.get("slides_all", 0) > counts["slides"] else ""
    were = "was" if counts["slides"] == 1 and not of else "were"
    slides = f"{counts['slides']:,}{of} slides" if of else count(counts["slides"], "slide")
    return f"{text} {slides} of {patients} {were} analysed."


def _images(study: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    features, tiles = study.get("features") or {}, study.get("tiles") or {}
    if drawn(study) == "features":
        drawing = study["cohort"]["simulate"]["features"]
        low, high = drawing["tiles"]
        return (
            f"There are no images: each slide is {low:,} to {high:,} tiles of {drawing['dim']:,} numbers, drawn from "
            "what the patient's morphology makes likely, with junk among them."
        )
    if features.get("precomputed"):
        return (
            "Features of tiles had been extracted beforehand and were read as they are "
            f"(layout {features.get('layout', 'auto')})."
        )
    text = _spots(tiles) if tiles.get("spots") else _lattice(study)
    text += f", {counts['tiles']:,} tiles in all. " if "tiles" in counts else ". "
    if not _embeds(study):
        return _tissue(study) + "."
    encoder = features.get("encoder")
    if encoder == "builtin":
        return text + (
            "Each tile was described by statistics of colour, stain density, texture and nuclei, without learned "
            "weights."
        )
    made = pretraining_text(study)
    return text + f"Each tile was embedded with the encoder {encoder}." + (f" {made}" if made else "")


def _lattice(study: Mapping[str, Any]) -> str:
    tiles = study.get("tiles") or {}
    return (
        f"{_tissue(study)}. On one lattice a slide, {_square(tiles)}, {_overlap(tiles)}, were kept where "
        f"at least {number(100 * float(tiles.get('min_tissue', 0)), 0)}% was tissue"
    )


def _tissue(study: Mapping[str, Any]) -> str:
    tissue = study.get("tissue") or {}
    return (
        f"Tissue was found at {number(tissue.get('working_mpp'), 0)} {MU} per pixel with the method "
        f"{tissue.get('method')}; pieces under {number(tissue.get('min_area_um2'), 0)} {MU}\N{SUPERSCRIPT TWO} were "
        "dropped and pen marks left out"
    )


def _embeds(study: Mapping[str, Any]) -> bool:
    """Whether tiles were embedded: not where all tasks are of pixels."""
    tasks = study.get("tasks") or []
    return not tasks or any(task["kind"] not in FAMILY_KINDS for task in tasks)


def _spots(tiles: Mapping[str, Any]) -> str:
    return (
        f"Around each spot of {file_name(tiles['spots'])} one tile was cut, {_square(tiles)}, whatever tissue is "
        "there; spots whose tile does not lie in the slide were left out"
    )


def _square(tiles: Mapping[str, Any]) -> str:
    size, mpp = tiles.get("size", 0), float(tiles.get("mpp", 0))
    side = f"{number(size * mpp, 0)} {MU} a side"
    tiles_of = "" if tiles.get("spots") else "tiles of "
    return f"{tiles_of}{size} \N{MULTIPLICATION SIGN} {size} pixels at {number(mpp, 2)} {MU} per pixel ({side})"


def _overlap(tiles: Mapping[str, Any]) -> str:
    return f"overlapping by {tiles['overlap']} pixels" if tiles.get("overlap") else "without overlap"


def _tasks(study: Mapping[str, Any]) -> str:
    alike: dict[tuple[str, str], list[str]] = {}
    for task in study["tasks"]:
        alike.setdefault((str(task["kind"]), task_text(task)), []).append(str(task["name"]))
    kinds: dict[str, list[str]] = {}
    for (kind, what), names in alike.items():
        kinds.setdefault(kind, []).append(f"{listed(names)} ({what})")
    text = " ".join(f"Tasks of {kind}: {'; '.join(tasks)}." for kind, tasks in kinds.items())
    nulls = [task for task in study["tasks"] if is_null(task)]
    if nulls:
        units = listed(sorted({f"{unit_of(t)}s" for t in nulls}))
        text += (
            f" In {listed([str(t['name']) for t in nulls])} outcomes were shuffled among the {units} "
            f"({'seed' if len(nulls) == 1 else 'seeds'} {listed([str(t['permute']) for t in nulls])}), so that there "
            "is nothing to learn: what is found there is luck or a leak."
        )
    return text


def _splits(study: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    splits = study.get("splits") or {}
    text = _folds(study, splits, counts)
    if any(unit_of(task) == "spot" for task in study["tasks"]):
        text += " All spots of a patient are in one part."
    return f"{text} {_inner(study, splits)}"


def _folds(study: Mapping[str, Any], splits: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    again = f"used {splits['repeats']} times" if int(splits.get("repeats") or 1) > 1 else ""
    number_of = f"the {count(counts['folds'], 'fold')}" if "folds" in counts else "the folds"
    who = "Models" if models_of(study) else "Controls"
    if splits.get("published"):
        text = f"{who} were tested on {number_of} published in {file_name(splits['published'])}"
        text += f", {again}" if again else ""
        return text + (
            ". Patients whom they put on two sides, as folds of slides do, are tested only; folds without a test part "
            "are tested on the part they call val."
        )
    if splits.get("column"):
        text = f"{who} were tested on {number_of} that the column {splits['column']} of the patient table names"
        return text + (f", {again} with inner parts drawn anew." if again else ".")
    how = ["grouped by patient"]
    if _stratified(study, splits):
        how.append("stratified by outcome")
    if splits.get("preserve"):
        how.append(f"with no {splits['preserve']} on both sides")
    text = f"{who} were tested by {splits.get('folds')}-fold cross-validation, {listed(how)}"
    return text + (f", repeated {splits['repeats']} times." if again else ".")


#: Kinds of task that need no features of whole slides.
FAMILY_KINDS = tuple(kind for kinds in FAMILIES.values() for kind in kinds)
#: Kinds of task without an outcome that folds could balance.
UNBALANCED = ("expression", "segmentation")


def _stratified(study: Mapping[str, Any], splits: Mapping[str, Any]) -> bool:
    """Whether folds balance an outcome: expression has nothing to balance."""
    return bool(splits.get("stratify")) and any(task["kind"] not in UNBALANCED for task in study["tasks"])


def _inner(study: Mapping[str, Any], splits: Mapping[str, Any]) -> str:
    """What the inner part was for, and that the test part was not used."""
    models = models_of(study)
    own = [m for m in models.values() if not is_foreign(m)]
    fitted = bool(own) or any(task.get("adjust") for task in study["tasks"])
    apart = ", the encoder apart, as told above" if pretraining_text(study) else ""
    once = f"the test patients were used for prediction alone{apart}."
    chosen = inner_choice(study)
    text = ""
    if chosen:
        share = f"{number(100 * float(splits.get('inner') or 0), 0)}% of the training patients, one at least"
        stratified = ", stratified by outcome" if _stratified(study, splits) and splits.get("column") else ""
        unless = ", where the folds name none" if splits.get("published") else ""
        text = f"In each fold an inner validation part ({share}{stratified}{unless}) chose {listed(chosen)}; "
    elif own:
        text = "No epoch or penalty was chosen on an inner part; "
    if not fitted:
        return "Only the control was fitted, on the training patients; " + once
    rest = f"scaling, bins and every other fitted step saw the training patients only, and {once}"
    return text + rest if text else rest[0].upper() + rest[1:]


def _statistics(study: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    compare = study.get("compare") or {}
    kinds = {task["kind"] for task in study["tasks"]}
    level = number(100 * float(compare.get("confidence", 0.95)), 0)
    text = (
        f"Intervals are {level}% percentile intervals of {int(compare.get('resamples', 0)):,} bootstrap resamples of "
        f"{_resampled(study, counts)}"
    )
    if kinds & {"classification", "tile_classification"}:
        text += "; that of the calibration error, which rises with resampling noise, is shifted to the estimate"
    spots = all(unit_of(task) == "spot" for task in study["tasks"])
    others = "other spots of these slides, not with other patients" if spots else "other test patients, not"
    text += f". They show how the numbers would move with {others}{' or' if spots else ' with'} another training."
    text += _pooling(kinds)
    models = models_of(study)
    if compare.get("reference") and (len(models) > 1 or any(t.get("adjust") for t in study["tasks"])):
        correction = {
            "holm": ", corrected with Holm's method over all that is compared with one reference",
            "none": ", without correction for their number",
        }.get(compare.get("correction", ""), "")
        also = " and with the clinical model" if any(task.get("adjust") for task in study["tasks"]) else ""
        text += (
            f" Models and controls were compared with {_references(study)}{also} on the same resamples of the same "
            f"{'spots' if spots else 'patients'}{correction}."
        )
    if compare.get("transfer"):
        text += (
            f" Each survival task's {listed(list(compare['transfer']))} was also tried on the test patients of the "
            "other survival tasks."
        )
    return text


def _references(study: Mapping[str, Any]) -> str:
    """The model that others are compared with: `compare.reference`, or the first of a kind that it does not learn."""
    chosen = str(study["compare"]["reference"])
    kinds_of: dict[str, list[str]] = {}
    for kind in dict.fromkeys(str(task["kind"]) for task in study["tasks"]):
        mine = [
            name
            for name, model in models_of(study).items()
            if kind in next((kinds for key, kinds in FAMILIES.items() if model.get(key)), BAG_KINDS)
        ]
        kinds_of.setdefault(chosen if chosen in mine else next(iter(mine), chosen), []).append(kind)
    if len(kinds_of) == 1:
        return next(iter(kinds_of))
    return listed([f"{name} (in {listed(kinds)})" for name, kinds in kinds_of.items()])


def _resampled(study: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """What was resampled, within what."""
    units = sorted({unit_of(task) for task in study["tasks"]})
    what = "patients"
    if "spot" in units:
        from histostudy.evaluation.stage import BLOCK_UM

        blocks = f"spots, in blocks of {number(BLOCK_UM, 0)} {MU} as neighbours are alike"
        what = blocks if units == ["spot"] else f"patients, or {blocks}"
    if "tile" in units:
        what += ", each with all his labelled tiles"
    if int((study.get("splits") or {}).get("repeats") or 1) > 1:
        return f"{what}, drawn over all of them, as each is tested more than once"
    if counts.get("once"):
        return f"{what}, drawn within the fold that tests them"
    return f"{what}, drawn within the fold that tests them where each is tested once"


def _pooling(kinds: set[str]) -> str:
    """How the folds of each kind of task became one number."""
    parts = []
    if "survival" in kinds:
        parts.append(
            "in survival, concordance and AUROC at a time are means over folds, as risks of two trainings share no "
            "scale, and Brier scores, calibration and observed over expected events are of all test patients together "
            "(beside them, C of ranks within folds and C of risks pooled)"
        )
    if kinds & {"classification", "tile_classification"}:
        of = "patients" if "tile_classification" not in kinds else "rows"
        parts.append(
            f"in classification, AUROC and AUPRC are means over folds, the other metrics of all test {of} together"
        )
    if kinds & {"regression", "expression"}:
        names = listed(sorted(kinds & {"regression", "expression"}))
        text = f"in {names}, correlations are means over folds, the other metrics of all test rows together"
        parts.append(text + (", and of many genes the mean of all genes" if "expression" in kinds else ""))
    return " Pooling of folds: " + "; ".join(parts) + "." if parts else ""


def _survival(study: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """What so many events could show."""
    names = [t["name"] for t in study["tasks"] if t["kind"] == "survival" and not is_null(t)]
    events = {n: int(tasks[n]["events"]) for n in names if n in tasks and known(tasks[n].get("events"))}
    parts = [f"{number(detectable_hazard_ratio(d), 2)} ({n}, {count(d, 'event')})" for n, d in events.items()]
    if not parts:
        return ""
    return (
        "What a survival task can find depends on its events. Smallest hazard ratio between two groups of equal size "
        "that a log-rank test finds with a power of 80% at a two-sided 0.05, from d = 4 (1.96 + 0.84)"
        f"\N{SUPERSCRIPT TWO} / (ln HR)\N{SUPERSCRIPT TWO} events (Schoenfeld, Biometrika 1981): {'; '.join(parts)}."
    )


def _software(study: Mapping[str, Any], software: Mapping[str, str]) -> str:
    text = f"Every random number derives from the seed {study.get('seed', 0)}."
    shown = [f"{name} {version}" for name, version in software.items()]
    return text + (f" Software: {listed(shown)}." if shown else "")
