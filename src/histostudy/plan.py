"""What the workflow is to make: a study's shards, runs and figures, and what each depends on.

The Snakefile asks this module and nothing else; it imports neither torch nor openslide.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from histostudy.codeversion import code_version
from histostudy.codeversion import keep as keep_code
from histostudy.errors import ConfigError, TableError
from histostudy.features.pairs import PairSettings
from histostudy.files import digest_of, files_of, sha256, write_text
from histostudy.hashcache import HashCache
from histostudy.layout import RESULTS, Layout, shard_count, shard_of
from histostudy.model_kinds import aggregators_of
from histostudy.study import Features, Study
from histostudy.studyfile import parse_study, resolve
from histostudy.tasks import EVALUATED_ONLY, Expression, Segmentation, TileClassification

TEMPLATES = Path(__file__).parent / "report" / "templates"
STANDARDS = Path(__file__).parent / "report" / "standards"
TISSUE_WEIGHTS = Path(__file__).parent / "tissue" / "weights" / "unet.safetensors"
ENCODER_WEIGHTS = Path(__file__).parent / "encoders" / "weights"
#: Where the resolved studies lie that jobs read: no result, and none of DVC's business.
PLANS = Path(".snakemake") / "histostudy" / "plans"
#: Modules, and functions of verbs, whose code a stage's results depend on.
STAGES = {
    "simulate": ("histostudy.simulate.cohort", "histostudy.simulate.features"),
    "slides": ("histostudy.verbs.slides:inspect_shard",),
    "tissue": ("histostudy.verbs.slides:tissue_shard",),
    "train_tissue": ("histostudy.verbs.train_tissue",),
    "tiles": ("histostudy.verbs.slides:tiles_shard",),
    "embed": ("histostudy.verbs.slides:embed_shard",),
    "pretrain": ("histostudy.encoders.pretraining.loop", "histostudy.verbs.pretrain"),
    "pairs": ("histostudy.verbs.pairs:pairs_shard",),
    "stain": ("histostudy.verbs.stain:stain_shard",),
    "audit": ("histostudy.verbs.stain",),
    "index": ("histostudy.verbs.slides:join_slides", "histostudy.verbs.slides:join_features"),
    "cohort": ("histostudy.verbs.tables", "histostudy.cohort.table_one"),
    "split": ("histostudy.verbs.tables", "histostudy.splits.audit"),
    "bags": ("histostudy.verbs.bags",),
    "train": ("histostudy.verbs.tables", "histostudy.verbs.models:train_from_bags"),
    "segment": (
        "histostudy.verbs.tables",
        "histostudy.verbs.models:load_splits",
        "histostudy.verbs.segmentation:train_segmenter_of_study",
    ),
    "evaluate": ("histostudy.verbs.tables", "histostudy.verbs.models:evaluate_from_bags"),
    "evaluate_segmentation": (
        "histostudy.verbs.tables",
        "histostudy.verbs.segmentation:evaluate_segmentation_of_study",
    ),
    "embed_tiles": ("histostudy.verbs.labelled:embed_labelled_of_study",),
    "train_tiles": (
        "histostudy.verbs.tables",
        "histostudy.verbs.models:load_splits",
        "histostudy.verbs.labelled:train_tiles_of_study",
    ),
    "evaluate_tiles": (
        "histostudy.verbs.tables",
        "histostudy.verbs.models:load_splits",
        "histostudy.verbs.labelled:evaluate_tiles_of_study",
    ),
    "transfer": ("histostudy.verbs.tables", "histostudy.verbs.transfer"),
    "learn": ("histostudy.verbs.sequence:learn_sequence",),
    "sequence": ("histostudy.verbs.sequence:evaluate_sequence_of_study",),
    "overview": ("histostudy.verbs.overview",),
    "summary": ("histostudy.verbs.summary",),
    "figures": ("histostudy.verbs.figures",),
    "report": ("histostudy.verbs.report",),
}


@dataclass
class Plan:
    """A study laid out for the workflow.

    Parameters
    ----------
    study : Study
        The resolved study.
    layout : Layout
        Its paths.
    shards : dict
        Shard number to a digest of all that its slides are: ids, patients, given scales, a glance at each.
    n_shards : int
        Number of shards, those without a slide among them.
    hashes : HashCache
        What is known of the files that the study reads.
    """

    study: Study
    layout: Layout
    shards: dict[int, str] = field(default_factory=dict)
    n_shards: int = 1
    hashes: HashCache = field(default_factory=HashCache)

    @property
    def file(self) -> Path:
        """The resolved study that every job reads: named by its content, so that no later plan changes it."""
        return PLANS / f"{digest_of(resolve(self.study))}.yaml"

    def write(self, *, dry: bool = False) -> None:
        """Check what the study names, claim the cohort's folders, and write the resolved study file if it is new.

        Parameters
        ----------
        dry : bool
            Of a dry run: nothing is written among the results, which are still those of the run before.

        Raises
        ------
        StudyError
            Before anything is written.
        """
        from histostudy.verbs.check import check_in_another_process

        check_in_another_process(self.study, self.layout, code_version("histostudy.verbs.check"))
        self.layout.claim(write=not dry)
        text = yaml.safe_dump(resolve(self.study), sort_keys=False, allow_unicode=True)
        for path in [self.file] if dry else [self.file, self.layout.home / "study.yaml"]:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_text(path, text)

    def remember(self) -> None:
        """Keep the hashes of files and the parsed modules for the next plan in this working directory."""
        self.hashes.save()
        keep_code()

    def describe_run(self) -> None:
        """Write the study's RO-Crate from the records of what has been made so far."""
        from histostudy.provenance.crate import write_crate
        from histostudy.provenance.versions import software

        study, home = self.study, self.layout.home
        predicted = ", ".join(task.name for task in study.tasks) or "none"
        write_crate(
            home, list(self.layout.provenance), Path("workflow") / "Snakefile", self.hashes, name=study.study,
            software=software(), description=f"A study of the cohort {study.cohort.name}; tasks: {predicted}.",
        )  # fmt: skip

    def code(self, stage: str, model: str | None = None) -> str:
        """Version of the code that a stage runs, of one model if named, and of the templates of the report."""
        used = None if model is None else aggregators_of(self.study.models, model)
        code = code_version(*STAGES[stage], aggregators=used)
        shown = [*sorted(TEMPLATES.iterdir()), *sorted(STANDARDS.glob("*.yaml")), *sorted(STANDARDS.glob("*.bib"))]
        return code if stage != "report" else digest_of([code, *(sha256(path) for path in shown)])

    def settings(self, *keys: str) -> str:
        """Digest of the named sections of the study, so that a rule sees only what it depends on; of all without."""
        whole = resolve(self.study)
        return digest_of({key: whole[key] for key in keys or whole})

    def model_settings(self, task: str, model: str) -> str:
        """Digest of all settings that the runs of a model on a task depend on."""
        spec = self.study.models.get(model)
        # covariates are the clinical control's alone
        left_out = EVALUATED_ONLY - ({"adjust"} if model == "clinical" else set())
        return digest_of(
            {
                "model": spec.model_dump(mode="json") if spec else model,
                "task": self.study.task(task).model_dump(mode="json", exclude=left_out),
                "modalities": {m: self.study.modalities[m].model_dump(mode="json") for m in spec.modalities}
                if spec
                else {},
                "seed": self.study.seed,
                "timings": self.study.compare.timings,
            }
        )

    def learner_settings(self, model: str) -> str:
        """Digest of all settings that the runs of a model on the sequence depend on."""
        tasks = [self.study.task(name).model_dump(mode="json", exclude=EVALUATED_ONLY) for name in self.study.sequence]
        return digest_of([self.study.models[model].model_dump(mode="json"), tasks, self.study.seed])

    def model_inputs(self, task: str, model: str) -> list[str]:
        """Files that a model's runs depend on beside the cohort's: predictions, weights, runs of sources, pairs."""
        spec = self.study.models.get(model)
        if task in self.labelled:
            return [str(self.layout.labelled(task) / "index.parquet")]
        if spec is None:
            return []
        files = [] if spec.predictions is None else [spec.predictions]
        if spec.segmenter is not None and spec.options.get("checkpoint"):
            files.append(Path(spec.options["checkpoint"]))
        files += [self.layout.runs(t, str(spec.sources)) / "runs.parquet" for t in self.study.source_tasks(model)]
        if (pairs := PairSettings.of(spec.recipe)) is not None:
            files += map(Path, self.indexes(pairs.folder(self.layout.features)))
        return [str(path) for path in files]

    def outcomes(self) -> str:
        """Digest of what the tasks predict, which is what the folds are balanced by."""
        left_out = EVALUATED_ONLY | {"horizons"}
        return digest_of([task.model_dump(mode="json", exclude=left_out) for task in self.study.tasks])

    def simulation(self) -> str:
        """Digest of what a simulated cohort is drawn from."""
        simulate = self.study.cohort.simulate
        return digest_of([simulate.model_dump(mode="json") if simulate else None, self.study.seed])

    def files(self, *paths: Path | None) -> str:
        """Digest of files and folders that no rule lists as its input: of their bytes, not of their times."""
        # the encoder that the study makes is an input of the rules that use it
        made = self.layout.encoder if self.study.pretrain is not None else None
        found = [file for path in paths if path not in (None, made) for file in files_of(path)]  # type: ignore[arg-type]
        return digest_of([[str(file) for file in found], self.hashes.sha256s(found)])

    def encoder_weights(self) -> str:
        """Digest of the weights that tiles are encoded with, given or shipped, and of the stain they are brought to."""
        features = self.study.features
        shipped = ENCODER_WEIGHTS / f"{features.encoder}.safetensors"
        stain = features.stain.target if features.stain is not None else None
        return self.files(features.checkpoint, stain, shipped if shipped.is_file() else None)

    def tissue_weights(self) -> str:
        """Digest of the weights of the tissue method, given or shipped."""
        tissue = self.study.tissue
        if tissue.checkpoint is not None:
            return self.files(tissue.checkpoint)
        return sha256(TISSUE_WEIGHTS) if tissue.method == "unet" else ""

    def given_features(self) -> str:
        """Digest of the files of another tool's features; drawn ones follow from the tables drawn with them."""
        folder = None if self.study.cohort.simulate else self.study.features.precomputed
        # a cohort's features are many and large, and the index takes the checksum of each that a glance finds changed
        found = [] if folder is None else files_of(folder)
        return digest_of([[str(file) for file in found], self.hashes.glances(found)])

    def indexes(self, folder: Path) -> list[str]:
        """Indexes of all shards of a stage."""
        return [str(self.layout.shard(folder, i)) for i in self.shards]

    @property
    def encoder(self) -> list[str]:
        """Files of the encoder that the study makes; most studies make none."""
        from histostudy.encoders.pretraining.release import FILES

        return [str(self.layout.encoder / name) for name in FILES] if self.study.pretrain is not None else []

    @property
    def trained_tissue(self) -> list[str]:
        """Files of the tissue network that the study trains; most studies train none."""
        from histostudy.verbs.train_tissue import FILES

        return [str(self.layout.trained_tissue / name) for name in FILES] if self.study.train_tissue is not None else []

    @property
    def reporting(self) -> list[str]:
        """Checklists, texts and references that the report writes beside its page."""
        from histostudy.report.applies import reporting_names

        return [str(self.layout.reporting / name) for name in reporting_names(resolve(self.study))]

    @property
    def pairs(self) -> list[str]:
        """Names of the pairs that the models learn from; most studies have none."""
        wanted = [PairSettings.of(model.recipe) for model in self.study.models.values()]
        return sorted({settings.name for settings in wanted if settings is not None})

    @property
    def labelled(self) -> list[str]:
        """Tasks of labelled tiles; most studies have none."""
        return [task.name for task in self.study.tasks if isinstance(task, TileClassification)]

    def labelled_settings(self, name: str) -> str:
        """Digest of what the vectors of a task's tiles depend on: how they are seen, by what, and the images."""
        from histostudy.training.tile_classification.table import needs_pixels, read_tile_table

        task = self.study.task(name)
        assert isinstance(task, TileClassification)
        images = [] if self.study.cohort.simulate is not None else read_tile_table(task).files
        seen = [task.mpp, task.size, needs_pixels(self.study, name), self.settings("features", "tiles")]
        return digest_of([seen, self.encoder_weights(), [str(image) for image in images], self.hashes.glances(images)])

    @property
    def bags(self) -> list[str]:
        """Files of the study's bags; a study of tables alone has none."""
        from histostudy.features.bagfile import COARSER_FILES, FILES

        names = (*FILES, *(COARSER_FILES if self.study.tiles.scales else ()))
        return [str(self.layout.bags / name) for name in names] if self.study.uses_bags else []

    @property
    def data_files(self) -> list[str]:
        """Every table, foreign prediction and published fold that the study reads."""
        given = [model.predictions for model in self.study.models.values()]
        folds = self.study.splits.published
        given += sorted(folds.glob("*.csv")) if folds is not None and folds.is_dir() else [folds]
        return [*self.tables, *(str(path) for path in dict.fromkeys(given) if path is not None)]

    @property
    def tables(self) -> list[str]:
        """Tables of the cohort that study-level rules read."""
        paths = [self.layout.slides_csv, self.layout.patients_csv]
        paths += [self.study.tiles.spots]
        for task in self.study.tasks:
            paths += [task.table, task.centroids] if isinstance(task, Expression) else []
            paths += [task.table] if isinstance(task, TileClassification) else []
            if isinstance(task, Segmentation) and self.study.cohort.simulate is None:  # drawn ones come with the slides
                paths += sorted(task.annotations.glob("*.geojson"))
        for modality in self.study.modalities.values():
            paths += [modality.table, modality.groups]
        return [str(path) for path in dict.fromkeys(paths) if path is not None]


