"""The verbs about stain: what the stain of each slide is, and the audit of the feature space (`audit: stain`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histostudy.encoders.stain.change import VERSIONS, changed
from histostudy.encoders.stain.fit import StainFit, fit_macenko
from histostudy.encoders.stain.normaliser import NORMALISERS, Normaliser, sample_pixels
from histostudy.errors import ConfigError, StudyError
from histostudy.features.staining import FIT_PIXELS, describe_slides, load_normaliser, normalise, spaced
from histostudy.files import write_table
from histostudy.layout import shard_count
from histostudy.seeds import derive_seed
from histostudy.verbs.slides import _needed, _open, device_of, joined_shards, slides_here

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.encoders.base import Encoder
    from histostudy.evaluation.stain_audit import Encoded
    from histostudy.study import Study
    from histostudy.verbs.tables import Tables

logger = logging.getLogger(__name__)

#: Slides that are looked at (one a patient), tiles of them in all, fewest tiles a slide (its neighbours must be there).
SLIDES, TILES, LEAST = 20, 200, 6
#: Tiles that are shown to the encoder in every version: ten times and more those of the first question.
CHANGED = 100


def stain_shard(study_file: Path, shard: tuple[int, int]) -> None:
    """Write what the stain of each slide of a shard is."""
    study, layout = _open(study_file)
    number, _ = shard
    index = describe_slides(
        slides_here(study, layout, number), _needed(layout.shard(layout.tiles, number)), layout.tiles,
        study.tiles, layout.stain,
    )  # fmt: skip
    write_table(layout.shard(layout.stain, number), index)


def audit_study(study_file: Path) -> None:
    """Run the audits that a study asks for and write their tables.

    Raises
    ------
    ConfigError
        If it asks for none, or has no pixels.
    StudyError
        If too few slides have tiles, or the stage before this one has not run.
    """
    from histostudy.evaluation.stain_audit import audit_table
    from histostudy.verbs.tables import load_tables

    tables = load_tables(study_file)
    study, layout = tables.study, tables.layout
    if "stain" not in study.audit:
        raise ConfigError("the study asks for no audit", where=study_file, todo="add `audit: stain`")
    write_table(layout.audit("slides"), _slides_table(tables))
    chosen = choose_slides(_sited(tables), derive_seed(study.seed, "audit", "stain"))
    tested = examine(tables, chosen)
    table = audit_table(
        tested, study.features.stain.method if study.features.stain else "none", resamples=study.compare.resamples,
        confidence=study.compare.confidence, seed=derive_seed(study.seed, "audit", "resamples"),
    )  # fmt: skip
    write_table(layout.audit("audit"), table)


def choose_slides(index: pd.DataFrame, seed: int, most: int = SLIDES) -> pd.DataFrame:
    """Slides to look at: one a patient with tiles enough, in turn from every site, shuffled.

    Parameters
    ----------
    index : DataFrame
        slide_id, patient_id, site, n_tiles.
    seed : int
    most : int

    Raises
    ------
    StudyError
        If there are fewer than two.
    """
    import pandas as pd

    rich = index[index["n_tiles"] >= LEAST].sort_values("slide_id")
    one = rich.drop_duplicates("patient_id").reset_index(drop=True)
    if len(one) < 2:
        raise StudyError(
            f"{len(one)} patients have a slide of {LEAST} tiles or more", todo="an audit of stain needs two of them"
        )
    one = one.iloc[np.random.default_rng(seed).permutation(len(one))]
    turn = one.groupby("site").cumcount()
    order = pd.DataFrame({"turn": turn, "site": one["site"]}).sort_values(["turn", "site"], kind="stable").index
    return one.loc[order[:most]].sort_values("slide_id", ignore_index=True)


def examine(tables: Tables, chosen: pd.DataFrame) -> dict[str, Encoded]:
    """Encode the same tiles raw and under every method, some of them in every version of stain and scanner.

    The stain of a slide, raw or changed, is fitted to the tiles of it that are looked at.
    """
    from histostudy.encoders.registry import load_encoder
    from histostudy.evaluation.stain_audit import Encoded, without_units
    from histostudy.log import progress

    study = tables.study
    device = device_of(study.features)
    encoder = load_encoder(study.features, study.tiles.mpp, device, study.tiles.size)
    images = {row["slide_id"]: _read(tables, row, TILES // len(chosen)) for row in chosen.to_dict("records")}
    fits = {slide: fit_macenko(_pixels(tiles)) for slide, tiles in images.items()}
    # of every slide the same share, at least one
    each = {slide: spaced(len(tiles), max(1, CHANGED // len(images))) for slide, tiles in images.items()}
    lengths = [len(tiles) for tiles in images.values()]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    picked = np.concatenate([start + each[slide] for start, slide in zip(starts, images, strict=True)])
    facts = chosen.set_index("slide_id")
    slides = np.repeat(list(images), lengths)
    out = {}
    for method, normaliser in progress(list(_methods(study).items()), "stain audit"):
        whole, failed = _encoded(images, normaliser, encoder, study, device)
        versions = []
        for version in VERSIONS:
            moved = {slide: changed(tiles[each[slide]], version, fits[slide]) for slide, tiles in images.items()}
            versions.append(_encoded(moved, normaliser, encoder, study, device)[0])
        every = np.stack(versions)
        every = without_units(every, whole) if encoder.interpretable else every
        out[method] = Encoded(
            slides, facts.loc[slides, "patient_id"].to_numpy(str), facts.loc[slides, "site"].to_numpy(str), whole,
            every, picked, VERSIONS, failed,
        )  # fmt: skip
    return out


def _methods(study: Study) -> dict[str, Normaliser | None]:
    """No normalisation and every method; the study's own with its own target."""
    methods: dict[str, Normaliser | None] = {"none": None} | {name: NORMALISERS[name]() for name in NORMALISERS}
    if study.features.stain is not None:
        methods[study.features.stain.method] = load_normaliser(study.features.stain, study.tiles)
    return methods


