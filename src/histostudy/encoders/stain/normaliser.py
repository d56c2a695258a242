"""Tiles as another stain would show them: Macenko, Vahadane and Reinhard, on the CPU and as a batch on a GPU.

`fit` describes a slide, `apply` takes its tiles to the target: published constants, or a fit to images of the user's
(`fit_target`). A model that is trained on pixels of a cohort must fit its target on the training part of the fold. A
slide that cannot be described keeps its colours; callers count that by `StainFit.fallback`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from histostudy.codeversion import code_version
from histostudy.encoders.base import check_batch
from histostudy.encoders.stain.fit import (
    DENSITY,
    HE_REFERENCE,
    IO,
    LAB_REFERENCE,
    LMS_TO_LAB,
    RGB_TO_LMS,
    STRENGTH_REFERENCE,
    StainFit,
    fit_macenko,
    fit_reinhard,
    fit_vahadane,
)
from histostudy.errors import EncoderError
from histostudy.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

#: Pixels that a target is fitted to, about.
TARGET_PIXELS = 500_000


class Normaliser(ABC):
    """Takes tiles from the stain of their slide to a target.

    Parameters
    ----------
    target : StainFit, optional
        Default: published constants.
    """

    method: ClassVar[str]
    _reference: ClassVar[StainFit]

    def __init__(self, target: StainFit | None = None) -> None:
        self.target = target or type(self)._reference

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the pixels, beside those of the slide."""
        return {
            "method": self.method,
            "target": self.target.as_dict(),
            "code": code_version("histostudy.encoders.stain.normaliser"),
        }

    @abstractmethod
    def fit(self, pixels: np.ndarray) -> StainFit:
        """Describe the stain of a slide by a sample of its pixels, uint8 (N, 3)."""

    def fit_target(self, images: Iterable[np.ndarray]) -> Normaliser:
        """The same method with a target fitted to images of the training part, uint8 (..., 3) each.

        Raises
        ------
        EncoderError
            If they hold too little tissue, or one stain alone.
        """
        fit = self.fit(sample_pixels([np.asarray(image) for image in images], TARGET_PIXELS))
        if fit.fallback:
            raise EncoderError(
                f"no {self.method} stain target: {fit.fallback.replace('_', ' ')} ({fit.tissue_px} of tissue)",
                todo="give an image with more tissue of both stains",
            )
        return type(self)(fit)

    def apply(self, batch: np.ndarray, fit: StainFit) -> np.ndarray:
        """Tiles, uint8 (B, H, W, 3), as the target's stain would show them; as they are where `fit` is a fallback."""
        import cv2

        check_batch(batch)
        if fit.fallback or not len(batch):
            return batch
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # the shards of a study run side by side
        try:
            rows = np.ascontiguousarray(batch).reshape(-1, batch.shape[2], 3)
            return self._apply(rows, fit).reshape(batch.shape)
        finally:
            cv2.setNumThreads(threads)

    def apply_torch(self, batch: Tensor, fit: StainFit) -> Tensor:
        """As `apply`, of a uint8 tensor (B, H, W, 3), on its device; within one grey level of it."""
        if fit.fallback or not len(batch):
            return batch
        return self._apply_torch(batch, fit)

    @abstractmethod
    def _apply(self, rows: np.ndarray, fit: StainFit) -> np.ndarray:
        """uint8 (R, W, 3) to the same."""

    @abstractmethod
    def _apply_torch(self, batch: Tensor, fit: StainFit) -> Tensor: ...


class Macenko(Normaliser):
    """Amounts of both stains by least squares, scaled to the target's strengths, shown in the target's vectors.

    All of it is one matrix on densities. What is neither stain (a third direction) is lost, as in the paper. The one
    that was added to the grey level is taken off again, so that the reference stays as it is: our reading, the common
    code does not.
    """

    method = "macenko"
    _reference = StainFit("macenko", vectors=HE_REFERENCE, strengths=STRENGTH_REFERENCE)

    def fit(self, pixels: np.ndarray) -> StainFit:
        return fit_macenko(pixels)

    def _matrix(self, fit: StainFit) -> np.ndarray:
        vectors, strengths, to, strong = _stains(fit, self.target)
        return ((to * (strong / strengths)) @ np.linalg.pinv(vectors)).astype(np.float32)

    def _apply(self, rows: np.ndarray, fit: StainFit) -> np.ndarray:
        import cv2

        return _light(cv2.transform(cv2.LUT(rows, _DENSITY), -self._matrix(fit)))

    def _apply_torch(self, batch: Tensor, fit: StainFit) -> Tensor:
        return _light_torch(-_density_torch(batch) @ _like(self._matrix(fit).T, batch))


