"""The study file, typed: the one place where its keys are described.

Every key has a default or is required; unknown keys are refused. `load_study` reads a file, `resolve` writes
every default back, and `json_schema` gives editors the keys to complete.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from histostudy.errors import ConfigError

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=80)]
#: Models every table holds beside the study's own: the trivial controls.
CONTROLS = ("prior", "clinical")


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


S = TypeVar("S", bound=_Keys)


class Simulate(_Keys):
    """A synthetic cohort with planted, known effects."""

    patients: int = Field(48, ge=12, description="Number of patients.")
    slides_extra: float = Field(0.2, ge=0, le=1, description="Share of patients with a second slide.")
    size_px: tuple[int, int] = Field((3000, 4000), description="Smallest and largest side of a slide, level-0 px.")
    mpp: float = Field(0.5, gt=0, description="Micrometres per pixel at level 0.")
    sites: int = Field(4, ge=1, description="Number of sites; each has its own stain.")
    pen_share: float = Field(0.15, ge=0, le=1, description="Share of slides with a pen mark.")
    genes: int = Field(12, ge=2, description="Genes; a third of them follow the share of glands.")


class Cohort(_Keys):
    """Patients and their slides."""

    name: Name = Field(description="results/cohorts/<name>/, shared by every study of this cohort.")
    slides: Path | None = Field(None, description="CSV: slide_id, patient_id, path [, mpp, site, stain, exclude].")
    patients: Path | None = Field(None, description="CSV: patient_id, outcomes, covariates [, site].")
    simulate: Simulate | None = Field(None, description="Draw a synthetic cohort instead of reading tables.")
    max_failed: float = Field(0.2, ge=0, le=1, description="Largest share of slides that may fail.")
    shard_size: int = Field(64, ge=1, description="Slides a shard, about.")

    @model_validator(mode="after")
    def _one_source(self) -> Cohort:
        if self.simulate is None and self.slides is None:
            raise ValueError("give cohort.slides (a CSV) or cohort.simulate")
        if self.simulate is not None and (self.slides or self.patients):
            raise ValueError("cohort.simulate draws its own slides and patients: leave those keys out")
        return self


class Tissue(_Keys):
    """Where tissue is."""

    method: Name = Field("otsu", description="Segmenter: otsu, classical.")
    working_mpp: float = Field(8.0, gt=0, description="Scale the segmenter works at, um/px.")
    min_area_um2: float = Field(50_000.0, ge=0, description="Smaller pieces of tissue are dropped.")
    min_hole_um2: float = Field(20_000.0, ge=0, description="Smaller holes are filled.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the segmenter.")


class Tiles(_Keys):
    """Tiles at one exact scale on one lattice a slide."""

    mpp: float = Field(0.5, gt=0, description="Micrometres per pixel of a tile.")
    size: int = Field(224, ge=16, description="Side of a tile, px at `mpp`.")
    overlap: int = Field(0, ge=0, description="Overlap of neighbours, px at `mpp`.")
    min_tissue: float = Field(0.5, ge=0, le=1, description="Smallest share of tissue in a tile that is kept.")
    tolerance: float = Field(0.05, ge=0, lt=1, description="A slide may be coarser than `mpp` by this share.")
    label: Name | None = Field(None, description="Suffix of the tile folder, for a second set at one scale.")

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Tiles:
        if self.overlap >= self.size:
            raise ValueError(f"overlap {self.overlap} must be smaller than size {self.size}")
        return self


class Features(_Keys):
    """One vector a tile: computed by an encoder, or read from another tool's files."""

    encoder: str | None = Field(None, description="builtin, a registered name, timm:<id> or transformers:<id>.")
    precomputed: Path | None = Field(None, description="Folder of feature files made by another tool.")
    layout: Literal["auto", "trident", "clam", "stamp", "atlaspatch", "plain"] = "auto"
    checkpoint: Path | None = Field(None, description="Local weights of the encoder (file or folder).")
    allow_mpp_mismatch: bool = Field(False, description="Let an encoder run off the scale it was trained at.")
    batch_size: int = Field(64, ge=1, description="Tiles a batch of the encoder.")
    dtype: Literal["float32", "float16"] = Field("float32", description="Type the features are stored in.")

    @model_validator(mode="after")
    def _one_source(self) -> Features:
        if self.precomputed is not None and self.encoder is not None:
            raise ValueError("give encoder or precomputed, not both")
        if self.precomputed is None and self.encoder is None:
            self.encoder = "builtin"
        return self


