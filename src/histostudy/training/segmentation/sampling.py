"""Patches drawn class by class, slide by slide, place by place, and read from the pyramid: no tiles on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from histostudy.errors import ModelError
from histostudy.training.segmentation.annotations import IGNORE
from histostudy.training.segmentation.cases import View

#: Places are drawn on a map this many times coarser than the patches.
COARSE = 8


class Place(NamedTuple):
    """Where a patch is: number of the view, corner in its pixels."""

    view: int
    x: int
    y: int


class Sampler:
    """Hierarchical balanced sampling: a class, a slide that has it, a place there, each with equal chances.

    Source: H2G-Net (arXiv 2112.03455), whose middle levels (cluster, grade) need labels that a folder of annotations
    does not have. Background is a class as the others, drawn on tissue.

    Parameters
    ----------
    views : sequence of View
    classes : int
        Classes, background not counted.

    Raises
    ------
    ModelError
        If no slide has a place to draw, or none of a foreground class.
    """

    def __init__(self, views: Sequence[View], classes: int) -> None:
        self.views = views
        self._places: list[dict[int, NDArray[np.int64]]] = [{} for _ in range(classes + 1)]
        for number, view in enumerate(views):
            coarse = view.at(view.mpp * COARSE)
            truth, tissue = coarse.classes(), coarse.tissue()
            for value, places in enumerate(self._places):
                rows, columns = np.nonzero((truth == value) & (tissue if value == 0 else truth != IGNORE))
                found = np.stack([columns, rows], 1).astype(np.int64) * COARSE
                if not len(found) and value:
                    found = _inside(view, value)
                if len(found):
                    places[number] = found
        self.classes = [value for value, places in enumerate(self._places) if places]
        if not any(self.classes):
            raise ModelError("no slide of a training part has an annotation of a class", todo="use fewer folds")

    def draw(self, rng: np.random.Generator, n: int, size: int) -> list[Place]:
        """Draw `n` patches of `size` pixels; a patch lies around its place, anywhere over it."""
        drawn = []
        for _ in range(n):
            places = self._places[int(rng.choice(self.classes))]
            number = int(rng.choice(sorted(places)))
            x, y = places[number][rng.integers(len(places[number]))]
            dx, dy = rng.integers(0, COARSE, 2)
            jitter = rng.integers(-size // 4, size // 4 + 1, 2)
            drawn.append(Place(number, int(x + dx + jitter[0] - size // 2), int(y + dy + jitter[1] - size // 2)))
        return drawn


def _inside(view: View, value: int) -> NDArray[np.int64]:
    """A place in each area of a class too small for the coarse map."""
    assert view.painter.annotations is not None
    areas = [p for v, polygons in view.painter.annotations.painted if v == value for p in polygons]
    points = [(p.x / view.scale, p.y / view.scale) for p in (area.representative_point() for area in areas)]
    places = [(int(x), int(y)) for x, y in points if view.classes(int(x), int(y), (1, 1))[0, 0] == value]
    return np.asarray(places, np.int64).reshape(-1, 2)


def augment(
    rng: np.random.Generator, rgb: NDArray[np.uint8], truth: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A flip, a quarter turn, and light of another brightness, colour and gamma; the truth turns along.

    Parameters
    ----------
    rgb : ndarray of uint8, (H, H, 3 or more)
        Colour is changed in the first three channels.
    truth : ndarray of uint8, (H, H)
    """
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    gain, gamma = rng.uniform(0.9, 1.1) * rng.uniform(0.93, 1.07, 3), rng.uniform(0.8, 1.25)
    rgb, truth = np.rot90(rgb, turns), np.rot90(truth, turns)
    if flip:
        rgb, truth = rgb[:, ::-1], truth[:, ::-1]
    steps = (np.arange(256) / 255.0)[:, None] ** gamma * gain
    table = np.rint(steps.clip(0, 1) * 255).astype(np.uint8)
    out = np.ascontiguousarray(rgb).copy()
    for c in range(3):
        out[..., c] = table[:, c][out[..., c]]
    return out, np.ascontiguousarray(truth)
