"""H2G-Net: tiles are classed one by one, then a U-Net refines their heat map with the slide at low resolution.

Source: Pedersen et al., H2G-Net (Front Med 2022, arXiv 2112.03455). Our reading, where it is silent or made for one
class: tiles are trained on the share of each class in them; with several classes there is one heat map a class; the
second stage works on windows of the slide, not on a whole slide squeezed to one size; and the heat maps that it is
trained on are those of the first stage on the slides that trained it, which are better than those of new slides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from histostudy.errors import ConfigError
from histostudy.training.segmentation.annotations import IGNORE
from histostudy.training.segmentation.cases import View
from histostudy.training.segmentation.fitting import Batch, History, fit
from histostudy.training.segmentation.losses import pixel_loss
from histostudy.training.segmentation.predict import Prediction, Read, corners, stitch
from histostudy.training.segmentation.sampling import Place, Sampler, augment
from histostudy.training.segmentation.segmenters import (
    SEGMENTERS,
    Segmenter,
    Setting,
    UNetOptions,
    options_of,
    patches,
    to_tensor,
)

logger = logging.getLogger(__name__)

Heat = NDArray[np.float32]


@dataclass(frozen=True)
class H2GOptions(UNetOptions):
    """Options of the cascade; those of the U-Net are of its second stage.

    Attributes
    ----------
    tile_px : int
        Side of the tiles of the first stage.
    tile_mpp : float or None
        Their scale, um per pixel (default: that of the masks, or 1 where they are coarser).
    width : float
        Width of the MobileNetV2, as a share of the published one.
    checkpoint : str or None
        Weights of a torchvision MobileNetV2 of this width to start from (safetensors or a state dict); none are
        shipped.
    tile_batch : int
        Tiles a step of the first stage.
    refine_mpp : float or None
        Scale of the second stage (default: that of the masks).
    """

    tile_px: int = 256
    tile_mpp: float | None = None
    width: float = 1.0
    checkpoint: str | None = None
    tile_batch: int = 32
    refine_mpp: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tile_px < 32 or self.tile_batch < 2 or not self.width > 0:
            raise ConfigError("tile_px must be 32 or more, tile_batch 2 or more, width positive")


@SEGMENTERS.register("h2g")
class H2G(Segmenter):
    """The cascade of detection on tiles and refinement at low resolution."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.options = H2GOptions(**setting.options)
        o = self.options
        self.tile_mpp = o.tile_mpp or min(1.0, setting.mpp)
        self.refine_mpp = o.refine_mpp or setting.mpp
        self.detector = mobile_net(setting.classes + 1, o.width, o.checkpoint, setting.seed)
        self.refiner = o.build(3 + setting.classes, setting.classes, setting.seed)
        #: Side of a tile in pixels of the second stage.
        self.cell = o.tile_px * self.tile_mpp / self.refine_mpp
        if self.cell < 1:
            raise ConfigError(f"tiles of {o.tile_px * self.tile_mpp:g} um are smaller than a pixel of refine_mpp")
        self._heat: dict[str, Heat] = {}

    @classmethod
    def known(cls) -> list[str]:
        """Names of its options."""
        return options_of(H2GOptions)

    def fit(self, train: Sequence[View], inner: Sequence[View]) -> History:
        """Detection on balanced tiles, then refinement on balanced windows with the heat maps."""
        history = self._fit_detector([v.at(self.tile_mpp) for v in train], [v.at(self.tile_mpp) for v in inner])
        for view in (*train, *inner):
            self._heat[view.case.slide_id] = self.heat(view)
        low = [v.at(self.refine_mpp) for v in train]
        return history + self._fit_refiner(low, [v.at(self.refine_mpp) for v in inner])

    def _fit_detector(self, train: Sequence[View], inner: Sequence[View]) -> History:
        o, s = self.options, self.setting
        sampler = Sampler(train, s.classes)

        def batch(views: Sequence[View], places: Sequence[Place], rng: np.random.Generator | None) -> Batch:
            rgb, truth = patches(views, places, o.tile_px, s.slides, rng)
            return to_tensor(rgb), shares(truth, s.classes)

        def draw(rng: np.random.Generator) -> Batch:
            return batch(train, sampler.draw(rng, o.tile_batch, o.tile_px), rng if o.augment else None)

        held: list[Batch] = []
        if inner:
            places = Sampler(inner, s.classes).draw(np.random.default_rng(s.seed + 2), o.inner_patches, o.tile_px)
            held = [batch(inner, places[k : k + o.tile_batch], None) for k in range(0, len(places), o.tile_batch)]
        return fit(self.detector, share_loss, draw, held, s.training, steps=o.steps, seed=s.seed, device=s.device,
                   stage="detection").history  # fmt: skip

    def _fit_refiner(self, train: Sequence[View], inner: Sequence[View]) -> History:
        o, s = self.options, self.setting
        sampler = Sampler(train, s.classes)

        def batch(views: Sequence[View], places: Sequence[Place], rng: np.random.Generator | None) -> Batch:
            rgb, truth = patches(views, places, o.patch_px, s.slides, None)
            heat = [self._warm(views[p.view], p.x, p.y, o.patch_px) for p in places]
            x = np.concatenate([rgb, np.rint(np.stack(heat) * 255).astype(np.uint8)], -1)
            if rng is not None:
                turned = [augment(rng, image, drawn) for image, drawn in zip(x, truth, strict=True)]
                x, truth = np.stack([t[0] for t in turned]), np.stack([t[1] for t in turned])
            return to_tensor(x), torch.from_numpy(truth.astype(np.int64))

        def draw(rng: np.random.Generator) -> Batch:
            return batch(train, sampler.draw(rng, s.training.batch_size, o.patch_px), rng if o.augment else None)

        held: list[Batch] = []
        if inner:
            n, size = s.training.batch_size, o.patch_px
            places = Sampler(inner, s.classes).draw(np.random.default_rng(s.seed + 1), o.inner_patches, size)
            held = [batch(inner, places[k : k + n], None) for k in range(0, len(places), n)]
        return fit(self.refiner, pixel_loss, draw, held, s.training, steps=o.steps, seed=s.seed, device=s.device,
                   stage="refinement").history  # fmt: skip

    def heat(self, view: View) -> Heat:
        """Probability of each class but background on the lattice of tiles, (rows, columns, classes); 0 off tissue."""
        o, s = self.options, self.setting
        fine = view.at(self.tile_mpp)
        self.detector.to(s.device)
        return heat_map(
            lambda x: self.detector(x.to(s.device)), self._reader(fine), _lattice_of_tissue(fine, o.tile_px),
            s.classes, o.tile_px, o.tile_batch,
        )  # fmt: skip

    def _reader(self, view: View) -> Read:
        return lambda at, size: to_tensor(view.read(self.setting.slides.of(view.case), at, size))

    def _warm(self, view: View, x: int, y: int, size: int) -> Heat:
        return upsampled(self._heat[view.case.slide_id], self.cell, x, y, size)

    def predict(self, view: View) -> Prediction:
        """The heat map of the slide, refined."""
        low, device, o = view.at(self.refine_mpp), self.setting.device, self.options
        if view.case.slide_id not in self._heat:
            self._heat[view.case.slide_id] = self.heat(view)
        self.refiner.to(device)
        rgb = self._reader(low)

        def read(at: Sequence[tuple[int, int]], size: int) -> Tensor:
            heat = np.stack([self._warm(low, x, y, size) for x, y in at])
            return torch.cat([rgb(at, size), to_tensor(np.rint(heat * 255).astype(np.uint8))], 1)

        found = stitch(lambda x: self.refiner(x.to(device)), read, low.tissue(), size=o.patch_px, overlap=o.overlap_px)
        return found if low.shape == view.shape else _enlarged(found, view)

    def tensors(self) -> dict[str, Tensor]:
        """Those of both stages."""
        parts = {"detector": self.detector, "refiner": self.refiner}
        return {f"{name}.{key}": t for name, part in parts.items() for key, t in part.state_dict().items()}


