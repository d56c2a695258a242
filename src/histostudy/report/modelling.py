"""The models of a study in words: what they are, what they see, how they were trained and what chose their epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from histostudy.model_kinds import FAMILIES
from histostudy.report.aggregators import OWN_FUSION, aggregator_phrase
from histostudy.report.labelled import chosen_of
from histostudy.report.numbers import count, file_name, listed, number
from histostudy.report.recipes import recipe_phrase
from histostudy.report.tasks import unit_of
from histostudy.study import Training

Spec = Mapping[str, Any]
FUSIONS = {"concat": "by concatenation", "bilinear": "by gated bilinear fusion (Pathomic Fusion, IEEE TMI 2022)"}


def models_of(study: Spec) -> dict[str, Spec]:
    """The study's models of single tasks by name, without the controls."""
    return {name: model for name, model in (study.get("models") or {}).items() if not model.get("continual")}


def bag_models(study: Spec) -> dict[str, Spec]:
    """Those of the models that learn from bags of tiles, or were made elsewhere: their paragraphs are here."""
    return {n: m for n, m in models_of(study).items() if not any(m.get(key) for key in FAMILIES)}


def is_foreign(model: Spec) -> bool:
    """Whether a model is predictions made elsewhere."""
    return bool(model.get("predictions"))


def is_untrained(model: Spec) -> bool:
    """Whether a model is left as it was initialised."""
    return not is_foreign(model) and (model.get("training") or {}).get("epochs") == 0


def is_solved(model: Spec) -> bool:
    """Whether a model is the linear one on the mean, which needs no steps."""
    linear = model.get("aggregator") == "mean" and not (model.get("options") or {}).get("hidden")
    return linear and not model.get("recipe") and not model.get("modalities") and not is_untrained(model)


def inner_choice(study: Spec) -> list[str]:
    """What the inner validation part chose: `the epoch`, `the ridge penalty`, both or nothing."""
    tiles = {n: m for n, m in models_of(study).items() if m.get("classifier") and not is_untrained(m)}
    own = [m for n, m in models_of(study).items() if not is_foreign(m) and not is_untrained(m) and n not in tiles]
    asked = [m for m in own if (m.get("training") or {}).get("epoch", "inner") == "inner"]
    chosen = ["the epoch"] if any(not is_solved(m) for m in asked) else []
    if any(is_solved(m) and (m.get("options") or {}).get("penalty") is None for m in asked):
        chosen.append("the ridge penalty")
    return list(dict.fromkeys(chosen + chosen_of(tiles)))


def models_paragraph(study: Spec) -> str:
    """What the models are, and the controls beside them."""
    models = bag_models(study)
    if models_of(study) and not models:
        return ""
    own = {name: m for name, m in models.items() if not is_foreign(m)}
    text = f"Models: {_families(own)}." if own else ""
    foreign = [f"{name} ({file_name(m['predictions'])})" for name, m in models.items() if is_foreign(m)]
    if foreign:
        text += (
            f" Predictions made elsewhere were scored as they are: {listed(foreign)}. Nothing of them was trained "
            "here; that no model had seen the patients it predicts is their makers' word."
        )
    if not models:
        text = "There is no model in this study, only controls."
    return f"{text} {_controls(study)}".strip()


def _families(models: Mapping[str, Spec]) -> str:
    """Models by what they are: `attention ... (Ilse et al., ICML 2018): abmil, abmil_rank (...)`."""
    families: dict[str, list[str]] = {}
    for name, model in models.items():
        phrase = aggregator_phrase(str(model.get("aggregator")))
        if model.get("aggregator") == "mean":
            phrase += " with a linear head" if is_linear(model) else " of embedded tiles"
        extra = "; ".join(_extras(model))
        families.setdefault(phrase, []).append(f"{name} ({extra})" if extra else name)
    return "; ".join(f"{phrase}: {listed(names)}" for phrase, names in families.items())


def is_linear(model: Spec) -> bool:
    """Whether the mean goes to the head as it is."""
    return not (model.get("options") or {}).get("hidden") and not model.get("modalities")


def _extras(model: Spec) -> list[str]:
    """What tells a model from others of its aggregator."""
    extras = []
    if tables := model.get("modalities"):
        how = "" if model.get("aggregator") in OWN_FUSION else f", joined {FUSIONS[model.get('fusion') or 'concat']}"
        extras.append(f"with {listed(list(tables))}{how}")
    if model.get("sources"):
        extras.append(f"its sources are the frozen models {model['sources']} of the study's tasks, of the same fold")
    if options := ", ".join(f"{k} {v}" for k, v in (model.get("options") or {}).items()):
        extras.append(options)
    for name, settings in (model.get("recipe") or {}).items():
        extras.append(recipe_phrase(name) + "".join(f", {k} {v}" for k, v in (settings or {}).items()))
    if is_untrained(model):
        extras.append("not trained: what the architecture alone does")
    return extras