class Vahadane(Normaliser):
    """Amounts that are not negative, scaled to the target's strengths, shown in the target's vectors.

    The penalty of the paper decides the vectors; amounts are then solved without it, as it would take the same from
    every amount and make all tiles paler: our reading. The default target is Macenko's, no other is published.
    """

    method = "vahadane"
    _reference = StainFit("vahadane", vectors=HE_REFERENCE, strengths=STRENGTH_REFERENCE)

    def fit(self, pixels: np.ndarray) -> StainFit:
        return fit_vahadane(pixels)

    def _apply(self, rows: np.ndarray, fit: StainFit) -> np.ndarray:
        import cv2

        vectors, strengths, to, strong = _stains(fit, self.target)
        alone = cv2.transform(cv2.LUT(rows, _DENSITY), vectors.T.astype(np.float32))
        inverse = np.linalg.inv(vectors.T @ vectors).astype(np.float32)
        free = cv2.transform(alone, inverse)
        other = np.maximum(alone, 0)
        no_first, no_second = free[..., 0] < 0, free[..., 1] < 0
        amounts = np.empty_like(free)
        amounts[..., 0] = np.where(no_first, 0, np.where(no_second, other[..., 0], free[..., 0]))
        amounts[..., 1] = np.where(no_first, other[..., 1], np.where(no_second, 0, free[..., 1]))
        return _light(cv2.transform(amounts, -(to * (strong / strengths)).astype(np.float32)))

    def _apply_torch(self, batch: Tensor, fit: StainFit) -> Tensor:
        import torch

        vectors, strengths, to, strong = _stains(fit, self.target)
        alone = _density_torch(batch) @ _like(vectors, batch)
        free = alone @ _like(np.linalg.inv(vectors.T @ vectors), batch)
        other, zero = alone.clamp_min(0), torch.zeros_like(alone[..., 0])
        no_first, no_second = free[..., 0] < 0, free[..., 1] < 0
        first = torch.where(no_first, zero, torch.where(no_second, other[..., 0], free[..., 0]))
        second = torch.where(no_first, other[..., 1], torch.where(no_second, zero, free[..., 1]))
        return _light_torch(-torch.stack([first, second], -1) @ _like((to * (strong / strengths)).T, batch))


class Reinhard(Normaliser):
    """Mean and s.d. of each channel of l-alpha-beta moved to the target's; glass moves with the tissue."""

    method = "reinhard"
    _reference = StainFit("reinhard", mean=LAB_REFERENCE[0], sd=LAB_REFERENCE[1])

    def fit(self, pixels: np.ndarray) -> StainFit:
        return fit_reinhard(pixels)

    def _affine(self, fit: StainFit) -> tuple[np.ndarray, np.ndarray]:
        """The whole of it on the logarithm of LMS: a matrix and a shift."""
        assert fit.mean is not None and fit.sd is not None
        assert self.target.mean is not None and self.target.sd is not None
        back = np.linalg.inv(LMS_TO_LAB)
        ratio = self.target.sd / fit.sd
        return back @ np.diag(ratio) @ LMS_TO_LAB, back @ (self.target.mean - ratio * fit.mean)

    def _apply(self, rows: np.ndarray, fit: StainFit) -> np.ndarray:
        import cv2

        matrix, shift = self._affine(fit)
        log = cv2.log(cv2.transform(np.maximum(rows, 1).astype(np.float32), RGB_TO_LMS.astype(np.float32)))
        moved = cv2.exp(cv2.transform(log, np.column_stack([matrix, shift]).astype(np.float32)))
        rgb = cv2.transform(moved, np.linalg.inv(RGB_TO_LMS).astype(np.float32))
        return np.rint(np.clip(rgb, 0, 255)).astype(np.uint8)

    def _apply_torch(self, batch: Tensor, fit: StainFit) -> Tensor:
        matrix, shift = self._affine(fit)
        log = (batch.clamp_min(1).float() @ _like(RGB_TO_LMS.T, batch)).log()
        moved = (log @ _like(matrix.T, batch) + _like(shift, batch)).exp()
        return (moved @ _like(np.linalg.inv(RGB_TO_LMS).T, batch)).clamp(0, 255).round().to(batch.dtype)


NORMALISERS: Registry[type[Normaliser]] = Registry("stain method")
for _class in (Macenko, Reinhard, Vahadane):
    NORMALISERS.register(_class.method)(_class)


def sample_pixels(images: list[np.ndarray], most: int) -> np.ndarray:
    """About `most` pixels (N, 3), evenly over all images, the same every time."""
    if not images:
        return np.zeros((0, 3), np.uint8)
    step = max(1, sum(image.size // 3 for image in images) // most)
    # an even step would walk along the columns of an image whose width it divides
    return np.concatenate([image.reshape(-1, 3)[:: step | 1] for image in images])


_DENSITY = DENSITY.astype(np.float32)


def _stains(fit: StainFit, target: StainFit) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    assert fit.vectors is not None and fit.strengths is not None
    assert target.vectors is not None and target.strengths is not None
    return fit.vectors, fit.strengths, target.vectors, target.strengths


def _light(minus_density: np.ndarray) -> np.ndarray:
    """Grey levels of the negative of a density."""
    import cv2

    light = np.maximum(cv2.exp(np.ascontiguousarray(minus_density)), np.float32(1 / IO))
    return cv2.convertScaleAbs(light, alpha=IO, beta=-1)


def _light_torch(minus_density: Tensor) -> Tensor:
    import torch

    return (minus_density.exp() * IO - 1).clamp(0, 255).round().to(torch.uint8)


def _density_torch(batch: Tensor) -> Tensor:
    return _like(_DENSITY, batch)[batch.long()]


def _like(values: np.ndarray, batch: Tensor) -> Tensor:
    import torch

    return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32, device=batch.device)
