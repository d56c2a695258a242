"""Train the tissue network of a study: weights, card and measured table."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histostudy.codeversion import code_version
from histostudy.errors import ConfigError
from histostudy.files import digest_of, listing, sha256, write_table, write_text
from histostudy.seeds import derive_seed
from histostudy.simulate.thumbnails import draw_thumbnail
from histostudy.tissue.picture import Picture, augment
from histostudy.tissue_keys import TrainTissue

logger = logging.getLogger(__name__)

WEIGHTS, CARD, MEASURED, HISTORY = FILES = ("unet.safetensors", "unet.md", "measured.csv", "history.csv")
#: Scales that tissue and pen are told at, and those of overviews, where sections are; um/px.
FINE_MPP, COARSE_MPP = (7.0, 17.0), (8.0, 40.0)


def train_tissue_of_study(study_file: Path) -> None:
    """Train the tissue network that a study describes.

    Raises
    ------
    ConfigError
        If the study has no `train_tissue`.
    """
    from histostudy.layout import Layout
    from histostudy.studyfile import load_study

    study = load_study(study_file)
    if study.train_tissue is None:
        raise ConfigError("the study has no train_tissue", where=study_file, todo="add it")
    train_tissue(study.train_tissue, study.seed, Layout(study).trained_tissue)


def train_tissue(settings: TrainTissue, seed: int, out_dir: Path) -> pd.DataFrame:
    """Draw pictures, train the network on them, measure it on others, and write all of it down.

    Parameters
    ----------
    settings : TrainTissue
    seed : int
        Of the study.
    out_dir : Path
        Takes `unet.safetensors`, `unet.md`, `measured.csv` and `history.csv`. A training that was stopped goes on.

    Returns
    -------
    DataFrame
        `measured.csv`: what, estimate (mean), sd, n, of the drawn pictures that were not learned from.
    """
    import cv2
    import torch

    from histostudy.tissue.learn import build, fit
    from histostudy.tissue.network import save
    from histostudy.training.determinism import deterministic

    out_dir.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    real = read_real(settings.real) if settings.real is not None else []
    data = listing(settings.real) if settings.real is not None else []
    identity = digest_of([settings.model_dump(mode="json"), seed, data, code_version(__name__)])
    first = derive_seed(seed, "train_tissue", "learn")

    @cache
    def drawn(number: int) -> Picture:
        return draw(first, number, settings.size_px)

    def batch(step: int) -> list[Picture]:
        rng = np.random.default_rng((first, 1, step))
        pictures = []
        for _ in range(settings.batch_size):
            if real and rng.random() < settings.real_share:
                picture = crop(rng, real[int(rng.integers(len(real)))], settings.size_px)
            else:
                picture = drawn(int(rng.integers(settings.pictures)))
            pictures.append(augment(rng, picture))
        return pictures

    with deterministic(first):
        network = build(settings, first)
        history = fit(network, batch, settings, out_dir, identity)
    about = {"offset_px": repr(settings.offset_px)}
    save(network.to(memory_format=torch.contiguous_format), out_dir / WEIGHTS, about)
    measured = measure(out_dir / WEIGHTS, settings, derive_seed(seed, "train_tissue", "test"))
    write_table(out_dir / HISTORY, pd.DataFrame(history))
    write_table(out_dir / MEASURED, measured)
    write_text(out_dir / CARD, card(settings, seed, len(real), sha256(out_dir / WEIGHTS), measured))
    (out_dir / "checkpoint.pt").unlink(missing_ok=True)
    return measured


def draw(seed: int, number: int, size_px: int) -> Picture:
    """Picture `number` of a set: two of three at the scale of thumbnails, the others overviews."""
    rng = np.random.default_rng((seed, 0, number))
    least, most = FINE_MPP if rng.random() < 0.65 else COARSE_MPP
    return draw_thumbnail(rng, (size_px, size_px), float(np.exp(rng.uniform(np.log(least), np.log(most)))))


def read_real(folder: Path) -> list[Picture]:
    """Real thumbnails with their truth: ``<name>.png`` and ``<name>_tissue.png``, perhaps with pen and sections.

    Raises
    ------
    ConfigError
        If there is none, or a truth has another size than its picture.
    """
    import cv2

    pictures = []
    for truth in sorted(folder.glob("*_tissue.png")):
        stem = truth.name.removesuffix("_tissue.png")
        rgb = cv2.imread(str(folder / f"{stem}.png"), cv2.IMREAD_COLOR_RGB)
        if rgb is None:
            raise ConfigError("a truth without its picture", where=truth, todo=f"add {stem}.png")
        masks: list[Any] = []
        for kind in ("tissue", "pen", "sections"):
            file = folder / f"{stem}_{kind}.png"
            mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) if file.exists() else None
            if mask is not None and mask.shape != rgb.shape[:2]:
                raise ConfigError(f"{mask.shape} is not the size of its picture, {rgb.shape[:2]}", where=file)
            masks.append(mask)
        tissue = masks[0] > 0
        pen = np.zeros_like(tissue) if masks[1] is None else masks[1] > 0
        sections = tissue.astype(np.int32) if masks[2] is None else masks[2].astype(np.int32)
        pictures.append(Picture(np.asarray(rgb, np.uint8), tissue & ~pen, pen, sections))
    if not pictures:
        raise ConfigError("no <name>_tissue.png in it", where=folder, todo="see train_tissue.real")
    return pictures


def crop(rng: np.random.Generator, picture: Picture, size_px: int) -> Picture:
    """A square part of a picture, mirrored at its edges where it is too small."""
    height, width = picture.tissue.shape
    grow = [(0, max(0, size_px - height)), (0, max(0, size_px - width))]
    picture = picture.each(lambda a: np.pad(a, grow + [(0, 0)] * (a.ndim - 2), mode="symmetric"))
    top, left = (int(rng.integers(side - size_px + 1)) for side in picture.tissue.shape)
    return picture.each(lambda a: a[top : top + size_px, left : left + size_px])


def measure(weights: Path, settings: TrainTissue, seed: int) -> pd.DataFrame:
    """Dice of tissue and pen, and the error of the count of sections, on drawn pictures."""
    from histostudy.tissue.registry import segment

    rows = []
    for number in range(settings.test):
        picture = draw(seed, number, settings.size_px)
        found = segment(picture.rgb, FINE_MPP[0], "unet", {"sections": True}, weights)
        row = {"tissue_dice": _dice(found.tissue, picture.tissue), "pen_dice": _dice(found.pen, picture.pen)}
        truth = len(np.unique(picture.labels[picture.tissue]))
        if truth and found.sections is not None:
            row["count_error"] = float(abs(len(np.unique(found.sections[found.tissue])) - truth))
        rows.append(row)
    table = pd.DataFrame(rows)
    out = pd.DataFrame({"estimate": table.mean(), "sd": table.std(), "n": table.count()})
    return out.rename_axis("what").reset_index()


def _dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient; NaN where there is nothing to find and nothing was found."""
    total = int(found.sum() + truth.sum())
    return 2 * float((found & truth).sum()) / total if total else float("nan")


