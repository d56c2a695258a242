"""An annotated slide: its pixels, its tissue and its truth at one scale, read when they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from histostudy.errors import ModelError
from histostudy.tissue.geojson import TISSUE, read_geojson
from histostudy.training.segmentation.annotations import Annotations, ClassMap, Painter, read_annotations

if TYPE_CHECKING:
    from histostudy.slides.base import Slide
    from histostudy.tasks import Segmentation

#: A slide may be coarser than the task asks by this share.
TOLERANCE = 0.05
#: Slides kept open at a time.
OPEN = 24


@dataclass(frozen=True)
class Case:
    """A slide of a segmentation task.

    Attributes
    ----------
    slide_id, patient_id : str
    path : str
        The slide.
    mpp : float
        Its scale, um per level-0 pixel.
    width_px0, height_px0 : int
    fingerprint : str
        Of the slide.
    tissue_identity : str
        Of the slide's tissue, which holds that of the slide.
    tissue : Path
        GeoJSON of the tissue stage.
    annotations : Path
        GeoJSON of QuPath.
    drawn_for : (int, int) or None
        A null: width and height of the slide whose annotations these are.
    """

    slide_id: str
    patient_id: str
    path: str
    mpp: float
    width_px0: int
    height_px0: int
    fingerprint: str
    tissue_identity: str
    tissue: Path
    annotations: Path
    drawn_for: tuple[int, int] | None = None


class View:
    """A case at one scale.

    Parameters
    ----------
    case : Case
    task : Segmentation
    mpp : float
        Scale of all that is read, um per pixel.
    truth : bool
        Whether the annotations may be read; of test slides only the guard reads them.
    """

    def __init__(self, case: Case, task: Segmentation, mpp: float, *, truth: bool) -> None:
        if case.mpp > mpp * (1 + TOLERANCE):
            raise ModelError(
                f"slide {case.slide_id} has {case.mpp:g} um a pixel, coarser than the {mpp:g} of task {task.name}",
                todo="raise the task's mpp, or leave the slide out in the column `exclude`",
            )
        self.case, self.task, self.mpp, self._may_see = case, task, mpp, truth
        #: Level-0 pixels a pixel.
        self.scale = mpp / case.mpp
        #: Height and width, px.
        self.shape = (max(1, round(case.height_px0 / self.scale)), max(1, round(case.width_px0 / self.scale)))

    def at(self, mpp: float) -> View:
        """The same case at another scale; the painter is shared."""
        other = View(self.case, self.task, mpp, truth=self._may_see)
        other.__dict__["painter"] = self.painter
        return other

    @cached_property
    def painter(self) -> Painter:
        """Polygons of tissue and truth."""
        drawn = None
        if self._may_see:
            drawn = read_annotations(self.case.annotations, self.task)
            if self.case.drawn_for is not None:
                drawn = _stretched(drawn, self.case)
        return Painter(drawn, read_geojson(self.case.tissue, TISSUE))

    def classes(self, x: int = 0, y: int = 0, shape: tuple[int, int] | None = None) -> ClassMap:
        """Class map of a window (corner and size in pixels), by default of the whole slide."""
        return self.painter.classes(x * self.scale, y * self.scale, shape or self.shape, self.scale)

    def tissue(self, x: int = 0, y: int = 0, shape: tuple[int, int] | None = None) -> NDArray[np.bool_]:
        """Tissue of a window, by default of the whole slide."""
        return self.painter.tissue(x * self.scale, y * self.scale, shape or self.shape, self.scale)

    def read(self, slide: Slide, corners: Sequence[tuple[int, int]], size: int) -> NDArray[np.uint8]:
        """Squares of RGB, (N, size, size, 3), at corners in pixels; white off the slide."""
        at = np.rint(np.asarray(corners, float) * self.scale).astype(np.int64)
        return np.stack(list(slide.read_tiles(at, size, self.mpp)))


def _stretched(drawn: Annotations, case: Case) -> Annotations:
    """Another slide's annotations, at the same shares of width and height."""
    from shapely import affinity

    assert case.drawn_for is not None
    matrix = [case.width_px0 / case.drawn_for[0], 0, 0, case.height_px0 / case.drawn_for[1], 0, 0]
    painted = [(v, [affinity.affine_transform(p, matrix) for p in polygons]) for v, polygons in drawn.painted]
    return Annotations(painted, [affinity.affine_transform(p, matrix) for p in drawn.regions], drawn.base)


class OpenSlides:
    """Slides that stay open while a run reads patches of them in any order."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Slide] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slide in self._open.values():
            slide.close()
        self._open.clear()

    def of(self, case: Case) -> Slide:
        """The slide of a case."""
        from histostudy.slides.reader import open_indexed

        if case.slide_id not in self._open:
            while len(self._open) >= OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[case.slide_id] = open_indexed(vars(case))
        self._open.move_to_end(case.slide_id)
        return self._open[case.slide_id]