def mobile_net(classes: int, width: float, checkpoint: str | None, seed: int) -> nn.Module:
    """torchvision's MobileNetV2 (Sandler et al., CVPR 2018) with untrained weights, or those of a file.

    Raises
    ------
    ConfigError
        If the file cannot be read or is of another network.
    """
    from torchvision.models import mobilenet_v2

    torch.manual_seed(seed)
    network = mobilenet_v2(weights=None, width_mult=width, num_classes=classes)
    if checkpoint is not None:
        try:
            if checkpoint.endswith(".safetensors"):
                from safetensors.torch import load_file

                state = load_file(checkpoint)
            else:
                state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            body = {k: v for k, v in state.items() if not k.startswith("classifier.")}
            missing = network.load_state_dict(body, strict=False)
        except (OSError, RuntimeError, AttributeError) as error:
            line = str(error).splitlines()[0]
            raise ConfigError(f"cannot start from it ({line})", where=checkpoint, todo="check file and width") from None
        if missing.unexpected_keys or any(not key.startswith("classifier.") for key in missing.missing_keys):
            raise ConfigError("no weights of this MobileNetV2", where=checkpoint, todo="give torchvision's")
    return network


def shares(truth: NDArray[np.uint8], classes: int) -> Tensor:
    """Share of each class, background first, among the pixels of tiles that count, (N, classes + 1); 0 of none."""
    flat = truth.reshape(len(truth), -1)
    counted = np.stack([(flat == value).sum(1) for value in range(classes + 1)], 1).astype(np.float32)
    return torch.from_numpy(counted / np.maximum((flat != IGNORE).sum(1, keepdims=True), 1).astype(np.float32))


