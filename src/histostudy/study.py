"""The study file, typed: the one place where its keys are described.

Every key has a default or is required; unknown keys are refused. `histostudy.studyfile` reads a file into these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from histostudy.continual_keys import Continual, check_sequence
from histostudy.model_kinds import BAG_KINDS, FAMILIES, check_kinds, controls_of, learns
from histostudy.pretrain_keys import Pretrain, check_pretrain
from histostudy.runtime_keys import RuntimeKeys
from histostudy.scale_keys import ScaleKeys, check_pixels, check_scales
from histostudy.simulate_keys import Simulate
from histostudy.stain_keys import Audits, Stain, check_stain
from histostudy.tasks import Keys, Name, Task
from histostudy.tissue_keys import TrainTissue, check_train_tissue

#: Models every table holds beside the study's own: the trivial controls.
CONTROLS = ("prior", "clinical", "colour")


class Cohort(Keys):
    """Patients and their slides."""

    name: Name = Field(description="results/cohorts/<name>/, shared by every study of this cohort.")
    slides: Path | None = Field(
        None,
        description="CSV: slide_id, patient_id, path [, mpp, site, stain, exclude]. None: a study of tables alone.",
    )
    patients: Path | None = Field(None, description="CSV: patient_id, outcomes, covariates [, site].")
    simulate: Simulate | None = Field(None, description="Draw a synthetic cohort instead of reading tables.")
    thumbnails: bool = Field(False, description="No patients and no slides: train_tissue draws thumbnails.")
    note: str | None = Field(None, description="A sentence that the report's first lines must say of this cohort.")
    max_failed: float = Field(0.2, ge=0, le=1, description="Largest share of slides that may fail.")
    shard_size: int = Field(64, ge=1, description="Slides a shard, about.")

    @model_validator(mode="after")
    def _one_source(self) -> Cohort:
        if not (self.thumbnails or self.simulate or self.slides or self.patients):
            raise ValueError(
                "give cohort.slides (a CSV), cohort.patients (for a study without slides) or cohort.simulate"
            )
        if self.simulate is not None and (self.slides or self.patients):
            raise ValueError("cohort.simulate draws its own slides and patients: leave those keys out")
        return self


class Tissue(Keys):
    """Where tissue is."""

    method: Name = Field("otsu", description="Segmenter: otsu, classical, unet, atlaspatch, grandqc, hest.")
    checkpoint: Path | None = Field(None, description="Local weights of the segmenter (unet ships with its own).")
    working_mpp: float = Field(8.0, gt=0, description="Scale the segmenter works at, um/px.")
    min_area_um2: float = Field(50_000.0, ge=0, description="Smaller pieces of tissue are dropped.")
    min_hole_um2: float = Field(20_000.0, ge=0, description="Smaller holes are filled.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the segmenter.")


class Tiles(ScaleKeys):
    """Tiles at one exact scale on one lattice a slide."""

    mpp: float = Field(0.5, gt=0, description="Micrometres per pixel of a tile.")
    size: int = Field(224, ge=16, description="Side of a tile, px at `mpp`.")
    overlap: int = Field(0, ge=0, description="Overlap of neighbours, px at `mpp`.")
    min_tissue: float = Field(0.5, ge=0, le=1, description="Smallest share of tissue in a tile that is kept.")
    tolerance: float = Field(0.05, ge=0, lt=1, description="A slide may be coarser than `mpp` by this share.")
    label: Name | None = Field(None, description="Suffix of the tile folder, for a second set at one scale.")
    spots: Path | None = Field(
        None, description="CSV: spot_id, slide_id, x_px0, y_px0. Tiles are cut around these centres, not on a lattice."
    )

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Tiles:
        if self.overlap >= self.size:
            raise ValueError(f"overlap {self.overlap} must be smaller than size {self.size}")
        check_scales(self.mpp, self.scales, self.spots is not None)
        return self


class Features(RuntimeKeys):
    """One vector a tile: computed by an encoder, or read from another tool's files."""

    encoder: str | None = Field(None, description="builtin, a registered name, timm:<id> or transformers:<id>.")
    precomputed: Path | None = Field(None, description="Folder of feature files made by another tool.")
    layout: Literal["auto", "trident", "clam", "stamp", "atlaspatch", "plain"] = "auto"
    checkpoint: Path | None = Field(None, description="Local weights of the encoder (file or folder).")
    allow_mpp_mismatch: bool = Field(False, description="Let an encoder run off the scale it was trained at.")
    stain: Stain | None = Field(None, description="Stain normalisation of the tiles before they are encoded.")
    batch_size: int = Field(64, ge=1, description="Tiles a batch of the encoder.")
    dtype: Literal["float32", "float16"] = Field("float32", description="Type the features are stored in.")

    @model_validator(mode="after")
    def _one_source(self) -> Features:
        if self.precomputed is not None and self.encoder is not None:
            raise ValueError("give encoder or precomputed, not both")
        if self.precomputed is None and self.encoder is None:
            self.encoder = "builtin"
        return self