def make_plan(
    config: Mapping[str, Any], source: str | Path | None = None, root: Path = RESULTS, *, check: bool = True
) -> Plan:
    """Validate a study and its tables, and lay it out.

    Parameters
    ----------
    config : mapping
        The study file's content.
    source : str or Path, optional
        The study file.
    root : Path
        The results folder.
    check : bool
        Check outcomes, folds and slide files too; a cluster's jobs plan again what has been checked.

    Raises
    ------
    StudyError
        One line on what is wrong in the study file or its tables, before any work starts.
    """
    study = parse_study(config, source=source)
    layout = Layout(study, root)
    if study.pretrain is not None:
        if study.features.checkpoint not in (None, layout.encoder):
            what = "features.checkpoint and pretrain: the encoder is made, or given, not both"
            raise ConfigError(what, where=source, todo="leave one of them out")
        study.features.checkpoint = layout.encoder
    if study.cohort.simulate is not None:
        if study.cohort.simulate.features is not None:
            study.features = Features(precomputed=layout.source / "features", layout="plain")
        for task in study.tasks:
            if isinstance(task, Expression | TileClassification):
                task.table = layout.source / task.table.name
            if isinstance(task, Segmentation):
                task.annotations = layout.source / task.annotations.name
        for modality in study.modalities.values():
            if modality.table is not None:
                modality.table = layout.source / modality.table.name
            if modality.groups is not None:
                modality.groups = layout.source / modality.groups.name
    hashes = HashCache()
    rows = {} if study.cohort.thumbnails else _slide_rows(study, layout, check, hashes)
    n_shards = shard_count(len(rows), study.cohort.shard_size)
    members: dict[int, list[Any]] = {}
    for slide_id, facts in sorted(rows.items()):
        members.setdefault(shard_of(slide_id, n_shards), []).append([slide_id, facts])
    shards = {shard: digest_of(slides) for shard, slides in sorted(members.items())}
    return Plan(study, layout, shards, n_shards, hashes)


