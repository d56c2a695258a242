"""Keys of the study file that train the tissue network (`train_tissue`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from histostudy.tasks import Keys


class TrainTissue(Keys):
    """The network of ``tissue: {method: unet}``, trained on drawn thumbnails and, if given, real ones."""

    steps: int = Field(4000, ge=1, description="Steps of AdamW.")
    batch_size: int = Field(4, ge=1, description="Pictures a step.")
    pictures: int = Field(2000, ge=1, description="Pictures that are drawn; each step changes some of them anew.")
    size_px: int = Field(256, ge=64, description="Side of a picture, px.")
    lr: float = Field(2e-3, gt=0, description="Highest learning rate.")
    weight_decay: float = Field(1e-4, ge=0)
    channels: list[int] = Field([16, 32, 64, 128], description="Width of the network, from fine to coarse.")
    factors: list[int] = Field([2, 4, 4], description="Max-pooling between the levels.")
    decoder: list[int] = Field([12, 24, 48], description="Width of the decoders.")
    norm: Literal["instance", "batch", "none"] = Field("batch", description="Normalisation.")
    patch: int = Field(2, ge=1, description="Side of the squares of pixels that the first layer takes at once.")
    offset_px: float = Field(32.0, gt=0, description="Unit of the offsets that are learned, px.")
    real: Path | None = Field(
        None,
        description="Folder of real thumbnails at 8 um/px beside the drawn ones: <name>.png, <name>_tissue.png and "
        "perhaps <name>_pen.png and <name>_sections.png (a grey level a section).",
    )
    real_share: float = Field(0.3, ge=0, le=1, description="Share of real pictures in a batch, where there are any.")
    test: int = Field(200, ge=1, description="Drawn pictures, none of them learned from, that it is measured on.")
    checkpoint_every: int = Field(200, ge=1, description="Steps between two checkpoints.")


def check_train_tissue(settings: TrainTissue | None, thumbnails: bool, cohort: Any) -> None:
    """Raise ValueError unless `train_tissue` and `cohort.thumbnails` come together and alone."""
    if (settings is not None) != thumbnails:
        raise ValueError("train_tissue and cohort.thumbnails: true go together")
    if thumbnails and cohort:
        raise ValueError("cohort.thumbnails draws its own pictures: leave slides, patients and simulate out")
