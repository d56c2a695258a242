"""The methods paragraphs of a study, from its configuration and counts: what was done, as it was done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histostudy.report.numbers import count, listed, number

AGGREGATORS = {
    "mean": "the mean of the tiles with a linear head",
    "max": "the maximum of the tiles",
    "abmil": "attention-based multiple-instance learning (Ilse et al., ICML 2018)",
}


def methods_paragraphs(
    study: Mapping[str, Any], counts: Mapping[str, int] | None = None, software: Mapping[str, str] | None = None
) -> list[str]:
    """Paragraphs for the methods section.

    Parameters
    ----------
    study : mapping
        The resolved study.
    counts : mapping, optional
        patients, slides (used), slides_all, tiles.
    software : mapping, optional
        Versions by name.

    Returns
    -------
    list of str
    """
    counts = counts or {}
    paragraphs = [_cohort(study, counts), _images(study, counts)]
    if study.get("tasks"):
        paragraphs += [_splits(study), _models(study), _statistics(study)]
    paragraphs.append(_software(study, software or {}))
    return [p for p in paragraphs if p]


def _cohort(study: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    cohort = study.get("cohort") or {}
    text = f"The cohort {cohort.get('name', '')} "
    if cohort.get("simulate"):
        text += "is synthetic: slides were drawn with known effects, to show that the analysis finds what is there"
    else:
        text += "was read from tables of slides and patients"
    text += "."
    if "slides" in counts and "patients" in counts:
        of = f" of {counts['slides_all']:,}" if counts.get("slides_all", 0) > counts["slides"] else ""
        text += f" {counts['slides']:,}{of} slides of {count(counts['patients'], 'patient')} were analysed."
    return text


def _images(study: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    features, tiles, tissue = (study.get(k) or {} for k in ("features", "tiles", "tissue"))
    if features.get("precomputed"):
        return (
            f"Features of tiles had been extracted beforehand and were read as they are "
            f"(layout {features.get('layout', 'auto')})."
        )
    size, mpp = tiles.get("size", 0), float(tiles.get("mpp", 0))
    text = (
        f"Tissue was found at {number(tissue.get('working_mpp'), 0)} \N{MICRO SIGN}m per pixel with the method "
        f"{tissue.get('method')}; pieces under {number(tissue.get('min_area_um2'), 0)} "
        f"\N{MICRO SIGN}m\N{SUPERSCRIPT TWO} were dropped and pen marks left out. On one lattice a slide, "
        f"tiles of {size} \N{MULTIPLICATION SIGN} {size} "
        f"pixels at {number(mpp, 2)} \N{MICRO SIGN}m per pixel ({number(size * mpp, 0)} \N{MICRO SIGN}m a side, "
        f"{_overlap(tiles)}) were kept where at least {number(100 * float(tiles.get('min_tissue', 0)), 0)}% was tissue"
    )
    text += f", {counts['tiles']:,} tiles in all. " if "tiles" in counts else ". "
    encoder = features.get("encoder")
    if encoder == "builtin":
        return text + (
            "Each tile was described by statistics of colour, stain density, texture and nuclei, "
            "without learned weights."
        )
    return text + f"Each tile was embedded with the encoder {encoder}."


def _overlap(tiles: Mapping[str, Any]) -> str:
    return f"overlapping by {tiles['overlap']} pixels" if tiles.get("overlap") else "without overlap"


def _splits(study: Mapping[str, Any]) -> str:
    splits = study.get("splits") or {}
    if splits.get("published"):
        return "Patients were split as published; no patient is on both sides of a split."
    how = ["grouped by patient"]
    if splits.get("stratify"):
        how.append("stratified by outcome")
    if splits.get("preserve"):
        how.append(f"with no {splits['preserve']} on both sides")
    text = f"Models were tested by {splits.get('folds')}-fold cross-validation, {listed(how)}"
    if int(splits.get("repeats") or 1) > 1:
        text += f", repeated {splits['repeats']} times"
    inner = number(100 * float(splits.get("inner") or 0), 0)
    return text + (
        f". In each fold {inner}% of the training patients were set aside to choose the epoch; scaling, bins and "
        "every other fitted step saw the training patients only, and the test patients were used once, for prediction."
    )


def _models(study: Mapping[str, Any]) -> str:
    parts = []
    for name, model in (study.get("models") or {}).items():
        what = AGGREGATORS.get(model.get("aggregator", ""), f"the aggregator {model.get('aggregator')}")
        options = ", ".join(f"{k} {v}" for k, v in (model.get("options") or {}).items())
        recipe = listed([str(k) for k in model.get("recipe") or {}])
        extra = "; ".join(x for x in (options, f"recipe {recipe}" if recipe else "") if x)
        parts.append(f"{name} ({what}{'; ' + extra if extra else ''})")
    text = f"Models: {listed(parts)}."
    solved = [n for n, m in (study.get("models") or {}).items() if _is_solved(m)]
    if solved:
        text += (
            f" {listed(solved).capitalize()} was solved exactly over a path of ridge penalties, the inner validation "
            "part choosing among them."
        )
    trainings = [m.get("training") or {} for m in (study.get("models") or {}).values() if not _is_solved(m)]
    if trainings and all(t == trainings[0] for t in trainings) and "lr" in trainings[0]:
        t = trainings[0]
        text += (
            f" {'The others' if solved else 'All'} were trained with AdamW (learning rate {t['lr']:g}, weight decay "
            f"{t.get('weight_decay', 0):g}, at most {t.get('batch_size')} patients a step) for at most "
            f"{t.get('epochs')} epochs, stopped after {t.get('patience')} without a better loss on the inner "
            "validation part, of whose epochs the best was kept."
        )
    controls = ["a model without input (the training part's mean or majority)"]
    if any(task.get("adjust") for task in study.get("tasks") or []):
        covariates = sorted({c for task in study["tasks"] for c in task.get("adjust") or []})
        controls.append(f"the clinical covariates alone ({listed(covariates)})")
    return text + f" Controls: {listed(controls)}."


def _is_solved(model: Mapping[str, Any]) -> bool:
    """Whether a model is the linear one on the mean, which needs no steps."""
    linear = model.get("aggregator") == "mean" and not (model.get("options") or {}).get("hidden")
    return linear and not model.get("recipe")


def _statistics(study: Mapping[str, Any]) -> str:
    compare = study.get("compare") or {}
    level = number(100 * float(compare.get("confidence", 0.95)), 0)
    text = (
        f"Intervals are {level}% percentile intervals of {int(compare.get('resamples', 0)):,} bootstrap resamples of "
        "patients, drawn within the fold that tests them where each is tested once; of metrics that rise with "
        "resampling noise, such as the calibration error, they are shifted to the estimate. Ranking metrics are means "
        "over folds. They show how the numbers would move with other test patients, not with another training."
    )
    if compare.get("reference"):
        correction = {"holm": " and corrected over the models with Holm's method"}.get(
            compare.get("correction", ""), ""
        )
        text += (
            f" Models were compared with {compare['reference']} on the same resamples of the same patients{correction}."
        )
    return text


def _software(study: Mapping[str, Any], software: Mapping[str, str]) -> str:
    text = f"Every random number derives from the seed {study.get('seed', 0)}."
    shown = [f"{name} {version}" for name, version in software.items()]
    return text + (f" Software: {listed(shown)}." if shown else "")
