"""Tasks of labelled tiles in the methods: how tiles were seen, by what they were told apart, against what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from histostudy.report.numbers import count, number

MU = "\N{MICRO SIGN}m"
Spec = Mapping[str, Any]
KIND = "tile_classification"


def labelled_text(task: Spec) -> str:
    """What a task predicts: `target label of the tiles of tiles.csv`."""
    positive = f", positive class {task['positive']}" if task.get("positive") else ""
    scale = f", seen at {number(task['mpp'], 2)} {MU} per pixel" if task.get("mpp") else ""
    return f"target {task.get('target')} of the tiles of {PurePath(str(task.get('table'))).name}{scale}{positive}"


def labelled_paragraph(study: Spec) -> str:
    """How labelled tiles were told apart; empty without such a task."""
    if not any(task["kind"] == KIND for task in study.get("tasks") or []):
        return ""
    encoder = (study.get("features") or {}).get("encoder")
    said = [_phrase(n, m, encoder) for n, m in (study.get("models") or {}).items() if m.get("classifier")]
    text = f"Labelled tiles were encoded once, frozen, with the encoder {encoder}. "
    text += f"Models: {'; '.join(said)}. " if said else ""
    return text + (
        "Controls of labelled tiles: prior, the shares of the classes in the training part; colour, the same linear "
        "probe of a tile's mean red, green and blue. Retrieval (knn, colour): whether a tile of the class is among the "
        "1, 3 or 5 nearest of the training part by cosine, and the mean average precision of the ranking. All tiles of "
        "a patient are in one part, and intervals resample patients with all their tiles."
    )


def _phrase(name: str, model: Spec, encoder: Any) -> str:
    options, t = model.get("options") or {}, model.get("training") or {}
    scaled = "standardised, " if options.get("standardise") else ""
    match model["classifier"]:
        case "linear_probe":
            fixed = options.get("penalty")
            by = "on the inner part" if t.get("epoch", "inner") == "inner" else "over parts of the training patients"
            how = f"at {fixed:g}" if fixed is not None else f"chosen {by} from a path"
            what = f"multinomial logistic regression on standardised vectors, solved by L-BFGS, its ridge penalty {how}"
        case "knn":
            near, unit = options.get("distance", "cosine"), "centred and of length 1"
            vectors = scaled + unit if options.get("normalise", True) else scaled.rstrip(", ") or "as they are"
            what = (
                f"the {options.get('k', 20)} nearest tiles of the training and inner parts ({near}), vectors {vectors}"
            )
            if options.get("weights") == "similarity":
                what += ", votes weighted by exp((1 - distance) / 0.07)"
        case "prototypes":
            draws = int(options.get("draws", 100))
            what = (
                "the nearest class mean of the training and inner parts (SimpleShot, arXiv 1911.04623, as UNI, Nature "
                f"Medicine 2024), vectors {scaled}centred and of length 1; few-shot curve over {count(draws, 'draw')}"
            )
        case "finetune":
            parts = {"all": "whole", "last_block": "in its last block", "head": "not at all, only its linear head"}
            tuned = parts[options.get("train", "all")]
            rate = (
                f"learning rate {options.get('encoder_lr', 1e-5):g} of the encoder, {t.get('lr', 0.001):g} of the head"
            )
            what = f"{encoder}, tuned {tuned} ({rate}), {_steps(t, options)}"
        case _:
            what = (
                "DCT-HistoTransformer (arXiv 2410.19166, our reading), attention over low frequencies beside mobile "
                f"convolutions, from pixels (learning rate {t.get('lr', 0.001):g}), {_steps(t, options)}"
            )
    return f"{name}, {what}"


def _steps(t: Spec, options: Spec) -> str:
    kept = "the last kept" if t.get("epoch") == "last" else "of which the inner part chose"
    changed = {"none": "without augmentation", "light": "tiles turned, flipped and recoloured"}
    how = changed.get(options.get("augment", "light"), "tiles turned, flipped, recoloured, cropped and blurred")
    return f"by AdamW on the cross-entropy for at most {count(t.get('epochs', 0), 'epoch')}, {kept}; {how}"


def chosen_of(models: Mapping[str, Spec]) -> list[str]:
    """What the inner part chose of models of labelled tiles: the epoch of networks, the penalty of probes."""
    asked = [m for m in models.values() if (m.get("training") or {}).get("epoch", "inner") == "inner"]
    probes = [m for m in asked if m.get("classifier") == "linear_probe"]
    epochs = any(m.get("classifier") in ("finetune", "dct_histotransformer") for m in asked)
    penalties = any((m.get("options") or {}).get("penalty") is None for m in probes)
    return ["the epoch"] * epochs + ["the ridge penalty"] * penalties