def _controls(study: Spec) -> str:
    controls = ["prior, a model without input (the training part's mean, majority or Kaplan-Meier curve)"]
    adjusted: dict[tuple[str, ...], list[str]] = {}
    for task in study.get("tasks") or []:
        if task.get("adjust"):
            adjusted.setdefault(tuple(sorted(task["adjust"])), []).append(str(task["name"]))
    if adjusted:
        alone = len(adjusted) == 1
        sets = [listed(list(them)) + ("" if alone else f" in {listed(mine)}") for them, mine in adjusted.items()]
        controls.append(
            f"clinical, the clinical covariates alone ({'; '.join(sets)}; Cox, logistic or ridge regression) in "
            "tasks that name some"
        )
    return f"Controls, fitted on all patients outside the test part: {'; '.join(controls)}."


def modalities_paragraph(study: Spec) -> str:
    """The tables beside the slides that a model sees; empty where none does."""
    seen = {name for model in models_of(study).values() for name in model.get("modalities") or []}
    parts = [_modality(name, m) for name, m in (study.get("modalities") or {}).items() if name in seen]
    if not parts:
        return ""
    return (
        f"Modalities, one row a patient: {'; '.join(parts)}. Moments were taken on the training part; a missing cell "
        "was filled with its median there, and a patient without the table is known to the models as such; where "
        "the study does not say otherwise, a table that somebody lacks was hidden from 10% of the training patients at "
        "each step, so that this is learned."
    )


def _modality(name: str, modality: Spec) -> str:
    source = file_name(modality["table"]) if modality.get("table") else "the patient table"
    columns = f"the columns {listed([str(c) for c in modality['columns']])} of " if modality.get("columns") else ""
    steps = ["log2(1 + x)"] if modality.get("log") else []
    scale = {"zscore": "standardised", "minmax": "scaled by minimum and maximum"}.get(modality.get("scale", ""), "")
    steps += [scale] if scale else []
    if modality.get("top"):
        steps.append(f"the {count(modality['top'], 'column')} of largest variance in the training part")
    if modality.get("groups"):
        steps.append(f"in the groups of {file_name(modality['groups'])}")
    return f"{name}, {columns}{source}" + (f" ({', '.join(steps)})" if steps else "")


def training_paragraph(study: Spec) -> str:
    """How the models that were trained here were trained; empty where none was."""
    own = {n: m for n, m in bag_models(study).items() if not is_foreign(m) and not is_untrained(m)}
    solved = {n: m for n, m in own.items() if is_solved(m)}
    stepped = {n: m for n, m in own.items() if n not in solved}
    sentences = [_solved_sentence(solved)] if solved else []
    tasks = study.get("tasks") or []
    unit = "spot" if tasks and all(unit_of(task) == "spot" for task in tasks) else "patient"
    sentences += _stepped_sentences(stepped, unit, everyone=not solved)
    traced = [name for name, m in stepped.items() if (m.get("training") or {}).get("trace")]
    if traced:
        sentences.append(
            f"Of {listed(traced)} the test part was also predicted after every epoch, to show what choosing the epoch "
            "there would add; no metric in the tables uses it."
        )
    if sentences and (losses := _losses(study, own)):
        sentences.append(losses)
    return " ".join(sentences)


def _solved_sentence(solved: Mapping[str, Spec]) -> str:
    names = list(solved)
    text = f"{_who(names)} {'is' if len(names) == 1 else 'are'} linear and {_were(names)} solved rather than stepped"
    ways = [f"{how} ({listed(mine)})" if len(mine) < len(names) else how for how, mine in _grouped(solved, _penalty)]
    return f"{text}, {'; '.join(ways)}."


def _penalty(model: Spec) -> str:
    fixed = (model.get("options") or {}).get("penalty")
    last = (model.get("training") or {}).get("epoch") == "last"
    also = " with the inner part trained on too" if last else ""
    if fixed is not None:
        return f"at a ridge penalty of {fixed:g}{also}"
    return (
        f"at the default ridge penalty{also}"
        if last
        else "over a path of ridge penalties of which the inner part chose"
    )


def _stepped_sentences(stepped: Mapping[str, Spec], unit: str, *, everyone: bool) -> list[str]:
    """How models were trained by steps: the first in full, of others what differs from it."""
    groups: list[tuple[dict[str, str], list[str]]] = []
    for name, model in stepped.items():
        settings = _settings(model.get("training") or {}, unit)
        same = next((names for known, names in groups if known == settings), None)
        if same is None:
            groups.append((settings, [name]))
        else:
            same.append(name)
    sentences = []
    for settings, names in groups:
        first = groups[0][0]
        who = "All models" if everyone and len(groups) == 1 and len(names) > 1 else _who(names)
        changed = [_changed(aspect, text) for aspect, text in settings.items() if text != first[aspect]]
        if settings is first:
            shown = [text for aspect, text in settings.items() if text and aspect != "epochs"]
            how = f"with AdamW ({'; '.join(shown)}) {settings['epochs']}"
        else:
            how = f"likewise, but {listed(changed)}"
        sentences.append(f"{who} {_were(names)} trained {how}.")
    return sentences


