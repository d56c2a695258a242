"""Verbs that work on a shard of a cohort's slides, and the one that joins the shards."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.errors import StudyError
from histostudy.files import write_table
from histostudy.layout import Layout, shard_of
from histostudy.study import Features, Study
from histostudy.studyfile import load_study

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

#: What a row of a study's feature index says besides the file: one column a fact, from the stage that knows it.
FACTS = {
    "slides": [
        "mpp",
        "mpp_source",
        "mpp_metadata",
        "width_px0",
        "height_px0",
        "vendor",
        "backend",
        "thumbnail",
        "fingerprint",
    ],
    "tissue": ["tissue_area_um2", "sections", "pen_area_um2", "tissue_identity"],
    "tiles": ["mpp_effective", "size_px0"],
}


def _open(study_file: Path) -> tuple[Study, Layout]:
    study = load_study(study_file)
    return study, Layout(study)


def _index(path: Path) -> pd.DataFrame | None:
    import pandas as pd

    return pd.read_parquet(path) if path.exists() else None


def _needed(path: Path) -> pd.DataFrame:
    index = _index(path)
    if index is None:
        raise StudyError("no such index", where=path, todo="run the stage before this one for the same shard")
    return index


def slides_here(study: Study, layout: Layout, number: int) -> pd.DataFrame:
    """Index of the slides of a shard, with the paths that they have on this machine."""
    return located(study, layout, _needed(layout.shard(layout.slides, number)))


def located(study: Study, layout: Layout, index: pd.DataFrame) -> pd.DataFrame:
    """An index of slides, with their paths on this machine instead of those that the table gives."""
    from histostudy.verbs.tables import slides_of

    paths = slides_of(study, layout).set_index("slide_id")["path"]
    return index.assign(path=index["slide_id"].map(paths))


def inspect_shard(study_file: Path, shard: tuple[int, int]) -> None:
    """Open the slides of a shard and write what they are."""
    from histostudy.slides.stage import inspect_slides
    from histostudy.verbs.tables import slides_of

    study, layout = _open(study_file)
    number, shards = shard
    rows = slides_of(study, layout)
    rows = rows[[shard_of(slide, shards) == number for slide in rows["slide_id"]]]
    write_table(layout.shard(layout.slides, number), inspect_slides(rows, layout.slides))


def tissue_shard(study_file: Path, shard: tuple[int, int]) -> None:
    """Outline the tissue of the slides of a shard."""
    from histostudy.tissue.stage import segment_slides

    study, layout = _open(study_file)
    number, _ = shard
    path = layout.shard(layout.tissue, number)
    slides = slides_here(study, layout, number)
    write_table(path, segment_slides(slides, study.tissue, layout.tissue))


def tiles_shard(study_file: Path, shard: tuple[int, int]) -> None:
    """Lay the tiles of the slides of a shard."""
    from histostudy.tiles.stage import tile_slides

    study, layout = _open(study_file)
    number, _ = shard
    path = layout.shard(layout.tiles, number)
    slides = _needed(layout.shard(layout.slides, number))
    tissue = _needed(layout.shard(layout.tissue, number))
    write_table(path, tile_slides(slides, tissue, layout.tissue, study.tiles, layout.tiles))


def embed_shard(study_file: Path, shard: tuple[int, int], threads: int = 1) -> None:
    """Encode the tiles of the slides of a shard; all threads but one read tiles ahead, which changes no number."""
    from histostudy.features.stage import embed_slides

    study, layout = _open(study_file)
    number, _ = shard
    path = layout.shard(layout.features, number)
    slides = slides_here(study, layout, number)
    tiles = _needed(layout.shard(layout.tiles, number))
    index = embed_slides(
        slides, tiles, layout.tiles, study.features, study.tiles, layout.features, device=device_of(study.features),
        workers=threads,
    )  # fmt: skip
    write_table(path, index)


def device_of(features: Features) -> str:
    """Where an encoder runs: a GPU where there is one and the encoder has use for it."""
    if features.encoder == "builtin":
        return "cpu"  # statistics of tiles; torch is not even imported
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def join_slides(study_file: Path, shards: int) -> None:
    """Join the shards of the slides into the cohort's slide table; other tools' features have the table alone."""
    from histostudy.verbs.tables import slides_of

    study, layout = _open(study_file)
    if study.features.precomputed is None:
        slides = joined_shards(layout, layout.slides, shards, slides_of(study, layout)["slide_id"])
    else:
        slides = slides_of(study, layout)[["slide_id", "patient_id", "mpp"]]
        slides = slides.assign(mpp_source=slides["mpp"].notna().map({True: "table", False: ""}))
        slides = slides.assign(status="ok", reason="", detail="")
    write_table(layout.slides_table, slides.sort_values("slide_id", ignore_index=True))


def join_features(study_file: Path, shards: int) -> None:
    """Join the shards of all stages into the index of a study's features.

    Raises
    ------
    StudyError
        If more than `cohort.max_failed` of the slides failed, naming the commonest reason.
    """
    from histostudy.verbs.tables import slides_of

    study, layout = _open(study_file)
    wanted = slides_of(study, layout)[["slide_id", "patient_id"]]
    if study.features.precomputed is not None:
        from histostudy.features.stage import index_precomputed

        features = index_precomputed(wanted, study.features).merge(wanted, on="slide_id", validate="one_to_one")
    else:
        features = _computed(layout, shards, wanted["slide_id"])
    features = features.sort_values("slide_id", ignore_index=True)
    failed = features[features["status"] == "failed"]
    if len(failed) > study.cohort.max_failed * len(features):
        reasons = failed["reason"].value_counts()
        raise StudyError(
            f"{len(failed)} of {len(features)} slides failed (most often {reasons.index[0]}: {reasons.iloc[0]}, "
            f"first {failed['slide_id'].iloc[0]})",
            where=layout.slides_csv,
            todo="mend or exclude them, or raise cohort.max_failed",
        )
    write_table(layout.features_table, features)


def joined_shards(layout: Layout, folder: Path, shards: int, wanted: Iterable[str]) -> pd.DataFrame:
    """A stage's index over all shards: of each slide that is wanted the row of its shard.

    What other numbers of shards, or slides that the cohort no longer has, left behind lies there too, and is not read.

    Raises
    ------
    StudyError
        If no shard of the wanted slides has an index.
    """
    import pandas as pd

    members: dict[int, set[str]] = {}
    for slide in wanted:
        members.setdefault(shard_of(slide, shards), set()).add(slide)
    parts = []
    for shard, slides in sorted(members.items()):
        if (part := _index(layout.shard(folder, shard))) is not None:
            parts.append(part[part["slide_id"].isin(slides)])
    if not parts:
        raise StudyError(
            "no index of a shard of the study's slides", where=folder, todo="run the stage before this one"
        )
    return pd.concat(parts, ignore_index=True)


def _computed(layout: Layout, shards: int, wanted: Iterable[str]) -> pd.DataFrame:
    """One row a slide with the facts and the first failure of its stages; of tissue alone where nothing is embedded."""
    slides = joined_shards(layout, layout.slides, shards, wanted)
    stages = {"tissue": joined_shards(layout, layout.tissue, shards, wanted)}
    stages["tissue"]["tissue_identity"] = stages["tissue"]["identity"]
    if layout.study.uses_bags:
        stages["tiles"] = joined_shards(layout, layout.tiles, shards, wanted)
        features = joined_shards(layout, layout.features, shards, wanted)
    else:
        features = stages["tissue"][["slide_id", "status", "reason", "detail", "file", "sha256", "identity"]]
    joined = slides[["slide_id", "patient_id", *[c for c in FACTS["slides"] if c in slides]]]
    for name, stage in stages.items():
        joined = joined.merge(stage[["slide_id", *[c for c in FACTS[name] if c in stage]]], on="slide_id", how="left")
    joined = joined.merge(features, on="slide_id", how="left", validate="one_to_one")
    # the reason that counts is that of the first stage which failed
    for stage in (*reversed(stages.values()), slides):
        bad = stage[stage["status"] != "ok"].set_index("slide_id")
        hit = joined["slide_id"].isin(bad.index)
        for column in ("status", "reason", "detail"):
            joined.loc[hit, column] = joined.loc[hit, "slide_id"].map(bad[column])
    return joined