def use_this_environment() -> None:
    """Let jobs call the verbs of the environment that runs the workflow, activated or not."""
    here = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])


def _slide_rows(study: Study, layout: Layout, check: bool, hashes: HashCache) -> dict[str, Any]:
    """Slides of the study with what their shard's digest is made of."""
    if study.cohort.simulate is not None:
        from histostudy.simulate.cohort import plan as plan_cohort
        from histostudy.simulate.features import plan_features

        drawn = (plan_features if study.cohort.simulate.features else plan_cohort)(study.cohort.simulate, study.seed)
        code = code_version(*STAGES["simulate"])
        recipe = digest_of([study.cohort.simulate.model_dump(mode="json"), study.seed, code])
        return dict.fromkeys(drawn.slide_ids, recipe)
    from histostudy.verbs.tables import check_tables, slides_of

    slides = (check_tables if check else slides_of)(study, layout)
    rows = {row["slide_id"]: {"mpp": row.get("mpp"), "patient": row["patient_id"]} for row in slides.to_dict("records")}
    if study.features.precomputed is None and rows:
        from histostudy.cohort.slidefiles import glances_of

        # not the path: a slide is what it holds, wherever it lies
        looks = glances_of(slides, layout.slides, str(layout.slides_csv), hashes, check=check)
        for facts, seen in zip(rows.values(), looks, strict=True):
            facts["seen"] = seen
    if not rows and study.has_slides:
        raise TableError("no slides", where=layout.slides_csv, todo="give it at least one row")
    return rows
