"""The verb that makes the pairs of a shard for the recipe `histaug`, and what training reads them with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.errors import ConfigError, StudyError
from histostudy.features.pairs import PairReader, PairSettings
from histostudy.files import write_table
from histostudy.layout import shard_count
from histostudy.study import Study
from histostudy.verbs.slides import _needed, _open, device_of, joined_shards, slides_here

if TYPE_CHECKING:
    from histostudy.verbs.tables import Tables

logger = logging.getLogger(__name__)


def pairs_of_study(study: Study) -> dict[str, PairSettings]:
    """The pairs that the models of a study learn from, by the name of their folder."""
    wanted = [PairSettings.of(model.recipe) for model in study.models.values()]
    return {settings.name: settings for settings in wanted if settings is not None}


def pairs_shard(study_file: Path, name: str, shard: tuple[int, int]) -> None:
    """Encode drawn tiles, and changed versions of them, of the slides of a shard.

    Raises
    ------
    ConfigError
        If no model of the study learns from such pairs, or there are no images of tiles.
    """
    from histostudy.features.pairing import pair_slides

    study, layout = _open(study_file)
    known = pairs_of_study(study)
    if name not in known:
        raise ConfigError(f"no pairs {name!r}", where=study_file, todo=f"pairs: {', '.join(known) or 'none'}")
    check_pairs(study)
    number, _ = shard
    folder = known[name].folder(layout.features)
    index = pair_slides(
        slides_here(study, layout, number), _needed(layout.shard(layout.tiles, number)), layout.tiles,
        study.features, study.tiles, known[name], folder, device=device_of(study.features),
    )  # fmt: skip
    write_table(layout.shard(folder, number), index)


def check_pairs(study: Study) -> None:
    """Refuse the recipe where there are no images to change.

    Raises
    ------
    ConfigError
        If the features are another tool's, or drawn.
    """
    if study.features.encoder is None or not study.has_slides:
        raise ConfigError(
            "recipe histaug needs the images of tiles, and precomputed or drawn features have none",
            todo="give slides and features.encoder, or leave the recipe out",
        )


def load_pairs(tables: Tables, model: str) -> PairReader | None:
    """What reads the pairs that a model learns from; None for one that learns from none.

    Raises
    ------
    StudyError
        If they were not made.
    """
    spec = tables.study.models.get(model)
    settings = None if spec is None else PairSettings.of(spec.recipe)
    if settings is None:
        return None
    folder = settings.folder(tables.layout.features)
    shards = shard_count(len(tables.cohort.slides), tables.study.cohort.shard_size)
    if not any(folder.glob("shard-*.parquet")):
        raise StudyError("no pairs have been made", where=folder, todo="run the study: histostudy run FILE")
    index = joined_shards(tables.layout, folder, shards, tables.cohort.slides["slide_id"])
    index = index[index["status"] == "ok"]
    index = index.merge(tables.good[["slide_id", "patient_id"]], on="slide_id", validate="one_to_one")
    return PairReader(folder, index, settings)