class Splits(_Keys):
    """Folds, of patients."""

    folds: int = Field(5, ge=2, description="Outer folds; each patient is tested once a repeat.")
    repeats: int = Field(1, ge=1, description="Times the folds are drawn.")
    inner: float = Field(0.2, gt=0, lt=0.5, description="Share of the training part that chooses the epoch.")
    stratify: bool = Field(True, description="Balance the outcomes over the folds.")
    preserve: str | None = Field(None, description="Column of patients (site) that never sits on both sides.")
    published: Path | None = Field(None, description="Folder of published folds (splits_<k>.csv).")


class _Task(_Keys):
    name: Name


class Classification(_Task):
    """A class a patient."""

    kind: Literal["classification"]
    target: str = Field(description="Column of patients with the class.")
    positive: str | None = Field(None, description="The positive class of two (default: the last in order).")
    adjust: list[str] = Field(default_factory=list, description="Clinical covariates of the clinical model.")


class Survival(_Task):
    """Time to an event."""

    kind: Literal["survival"]
    time: str = Field(description="Column of patients with the time, days.")
    event: str = Field(description="Column of patients: 1 event, 0 censored.")
    horizons: list[int] = Field(default_factory=lambda: [365, 1095, 1825], description="Days.")
    adjust: list[str] = Field(default_factory=list, description="Clinical covariates of the clinical model.")

    @field_validator("horizons")
    @classmethod
    def _positive_and_rising(cls, value: list[int]) -> list[int]:
        if not value or any(h <= 0 for h in value) or sorted(set(value)) != value:
            raise ValueError("horizons are days, positive and rising")
        return value


class Regression(_Task):
    """A number a patient."""

    kind: Literal["regression"]
    target: str = Field(description="Column of patients with the number.")
    adjust: list[str] = Field(default_factory=list, description="Clinical covariates of the clinical model.")


class Expression(_Task):
    """Many genes a patient."""

    kind: Literal["expression"]
    table: Path = Field(description="CSV: patient_id and one column a gene.")
    genes: list[str] | None = Field(None, description="Genes to predict (default: all columns).")
    log: bool = Field(True, description="Take log2(1 + x).")
    adjust: list[str] = Field(default_factory=list, description="Clinical covariates of the clinical model.")


Task = Annotated[Classification | Survival | Regression | Expression, Field(discriminator="kind")]


class Training(_Keys):
    """How a model is trained; the inner validation part chooses the epoch.

    The linear model on the mean (aggregator mean without `hidden`) is solved exactly over a path of ridge
    penalties, of which the inner part chooses; epochs, rate and batch say nothing there.
    """

    epochs: int = Field(50, ge=1)
    min_epochs: int = Field(5, ge=1, description="No early stop before this epoch.")
    patience: int = Field(10, ge=1, description="Epochs without a better inner loss before it stops.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of AdamW.")
    weight_decay: float = Field(1e-4, ge=0)
    batch_size: int = Field(32, ge=1, description="Patients a step.")
    max_tiles: int | None = Field(None, ge=1, description="Tiles drawn a patient and step (default: all).")
    loss: Literal["nll", "cox"] | None = Field(None, description="Survival loss (default: nll).")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where it trains.")


class Model(_Keys):
    """Aggregator, head and recipe."""

    aggregator: Name = Field(description="mean, max, abmil.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the aggregator.")
    recipe: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Training recipes by name.")
    training: Training = Field(default_factory=lambda: Training())


class Compare(_Keys):
    """Paired comparison of the models."""

    reference: str | None = Field(None, description="Model the others are compared with (default: the first).")
    resamples: int = Field(2000, ge=100, description="Bootstrap resamples of the patients.")
    correction: Literal["holm", "none"] = "holm"
    confidence: float = Field(0.95, gt=0.5, lt=1)


class Study(_Keys):
    """A study file."""

    study: Name = Field(description="results/studies/<study>/")
    seed: int = Field(0, ge=0, description="Every random number is derived from it.")
    cohort: Cohort
    tissue: Tissue = Field(default_factory=lambda: Tissue())
    tiles: Tiles = Field(default_factory=lambda: Tiles())
    features: Features = Field(default_factory=lambda: Features())
    splits: Splits = Field(default_factory=lambda: Splits())
    tasks: list[Task] = Field(default_factory=list)
    models: dict[Name, Model] = Field(default_factory=dict)
    compare: Compare = Field(default_factory=lambda: Compare())

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"two tasks of one name in {names}")
        if self.tasks and not self.models:
            raise ValueError("a study with tasks needs models")
        if self.tasks and self.cohort.simulate is None and self.cohort.patients is None:
            raise ValueError("a study with tasks needs cohort.patients")
        if taken := [name for name in self.models if name in CONTROLS]:
            raise ValueError(f"model name {taken[0]!r} is taken: that control is in every study")
        if self.models:
            if self.compare.reference is None:
                self.compare.reference = next(iter(self.models))
            # the linear model on the mean of the tiles is a control of every table
            if not any(m.aggregator == "mean" for m in self.models.values()):
                if "mean" in self.models:
                    raise ValueError("model name 'mean' is kept for the mean-pool control")
                self.models = {"mean": Model(aggregator="mean"), **self.models}
            if self.compare.reference not in self.models:
                raise ValueError(f"compare.reference {self.compare.reference!r} is not a model of this study")
        return self

    def task(self, name: str) -> Task:
        """The task of this name."""
        return next(t for t in self.tasks if t.name == name)

    def model_names(self, task: str) -> list[str]:
        """Models of a task, controls first; `clinical` only where the task names covariates."""
        controls = ["prior", "clinical"] if self.task(task).adjust else ["prior"]
        return [*controls, *self.models]


