"""Keys of an encoder that a study trains itself: self-supervised, or distilled from another."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from histostudy.stain_keys import Stain
from histostudy.tasks import Keys, Name

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Views(Keys):
    """Crops of a tile and what is done to their colours."""

    size: int | None = Field(None, ge=8, description="Side of a global crop, px (default: that of the tiles).")
    scale: tuple[Share, Share] = Field((0.4, 1.0), description="Share of the tile's area in a global crop.")
    local: int = Field(6, ge=0, description="Local crops a tile.")
    local_size: int | None = Field(None, ge=4, description="Side of a local crop, px (default: 3/7 of `size`).")
    local_scale: tuple[Share, Share] = Field((0.05, 0.4), description="Share of the tile's area in a local crop.")
    aspect: float = Field(4 / 3, ge=1, description="Longest side of a crop over its shortest, at most.")
    turn: bool = Field(True, description="Flips and quarter turns.")
    stain: float = Field(0.05, ge=0, lt=1, description="Strength of the change of haematoxylin, eosin and the rest.")
    colour: float = Field(0.1, ge=0, lt=1, description="Largest change of brightness, contrast and saturation.")
    blur: float = Field(0.3, ge=0, le=1, description="Chance of a blur.")
    blur_sigma: tuple[Positive, Positive] = Field((0.1, 2.0), description="Its width, px.")
    solarise: float = Field(0.0, ge=0, le=1, description="Chance that bright pixels are inverted; of no stain.")
    mean: tuple[float, float, float] = Field(_IMAGENET[0], description="Normalisation of RGB in 0 to 1.")
    std: tuple[Positive, Positive, Positive] = Field(_IMAGENET[1], description="Normalisation of RGB in 0 to 1.")

    @model_validator(mode="after")
    def _in_order(self) -> Views:
        for name in ("scale", "local_scale", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the smaller first")
        return self


class Pretrain(Keys):
    """How the encoder `pretrained` is made of the cohort's tiles, without labels."""

    name: Name = Field("pretrained", description="results/cohorts/<cohort>/encoders/<name>/")
    method: Literal["dino", "ibot", "distil"] = Field("dino", description="ibot adds masked patches to dino.")
    network: str = Field("vit_tiny", description="vit_tiny, vit_small, vit_base, resnet18, ..., or timm:<name>.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Of the network; a vit: patch, registers, width, depth, heads, drop_path."
    )
    teacher: str | None = Field(None, description="distil: encoder to learn from, by the name `features` would use.")
    teacher_checkpoint: Path | None = Field(None, description="distil: its local weights, or an encoder made before.")
    teacher_sees: Literal["view", "clean"] = Field(
        "view", description="distil: the crop as the student sees it, or as it was before its colours were changed."
    )
    match: Literal["auto", "heads", "features"] = Field(
        "auto",
        description="distil: agree on the prototypes of the teacher's own heads (where it has some), or on its tokens.",
    )
    cosine: float = Field(1.0, ge=0, description="distil, features: weight of 1 - cosine to the teacher's tokens.")
    mse: float = Field(1.0, ge=0, description="distil, features: weight of their squared difference.")
    patches: float = Field(1.0, ge=0, description="distil, features: weight of patch tokens beside the class token.")
    variant: Literal["cls", "mean", "cls+mean"] = Field("cls", description="What the encoder gives of its tokens.")

    images: Path | None = Field(None, description="Folder of images to learn from instead of the cohort's tiles.")
    where: dict[str, str | int | list[str | int]] = Field(
        default_factory=dict,
        description="Patients whose tiles are learned from: columns of patients and the value, or values, they have "
        "(default: all patients, those that are tested later too, without their labels).",
    )
    tiles_per_slide: int | None = Field(1024, ge=1, description="Tiles drawn of a slide, anew every epoch.")
    stain: Stain | None = Field(
        None, description="Stain normalisation of the tiles first; `features.stain` must be the same."
    )
    views: Views = Field(default_factory=lambda: Views())

    epochs: int = Field(100, ge=0, description="0: an untrained network, the control of what training adds.")
    steps: int | None = Field(None, ge=1, description="Stop after so many steps, whatever the epochs.")
    batch_size: int = Field(64, ge=2, description="Tiles a step, over all processes.")
    lr: float | None = Field(
        None, gt=0, description="Peak rate (default: 5e-4 x batch / 256; distil: 1e-3 x sqrt(batch / 1024))."
    )
    lr_end: float = Field(1e-6, ge=0)
    warm_up: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    weight_decay: tuple[float, float] = Field((0.04, 0.4), description="At the start and, by a cosine, at the end.")
    clip: float = Field(3.0, gt=0, description="Largest norm of the gradient.")
    momentum: float | None = Field(
        None, ge=0, le=1,
        description="Of the moving average of the weights, rising to 1 (default: 0.996; distil: 0.99, not rising).",
    )  # fmt: skip

    prototypes: int = Field(4096, ge=2, description="Outputs of a head.")
    head_hidden: int = Field(2048, ge=1)
    bottleneck: int = Field(256, ge=1)
    freeze_prototypes: int = Field(1, ge=0, description="Epochs before the prototypes move.")
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: tuple[Positive, Positive] = Field((0.04, 0.07), description="At the start, and after:")
    temperature_warm_up: float = Field(0.3, ge=0, le=1, description="share of the steps.")
    targets: Literal["centre", "sinkhorn"] = Field("centre", description="How the teacher's outputs are balanced.")
    centre_momentum: float = Field(0.9, ge=0, le=1)
    koleo: float = Field(0.0, ge=0, description="Weight of the loss that spreads class tokens (DINOv2: 0.1).")
    mask_share: float = Field(0.5, ge=0, le=1, description="ibot: share of the crops with masked patches.")
    mask_ratio: tuple[Share, Share] = Field((0.1, 0.5), description="ibot: share of their patches that is masked.")
    mask_weight: float = Field(1.0, ge=0, description="ibot: weight of the loss of masked patches.")

    monitor_tiles: int = Field(256, ge=8, description="Tiles that are looked at after every epoch for a collapse.")
    save_every: int = Field(1, ge=1, description="Epochs between two checkpoints to resume from.")
    buffer: int = Field(4096, ge=1, description="Tiles held in memory.")
    workers: int = Field(0, ge=0, description="Threads that cut crops beside the training; same bytes for any number.")
    threads: int = Field(1, ge=1, description="CPU threads of torch; another number gives other roundings.")
    processes: int = Field(1, ge=1, description="Processes (GPUs) that share a batch.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where it trains.")

    @model_validator(mode="after")
    def _fits_together(self) -> Pretrain:
        if self.method == "distil" and self.teacher is None and self.teacher_checkpoint is None:
            raise ValueError("distil learns from a teacher: give teacher, or teacher_checkpoint, or both")
        if self.method != "distil" and (self.teacher is not None or self.teacher_checkpoint is not None):
            raise ValueError(f"{self.method} has no teacher but itself: leave teacher out, or take method: distil")
        if self.teacher == "pretrained" and self.teacher_checkpoint is None:
            raise ValueError("teacher pretrained: say by teacher_checkpoint which one")
        if self.images is not None and (self.where or self.stain is not None):
            key = "where chooses patients" if self.where else "stain is fitted to the slides"
            raise ValueError(f"{key} of the cohort; a folder of images has none")
        if self.batch_size % self.processes:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of processes {self.processes}")
        if self.mask_ratio[0] > self.mask_ratio[1]:
            raise ValueError("mask_ratio: the smaller first")
        return self


