"""The segmenters by name: how each is fitted to the training slides and what it says of a slide.

The controls are segmenters too: `prior` calls all tissue the commonest class, `colour` is a logistic regression on the
colour of a pixel. What is not better than these has learned nothing of shape or texture.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from histostudy.errors import ConfigError
from histostudy.registry import Registry
from histostudy.tissue.network import UNet
from histostudy.training.segmentation.annotations import IGNORE
from histostudy.training.segmentation.cases import OpenSlides, View
from histostudy.training.segmentation.fitting import Batch, History, fit
from histostudy.training.segmentation.losses import pixel_loss
from histostudy.training.segmentation.predict import Prediction, Read, stitch
from histostudy.training.segmentation.sampling import Place, Sampler, augment

if TYPE_CHECKING:
    from histostudy.study import Training


@dataclass(frozen=True)
class Setting:
    """What a segmenter is fitted with.

    Attributes
    ----------
    classes : int
        Background not counted.
    mpp : float
        Of the masks.
    training : Training
    options : mapping
    seed : int
    device : str
    slides : OpenSlides
    """

    classes: int
    mpp: float
    training: Training
    options: Mapping[str, Any]
    seed: int
    device: str
    slides: OpenSlides


class Segmenter(ABC):
    """Fitted once, then asked for slides."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @abstractmethod
    def fit(self, train: Sequence[View], inner: Sequence[View]) -> History:
        """Fit to the training slides; the inner ones choose the epoch."""

    @abstractmethod
    def predict(self, view: View) -> Prediction:
        """What it says of a slide, at the scale of the masks."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Its weights."""

    @classmethod
    def known(cls) -> list[str]:
        """Names of its options."""
        return []


SEGMENTERS: Registry[type[Segmenter]] = Registry("segmenter")


def segmenter_of(name: str) -> type[Segmenter]:
    """A segmenter by the name that a study gives it."""
    import histostudy.training.segmentation.h2g  # noqa: F401  importing registers

    return SEGMENTERS[name]


def check_segmenter(name: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an unknown segmenter or option."""
    known = segmenter_of(name).known()
    for option in options:
        if option not in known:
            raise ConfigError(f"unknown option {option!r} of segmenter {name!r}", todo=f"known: {', '.join(known)}")


def options_of(build: type) -> list[str]:
    """Names of the fields of a dataclass of options."""
    return list(inspect.signature(build).parameters)


def to_tensor(rgb: np.ndarray) -> Tensor:
    """Pixels (N, H, W, C) of bytes as (N, C, H, W) from -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(rgb)).movedim(-1, 1).float() / 127.5 - 1.0


def reader(view: View, slides: OpenSlides) -> Read:
    """Reads windows of a view as a network takes them."""
    return lambda corners, size: to_tensor(view.read(slides.of(view.case), corners, size))