_PATH_KEYS = (
    ("cohort", "slides"), ("cohort", "patients"), ("features", "precomputed"), ("features", "checkpoint"),
    ("splits", "published"),
)  # fmt: skip


def parse_study(config: Mapping[str, Any], *, source: str | Path | None = None) -> Study:
    """Validate a configuration and make its paths absolute.

    Parameters
    ----------
    config : mapping
        What the study file says.
    source : str or Path, optional
        The study file: relative paths are looked for in its folder first, then in the working directory.

    Raises
    ------
    ConfigError
        One line naming the key, what is wrong with it, and what is allowed.
    """
    try:
        study = Study.model_validate(dict(config))
    except ValidationError as error:
        raise ConfigError(_one_line(error), where=source, todo="see the study file's keys in the README") from None
    base = Path(source).resolve().parent if source else Path.cwd()
    for section, key in _PATH_KEYS:
        part = getattr(study, section)
        if (value := getattr(part, key)) is not None:
            setattr(part, key, _find(value, base, f"{section}.{key}", source))
    for task in study.tasks:
        if isinstance(task, Expression) and study.cohort.simulate is None:
            task.table = _find(task.table, base, f"tasks.{task.name}.table", source)
    return study


def checked(section: type[S], **values: Any) -> S:
    """A section of a study file made from `values`, with a one-line error where they are wrong."""
    try:
        return section(**values)
    except ValidationError as error:
        raise ConfigError(_one_line(error), where=section.__name__.lower()) from None


def read_study_file(path: str | Path) -> dict[str, Any]:
    """What a study file says, not yet validated.

    Raises
    ------
    ConfigError
        If there is no such file, or it is not YAML of keys and values.
    """
    import yaml

    path = Path(path)
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such study file", where=path, todo="check the path") from None
    except yaml.YAMLError as error:
        line = str(error).replace("\n", " ")
        raise ConfigError(f"not YAML: {line}", where=path, todo="mend the file") from None
    if not isinstance(config, dict):
        raise ConfigError("not a study file: expected keys and values", where=path, todo="see the README")
    return config


def load_study(path: str | Path) -> Study:
    """Read and validate a study file (see `parse_study`)."""
    return parse_study(read_study_file(path), source=path)


def resolve(study: Study) -> dict[str, Any]:
    """The study with every default written out, as plain data."""
    return study.model_dump(mode="json")


def json_schema() -> dict[str, Any]:
    """JSON schema of the study file."""
    schema = Study.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema


def _find(path: Path, base: Path, key: str, source: str | Path | None) -> Path:
    expanded = Path(os.path.expandvars(path)).expanduser()
    for folder in (base, Path.cwd()):
        if (folder / expanded).exists():
            found = (folder / expanded).resolve()
            # relative where it can be, so that a study's folder can move with its data
            return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
    raise ConfigError(
        f"{key}: {path} does not exist",
        where=source,
        todo="paths are relative to the study file, then to here",
    )


def _one_line(error: ValidationError) -> str:
    """The first thing wrong, as `key: what`, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    message = re.sub(r"^Value error, ", "", first["msg"])
    if first["type"] == "extra_forbidden":
        message = f"unknown key{_suggest(first['loc'])}"
    elif "input" in first and not isinstance(first["input"], dict):
        message += f" (it is {first['input']!r})"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return (f"{key}: " if key else "") + message + more


def _suggest(loc: tuple[int | str, ...]) -> str:
    """`, did you mean ...` for an unknown key, from all the keys a study file knows."""
    from difflib import get_close_matches

    known = {key for model in _Keys.__subclasses__() + _Task.__subclasses__() for key in model.model_fields}
    close = get_close_matches(str(loc[-1]), sorted(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