class Splits(Keys):
    """Folds, of patients."""

    folds: int = Field(5, ge=2, description="Outer folds; each patient is tested once a repeat.")
    repeats: int = Field(1, ge=1, description="Times the folds are drawn.")
    inner: float = Field(0.2, gt=0, lt=0.5, description="Share of the training part that chooses the epoch.")
    stratify: bool = Field(True, description="Balance the outcomes over the folds.")
    preserve: str | None = Field(None, description="Column of patients (site) that never sits on both sides.")
    published: Path | None = Field(None, description="Published folds: a folder of splits_<k>.csv, or one CSV or JSON.")
    column: str | None = Field(None, description="Column of patients with the number of the fold that tests each.")

    @model_validator(mode="after")
    def _one_way(self) -> Splits:
        given = [key for key in ("published", "column", "preserve") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}")
        return self


class Modality(Keys):
    """A table beside the slides, one row a patient: omics, mutations, clinical covariates."""

    table: Path | None = Field(None, description="CSV: patient_id and columns (default: the cohort's patients).")
    columns: list[str] | None = Field(
        None, description="Columns to use; `*` stands for any letters (default: all numbers of `table`)."
    )
    groups: Path | None = Field(None, description="CSV: group, column. Functional groups, such as pathways.")
    log: bool = Field(False, description="Take log2(1 + x).")
    scale: Literal["zscore", "minmax", "none"] = Field("zscore", description="By the moments of the training part.")
    top: int | None = Field(None, ge=1, description="Keep the columns of largest variance in the training part.")

    @model_validator(mode="after")
    def _columns_of_patients_are_named(self) -> Modality:
        if self.table is None and not self.columns:
            raise ValueError("name the columns of patients that it is made of, or a table")
        return self