def check_pretrain(
    pretrain: Pretrain | None, encoder: str | None, checkpoint: Path | None, stain: Stain | None, has_tiles: bool,
    outcomes: AbstractSet[str] = frozenset(),
) -> None:  # fmt: skip
    """Refuse a pretraining that nothing uses, and the encoder `pretrained` that nothing makes.

    Parameters
    ----------
    pretrain : Pretrain or None
        The study's.
    encoder, checkpoint, stain
        Of its features.
    has_tiles : bool
        Whether it cuts tiles of slides: features are neither drawn nor precomputed.
    outcomes : set of str
        Columns of patients that say an outcome.

    Raises
    ------
    ValueError
        Saying which key is wrong.
    """
    if pretrain is None:
        if encoder == "pretrained" and checkpoint is None:
            raise ValueError(
                "features.encoder pretrained: add a pretrain section, or features.checkpoint: the folder of one made "
                "before"
            )
        return
    if encoder != "pretrained":
        raise ValueError("pretrain makes the encoder pretrained, and nothing uses it: set features.encoder: pretrained")
    if not has_tiles:
        raise ValueError("pretrain learns from tiles of slides: this study has none")
    if told := sorted(set(pretrain.where) & outcomes):
        raise ValueError(f"pretrain.where: {told[0]} is an outcome; an encoder made without labels must not be told it")
    if pretrain.images is None and pretrain.stain != stain:
        raise ValueError(
            "pretrain.stain and features.stain must be the same: an encoder of normalised stains needs them when used"
        )