def card(settings: TrainTissue, seed: int, real: int, sha: str, measured: pd.DataFrame) -> str:
    """The model card, in markdown."""
    lines = [
        "# Tissue network",
        "",
        "A U-Net with three decoders (tissue, pen, offset from the centre of the section) for thumbnails of slides at "
        f"{FINE_MPP[0]:g} to {FINE_MPP[1]:g} um/px; the architecture is after SlideSegmenter (arXiv 2401.13511), code "
        "and weights are not.",
        "",
        f"- data: {settings.pictures} drawn thumbnails (histostudy.simulate.thumbnails; no pixel of any slide)"
        + (f" and {real} real ones" if real else ""),
        f"- training: {settings.steps} steps of {settings.batch_size} pictures of {settings.size_px} px, seed {seed}",
        "- made by: `histostudy train-tissue --study STUDY.yaml`",
        f"- SHA-256 of the weights: `{sha}`",
        "",
        f"Measured on {settings.test} drawn thumbnails that it did not learn from:",
        "",
        "| what | mean | s.d. | n |",
        "|---|---|---|---|",
    ]
    lines += [f"| {r.what} | {r.estimate:.3f} | {r.sd:.3f} | {r.n} |" for r in measured.itertuples()]
    return "\n".join(lines) + "\n"
