"""Tiles to learn from: a folder of images, or the tiles of a cohort's slides; which of them an epoch takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from histostudy.errors import EncoderError
from histostudy.files import digest_of, fingerprint
from histostudy.log import progress
from histostudy.seeds import derive_seed

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.study import Tiles

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
#: Takes a tile (uint8, (H, W, 3)) and the group it is of (its slide); returns a tile of the same size.
Normalise = Callable[[np.ndarray, str], np.ndarray]


class TileSource(Protocol):
    """Tiles by number.

    Attributes
    ----------
    groups : sequence of str
        What each tile is of: its slide, or the folder of its image.
    tile_px : int
        Side of a tile.
    digest : str
        Of all that the pixels depend on.
    about : dict
        Counts and names for the card.
    slides : bool
        Whether the groups are slides.
    """

    groups: Sequence[str]
    tile_px: int
    slides: bool
    digest: str
    about: dict[str, Any]

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Tiles (uint8, (H, W, 3)) of ascending numbers, in that order."""


def side_of(folder: Path) -> int:
    """Side (px) of the tiles of a folder of images: of the first one, as `ImageFolder` has it."""
    from PIL import Image, UnidentifiedImageError

    first = _images(folder)[0]
    try:
        with Image.open(first) as image:
            return min(image.size)
    except (UnidentifiedImageError, OSError) as bad:
        raise EncoderError("cannot be read as an image", where=first, todo="remove or replace it") from bad


def _images(folder: Path) -> list[Path]:
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise EncoderError(
            "no image in it", where=folder, todo=f"give a folder with {', '.join(sorted(SUFFIXES))} files"
        )
    return paths


class ImageFolder:
    """Images below a folder, in the order of their names; a group is the folder that an image lies in.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    EncoderError
        If it holds no image.
    """

    slides = False

    def __init__(self, folder: Path) -> None:
        folder = Path(folder)
        self.paths = _images(folder)
        self.groups: Sequence[str] = [str(p.parent.relative_to(folder)) for p in self.paths]
        self.tile_px = min(next(iter(self.read([0]))).shape[:2])
        self.digest = digest_of([[path.relative_to(folder).as_posix(), fingerprint(path)] for path in self.paths])
        self.about: dict[str, Any] = {"images": len(self.paths), "folders": len(set(self.groups))}

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Images as RGB."""
        import cv2

        for number in numbers:
            path = self.paths[number]
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                raise EncoderError("cannot be read as an image", where=path, todo="remove or replace it")
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class SlideTiles:
    """Tiles of slides, as the tiles stage laid them; a group is a slide.

    Parameters
    ----------
    slides_index, tiles_index : DataFrame
        Indexes of the slides and tiles stages; slides with tiles are taken, in the order of their ids.
    tiles_dir : Path
        Holds the files that `tiles_index` names.
    tiles : histostudy.study.Tiles
        Scale and size.

    Raises
    ------
    EncoderError
        If no slide has tiles.
    """

    slides = True

    def __init__(self, slides_index: pd.DataFrame, tiles_index: pd.DataFrame, tiles_dir: Path, tiles: Tiles) -> None:
        from histostudy.tiles.store import read_tiles

        ready = tiles_index.loc[tiles_index["status"] == "ok", ["slide_id", "file", "sha256"]]
        rows = ready.merge(slides_index[["slide_id", "path", "mpp", "fingerprint"]], on="slide_id", validate="1:1")
        self.rows: list[dict[str, Any]] = rows.sort_values("slide_id").to_dict("records")
        if not self.rows:
            raise EncoderError("no slide has tiles to learn from", todo="see the reasons in the tiles' indexes")
        self.tiles, self.tile_px = tiles, tiles.size
        self.coords = [read_tiles(Path(tiles_dir) / row["file"]).coords for row in self.rows]
        self.starts = np.cumsum([0, *map(len, self.coords)])
        self.groups: Sequence[str] = [
            row["slide_id"] for row, coords in zip(self.rows, self.coords, strict=True) for _ in coords
        ]
        self.digest = digest_of(
            [[r["slide_id"], r["fingerprint"], float(r["mpp"]), r["sha256"]] for r in self.rows]
            + [tiles.mpp, tiles.size]
        )
        self.about: dict[str, Any] = {"slides": len(self.rows), "tiles": len(self.groups)}

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Tiles, each slide opened once."""
        from histostudy.slides.reader import open_indexed

        wanted = np.asarray(numbers)
        of_slide = np.searchsorted(self.starts, wanted, side="right") - 1
        for slide in np.unique(of_slide):
            places = self.coords[slide][wanted[of_slide == slide] - self.starts[slide]]
            with ExitStack() as stack:
                reader = stack.enter_context(open_indexed(self.rows[slide]))
                yield from reader.read_tiles(places, self.tiles.size, self.tiles.mpp)


