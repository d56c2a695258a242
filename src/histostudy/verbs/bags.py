"""The verb that makes a study's bags, and what every later verb reads them with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.log import progress
from histostudy.stages import as_written
from histostudy.verbs.tables import Tables, load_tables

if TYPE_CHECKING:
    from histostudy.features.bags import Bags

logger = logging.getLogger(__name__)


def make_bags(study_file: Path) -> None:
    """Write the features of every patient of a study side by side, once for all jobs that read them."""
    from histostudy.features.bagfile import unnamed_file, write_bags
    from histostudy.features.bags import Bags

    tables = load_tables(study_file)
    made_of = sources(tables)
    good = tables.good.set_index("slide_id")
    if tables.study.features.precomputed is None:
        paths = {slide: tables.layout.features / name for slide, name in good["file"].items()}
    else:
        paths = {slide: Path(path) for slide, path in good["path"].items()}
    for slide, path in progress(paths.items(), "checking features", total=len(paths)):
        as_written(path, made_of[slide]["sha256"])
    folder = tables.layout.bags
    bags = Bags.load(
        paths,
        {slide: source["patient_id"] for slide, source in made_of.items()},
        layout=_layout(tables),
        mpp={slide: source["mpp"] for slide, source in made_of.items() if source["mpp"] is not None},
        allocate=unnamed_file(folder),
        scales=tables.study.tiles.scales,
    )
    digest = write_bags(bags, folder, made_of)
    logger.info("%d bags, %d tiles of %d: %s", len(bags), len(bags.features), bags.dim, digest[:16])


def load_bags(tables: Tables) -> Bags:
    """The features of every patient of a study, slides in the order of their ids: mapped, not read.

    Raises
    ------
    FeatureError
        If they were not made, or from other files than the study's index of features names.
    """
    from histostudy.features.bagfile import open_bags

    return open_bags(tables.layout.bags, sources(tables))


def sources(tables: Tables) -> dict[str, dict[str, Any]]:
    """What the rows of each slide are read from, and what else decides them."""
    scales = tables.cohort.slides.set_index("slide_id")["mpp"].dropna().to_dict()
    good, layout = tables.good, _layout(tables)
    return {
        str(slide): {"sha256": digest, "patient_id": str(patient), "mpp": scales.get(slide), "layout": layout}
        for slide, patient, digest in zip(good["slide_id"], good["patient_id"], good["sha256"], strict=True)
    }


def _layout(tables: Tables) -> str:
    features = tables.study.features
    return "auto" if features.precomputed is None else features.layout
