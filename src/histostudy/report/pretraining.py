"""What the methods say of an encoder that was made here: by this study, or before it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histostudy.files import read_json
from histostudy.report.numbers import count, listed

Spec = Mapping[str, Any]

_HOW = {
    "dino": "by self-distillation over crops (DINO)",
    "ibot": "by self-distillation over crops and masked patches (iBOT)",
    "distil": "by distillation of the encoder {teacher}",
}


def pretraining_text(study: Spec) -> str:
    """Sentences on how the encoder was made and whose tiles it saw; empty where none was made here.

    Tiles of tested patients among those it learned from make the encoder transductive: their images were seen, their
    outcomes were not. The report must say so.
    """
    pretrain, features = study.get("pretrain"), study.get("features") or {}
    made = made_config(features.get("checkpoint")) if pretrain or features.get("encoder") == "pretrained" else {}
    text = _own(study, pretrain, made) if pretrain else _before(study, made)
    if text and made.get("collapsed"):
        text += f" At the end of its training it had collapsed: {made['collapsed']}."
    return text


def made_config(folder: Any) -> dict[str, Any]:
    """What stands beside an encoder's weights; empty where it is not there."""
    file = Path(folder) / "config.json" if folder is not None else None
    return dict(read_json(file)) if file is not None and file.is_file() else {}


def _own(study: Spec, pretrain: Spec, made: Spec) -> str:
    network = pretrain["network"]
    if not pretrain["epochs"]:
        return f"The encoder, a {network}, was not trained at all: a control of what training adds."
    how = _HOW[pretrain["method"]].format(teacher=pretrain.get("teacher") or "made before")
    steps, epochs = pretrain.get("steps"), count(pretrain["epochs"], "epoch")
    length = f"at most {count(steps, 'step')} of {epochs}" if steps else epochs
    if "steps" in made:
        length = count(made["steps"], "step")
    text = f"The encoder, a {network}, was trained for this study {how}, without labels, for {length}"
    if pretrain.get("stain"):
        text += f", on tiles whose stains were normalised ({pretrain['stain']['method']})"
    if pretrain.get("images"):
        return (
            text + ", on a folder of images beside the cohort; whether tested patients are among them the study cannot "
            "tell."
        ) + _teacher(pretrain)
    if where := pretrain.get("where"):
        chosen = [f"{k} {' or '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in where.items()]
        alone = "" if pretrain["method"] == "distil" else " alone"
        text += f". It saw tiles of the patients with {listed(chosen)}{alone}; of tested patients among them it saw "
        return text + "the images, not the outcomes." + _of_folds(study, where) + _teacher(pretrain)
    return (
        text + ". It saw tiles of all patients of the cohort, those that were tested among them, without their "
        "outcomes (transductive): what it is worth on patients whose images it never saw was not measured."
    ) + _teacher(pretrain)


def _of_folds(study: Spec, where: Spec) -> str:
    """What it means that patients were chosen by the fold that tests them."""
    column = (study.get("splits") or {}).get("column")
    if column is None or column not in where:
        return ""
    given = where[column]
    folds = listed([str(one) for one in (given if isinstance(given, list) else [given])])
    return (
        f" The column {column} says which fold tests a patient: in fold {folds} the encoder had seen the images of the "
        "tested patients, in the others of none of them."
    )


def _teacher(pretrain: Spec) -> str:
    """Whose tiles the teacher of a distillation saw."""
    if pretrain["method"] != "distil":
        return ""
    saw = _saw(made_config(pretrain.get("teacher_checkpoint")))
    if saw:
        return f" Its teacher, made here before, had seen {saw}; what it knows of them the encoder was taught."
    return " What its teacher was trained on is told by the teacher's makers, if at all."


def _saw(made: Spec) -> str:
    """Tiles an encoder learned from, in words."""
    tiles = made.get("tiles") or {}
    if not tiles:
        return ""
    if "images" in tiles:
        return f"{count(tiles['images'], 'image')} of a folder"
    text = count(tiles["tiles"], "tile") if "tiles" in tiles else "tiles"
    if "slides" in tiles:
        text += f" of {count(tiles['slides'], 'slide')}"
    if "patients" in tiles:
        text += f" of {count(tiles['patients'], 'patient')}"
    if "cohort" in tiles:
        text += f" of the cohort {tiles['cohort']}"
    if "patients_chosen_by" in tiles:
        text += f", those with {tiles['patients_chosen_by']}"
    return text


def _before(study: Spec, made: Spec) -> str:
    """Of an encoder that a study before this one made."""
    if not made:
        return ""
    network = made.get("network", "network of its own")
    if not made.get("steps"):
        return f"The encoder, a {network}, was not trained at all: a control of what training adds."
    teacher = (made.get("teacher") or {}).get("encoder") or "made before"
    how = _HOW.get(made.get("method", ""), _HOW["distil"]).format(teacher=teacher)
    text = f"The encoder, a {network}, had been made before this study {how}, without labels, in "
    text += f"{count(made['steps'], 'step')}, of {_saw(made) or 'tiles that nobody noted'}"
    if made.get("stain"):
        text += f", their stains normalised ({made['stain']['method']})"
    if (made.get("tiles") or {}).get("cohort") == (study.get("cohort") or {}).get("name"):
        return text + (
            ". That is this study's cohort: of tested patients among them it saw the images, not the outcomes "
            "(transductive)."
        )
    return text + "; whether patients of this study are among them the study cannot tell."
