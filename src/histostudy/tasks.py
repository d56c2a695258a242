"""A study's tasks, typed: what is predicted, of whom, and how it is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=80)]
#: Keys of a task that no run depends on but the clinical control's `adjust`: they say how it is scored.
EVALUATED_ONLY = {"adjust", "cutoff", "subtypes", "centroids"}


class Keys(BaseModel):
    """A section of a study file: unknown keys are refused, defaults are checked too."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class TaskKeys(Keys):
    """What the tasks of every kind share."""

    name: Name
    where: dict[str, str | int | list[str | int]] = Field(
        default_factory=dict,
        description="Patients of the task: columns of patients and the value, or values, they have.",
    )
    permute: int | None = Field(
        None,
        ge=0,
        description="A null: outcomes are shuffled among the patients, by this seed. Nothing can be learned.",
    )
    adjust: list[str] = Field(default_factory=list, description="Clinical covariates of the clinical model.")


class Classification(TaskKeys):
    """A class a patient."""

    kind: Literal["classification"]
    target: str = Field(description="Column of patients with the class.")
    positive: str | None = Field(None, description="The positive class of two (default: the last in order).")


class Survival(TaskKeys):
    """Time to an event."""

    kind: Literal["survival"]
    time: str = Field(description="Column of patients with the time, days.")
    event: str = Field(description="Column of patients: 1 event, 0 censored.")
    horizons: list[int] = Field(default_factory=lambda: [365, 1095, 1825], description="Days.")

    @field_validator("horizons")
    @classmethod
    def _positive_and_rising(cls, value: list[int]) -> list[int]:
        if not value or any(h <= 0 for h in value) or sorted(set(value)) != value:
            raise ValueError("horizons are days, positive and rising")
        return value


class Regression(TaskKeys):
    """A number a patient."""

    kind: Literal["regression"]
    target: str = Field(description="Column of patients with the number.")
    cutoff: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Clinical cut-off of the number: adds the metric `auroc@<cutoff>`, how well predictions rank the "
        "patients at or above it over those below.",
    )


class Expression(TaskKeys):
    """Many genes a patient, or a spot of a section."""

    kind: Literal["expression"]
    level: Literal["patient", "spot"] = Field(
        "patient", description="What a row of `table` is: a patient, or a spot of tiles.spots (spot_id)."
    )
    table: Path = Field(description="CSV: patient_id (or spot_id) and one column a gene.")
    genes: list[str] | None = Field(None, description="Genes to predict (default: all columns).")
    top: int | None = Field(
        None, ge=1, description="Ask for the genes of largest variance, this many, over all rows of the cohort."
    )
    library: bool = Field(False, description="Counts: scale each row to a total of 10,000 first.")
    log: bool = Field(True, description="Take log2(1 + x).")
    subtypes: bool = Field(False, description="Call intrinsic subtypes from measured and predicted expression.")
    centroids: Path | None = Field(
        None, description="CSV: gene and one column a subtype. Default: centroids of the training part's clusters."
    )


#: Names under `classes` of a segmentation that are no classes: what is drawn is background, or is not looked at.
NO_CLASS = ("background", "ignore")


class Segmentation(TaskKeys):
    """A class a pixel, learned from annotations drawn in QuPath."""

    kind: Literal["segmentation"]
    annotations: Path = Field(
        description="Folder of <slide_id>.geojson as QuPath exports them (level-0 pixels). Slides without one are left "
        "out of the task."
    )
    classes: dict[Name, list[str]] = Field(
        description="Class -> the names it has in QuPath, in any case. Where two overlap, the later class of this list "
        "wins. `background` and `ignore` may be listed too; `ignore` wins over all."
    )
    mpp: float = Field(2.0, gt=0, description="Micrometres per pixel of the masks that are learned and predicted.")
    unannotated: Literal["background", "ignore"] = Field(
        "background",
        description="What tissue is that nobody drew on. A slide with a `Region*` is looked at inside it alone.",
    )

    @field_validator("classes")
    @classmethod
    def _some_and_apart(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        if not [name for name in value if name not in NO_CLASS]:
            raise ValueError("name a class beside background and ignore")
        drawn = [one.strip().lower() for names in value.values() for one in names]
        if twice := [one for one in drawn if drawn.count(one) > 1]:
            raise ValueError(f"annotations named {twice[0]!r} are in two classes")
        if empty := [name for name, names in value.items() if not names]:
            raise ValueError(f"{empty[0]}: give the names it has in QuPath")
        return value

    @field_validator("adjust")
    @classmethod
    def _no_covariates(cls, value: list[str]) -> list[str]:
        if value:
            raise ValueError("covariates of patients say nothing about pixels; leave it out")
        return value

    @property
    def labels(self) -> list[str]:
        """The classes that are predicted, in their order."""
        return [name for name in self.classes if name not in NO_CLASS]


class TileClassification(TaskKeys):
    """A class a labelled tile: how well an encoder tells tissues apart."""

    kind: Literal["tile_classification"]
    table: Path = Field(
        description="CSV: tile_id, patient_id, the target, and path (an image, relative to the table) or slide_id, "
        "x_px0, y_px0 (top left corner); for images the column mpp, unless all have the task's."
    )
    target: str = Field("label", description="Column of `table` with the class.")
    positive: str | None = Field(None, description="The positive class of two (default: the last in order).")
    mpp: float | None = Field(
        None, gt=0, description="Micrometres per pixel at which tiles are seen (default: the images' own, tiles.mpp)."
    )
    size: int | None = Field(
        None, ge=16, description="Side of a tile, px at `mpp`: of images the middle (default: all of it, tiles.size)."
    )

    @field_validator("adjust")
    @classmethod
    def _no_covariates(cls, value: list[str]) -> list[str]:
        if value:
            raise ValueError("covariates are of patients, and this task is of tiles")
        return value

    def as_classification(self) -> Classification:
        """The task as one of classification, which is how it is scored."""
        shared = {key: getattr(self, key) for key in ("name", "where", "permute", "target", "positive")}
        return Classification(kind="classification", **shared)


Task = Annotated[
    Classification | Survival | Regression | Expression | Segmentation | TileClassification,
    Field(discriminator="kind"),
]