class Epochs:
    """Which tiles each step takes, and their pixels.

    An epoch draws at most `per_group` tiles of each group and orders them at random; both follow from the seed and
    the number of the epoch, so that any step can be taken up again. Pixels are read a buffer at a time, group by
    group, and kept where all fit.

    Parameters
    ----------
    source : TileSource
    batch : int
        Tiles a step, over all processes.
    per_group : int or None
    seed : int
    buffer : int
        Tiles in memory.
    part : (int, int)
        This process and the number of processes: it reads its share of each batch.
    normalise : callable, optional
        See `Normalise`.

    Raises
    ------
    EncoderError
        If an epoch has less than a batch.
    """

    def __init__(
        self,
        source: TileSource,
        batch: int,
        per_group: int | None,
        seed: int,
        buffer: int = 4096,
        part: tuple[int, int] = (0, 1),
        normalise: Normalise | None = None,
    ) -> None:
        self.source, self.batch, self.per_group, self.seed, self.normalise = source, batch, per_group, seed, normalise
        self.rank, self.world = part
        self._members = _members(source.groups)
        self.size = sum(min(len(m), per_group or len(m)) for m in self._members)
        self.steps = self.size // batch
        if not self.steps:
            raise EncoderError(f"{self.size} tiles are less than a batch of {batch}", todo="lower pretrain.batch_size")
        self._whole = len(source.groups) <= buffer
        self._chunk_steps = max(1, buffer // batch)
        self._kept: dict[int, np.ndarray] = {}
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))
        self._chunk = (-1, -1)

    def order(self, epoch: int) -> np.ndarray:
        """Numbers of an epoch's tiles in their order, whole batches."""
        if self._order[0] != epoch:
            rng = np.random.default_rng(derive_seed(self.seed, "epoch", epoch))
            drawn = [m if self.per_group is None else rng.permutation(m)[: self.per_group] for m in self._members]
            self._order = epoch, rng.permutation(np.concatenate(drawn))[: self.steps * self.batch]
        return self._order[1]

    def numbers(self, step: int) -> np.ndarray:
        """Numbers of this process's tiles of a step, counted from the first epoch's first."""
        epoch, within = divmod(step, self.steps)
        share = self.batch // self.world
        start = within * self.batch + self.rank * share
        return self.order(epoch)[start : start + share]

    def tiles(self, step: int) -> list[np.ndarray]:
        """Pixels of `numbers(step)`."""
        epoch, within = divmod(step, self.steps)
        wanted = self.numbers(step)
        chunk = (epoch, within // self._chunk_steps)
        if not self._whole and chunk != self._chunk:
            first = chunk[1] * self._chunk_steps
            coming = range(first, min(first + self._chunk_steps, self.steps))
            numbers = np.concatenate([self.numbers(epoch * self.steps + k) for k in coming])
            self._chunk, self._kept = chunk, {}
            self._fetch(numbers)
        self._fetch([n for n in wanted.tolist() if n not in self._kept])
        return [self._kept[int(n)] for n in wanted]

    def some(self, most: int) -> tuple[list[int], list[np.ndarray]]:
        """Numbers and pixels of a fixed draw of at most `most` tiles, spread over the groups."""
        rng = np.random.default_rng(derive_seed(self.seed, "some"))
        mixed = [rng.permutation(m) for m in self._members]
        rounds = [m[k] for k in range(max(map(len, mixed))) for m in mixed if k < len(m)] if most else []
        numbers = sorted(int(n) for n in rounds[:most])
        return numbers, [self._normal(n, tile) for n, tile in zip(numbers, self.source.read(numbers), strict=True)]

    def _fetch(self, numbers: Sequence[int] | np.ndarray) -> None:
        if not len(numbers):
            return
        ordered = sorted({int(n) for n in numbers})
        for n, tile in zip(ordered, progress(self.source.read(ordered), "tiles", len(ordered)), strict=True):
            self._kept[n] = self._normal(n, tile)

    def _normal(self, number: int, tile: np.ndarray) -> np.ndarray:
        return tile if self.normalise is None else self.normalise(tile, self.source.groups[number])


def _members(groups: Sequence[str]) -> list[np.ndarray]:
    """Numbers of the tiles of each group, groups in the order of their names."""
    found: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        found.setdefault(group, []).append(number)
    return [np.array(found[group]) for group in sorted(found)]