class Training(Keys):
    """How a model is trained; the inner validation part chooses the epoch.

    The linear model on the mean (aggregator mean without `hidden`) is solved exactly over a path of ridge
    penalties, of which the inner part chooses; epochs, rate and batch say nothing there.
    """

    epochs: int = Field(50, ge=0, description="0: not trained at all, a control of what the architecture alone does.")
    min_epochs: int = Field(5, ge=1, description="No early stop before this epoch.")
    patience: int = Field(10, ge=1, description="Epochs without a better inner loss before it stops.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of AdamW.")
    weight_decay: float = Field(1e-4, ge=0)
    l1: float = Field(0.0, ge=0, description="Weight of the sum of the absolute values of all weights, in the loss.")
    batch_size: int = Field(32, ge=1, description="Patients a step.")
    max_tiles: int | None = Field(None, ge=1, description="Tiles drawn a patient and step (default: all).")
    loss: Literal["nll", "cox", "rank"] | None = Field(None, description="Survival loss (default: nll).")
    bins: int = Field(4, ge=2, description="Survival, nll: time intervals, at quantiles of the training events.")
    alpha: float = Field(0.0, ge=0, lt=1, description="Survival, nll: extra weight of patients with an event.")
    epoch: Literal["inner", "last"] = Field(
        "inner", description="Epoch that is kept: by the inner part, or the last one (trained on the inner part too)."
    )
    start: Literal["prior", "zero"] = Field(
        "prior",
        description="Bias of the head before the first step: the trivial prediction of the training part, or 0.",
    )
    schedule: Literal["cosine", "constant"] = Field("cosine", description="Of the learning rate.")
    sampling: Literal["shuffle", "balanced"] = Field(
        "shuffle", description="balanced: patients drawn with equal chance of each class, or time interval and event."
    )
    modality_dropout: float | None = Field(
        None, ge=0, lt=1,
        description="Share of training patients whose modality is hidden at a step, so that what stands for a missing "
        "one is trained (default: 0.1 of a modality that some patient of the cohort lacks, else 0).",
    )  # fmt: skip
    trace: bool = Field(
        False, description="Predict the test part after every epoch: what choosing one there would add."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where it trains.")


class Model(Keys):
    """Aggregator, head and recipe; or predictions made elsewhere."""

    aggregator: Name | None = Field(
        None, description="mean, max, abmil, otsurv, mcat, snn and others: see docs/mil.md."
    )
    predictions: Path | None = Field(
        None,
        description="CSV of out-of-fold predictions, scored as they are: patient_id [, task, repeat, fold] and risk, "
        "prob_<class>, prediction or pred_<gene>.",
    )
    continual: Continual | None = Field(
        None, description="It learns the tasks of the study's `sequence` one after the other, by this method."
    )
    classifier: Literal["linear_probe", "knn", "prototypes", "finetune", "dct_histotransformer"] | None = Field(
        None, description="It tells labelled tiles apart, from their features or their pixels."
    )
    segmenter: Name | None = Field(None, description="unet or h2g: it learns tasks of kind segmentation.")
    modalities: list[Name] = Field(default_factory=list, description="The study's modalities that it sees.")
    fusion: Literal["concat", "bilinear"] = Field(
        "concat", description="How modalities join an aggregator that has no way of its own."
    )
    sources: Name | None = Field(
        None, description="moe_pkt: the model whose runs on the study's tasks, in the same fold, are its sources."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the aggregator.")
    recipe: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Training recipes by name.")
    training: Training = Field(default_factory=lambda: Training())

    @model_validator(mode="after")
    def _one_kind(self) -> Model:
        kinds = (self.aggregator, self.predictions, self.continual, *(getattr(self, key) for key in FAMILIES))
        if sum(one is not None for one in kinds) != 1:
            others = " or ".join(FAMILIES)
            raise ValueError(f"give aggregator, or predictions made elsewhere, or continual, or {others}")
        own = next((key for key in FAMILIES if getattr(self, key) is not None), None)
        if own is not None and (self.recipe or self.modalities or self.sources):
            raise ValueError(f"a model with {own} takes options and training only")
        if self.continual is not None and (self.recipe or self.modalities or self.sources):
            raise ValueError("a model with continual takes options and training only")
        if self.predictions is not None and (self.options or self.recipe or self.modalities or self.sources):
            raise ValueError("predictions made elsewhere take no other key")
        return self


class Compare(Keys):
    """Paired comparison of the models."""

    reference: str | None = Field(None, description="Model the others are compared with (default: the first).")
    resamples: int = Field(2000, ge=100, description="Bootstrap resamples of the patients.")
    correction: Literal["holm", "none"] = "holm"
    transfer: list[Name] = Field(
        default_factory=list, description="Models whose runs on each survival task are tried on the other tasks."
    )
    sequence: Name | None = Field(
        None, description="Model that the others which learn the sequence are compared with (default: the first)."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1)
    timings: bool = Field(
        False, description="Put the seconds that runs took into the results, which no other run gives again."
    )


class Study(Keys):
    """A study file."""

    study: Name = Field(description="results/studies/<study>/")
    seed: int = Field(0, ge=0, description="Every random number is derived from it.")
    cohort: Cohort
    tissue: Tissue = Field(default_factory=lambda: Tissue())
    train_tissue: TrainTissue | None = Field(None, description="Train the network of the tissue method unet.")
    tiles: Tiles = Field(default_factory=lambda: Tiles())
    pretrain: Pretrain | None = Field(None, description="Make the encoder `pretrained` of the cohort's own tiles.")
    features: Features = Field(default_factory=lambda: Features())
    splits: Splits = Field(default_factory=lambda: Splits())
    tasks: list[Task] = Field(default_factory=list)
    sequence: list[Name] = Field(
        default_factory=list,
        description="Classification tasks in the order in which models with `continual` learn them.",
    )
    modalities: dict[Name, Modality] = Field(default_factory=dict)
    models: dict[Name, Model] = Field(default_factory=dict)
    compare: Compare = Field(default_factory=lambda: Compare())
    audit: Audits = Field(
        default_factory=list,
        description="`stain`: do features tell slides and sites apart, do they hold under another stain or scanner?",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        drawn = self.cohort.simulate is not None and self.cohort.simulate.features is not None
        check_stain(self.audit, self.features.stain, self.has_slides and self.features.precomputed is None, drawn)
        f, pixels = self.features, self.has_slides and self.features.precomputed is None and not drawn
        check_pixels(self.tiles.scales, pixels)
        outcomes = self.outcome_columns() - {self.splits.column}
        check_pretrain(self.pretrain, f.encoder, f.checkpoint, f.stain, pixels, outcomes)
        check_train_tissue(self.train_tissue, self.cohort.thumbnails, self.has_slides or self.cohort.patients)
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"two tasks of one name in {names}")
        if self.tasks and self.cohort.simulate is None and self.cohort.patients is None:
            raise ValueError("a study with tasks needs cohort.patients")
        if taken := [name for name in self.models if name in CONTROLS]:
            raise ValueError(f"model name {taken[0]!r} is taken: that control is in every study")
        if any(task.kind == "expression" and task.level == "spot" for task in self.tasks) and self.tiles.spots is None:
            raise ValueError("a task at the level of spots needs tiles.spots")
        self._check_models()
        self._check_sequence()
        return self

    def _check_sequence(self) -> None:
        methods = {name: model.continual for name, model in self.models.items() if model.continual is not None}
        check_sequence(self.sequence, {task.name: task.kind for task in self.tasks}, methods)
        if methods and not self.has_slides:
            raise ValueError("models with continual look at tiles: give cohort.slides")
        self.compare.sequence = self.compare.sequence or next(iter(methods), None)
        if self.compare.sequence is not None and self.compare.sequence not in methods:
            raise ValueError(f"compare.sequence {self.compare.sequence!r} is not a model with continual")

    def _check_models(self) -> None:
        of_tasks = [name for name in self.models if name not in self.learners]
        if self.compare.reference is None and of_tasks:
            self.compare.reference = of_tasks[0]
        if self.compare.reference in self.learners:
            raise ValueError(f"compare.reference {self.compare.reference!r} learns the sequence; see compare.sequence")
        # the linear model on the mean of the tiles is a control of every table of patients' outcomes
        of_bags = self.has_slides and (not self.tasks or any(task.kind in BAG_KINDS for task in self.tasks))
        if self.models and of_bags and not any(m.aggregator == "mean" for m in self.models.values()):
            if "mean" in self.models:
                raise ValueError("model name 'mean' is kept for the mean-pool control")
            self.models = {"mean": Model(aggregator="mean"), **self.models}
        for key, wanted in (("reference", [self.compare.reference]), ("transfer", self.compare.transfer)):
            if unknown := [name for name in wanted if name is not None and name not in self.models]:
                raise ValueError(f"compare.{key} {unknown[0]!r} is not a model of this study")
        for name, model in self.models.items():
            if unknown := [m for m in model.modalities if m not in self.modalities]:
                raise ValueError(f"models.{name}: {unknown[0]!r} is not a modality of this study")
            if model.sources is not None and (model.sources == name or model.sources not in self.models):
                raise ValueError(f"models.{name}.sources {model.sources!r} is not another model of this study")
            if model.sources and model.modalities:
                raise ValueError(f"models.{name}: a model with sources takes no modalities")
            if model.sources and self.models[model.sources].training.epoch == "last" != model.training.epoch:
                # its source would have been trained on the inner part that is to choose its epoch
                raise ValueError(f"models.{name}.sources {model.sources!r} has epoch: last; give both the same")
        check_kinds(self.models, {task.name: task.kind for task in self.tasks}, self.learners)
        self._check_transfer()

    def _check_transfer(self) -> None:
        lone = [m for m in self.compare.transfer if self.models[m].aggregator is None or self.models[m].modalities]
        if lone:
            raise ValueError(f"compare.transfer: {lone[0]!r} is not a model of tiles alone")
        if self.compare.transfer and sum(task.kind == "survival" for task in self.tasks) < 2:
            raise ValueError("compare.transfer needs two survival tasks")

    @property
    def learners(self) -> list[str]:
        """Models that learn the sequence; no task has runs of them."""
        return [name for name, model in self.models.items() if model.continual is not None]

    @property
    def has_slides(self) -> bool:
        """Whether the study has slides, not tables alone."""
        return self.cohort.simulate is not None or self.cohort.slides is not None

    @property
    def uses_bags(self) -> bool:
        """Whether tiles are embedded: for a task learned from bags of features, or a look at the cohort alone."""
        kinds = {task.kind for task in self.tasks}
        return self.has_slides and (not kinds or bool(kinds & set(BAG_KINDS)) or bool(self.audit))

    @property
    def uses_tissue(self) -> bool:
        """Whether tissue is outlined: labelled tiles need none."""
        kinds = {task.kind for task in self.tasks}
        return self.has_slides and kinds != {"tile_classification"}

    def outcome_columns(self) -> set[str]:
        """Columns of patients that say an outcome, or the fold."""
        keys = ("time", "event", "target")
        named = {getattr(task, key) for task in self.tasks for key in keys if hasattr(task, key)}
        return named | ({self.splits.column} if self.splits.column else set())

    def untrained_twins(self) -> dict[str, str]:
        """By model, the model of the same aggregator and options that is not trained, where there is one."""
        plain = {
            n: (m.aggregator, m.options, m.modalities, m.fusion, m.sources, m.recipe)
            for n, m in self.models.items()
            if m.aggregator
        }
        untrained = [name for name in plain if self.models[name].training.epochs == 0]
        twins = {name: [u for u in untrained if plain[u] == plain[name] and u != name] for name in plain}
        return {name: found[0] for name, found in twins.items() if found and name not in untrained}

    def source_tasks(self, model: str) -> list[str]:
        """Tasks whose runs a model builds on: all of them, its own in the same fold."""
        spec = self.models.get(model)
        return [task.name for task in self.tasks] if spec is not None and spec.sources else []

    def task(self, name: str) -> Task:
        """The task of this name."""
        return next(t for t in self.tasks if t.name == name)

    def model_names(self, task: str) -> list[str]:
        """Models of a task, controls first; `clinical` only where the task names covariates."""
        kind = self.task(task).kind
        mine = [name for name, model in self.models.items() if name not in self.learners and learns(model, kind)]
        return [*controls_of(kind, bool(self.task(task).adjust)), *mine]

    def reference_of(self, task: str) -> str | None:
        """Model that the others of a task are compared with: `compare.reference`, or the task's first one."""
        names = [name for name in self.model_names(task) if name in self.models]
        return self.compare.reference if self.compare.reference in names else next(iter(names), None)