def patches(
    views: Sequence[View], places: Sequence[Place], size: int, slides: OpenSlides, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """RGB (N, size, size, 3) and class maps (N, size, size) of places, augmented where `rng` is given."""
    rgb, truth = [], []
    for place in places:
        view = views[place.view]
        image = view.read(slides.of(view.case), [(place.x, place.y)], size)[0]
        drawn = view.classes(place.x, place.y, (size, size))
        if rng is not None:
            image, drawn = augment(rng, image, drawn)
        rgb.append(image)
        truth.append(drawn)
    return np.stack(rgb), np.stack(truth)


class Prior(Segmenter):
    """All tissue is the commonest class of the training part."""

    commonest = 1

    def fit(self, train: Sequence[View], inner: Sequence[View]) -> History:
        """Count the pixels of each class, on a map eight times coarser."""
        total = np.zeros(256, np.int64)
        for view in (*train, *inner):
            total += np.bincount(view.at(view.mpp * 8).classes().ravel(), minlength=256)
        self.commonest = int(total[1 : self.setting.classes + 1].argmax()) + 1
        return []

    def predict(self, view: View) -> Prediction:
        """Its class wherever there is tissue."""
        tissue = view.tissue()
        return Prediction((tissue * self.commonest).astype(np.uint8), tissue.astype(np.uint8) * 255)

    def tensors(self) -> dict[str, Tensor]:
        """The class."""
        return {"commonest": torch.tensor([self.commonest])}


class Colour(Segmenter):
    """Multinomial logistic regression on the red, green and blue of a pixel: what colour alone tells."""

    PATCHES, SIZE, PIXELS = 200, 64, 64

    def fit(self, train: Sequence[View], inner: Sequence[View]) -> History:
        """Fit to pixels of balanced patches."""
        from sklearn.linear_model import LogisticRegression

        rng = np.random.default_rng(self.setting.seed)
        places = Sampler(train, self.setting.classes).draw(rng, self.PATCHES, self.SIZE)
        rgb, truth = patches(train, places, self.SIZE, self.setting.slides, None)
        tissue = np.stack([train[p.view].tissue(p.x, p.y, (self.SIZE, self.SIZE)) for p in places])
        rows = []
        for k in range(len(places)):
            usable = np.flatnonzero((tissue[k] | (truth[k] > 0)).ravel() & (truth[k] != IGNORE).ravel())
            rows.append(k * self.SIZE**2 + rng.choice(usable, min(self.PIXELS, usable.size), replace=False))
        at = np.concatenate(rows)
        x = to_tensor(rgb).movedim(1, -1).reshape(-1, 3).numpy()[at].astype(np.float64)
        y = truth.ravel()[at]
        self.layer = nn.Conv2d(3, self.setting.classes + 1, 1)
        weight, bias = np.zeros((self.setting.classes + 1, 3)), np.full(self.setting.classes + 1, -20.0)
        found = np.unique(y)
        if len(found) > 1:
            model = LogisticRegression(C=1.0, max_iter=1000).fit(x, y)
            coef, intercept = model.coef_, model.intercept_
            if len(found) == 2:  # one row says the second class against the first
                coef, intercept = np.stack([0 * coef[0], coef[0]]), np.array([0.0, intercept[0]])
            weight[found], bias[found] = coef, intercept
        else:
            bias[found] = 0.0
        with torch.no_grad():
            self.layer.weight.copy_(torch.from_numpy(weight[:, :, None, None]))
            self.layer.bias.copy_(torch.from_numpy(bias))  # type: ignore[union-attr]
        return []

    def predict(self, view: View) -> Prediction:
        """Each pixel by its own colour."""
        return stitch(self.layer, reader(view, self.setting.slides), view.tissue(), size=512)

    def tensors(self) -> dict[str, Tensor]:
        """The coefficients."""
        return dict(self.layer.state_dict())


@dataclass(frozen=True)
class UNetOptions:
    """Options of the U-Net.

    Attributes
    ----------
    patch_px : int
        Side of the patches that it is trained on, and of the windows of a slide.
    overlap_px : int
        Of the windows.
    steps : int
        Batches an epoch.
    inner_patches : int
        Patches of the inner part that choose the epoch.
    channels : sequence of int
        Width of the encoder's levels; each halves the side of the one before.
    norm : {'batch', 'instance', 'none'}
        An instance norm would make a window wholly in a class look as one wholly out of it.
    augment : bool
    """

    patch_px: int = 256
    overlap_px: int = 32
    steps: int = 50
    inner_patches: int = 32
    channels: Sequence[int] = (16, 32, 64, 128)
    norm: str = "batch"
    augment: bool = True

    def __post_init__(self) -> None:
        stride = 2 ** (len(self.channels) - 1)
        if self.patch_px % stride or self.patch_px < stride:
            raise ConfigError(f"patch_px {self.patch_px} must be a multiple of {stride}")
        if not 0 <= self.overlap_px < self.patch_px:
            raise ConfigError(f"overlap_px {self.overlap_px} must be smaller than patch_px {self.patch_px}")
        if self.steps < 1:
            raise ConfigError("steps must be 1 or more")

    def build(self, channels: int, classes: int, seed: int) -> PixelNet:
        """A new network for images of `channels`."""
        torch.manual_seed(seed)
        return PixelNet(UNet({"classes": classes + 1}, channels, self.channels, (2,) * (len(self.channels) - 1),
                             self.norm))  # fmt: skip


class PixelNet(nn.Module):
    """A U-Net with one output, as a function of a tensor."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, classes + 1, H, W)."""
        return self.unet(x)["classes"]


@SEGMENTERS.register("unet")
class UNetSegmenter(Segmenter):
    """A U-Net on patches read from the pyramid (NoCodeSeg, Front Med 2022: U-Net on patches of 512 px)."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.options = UNetOptions(**setting.options)
        self.network = self.options.build(3, setting.classes, setting.seed)

    @classmethod
    def known(cls) -> list[str]:
        """Names of its options."""
        return options_of(UNetOptions)

    def fit(self, train: Sequence[View], inner: Sequence[View]) -> History:
        """Dice loss and cross-entropy on balanced patches."""
        o, s = self.options, self.setting
        sampler = Sampler(train, s.classes)

        def draw(rng: np.random.Generator) -> Batch:
            places = sampler.draw(rng, s.training.batch_size, o.patch_px)
            rgb, truth = patches(train, places, o.patch_px, s.slides, rng if o.augment else None)
            return to_tensor(rgb), torch.from_numpy(truth.astype(np.int64))

        held = inner_batches(inner, s, o.inner_patches, o.patch_px)
        return fit(
            self.network, pixel_loss, draw, held, s.training, steps=o.steps, seed=s.seed, device=s.device
        ).history

    def predict(self, view: View) -> Prediction:
        """Windows of the slide, blended."""
        o, device = self.options, self.setting.device
        self.network.to(device)
        return stitch(
            lambda x: self.network(x.to(device)), reader(view, self.setting.slides), view.tissue(),
            size=o.patch_px, overlap=o.overlap_px,
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """The network's."""
        return dict(self.network.state_dict())


def inner_batches(inner: Sequence[View], setting: Setting, n: int, size: int) -> list[Batch]:
    """Patches of the inner part, the same at every epoch; none where it has nothing drawn."""
    if not inner:
        return []
    rng = np.random.default_rng(setting.seed + 1)
    places = Sampler(inner, setting.classes).draw(rng, n, size)
    out = []
    for start in range(0, n, setting.training.batch_size):
        rgb, truth = patches(inner, places[start : start + setting.training.batch_size], size, setting.slides, None)
        out.append((to_tensor(rgb), torch.from_numpy(truth.astype(np.int64))))
    return out