def share_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with the share of each class; a tile that is ignored altogether adds nothing."""
    return F.cross_entropy(logits, target)


def heat_map(
    network: Callable[[Tensor], Tensor], read: Read, wanted: NDArray[np.bool_], classes: int, size: int, batch: int
) -> Heat:
    """Class probabilities of the tiles of a lattice, one tile beside the other.

    Parameters
    ----------
    network : callable
        (N, 3, size, size) -> logits (N, classes + 1).
    read : Read
    wanted : ndarray of bool, (rows, columns)
        Tiles to look at.
    classes, size, batch : int

    Returns
    -------
    ndarray of float32, (rows, columns, classes)
    """
    out = np.zeros((*wanted.shape, classes), np.float32)
    rows, columns = np.nonzero(wanted)
    for start in range(0, len(rows), batch):
        r, c = rows[start : start + batch], columns[start : start + batch]
        with torch.no_grad():
            p = network(read([(int(x) * size, int(y) * size) for x, y in zip(c, r, strict=True)], size)).softmax(1)
        out[r, c] = p[:, 1:].cpu().numpy()
    return out


def _lattice_of_tissue(view: View, size: int) -> NDArray[np.bool_]:
    """Which tiles of a lattice hold tissue."""
    rows, columns = (len(corners(n, size, 0)) for n in view.shape)
    out = np.zeros((rows, columns), bool)
    for row in range(rows):  # one row of tiles at a time: the whole slide at this scale need not fit in memory
        out[row] = view.tissue(0, row * size, (size, columns * size)).reshape(size, columns, size).any((0, 2))
    return out


def upsampled(heat: Heat, cell: float, x: int, y: int, size: int) -> Heat:
    """A window of a heat map whose cells are `cell` pixels wide, interpolated between their middles; 0 beyond."""
    map_x, map_y = np.meshgrid(
        ((np.arange(size) + x + 0.5) / cell - 0.5).astype(np.float32),
        ((np.arange(size) + y + 0.5) / cell - 0.5).astype(np.float32),
    )
    found = cv2.remap(heat, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.reshape(size, size, -1).astype(np.float32)


def _enlarged(found: Prediction, view: View) -> Prediction:
    """A prediction at another scale, on the tissue of the masks."""
    tissue = view.tissue()
    rows = (np.arange(tissue.shape[0]) + 0.5) * found.best.shape[0] / tissue.shape[0]
    columns = (np.arange(tissue.shape[1]) + 0.5) * found.best.shape[1] / tissue.shape[1]
    at = np.ix_(rows.astype(int), columns.astype(int))
    return Prediction(found.best[at] * tissue, found.share[at] * tissue)
