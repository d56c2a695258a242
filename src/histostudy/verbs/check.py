"""What a study file says beyond its keys, checked before any work starts: names, options, scales, features."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from histostudy.errors import ConfigError, StudyError
from histostudy.files import digest_of, listing, read_json, write_json
from histostudy.layout import Layout
from histostudy.study import Model, Study
from histostudy.studyfile import resolve

#: Precomputed features up to this size are read whole before anything starts; larger ones by their own job.
READ_AT_ONCE_BYTES = 2 << 30
#: What was found good lies here, by study: beside Snakemake's own records, in no result.
CHECKED = Path(".snakemake") / "histostudy" / "checked"

#: Aggregators of tiles that build from their defaults: a model that says no more needs no torch to be found good, which
#: takes more memory than planning twenty thousand slides.
PLAIN = frozenset(
    ("abmil", "clam_mb", "clam_sb", "dsmil", "dtfd", "ilra", "mambamil", "max", "mean", "rrt", "transmil", "wikg")
)


def check_in_another_process(study: Study, layout: Layout, code: str) -> None:
    """Run `check_study` where it may import torch, once for the same settings, files and code.

    Planning must not import torch; what was found good is noted beside Snakemake's own records.

    Raises
    ------
    ConfigError
        With the one line that the check printed.
    """
    folder = None if study.cohort.simulate else study.features.precomputed
    note = CHECKED / f"{study.study}.json"
    drawn = [task.annotations for task in study.tasks if task.kind == "segmentation" and not study.cohort.simulate]
    target = study.features.stain.target if study.features.stain is not None else None
    given = [listing(path) for path in (folder, study.cohort.slides, target, *drawn) if path is not None]
    seen = {"digest": digest_of([resolve(study), code, given])}
    if note.exists() and read_json(note) == seen:
        return
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "study.yaml"
        file.write_text(yaml.safe_dump(resolve(study)), encoding="utf-8")
        command = [sys.executable, "-m", "histostudy.cli", "check", "--study", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise ConfigError(lines[-1].removeprefix("error: "))
    if done.returncode:
        raise RuntimeError(f"the check of the study failed:\n{done.stderr}")
    write_json(note, seen)


def check_study(study: Study, layout: Layout) -> None:
    """Check a study's models, tissue method, and encoder or precomputed features.

    Raises
    ------
    StudyError
        For an unknown name or option, an encoder off its scale, features of two widths or with a NaN.
    """
    from histostudy.training.stage import looks_at_tiles

    for name, model in study.models.items():
        try:
            if name in study.compare.transfer and not looks_at_tiles(study, name):
                raise ConfigError("it looks at no tiles", todo="take it out of compare.transfer")
            _check_model(study, model)
        except StudyError as error:
            raise ConfigError(error.what, where=f"models.{name}", todo=error.todo) from None
    if any(task.kind == "tile_classification" for task in study.tasks):
        from histostudy.verbs.labelled import check_labelled

        check_labelled(study)
    if study.pretrain is not None:
        from histostudy.verbs.pretrain import check_pretraining

        check_pretraining(study)
    if any(task.kind == "segmentation" for task in study.tasks):
        from histostudy.cohort.tables import read_slides
        from histostudy.verbs.segmentation import check_segmentation
        from histostudy.verbs.tables import slides_of

        if study.has_slides and study.cohort.simulate is None:
            listed = read_slides(str(layout.slides_csv))["slide_id"]
            check_segmentation(study, slides_of(study, layout)["slide_id"].tolist(), listed)
        else:
            check_segmentation(study, None)
    if not study.uses_tissue:
        return
    if study.features.precomputed is not None:
        if study.cohort.simulate is None:  # drawn features are not there yet
            _check_features(study, layout)
        return
    import numpy as np

    from histostudy.encoders.registry import check_scale, facts_of
    from histostudy.tissue.registry import segment

    if study.features.stain is not None and study.features.stain.target is not None:
        from histostudy.features.staining import load_normaliser

        load_normaliser(study.features.stain, study.tiles)
    facts = facts_of(str(study.features.encoder))
    for mpp in (study.tiles.mpp, *study.tiles.scales):
        check_scale(facts, mpp, study.tiles.size, facts.input_px, study.features.allow_mpp_mismatch)
    glass = np.full((64, 64, 3), 240, np.uint8)
    segment(glass, study.tissue.working_mpp, study.tissue.method, study.tissue.options, study.tissue.checkpoint)


def is_plain(model: Model) -> bool:
    """Whether a model is an aggregator of `PLAIN` and nothing else, however it is trained."""
    return model.aggregator in PLAIN and model == Model(aggregator=model.aggregator, training=model.training)


def _check_model(study: Study, model: Model) -> None:
    """Build what a model names, on one made-up column of each of its modalities."""
    if study.has_slides and is_plain(model):
        return
    from histostudy.features.pairs import PairSettings
    from histostudy.models.batch import Modality
    from histostudy.models.heads import head_kind
    from histostudy.models.model import MILModel
    from histostudy.models.registry import aggregator_kind
    from histostudy.training.recipes.base import build_recipes, check_recipes
    from histostudy.verbs.pairs import check_pairs

    if model.continual is not None:
        from histostudy.training.continual.methods import check_options
        from histostudy.training.continual.sequence import SequenceModel

        SequenceModel(model.continual, model.training, model.options).check()
        check_options(model.continual, dict(model.options))
        return
    if model.classifier is not None:
        from histostudy.verbs.labelled import check_classifier

        check_classifier(study, model)
        return
    if model.segmenter is not None:
        from histostudy.verbs.segmentation import check_segmenter_model

        check_segmenter_model(study, model)
        return
    if model.aggregator is None:
        return
    if PairSettings.of(model.recipe) is not None:
        check_pairs(study)
    kind = aggregator_kind(model.aggregator)
    if kind.uses_tiles and not study.has_slides:
        raise ConfigError(f"{model.aggregator} looks at tiles", todo="give cohort.slides, or a model of tables (snn)")
    if kind.sources != (model.sources is not None):
        if kind.sources:
            raise ConfigError(f"{model.aggregator} builds on other models", todo="name one under `sources`")
        raise ConfigError(f"{model.aggregator} builds on no other model", todo="leave out `sources`")
    source = study.models[model.sources].aggregator if model.sources else None
    if model.sources and set(study.models[model.sources].recipe) & {"ensemble", "packmil"}:
        what = f"its source {model.sources} is an ensemble or has layers before its aggregator (packmil)"
        raise ConfigError(what, todo="name one that is a single, plain model")
    if source is not None and (not aggregator_kind(source).uses_tiles or study.models[str(model.sources)].modalities):
        raise ConfigError(f"its source {model.sources} is not a model of tiles alone", todo="name one that is")
    tables = [Modality(name, ("column",), ((0,),)) for name in model.modalities]
    head = {"kind": "regression", "columns": ["y"]}
    built = MILModel(1, model.aggregator, model.options, head, tables, model.fusion)
    recipes = build_recipes(model.recipe)
    for task in study.tasks:
        check_recipes(recipes, built.aggregator, head_kind(task.kind, model.training))


def _check_features(study: Study, layout: Layout) -> None:
    from histostudy.features.stage import index_precomputed
    from histostudy.verbs.tables import slides_of

    folder = study.features.precomputed
    if folder is not None and sum(int(size) for _, size, _ in listing(folder)) <= READ_AT_ONCE_BYTES:
        index_precomputed(slides_of(study, layout), study.features)
