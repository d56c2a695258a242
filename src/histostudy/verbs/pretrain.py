"""The verb that makes a study's own encoder of the tiles of its cohort, without labels."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.errors import ConfigError, EncoderError, StudyError
from histostudy.files import read_json
from histostudy.layout import Layout
from histostudy.pretrain_keys import Pretrain
from histostudy.study import Features, Study
from histostudy.studyfile import load_study
from histostudy.tasks import Classification

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from histostudy.encoders.pretraining.data import Normalise, TileSource
    from histostudy.encoders.pretraining.teachers import HeadTeacher, Teacher

logger = logging.getLogger(__name__)


def pretrain_study(study_file: Path, shards: int = 1) -> None:
    """Make the encoder that a study's `pretrain` section asks for.

    With `processes` above 1 it is started so many times by torchrun; a process that torchrun started joins the others.

    Raises
    ------
    ConfigError
        If the study has no `pretrain` section.
    StudyError
        If the tiles were not laid yet, or the processes failed.
    """
    study = load_study(study_file)
    settings = study.pretrain
    if settings is None:
        raise ConfigError("the study has no pretrain section", where=study_file, todo="add it")
    if settings.processes > 1 and "WORLD_SIZE" not in os.environ:
        _by_torchrun(study_file, shards, settings.processes)
        return
    from histostudy.encoders.pretraining.loop import pretrain

    layout, device = Layout(study), _device(settings)
    source, normalise, about = _source(study, layout, shards)
    pretrain(
        settings, source, layout.encoder, seed=study.seed, mpp=None if settings.images else study.tiles.mpp,
        teacher=_teacher(study, settings, device), normalise=normalise, stain=_stain_of(study), device=device,
        about=about,
    )  # fmt: skip


def check_pretraining(study: Study) -> None:
    """Build and try the network that a study would train, and know its teacher's name.

    Raises
    ------
    StudyError
        For an unknown network or teacher, an option that cannot be, crops that the network cannot take.
    """
    from histostudy.encoders.pretraining.data import side_of
    from histostudy.encoders.pretraining.trial import try_student
    from histostudy.encoders.registry import facts_of

    settings = study.pretrain
    if settings is None:
        return
    try:
        try_student(settings, study.tiles.size if settings.images is None else side_of(settings.images))
        if settings.teacher is not None:
            facts_of(settings.teacher)
    except StudyError as error:
        raise ConfigError(error.what, where="pretrain", todo=error.todo) from None


def _by_torchrun(study_file: Path, shards: int, processes: int) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        "-m", "histostudy.cli", "pretrain", "--study", str(study_file), "--shards", str(shards),
    ]  # fmt: skip
    if done := subprocess.run(command, check=False).returncode:
        raise StudyError(f"pretraining by {processes} processes ended with {done}", todo="see the lines above")


def _device(settings: Pretrain) -> str:
    import torch

    if settings.device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if settings.device == "cuda":
        raise EncoderError("pretrain.device is cuda, and there is none here", todo="set it to auto or cpu")
    return "cpu"


def _source(study: Study, layout: Layout, shards: int) -> tuple[TileSource, Normalise | None, dict[str, Any]]:
    """Tiles, what normalises them, and what the card says of them."""
    from histostudy.encoders.pretraining.data import ImageFolder, SlideTiles
    from histostudy.verbs.slides import joined_shards, located
    from histostudy.verbs.tables import slides_of

    settings = study.pretrain
    assert settings is not None
    if settings.images is not None:
        return ImageFolder(settings.images), None, {"folder": settings.images.name}
    for folder in (layout.slides, layout.tiles):
        if not any(layout.shard(folder, i).exists() for i in range(shards)):
            raise StudyError("no such index", where=folder, todo="run the stages before this one, or give --shards")
    wanted = slides_of(study, layout)
    slides, tiles = (joined_shards(layout, f, shards, wanted["slide_id"]) for f in (layout.slides, layout.tiles))
    chosen = chosen_patients(study, layout)
    wanted = wanted[wanted["patient_id"].isin(chosen)]
    slides = slides[slides["slide_id"].isin(wanted["slide_id"])]
    slides = located(study, layout, slides)
    source = SlideTiles(slides, tiles[tiles["slide_id"].isin(slides["slide_id"])], layout.tiles, study.tiles)
    about = {"cohort": study.cohort.name, "patients": int(wanted["patient_id"].nunique())}
    if settings.where:
        about["patients_chosen_by"] = ", ".join(f"{k} {v}" for k, v in settings.where.items())
    return source, _normaliser(study, layout, slides, tiles), about


def chosen_patients(study: Study, layout: Layout) -> set[str]:
    """Patients whose tiles are learned from.

    Raises
    ------
    TableError
        If a column of `where` is not there, or no patient has its value.
    """
    from histostudy.cohort.outcomes import outside
    from histostudy.verbs.tables import read

    settings = study.pretrain
    cohort = read(study, layout)
    everybody = set(cohort.patients["patient_id"])
    if settings is None or not settings.where:
        return everybody
    asked = Classification(name="pretrain", kind="classification", target="-", where=settings.where)
    return everybody - set(outside(asked, cohort.patients, cohort.source))


def _normaliser(study: Study, layout: Layout, slides: pd.DataFrame, tiles: pd.DataFrame) -> Normalise | None:
    """What gives a tile the target's stain; the stain of a slide is fitted when its first tile is read."""
    stain = study.pretrain.stain if study.pretrain is not None else None
    if stain is None:
        return None
    from histostudy.features.staining import load_normaliser, slide_pixels
    from histostudy.slides.reader import open_indexed
    from histostudy.tiles.store import read_tiles

    normaliser = load_normaliser(stain, study.tiles)
    of, files = slides.set_index("slide_id"), tiles.set_index("slide_id")["file"]
    fits: dict[str, Any] = {}

    def normalise(tile: np.ndarray, slide_id: str) -> np.ndarray:
        if slide_id not in fits:
            coords = read_tiles(layout.tiles / files[slide_id]).coords
            with open_indexed(of.loc[slide_id]) as slide:
                fits[slide_id] = normaliser.fit(slide_pixels(slide, coords, study.tiles))
        return normaliser.apply(tile[None], fits[slide_id])[0]

    return normalise


