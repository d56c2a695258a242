"""A slide predicted window by window, stitched to one map, and turned into a mask by a threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from histostudy.training.segmentation.annotations import IGNORE, ClassMap

#: Reads squares of `size` pixels at corners (x, y): (N, channels, size, size), float32.
Read = Callable[[Sequence[tuple[int, int]], int], Tensor]
#: Steps of the foreground's probability that are told apart.
LEVELS = 255


class Prediction(NamedTuple):
    """What a network says of a slide.

    Attributes
    ----------
    best : ndarray of uint8, (H, W)
        The likeliest class but background, from 1; 0 off the tissue.
    share : ndarray of uint8, (H, W)
        Probability of all classes but background, in 1 / 255; 0 off the tissue.
    """

    best: ClassMap
    share: NDArray[np.uint8]

    def mask(self, threshold: int) -> ClassMap:
        """Class of each pixel: background where the foreground's share is below `threshold` (1 to 255)."""
        return np.where(self.share >= threshold, self.best, 0).astype(np.uint8)


def corners(length: int, size: int, overlap: int) -> list[int]:
    """Where windows of `size` pixels start so that they cover `length`; the last one may run over the edge.

    Raises
    ------
    ValueError
        If the overlap is not smaller than the window.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} must be from 0 to below {size}")
    return list(range(0, max(length - overlap, 1), size - overlap))


def stitch(
    network: Callable[[Tensor], Tensor],
    read: Read,
    tissue: NDArray[np.bool_],
    *,
    size: int,
    overlap: int = 0,
    batch: int = 4,
) -> Prediction:
    """Predict every window that holds tissue, and blend where windows overlap.

    Class probabilities are averaged with weights that fall linearly towards the edge of a window, where it knows
    least. Work is done in bands of windows, so that memory holds one band of probabilities and two maps of bytes.

    Parameters
    ----------
    network : callable
        (N, channels, size, size) -> logits (N, classes + 1, size, size).
    read : Read
        Corners may lie so that a window runs over the right or lower edge.
    tissue : ndarray of bool, (H, W)
    size, overlap : int
        Of windows, pixels.
    batch : int
        Windows at a time.
    """
    import torch

    height, width = tissue.shape
    ramp = np.minimum(np.minimum(np.arange(size) + 1, size - np.arange(size)), overlap + 1).astype(np.float32)
    weight = np.outer(ramp, ramp) / ramp.max() ** 2
    best, share = np.zeros(tissue.shape, np.uint8), np.zeros(tissue.shape, np.uint8)
    columns, rows = corners(width, size, overlap), corners(height, size, overlap)
    band: NDArray[np.float32] | None = None
    for number, y in enumerate(rows):
        wanted = [(x, y) for x in columns if tissue[y : y + size, x : x + size].any()]
        for start in range(0, len(wanted), batch):
            part = wanted[start : start + batch]
            with torch.no_grad():
                found = network(read(part, size)).softmax(1).cpu().numpy()
            if band is None:
                band = np.zeros((found.shape[1], size, columns[-1] + size), np.float32)
            for (x, _), one in zip(part, found, strict=True):
                band[:, :, x : x + size] += one * weight
        done = size if number == len(rows) - 1 else size - overlap
        if band is not None:
            inside = tissue[y : y + done]
            ready = band[:, : inside.shape[0], :width]
            total = ready.sum(0)
            p = np.divide(ready[1:].sum(0), total, out=np.zeros_like(total), where=total > 0)
            best[y : y + done][inside] = (ready[1:].argmax(0) + 1)[inside]
            share[y : y + done][inside] = np.rint(p * LEVELS)[inside]
            band[:, : size - done] = band[:, done:].copy()
            band[:, size - done :] = 0
    return Prediction(best, share)


def counts(mask: ClassMap, truth: ClassMap, classes: int) -> NDArray[np.int64]:
    """Pixels tp, fp, fn and tn of each class, (classes, 4); pixels to be ignored count for nothing."""
    valid = truth != IGNORE
    table = np.bincount(
        truth[valid].astype(np.int64) * (classes + 1) + mask[valid], minlength=(classes + 1) ** 2
    ).reshape(classes + 1, classes + 1)
    return counts_of(table)


def counts_of(table: NDArray[np.int64]) -> NDArray[np.int64]:
    """tp, fp, fn, tn of each class but the first, from a table of truth (rows) by prediction (columns)."""
    tp = table.diagonal()[1:]
    fp, fn = table.sum(0)[1:] - tp, table.sum(1)[1:] - tp
    return np.stack([tp, fp, fn, table.sum() - tp - fp - fn], 1)


def histogram(prediction: Prediction, truth: ClassMap, classes: int) -> NDArray[np.int64]:
    """Pixels by truth, likeliest class and share, (classes + 1, classes + 1, 256): all that a threshold needs."""
    valid = truth != IGNORE
    key = truth[valid].astype(np.int64) * (classes + 1) + prediction.best[valid]
    key = key * (LEVELS + 1) + prediction.share[valid]
    return np.bincount(key, minlength=(classes + 1) ** 2 * (LEVELS + 1)).reshape(classes + 1, classes + 1, -1)


def dice_of(counted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Dice of each class from its tp, fp, fn, tn; NaN of a class that the truth does not hold."""
    tp, fp, fn = counted[..., 0], counted[..., 1], counted[..., 2]
    return np.where(tp + fn > 0, 2 * tp / np.maximum(2 * tp + fp + fn, 1), np.nan)


def choose_threshold(histograms: Sequence[NDArray[np.int64]]) -> int:
    """The threshold of best mean Dice over classes and slides; of equals the one nearest to a half.

    Balanced sampling shows a network more of a rare class than there is: a half need not be best.

    Parameters
    ----------
    histograms : sequence of ndarray
        Of the slides of the inner part (see `histogram`). None: a half.
    """
    half = (LEVELS + 1) // 2
    scores = {}
    for threshold in range(8, LEVELS - 6, 8):
        each = []
        for one in histograms:
            table = one[:, :, threshold:].sum(2)
            table[:, 0] += one[:, :, :threshold].sum((1, 2))
            each.append(dice_of(counts_of(table)))
        found = np.stack(each) if each else np.full((1, 1), np.nan)
        scores[threshold] = float(np.nanmean(found)) if np.isfinite(found).any() else 0.0
    return max(scores, key=lambda t: (round(scores[t], 9), -abs(t - half)))