#: What is said of a setting that another model has and this one has not.
NONE = {
    "l1": "without an L1 penalty",
    "start": "its head starting at the trivial prediction",
    "tiles": "with all tiles of each",
    "sampling": "in shuffled order",
    "hidden": "with its modalities hidden as by default",
}


def _changed(aspect: str, text: str) -> str:
    """A setting that differs from another model's."""
    return NONE[aspect] if not text else text if aspect == "epochs" else f"with {text}"


def _settings(t: Spec, unit: str) -> dict[str, str]:
    """A training's settings in words, by aspect; empty where there is nothing to say."""
    t = Training().model_dump() | dict(t)
    return {
        "rate": f"learning rate {t['lr']:g}, {'falling as a cosine' if t['schedule'] == 'cosine' else 'constant'}",
        "decay": f"weight decay {t['weight_decay']:g}",
        "l1": f"an L1 penalty of all weights of {t['l1']:g}" if t["l1"] else "",
        "start": "the bias of the head starting at zero" if t["start"] == "zero" else "",
        "batch": f"at most {count(t['batch_size'], unit)} a step",
        "tiles": f"{count(t['max_tiles'], 'tile')} of each drawn a step" if t["max_tiles"] else "",
        "sampling": ""
        if t["sampling"] == "shuffle"
        else f"{unit}s drawn with equal chance of each class, or of each time interval and event",
        "hidden": _hidden(t["modality_dropout"], unit),
        "epochs": _epochs(t),
    }


def _hidden(share: float | None, unit: str) -> str:
    """How many patients a modality was hidden from, where the study says so."""
    return "" if share is None else f"each modality hidden from {number(100 * share, 0)}% of the {unit}s at a step"


def _epochs(t: Spec) -> str:
    """For how long, and which epoch was kept."""
    epochs = count(t["epochs"], "epoch")
    if t["epoch"] == "last":
        return f"for {epochs}, of which the last was kept, the inner part being trained on too"
    if t["trace"] or t["patience"] >= t["epochs"]:
        return f"for {epochs}, of which the one with the lowest loss on the inner part was kept"
    return (
        f"for at most {epochs}, stopped after {t['patience']} without a better loss on the inner validation part (not "
        f"before epoch {t['min_epochs']}), of whose epochs the best was kept"
    )


def _losses(study: Spec, own: Mapping[str, Spec]) -> str:
    """The loss of each kind of task."""
    kinds = {task["kind"] for task in study.get("tasks") or []}
    parts = []
    if "survival" in kinds:
        groups = _grouped(own, _survival_loss)
        ways = [loss if len(groups) == 1 else f"{loss} ({listed(names)})" for loss, names in groups]
        parts.append(f"survival, {listed(ways)}")
    if "classification" in kinds:
        parts.append("classification, cross-entropy without class weights")
    if kinds & {"regression", "expression"}:
        parts.append(
            f"{listed(sorted(kinds & {'regression', 'expression'}))}, the squared error of targets standardised on the "
            "training part"
        )
    text = f"Losses: {'; '.join(parts)}." if parts else ""
    if shifted := [name for name, m in own.items() if is_shifted(m, kinds)]:
        text += (
            f" Predicted probabilities of {listed(shifted)}, not the risks, were shifted to the training part's shares "
            "of the classes or events of the intervals, which the weighting of patients had changed."
        )
    return text


def is_shifted(model: Spec, kinds: set[str]) -> bool:
    """Whether predictions are recalibrated after the training: patients counted unequally in it."""
    t = model.get("training") or {}
    balanced, likelihood = t.get("sampling") == "balanced", (t.get("loss") or "nll") == "nll"
    return (balanced and "classification" in kinds) or (
        "survival" in kinds and likelihood and (balanced or bool(t.get("alpha")))
    )


def _survival_loss(model: Spec) -> str:
    t = model.get("training") or {}
    match t.get("loss") or "nll":
        case "cox":
            return "Cox's partial likelihood with Breslow's baseline"
        case "rank":
            return "a smooth concordance (Luck et al., 2018) whose curves come from a Cox model of the score"
        case _:
            alpha = f", censored patients weighing {number(1 - t['alpha'], 2)}" if t.get("alpha") else ""
            return (
                f"the discrete-time likelihood (Zadeh and Schmid, IEEE TPAMI 2021) over {t.get('bins', 4)} intervals "
                f"at quantiles of the training part's event times{alpha}"
            )


def _grouped(models: Mapping[str, Spec], key: Callable[[Spec], str]) -> list[tuple[str, list[str]]]:
    """Names by what a function says of each model, in order."""
    groups: dict[str, list[str]] = {}
    for name, model in models.items():
        groups.setdefault(key(model), []).append(name)
    return list(groups.items())


def _who(names: Sequence[str]) -> str:
    return f"The model{'s' if len(names) > 1 else ''} {listed(list(names))}"


def _were(names: Iterable[str]) -> str:
    return "was" if len(list(names)) == 1 else "were"