def _stain_of(study: Study) -> dict[str, Any] | None:
    """Identity of what `_normaliser` gives."""
    from histostudy.codeversion import code_version
    from histostudy.features.staining import load_normaliser, stain_identity

    stain = study.pretrain.stain if study.pretrain is not None else None
    if stain is None:
        return None
    return stain_identity(load_normaliser(stain, study.tiles)) | {"code_slide": code_version(__name__)}


def _teacher(study: Study, settings: Pretrain, device: str) -> Teacher | HeadTeacher | None:
    """Of a distillation: an encoder made here with its heads, or any encoder that a study could name."""
    if settings.method != "distil":
        return None
    from histostudy.encoders.pretraining.release import CONFIG, check_stains
    from histostudy.encoders.pretraining.teachers import HeadTeacher, has_heads, teacher_of
    from histostudy.encoders.registry import load_encoder

    checkpoint = settings.teacher_checkpoint
    if settings.match == "heads" or (settings.match == "auto" and has_heads(checkpoint)):
        if checkpoint is None:
            raise EncoderError(
                f"the heads of {settings.teacher} are not public",
                todo="take match: features, or give teacher_checkpoint",
            )
        if (checkpoint / CONFIG).is_file():
            check_stains(read_json(checkpoint / CONFIG), settings.stain, "pretrain.stain")
        return HeadTeacher(checkpoint)
    features = Features(
        encoder=settings.teacher or "pretrained",
        checkpoint=checkpoint,
        allow_mpp_mismatch=study.features.allow_mpp_mismatch,
        stain=settings.stain,
    )
    side = settings.views.size or study.tiles.size
    scale = 1.0 if settings.images else study.tiles.size / side  # a whole tile in `side` pixels
    return teacher_of(load_encoder(features, study.tiles.mpp * scale, device, side))
