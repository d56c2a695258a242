"""Segmentation in the methods: what was annotated, what was learned from it, and how it was scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histostudy.report.numbers import count, listed

MU = "\N{MICRO SIGN}m"
Spec = Mapping[str, Any]
PHRASES = {
    "unet": "a U-Net on patches (as NoCodeSeg, Front Med 2022)",
    "h2g": "a MobileNetV2 that classes tiles, whose heat map a U-Net refines with the slide at low resolution "
    "(H2G-Net, arXiv 2112.03455, our reading)",
}

#: Tiles a step of h2g's first stage where the study does not say (`H2GOptions`).
TILE_BATCH = 32


def segmentations(study: Spec) -> list[Spec]:
    """The study's tasks of kind segmentation."""
    return [task for task in study.get("tasks") or [] if task["kind"] == "segmentation"]


def drawn_classes(task: Spec) -> list[str]:
    """The classes that are predicted."""
    return [name for name in task["classes"] if name not in ("background", "ignore")]


def segmentation_text(task: Spec) -> str:
    """What a task predicts: `tumour and stroma at 2 um per pixel, from annotations`."""
    rest = "background" if task.get("unannotated", "background") == "background" else "left out"
    return (
        f"{listed(drawn_classes(task))} at {task['mpp']:g} {MU} per pixel, as drawn by hand; tissue that "
        f"nobody drew on is {rest}"
    )


def segmentation_paragraph(study: Spec) -> str:
    """How pixels were learned and scored; empty without such a task."""
    tasks = segmentations(study)
    if not tasks:
        return ""
    models = {name: m for name, m in (study.get("models") or {}).items() if m.get("segmenter")}
    text = "Segmentation: annotations of each slide were rastered to a class a pixel"
    if any(len(drawn_classes(task)) > 1 for task in tasks):
        text += "; where two overlap, the later class of the study counts"
    text += ". "
    for name, model in models.items():
        what = PHRASES.get(str(model["segmenter"]), str(model["segmenter"]))
        t = model.get("training") or {}
        batch = f"{t.get('batch_size', 0)} patches"
        epochs, rate = count(t.get("epochs", 0), "epoch"), f"learning rate {t.get('lr')}"
        recipe = f"trained for at most {epochs} with AdamW ({rate}, {batch} a step, Dice loss plus cross-entropy)"
        if model["segmenter"] == "h2g":
            tiles = (model.get("options") or {}).get("tile_batch", TILE_BATCH)
            recipe = (
                f"each stage trained for at most {epochs} with AdamW ({rate}; the first with cross-entropy on the "
                f"share of each class in a tile, {count(tiles, 'tile')} a step, the second with Dice loss plus "
                f"cross-entropy, {batch} a step)"
            )
        text += (
            f"{name} is {what}, {recipe} on patches drawn with equal chance of each class, then of each slide that "
            "has it, then of each place, and read from the slide as training went. "
        )
    text += (
        "The inner validation part chose the epoch and the threshold of the foreground. Test slides were predicted in "
        "overlapping windows, blended, on tissue alone. Controls: prior calls all tissue the commonest class of the "
        "training part; colour is a logistic regression on the colour of a pixel. Dice, intersection over union and "
        "recall are of the slides that hold a class, precision of those where it was called; each is a mean over a "
        "patient's slides, then over patients, then over classes."
    )
    return text