def _encoded(
    images: dict[str, np.ndarray], normaliser: Normaliser | None, encoder: Encoder, study: Study, device: str
) -> tuple[np.ndarray, int]:
    """Vectors of the tiles of all slides, and how many slides could not be normalised."""
    vectors, failed = [], 0
    for tiles in images.values():
        if normaliser is not None:
            fit: StainFit = normaliser.fit(_pixels(tiles))
            failed += bool(fit.fallback)
            tiles = normalise(normaliser, tiles, fit, device)
        vectors += [encoder.encode(batch) for batch in _batches(tiles, study.features.batch_size)]
    return np.concatenate(vectors), failed


def _batches(tiles: np.ndarray, size: int) -> Iterable[np.ndarray]:
    return (tiles[start : start + size] for start in range(0, len(tiles), size))


def _pixels(tiles: np.ndarray) -> np.ndarray:
    return sample_pixels(list(tiles), FIT_PIXELS)


def _read(tables: Tables, row: dict[str, object], most: int) -> np.ndarray:
    """Tiles of a slide, evenly over it."""
    from histostudy.slides.reader import open_indexed
    from histostudy.tiles.store import read_tiles

    study, slides = tables.study, tables.cohort.slides
    coords = read_tiles(tables.layout.tiles / f"{row['slide_id']}.h5").coords
    path = slides.loc[slides["slide_id"] == row["slide_id"], "path"].iloc[0]
    with open_indexed(row | {"path": path}) as slide:
        return np.stack(
            list(slide.read_tiles(coords[spaced(len(coords), max(LEAST, most))], study.tiles.size, study.tiles.mpp))
        )


def _sited(tables: Tables) -> pd.DataFrame:
    """Slides with features, and their site: of the slide, else of the patient, else empty."""
    index = tables.good.copy()
    slides, patients = tables.cohort.slides, tables.patients
    if "site" in slides:
        site = index["slide_id"].map(slides.set_index("slide_id")["site"])
    elif "site" in patients:
        site = index["patient_id"].map(patients.set_index("patient_id")["site"])
    else:
        site = index["slide_id"].map(lambda _: "")
    return index.assign(site=site.fillna("").astype(str))


def _slides_table(tables: Tables) -> pd.DataFrame:
    """What the stain of each slide with features is, from the shards."""
    shards = shard_count(len(tables.cohort.slides), tables.study.cohort.shard_size)
    if not any(tables.layout.stain.glob("shard-*.parquet")):
        raise StudyError("no index of stain", where=tables.layout.stain, todo="run the stage `stain` first")
    mine = _sited(tables)[["slide_id", "patient_id", "site"]]
    stains = joined_shards(tables.layout, tables.layout.stain, shards, tables.cohort.slides["slide_id"])
    table = mine.merge(stains, on="slide_id", validate="one_to_one")
    if left := int(table["stain_fallback"].fillna("").ne("").sum()):
        logger.warning("the stain of %d of %d slides cannot be fitted", left, len(table))
    return table.sort_values("slide_id", ignore_index=True)
