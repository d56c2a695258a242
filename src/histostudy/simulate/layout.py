"""Which tissue lies where on a simulated slide, with the planned shares met exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histostudy.simulate.plan import SlidePlan

GLASS, STROMA, EPITHELIUM, GLANDS, FAT, NEST = range(6)
NAMES = ("glass", "stroma", "epithelium", "glands", "fat", "nest")
COARSE_UM = 8  # um a pixel of the layout
NEST_TILE_UM = 224.0  # a nest is drawn around the middle of a tile of this side, and covers it
NEST_RADIUS_UM = 172.0


@dataclass(frozen=True)
class Layout:
    """Tissue classes of a slide.

    Parameters
    ----------
    labels : ndarray of uint8, shape (height, width)
        Classes at `COARSE_UM` um/px.
    lymphocytes : ndarray of bool, same shape
        Clusters of lymphocytes, over any tissue but fat.
    """

    labels: np.ndarray
    lymphocytes: np.ndarray

    def shares(self) -> dict[str, float]:
        """Share of each class in the tissue."""
        tissue = max(1, int((self.labels != GLASS).sum()))
        return {name: float((self.labels == i).sum() / tissue) for i, name in enumerate(NAMES) if i != GLASS}


def noise_field(rng: np.random.Generator, height: int, width: int, length: float) -> np.ndarray:
    """Smooth noise of about unit variance, float32, with features of about `length` px."""
    import cv2

    small = rng.standard_normal((int(height / length) + 4, int(width / length) + 4)).astype(np.float32)
    size = (int(small.shape[1] * length) + 1, int(small.shape[0] * length) + 1)
    large = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
    y, x = rng.integers(0, max(1, int(length)), 2)
    return large[y : y + height, x : x + width]


def lay_out(slide: SlidePlan) -> Layout:
    """Lay the tissue of a slide out.

    Parameters
    ----------
    slide : SlidePlan

    Returns
    -------
    Layout
    """
    rng = np.random.default_rng((slide.seed, 1))
    height = int(np.ceil(slide.height_px0 * slide.mpp / COARSE_UM))
    width = int(np.ceil(slide.width_px0 * slide.mpp / COARSE_UM))
    tissue = _outline(rng, height, width)
    labels = np.where(tissue, EPITHELIUM, GLASS).astype(np.uint8)
    area = int(tissue.sum())
    if slide.nests > 0:
        labels[_nests(rng, tissue, slide.nests * area)] = NEST
    for label, share, length_um in (
        (FAT, slide.fat, 420.0), (STROMA, slide.stroma, 300.0), (GLANDS, slide.glands, 380.0),
    ):  # fmt: skip
        field = noise_field(rng, height, width, length_um / COARSE_UM)
        field = field + 0.25 * noise_field(rng, height, width, length_um / COARSE_UM / 4)
        labels[_top(field, labels == EPITHELIUM, round(share * area))] = label
    field = noise_field(rng, height, width, 130.0 / COARSE_UM)
    clusters = _top(field, tissue & ~np.isin(labels, (FAT, NEST)), round(slide.lymphocytes * area))
    return Layout(labels, clusters)


def _outline(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A section: a bent ellipse with an uneven rim, clear of the border of the slide."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    bend = rng.uniform(-0.12, 0.12, 2)
    x, y = x + np.float32(bend[0]) * (y**2 - 0.4), y + np.float32(bend[1]) * (x**2 - 0.4)
    scale = max(height, width)
    wobble = 0.11 * noise_field(rng, height, width, scale / 3.2)
    wobble = wobble + 0.035 * noise_field(rng, height, width, scale / 12)
    radius = np.abs(x / 0.90) ** 2.6 + np.abs(y / 0.90) ** 2.6
    inside = radius ** (1 / 2.6) + wobble < 0.97
    rim = max(1, round(0.025 * scale))
    inside[:rim] = inside[-rim:] = False
    inside[:, :rim] = inside[:, -rim:] = False
    return inside


def _top(field: np.ndarray, where: np.ndarray, count: int) -> np.ndarray:
    """The `count` pixels of `where` with the highest `field`."""
    out = np.zeros(where.shape, bool)
    flat = np.flatnonzero(where)
    count = min(count, flat.size)
    if count > 0:
        out.flat[flat[np.argpartition(-field.flat[flat], count - 1)[:count]]] = True
    return out


def _nests(rng: np.random.Generator, tissue: np.ndarray, area: float) -> np.ndarray:
    """Nests around the middles of tiles, well inside the tissue; at least one, `area` px in all, about."""
    import cv2

    inner = cv2.distanceTransform(np.pad(tissue, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    height, width = tissue.shape
    step = NEST_TILE_UM / COARSE_UM
    radius = NEST_RADIUS_UM / COARSE_UM
    rows = np.arange(step / 2, height, step)
    columns = np.arange(step / 2, width, step)
    centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    room = inner[centres[:, 0].astype(int), centres[:, 1].astype(int)]
    order = rng.permutation(len(centres))
    fits = order[room[order] > 0.8 * radius]
    chosen = fits if fits.size else np.array([np.argmax(room)])
    y, x = np.mgrid[:height, :width]
    wobble = 2.2 * noise_field(rng, height, width, 10)
    out = np.zeros(tissue.shape, bool)
    for row, column in centres[chosen]:
        if out.any() and out.sum() + 0.5 * np.pi * radius**2 > area:
            break
        out |= (np.hypot(y - row, x - column) + wobble < radius) & tissue
    return out
