"""An encoder's folder: weights, what rebuilds the network, its history and a card that says what it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.errors import EncoderError
from histostudy.files import atomic, digest_of, files_of, fingerprint, sha256, write_json, write_table, write_text

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.encoders.pretraining.methods import Method
    from histostudy.pretrain_keys import Pretrain
    from histostudy.stain_keys import Stain

WEIGHTS, CONFIG, CARD, HISTORY = FILES = ("weights.safetensors", "config.json", "card.md", "history.csv")

HOW = {
    "dino": "self-distillation over crops (DINO, arXiv 2104.14294)",
    "ibot": "self-distillation over crops and masked patches (iBOT, arXiv 2111.07832)",
    "heads": "distillation on the prototypes of its teacher's own heads (H0-mini's recipe, arXiv 2501.16239)",
    "features": "distillation on its teacher's vectors: cosine and squared error through a linear projector. The "
    "teacher's own heads, which H0-mini's recipe (arXiv 2501.16239) asks for, were not there",
}


def stain_record(stain: Stain | None) -> dict[str, Any] | None:
    """The stain normalisation an encoder was made on: its method, and its target by name and content."""
    if stain is None:
        return None
    if stain.target is None:
        return {"method": stain.method, "target": None}
    if not stain.target.exists():
        raise EncoderError("no stain target", where=stain.target, todo="correct the key stain.target")
    digest = digest_of([fingerprint(file) for file in files_of(stain.target)])
    return {"method": stain.method, "target": stain.target.name, "target_digest": digest}


def check_stains(config: dict[str, Any], stain: Stain | None, what: str) -> None:
    """Refuse an encoder that was made on normalised stains where tiles come with others.

    Parameters
    ----------
    config : dict
        Its `config.json`.
    stain : Stain or None
        How the tiles are normalised that it is to see.
    what : str
        The key that says so.

    Raises
    ------
    EncoderError
        If method or target differ. An encoder of tiles as they are sees any, as one made elsewhere does.
    """
    made = config.get("stain")
    if made is None:
        return
    kept, given = ({k: v for k, v in (one or {}).items() if k != "target"} for one in (made, stain_record(stain)))
    if kept != given:
        target = "" if made.get("target") is None else f", target {made['target']}"
        raise EncoderError(
            f"encoder {config.get('name')} was made on tiles with normalised stains ({made['method']}{target})",
            todo=f"set {what} to the same",
        )


def release(
    out: Path,
    settings: Pretrain,
    method: Method,
    history: pd.DataFrame,
    size: int,
    mpp: float | None,
    seed: int,
    *,
    about: dict[str, Any],
    collapsed: str,
    steps: int,
    teacher: dict[str, Any] | None,
    on_heads: bool,
) -> str:
    """Write an encoder's folder; returns the SHA-256 of its weights.

    What is released is the moving average (DINO's teacher, not its student). Whole files in the order heads, weights,
    config, history, card.
    """
    from safetensors.torch import save_file

    from histostudy.encoders.pretraining.teachers import HEADS_FILE

    out.mkdir(parents=True, exist_ok=True)
    if heads := method.heads():
        with atomic(out / HEADS_FILE) as temporary:
            save_file(heads, temporary)
    else:
        (out / HEADS_FILE).unlink(missing_ok=True)
    with atomic(out / WEIGHTS) as temporary:
        save_file(method.average.weights(), temporary)
    digest = sha256(out / WEIGHTS)
    how = settings.method if settings.method != "distil" else ("heads" if on_heads else "features")
    views = settings.views
    config = {
        **method.student.config,
        "name": settings.name,
        "dim": method.student.dim,
        "variant": settings.variant,
        "mpp": mpp,
        "pretrained_cfg": {"input_size": [3, size, size], "mean": list(views.mean), "std": list(views.std)},
        "stain": stain_record(settings.stain),
        "method": how,
        "teacher": teacher,
        "settings": settings.model_dump(mode="json", exclude={"images", "teacher_checkpoint", "stain"}),
        "seed": seed,
        "steps": steps,
        "tiles": about,
        "collapsed": collapsed,
        "weights_sha256": digest,
    }
    write_json(out / CONFIG, config)
    write_table(out / HISTORY, history)
    write_text(out / CARD, _card(config, how, history))
    return digest


def _card(config: dict[str, Any], how: str, history: pd.DataFrame) -> str:
    last = history.iloc[-1].to_dict()
    tiles = ", ".join(f"{key} {value}" for key, value in config["tiles"].items())
    scale = "any scale" if config["mpp"] is None else f"{config['mpp']:g} um per pixel"
    side = config["pretrained_cfg"]["input_size"][-1]
    lines = [
        f"# {config['name']}",
        "",
        f"An encoder of tiles of {side} px at {scale}: tokens of {config['dim']} numbers, of which it gives "
        f"`{config['variant']}`.",
        f"Network {config.get('network', 'given')}. Made by {HOW[how]}, in {config['steps']:,} steps "
        f"of {config['settings']['batch_size']} tiles, seed {config['seed']}, without labels.",
        "",
        "| fact | value |",
        "|---|---|",
        f"| learned from | {tiles} |",
        f"| SHA-256 of the weights | {config['weights_sha256']} |",
    ]
    if config["teacher"]:
        lines.append(f"| teacher | {config['teacher'].get('encoder')} |")
        lines.append(f"| SHA-256 of the teacher's weights | {config['teacher'].get('weights_sha256')} |")
    if config["stain"]:
        lines.append(f"| stains normalised first | {config['stain']['method']} |")
    told = {k: v for k, v in last.items() if not (isinstance(v, float) and math.isnan(v))}
    lines += [f"| at the end: {key} | {value:.4g} |" for key, value in told.items()]
    lines += ["", "## Limits", ""]
    if config["collapsed"]:
        lines.append(f"**It collapsed: {config['collapsed']}.** Measure what it knows before you use it.")
    if not config["steps"]:
        lines.append("It is not trained at all: a control of what training adds.")
    lines += [
        "It saw the tiles named above and no others: on other tissue, stains, scanners or scales it is untried. Tiles "
        "of patients whom a study tests may be among them, without their labels; the study's report says so.",
        "",
        "`spread` is 1 where vectors point everywhere alike and 0 where all are one; `neighbours_own` is the share of "
        "a tile's nearest that are of its own slide or folder, beside its chance.",
        "",
    ]
    return "\n".join(lines)
