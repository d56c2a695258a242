"""Draw an H&E-like slide: stain densities per pixel, then light through them (Beer-Lambert).

Ground (fibres, cytoplasm, fat, glands) is drawn at 1 um/px, nuclei at level 0; colours are those of Ruifrok and
Johnston, Anal Quant Cytol Histol 2001, moved a little by the site. Drawn, not photographed: it is a test image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histostudy.simulate import textures
from histostudy.simulate.layout import (
    COARSE_UM,
    EPITHELIUM,
    FAT,
    GLANDS,
    GLASS,
    NEST,
    STROMA,
    Layout,
    lay_out,
)
from histostudy.simulate.plan import SlidePlan

UNITS = 85.0  # stored density a unit of optical density
GLASS_RGB = np.array([243.0, 242.0, 244.0])
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.95, 0.30])
VERTICES = 14
PENS = ((28, 62, 150), (24, 112, 70), (34, 34, 38), (190, 36, 48))  # blue, green, black, red


@dataclass
class Nuclei:
    """Nuclei to be drawn, um and radians; `dark` is the density of haematoxylin, `rough` the unevenness."""

    x: np.ndarray
    y: np.ndarray
    long: np.ndarray
    short: np.ndarray
    angle: np.ndarray
    dark: np.ndarray
    rough: float
    open: float  # how much paler the middle is than the rim
    nucleolus: float  # share with one


def draw_slide(slide: SlidePlan) -> tuple[np.ndarray, Layout]:
    """Draw a slide at level 0.

    Parameters
    ----------
    slide : SlidePlan

    Returns
    -------
    rgb : ndarray of uint8, shape (height_px0, width_px0, 3)
    layout : Layout
        What is where.
    """
    import cv2

    layout = lay_out(slide)
    rng = np.random.default_rng((slide.seed, 2))
    size = (slide.width_px0, slide.height_px0)
    haematoxylin, eosin, groups = _ground(rng, slide, layout)
    haematoxylin = cv2.resize(haematoxylin, size, interpolation=cv2.INTER_LINEAR)
    eosin = cv2.resize(eosin, size, interpolation=cv2.INTER_LINEAR)
    nuclei = np.zeros((slide.height_px0, slide.width_px0), np.uint8)
    for group in groups:
        _draw_nuclei(rng, nuclei, group, slide.mpp)
    offset = rng.integers(0, textures.PERIOD, 2)
    chromatin = textures.crop(textures.chromatin(), (offset[0], offset[1]), *nuclei.shape)
    cv2.multiply(nuclei, chromatin, dst=nuclei, scale=1 / 128)
    cv2.GaussianBlur(nuclei, (0, 0), 0.45 / slide.mpp, dst=nuclei)
    cv2.max(haematoxylin, nuclei, dst=nuclei)
    rgb = _light(nuclei, eosin, slide.stain)
    if slide.pen:
        _draw_pen(rng, rgb, slide.mpp)
    return rgb, layout


def _ground(rng: np.random.Generator, slide: SlidePlan, layout: Layout) -> tuple[np.ndarray, np.ndarray, list[Nuclei]]:
    """Densities of both stains at 1 um/px, and the nuclei that lie in them."""
    import cv2

    height = round(slide.height_px0 * slide.mpp)
    width = round(slide.width_px0 * slide.mpp)
    labels = _sharpen(rng, layout.labels, height, width)
    offsets = rng.integers(0, textures.PERIOD, (5, 2))

    def take(texture: np.ndarray, k: int) -> np.ndarray:
        return textures.crop(texture, (int(offsets[k, 0]), int(offsets[k, 1])), height, width)

    fibres, grain = take(textures.fibres()[0], 0), take(textures.granules(), 1)
    borders = take(textures.cell_borders(), 2)
    cytoplasm = cv2.multiply(grain, borders, scale=1 / 128)
    eosin = np.zeros((height, width), np.uint8)
    haematoxylin = np.zeros((height, width), np.uint8)
    paint = {  # eosin, haematoxylin
        STROMA: (cv2.convertScaleAbs(fibres, alpha=0.30), cv2.convertScaleAbs(grain, alpha=0.05)),
        EPITHELIUM: (cv2.convertScaleAbs(cytoplasm, alpha=0.32), cv2.convertScaleAbs(cytoplasm, alpha=0.17)),
        GLANDS: (cv2.convertScaleAbs(fibres, alpha=0.22), cv2.convertScaleAbs(grain, alpha=0.05)),
        FAT: (cv2.convertScaleAbs(take(textures.fat_walls(), 3), alpha=0.40), np.zeros_like(grain)),
        NEST: (
            cv2.convertScaleAbs(cytoplasm, alpha=0.33),
            cv2.convertScaleAbs(cytoplasm, alpha=0.17 + 0.05 * slide.grade),
        ),
    }  # fmt: skip
    for label, (e, h) in paint.items():
        mask = (labels == label).view(np.uint8)
        cv2.copyTo(e, mask, eosin)
        cv2.copyTo(h, mask, haematoxylin)
    groups, rings = _glands(rng, slide, labels, haematoxylin, eosin, cytoplasm)
    labels[rings > 0] = GLASS  # nothing lies in a lumen, or in the wall around it
    groups.extend(_scattered(rng, slide, labels, offsets[0]))
    groups.append(_lymphocytes(rng, layout, labels))
    return haematoxylin, eosin, groups


def _sharpen(rng: np.random.Generator, labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Take the layout to 1 um/px with uneven borders instead of steps."""
    import cv2

    y, x = np.mgrid[:height:4, :width:4].astype(np.float32)
    offsets = rng.integers(0, textures.PERIOD, (2, 2))
    bumps = [
        textures.crop(textures.granules()[::4, ::4], (int(o[0]), int(o[1])), *y.shape).astype(np.float32)
        for o in offsets
    ]
    bumps = [np.asarray(cv2.GaussianBlur(b, (0, 0), 2.0) - 128, np.float32) for b in bumps]
    map_x = (x + 0.9 * bumps[0]) / COARSE_UM - 0.5
    map_y = (y + 0.9 * bumps[1]) / COARSE_UM - 0.5
    best = np.zeros(y.shape, np.uint8)
    strength = np.zeros(y.shape, np.float32)
    for label in range(6):
        soft = cv2.GaussianBlur((labels == label).astype(np.float32), (0, 0), 1.2)
        value = cv2.remap(soft, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        better = value > strength
        best[better] = label
        np.maximum(strength, value, out=strength)
    fine = cv2.resize(best, (best.shape[1] * 4, best.shape[0] * 4), interpolation=cv2.INTER_NEAREST)
    return cv2.medianBlur(fine[:height, :width], 5)


def _lattice(
    rng: np.random.Generator, where: np.ndarray, per_mm2: float, um: float = 1.0, jitter: float = 0.22
) -> tuple[np.ndarray, np.ndarray]:
    """Points (x, y in um) of a jittered hexagonal lattice that lie where a mask of `um` um/px is set."""
    step = 1000 / np.sqrt(per_mm2)
    rows = int(where.shape[0] * um / step) + 1
    columns = int(where.shape[1] * um / step) + 1
    row, column = np.mgrid[:rows, :columns].reshape(2, -1)
    points = np.stack([column + 0.5 * (row % 2) + 0.25, row + 0.5], 1) * step
    points = points + rng.normal(0, jitter * step, points.shape)
    inside = ((points >= 0) & (points < np.array([where.shape[1], where.shape[0]]) * um)).all(1)
    points = points[inside]
    kept = points[where[(points[:, 1] / um).astype(int), (points[:, 0] / um).astype(int)]]
    return kept[:, 0], kept[:, 1]


def _group(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, *, radius: float, spread: float, stretch: float,
    dark: float, dark_sd: float, rough: float, open_: float, nucleolus: float, angle: np.ndarray | None = None,
) -> Nuclei:  # fmt: skip
    n = x.size
    size = radius * np.exp(rng.normal(0, spread, n))
    ratio = np.exp(np.abs(rng.normal(np.log(stretch), 0.15, n)) / 2)
    if angle is None:
        angle = rng.uniform(0, np.pi, n)
    return Nuclei(x, y, size * ratio, size / ratio, angle, rng.normal(dark, dark_sd, n).clip(50, 250),
                  rough, open_, nucleolus)  # fmt: skip


def _scattered(
    rng: np.random.Generator, slide: SlidePlan, labels: np.ndarray, fibre_offset: np.ndarray
) -> list[Nuclei]:
    """Nuclei that no gland holds."""
    groups = []
    direction = textures.fibres()[1]
    for label, per_mm2 in ((STROMA, 900.0), (GLANDS, 800.0), (FAT, 60.0)):
        x, y = _lattice(rng, labels == label, per_mm2)
        rows = (y.astype(int) + fibre_offset[0]) % textures.PERIOD
        columns = (x.astype(int) + fibre_offset[1]) % textures.PERIOD
        angle = direction[rows, columns] + rng.normal(0, 0.25, x.size)
        groups.append(_group(rng, x, y, radius=3.3, spread=0.18, stretch=3.0, dark=128, dark_sd=14, rough=0.06,
                             open_=0.08, nucleolus=0.0, angle=angle))  # fmt: skip
    x, y = _lattice(rng, labels == EPITHELIUM, 3300 * slide.cellularity)
    groups.append(_group(rng, x, y, radius=4.2, spread=0.12, stretch=1.2, dark=118, dark_sd=12, rough=0.05,
                         open_=0.24, nucleolus=0.35))  # fmt: skip
    grade = slide.grade
    x, y = _lattice(rng, labels == NEST, 3300 + 1300 * grade)
    groups.append(_group(rng, x, y, radius=4.2 + 1.4 * grade, spread=0.12 + 0.12 * grade, stretch=1.2 + 0.1 * grade,
                         dark=118 + 40 * grade, dark_sd=12 + 12 * grade, rough=0.05 + 0.04 * grade, open_=0.22,
                         nucleolus=0.35 + 0.25 * grade))  # fmt: skip
    return groups


def _lymphocytes(rng: np.random.Generator, layout: Layout, labels: np.ndarray) -> Nuclei:
    """Small round dark nuclei, in clusters."""
    x, y = _lattice(rng, layout.lymphocytes, 4600, COARSE_UM)
    inside = (x < labels.shape[1]) & (y < labels.shape[0])
    inside[inside] = labels[y[inside].astype(int), x[inside].astype(int)] != GLASS
    x, y = x[inside], y[inside]
    return _group(rng, x, y, radius=3.0, spread=0.08, stretch=1.08, dark=178, dark_sd=14, rough=0.04, open_=0.05,
                  nucleolus=0.0)  # fmt: skip


def _outlines(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, long: np.ndarray, short: np.ndarray, angle: np.ndarray,
    rough: float,
) -> np.ndarray:  # fmt: skip
    """Uneven ellipses as polygons, (n, VERTICES, 2), in the unit of their centres."""
    turn = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    n = x.size
    wave = np.ones((n, VERTICES))
    for k in (2, 3, 5):
        wave += rough / np.sqrt(k - 1) * rng.normal(size=(n, 1)) * np.cos(k * turn + rng.uniform(0, 6.3, (n, 1)))
    wave = wave.clip(0.45, 1.7)
    a = long[:, None] * np.cos(turn) * wave
    b = short[:, None] * np.sin(turn) * wave
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return np.stack([x[:, None] + a * cos - b * sin, y[:, None] + a * sin + b * cos], -1)


def _draw_nuclei(rng: np.random.Generator, canvas: np.ndarray, group: Nuclei, mpp: float) -> None:
    """Draw nuclei into the haematoxylin of level 0: a dark rim, a paler middle, a nucleolus."""
    import cv2

    if group.x.size == 0:
        return
    shift = 4
    scale = (1 << shift) / mpp
    shape = _outlines(rng, group.x, group.y, group.long, group.short, group.angle, group.rough)
    centre = np.stack([group.x, group.y], -1)[:, None]
    outer = np.rint(shape * scale).astype(np.int32)
    inner = np.rint((centre + (shape - centre) * 0.74) * scale).astype(np.int32)
    rim = np.rint(group.dark).astype(int).tolist()
    middle = np.rint(group.dark * (1 - group.open)).astype(int).tolist()
    spot = (rng.random(group.x.size) < group.nucleolus).tolist()
    where = centre[:, 0] + rng.normal(0, 0.25, (group.x.size, 2)) * group.short[:, None]
    where = np.rint(where * scale).astype(int).tolist()
    radius = np.rint(0.24 * group.short * scale).astype(int).tolist()
    for i in range(len(rim)):
        cv2.fillConvexPoly(canvas, outer[i], rim[i], cv2.LINE_8, shift)
        if group.open > 0.06:
            cv2.fillConvexPoly(canvas, inner[i], middle[i], cv2.LINE_8, shift)
        if spot[i]:
            cv2.circle(canvas, where[i], radius[i], min(250, rim[i] + 40), -1, cv2.LINE_8, shift)


def _glands(
    rng: np.random.Generator, slide: SlidePlan, labels: np.ndarray, haematoxylin: np.ndarray, eosin: np.ndarray,
    cytoplasm: np.ndarray,
) -> tuple[list[Nuclei], np.ndarray]:  # fmt: skip
    """Draw glands into the ground, rings of tall cells around a lumen; return their nuclei and where they lie."""
    import cv2

    x, y = _lattice(rng, labels == GLANDS, 100, jitter=0.10)
    n = x.size
    if n == 0:
        return [], np.zeros_like(labels)
    size = rng.uniform(33, 45, n)
    ratio = np.exp(rng.uniform(0, 0.32, n) / 2)
    angle = rng.uniform(0, np.pi, n)
    shape = _outlines(rng, x, y, size * ratio, size / ratio, angle, 0.06)
    centre = np.stack([x, y], -1)[:, None]
    wall = rng.uniform(14, 18, n)
    lumen = centre + (shape - centre) * (1 - wall / size)[:, None, None]
    ring = np.zeros(labels.shape, np.uint8)
    hole = np.zeros(labels.shape, np.uint8)
    cv2.fillPoly(ring, list(_rounded(shape)), 255)
    cv2.fillPoly(hole, list(_rounded(lumen)), 255)
    inside = labels == GLANDS
    ring *= inside
    hole *= inside
    cv2.copyTo(cv2.convertScaleAbs(cytoplasm, alpha=0.26), ring, eosin)
    cv2.copyTo(cv2.convertScaleAbs(cytoplasm, alpha=0.22), ring, haematoxylin)
    eosin[hole > 0] = 5
    haematoxylin[hole > 0] = 3
    return _rings(rng, slide, shape, centre, wall / size, inside), ring


def _rounded(shapes: np.ndarray) -> np.ndarray:
    """Polygons with twice as many corners, cut (Chaikin), as int32."""
    after = np.roll(shapes, -1, axis=1)
    cut = np.stack([0.75 * shapes + 0.25 * after, 0.25 * shapes + 0.75 * after], 2)
    return np.rint(cut.reshape(shapes.shape[0], -1, 2)).astype(np.int32)


def _rings(
    rng: np.random.Generator, slide: SlidePlan, shape: np.ndarray, centre: np.ndarray, wall: np.ndarray,
    inside: np.ndarray,
) -> list[Nuclei]:  # fmt: skip
    """Nuclei along the outer wall of glands, pointing to the lumen."""
    around = 4 * VERTICES  # places on each outline
    t = np.linspace(0, VERTICES, around, endpoint=False)
    low = t.astype(int)
    part = (t - low)[None, :, None]
    edge = shape[:, low] * (1 - part) + shape[:, (low + 1) % VERTICES] * part
    depth = (wall[:, None] * rng.uniform(0.25, 0.48, edge.shape[:2]))[..., None]
    places = edge + (centre - edge) * depth
    length = np.linalg.norm(np.diff(edge, axis=1, append=edge[:, :1]), axis=2).sum(1)
    wanted = length / (6.4 / slide.cellularity**0.5)
    keep = rng.random(places.shape[:2]) < np.minimum(1, wanted / around)[:, None]
    angle = np.arctan2(*np.moveaxis((centre - edge)[..., ::-1], -1, 0))[keep]
    x, y = places[keep].T
    row, column = y.astype(int), x.astype(int)
    ok = (x >= 0) & (y >= 0) & (row < inside.shape[0]) & (column < inside.shape[1])
    ok[ok] = inside[row[ok], column[ok]]
    return [_group(rng, x[ok], y[ok], radius=3.5, spread=0.12, stretch=1.9, dark=132, dark_sd=14, rough=0.05,
                   open_=0.16, nucleolus=0.15, angle=angle[ok] + rng.normal(0, 0.12, ok.sum()))]  # fmt: skip


def _light(haematoxylin: np.ndarray, eosin: np.ndarray, stain: tuple[float, float, float, float]) -> np.ndarray:
    """Light through both stains, RGB uint8."""
    import cv2

    strong_h, strong_e, turn, thick = stain
    blue = HAEMATOXYLIN + turn * np.array([-0.9, 0.6, 0.9])
    red = EOSIN + turn * np.array([0.5, -0.2, 1.2])
    steps = np.arange(256)[:, None] / UNITS * thick
    light_h = np.exp(-steps * strong_h * blue / np.linalg.norm(blue) * 1.35)
    light_e = np.exp(-steps * strong_e * red / np.linalg.norm(red) * 1.0)
    channels = []
    for c in range(3):
        through_h = cv2.LUT(haematoxylin, np.rint(255 * light_h[:, c]).astype(np.uint8))
        through_e = cv2.LUT(eosin, np.rint(255 * light_e[:, c]).astype(np.uint8))
        channels.append(cv2.multiply(through_h, through_e, scale=GLASS_RGB[c] / 255**2))
    return cv2.merge(channels)


def _draw_pen(rng: np.random.Generator, rgb: np.ndarray, mpp: float) -> None:
    """Draw a stroke of a felt pen beside and over the edge of the tissue, in place."""
    import cv2

    height, width = rgb.shape[:2]
    reduce = 8
    mask = np.zeros((-(-height // reduce), -(-width // reduce)), np.uint8)
    t = np.linspace(0, 1, 40)
    side = rng.integers(4)
    along = 0.08 + 0.84 * t
    across = 0.06 + 0.04 * np.sin(2 * np.pi * (t * rng.uniform(0.6, 1.4) + rng.random())) + rng.uniform(0, 0.05)
    x, y = ((along, across), (1 - across, along), (along, 1 - across), (across, along))[side]
    points = np.stack([x * mask.shape[1], y * mask.shape[0]], -1)
    thick = max(2, round(rng.uniform(60, 110) / mpp / reduce))
    cv2.polylines(mask, [np.rint(points).astype(np.int32)], False, 255, thick, cv2.LINE_AA)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1 = rows[0] * reduce, min(height, (rows[-1] + 1) * reduce)
    x0, x1 = columns[0] * reduce, min(width, (columns[-1] + 1) * reduce)
    alpha = cv2.resize(mask, (mask.shape[1] * reduce, mask.shape[0] * reduce), interpolation=cv2.INTER_LINEAR)
    alpha = cv2.convertScaleAbs(alpha[y0:y1, x0:x1], alpha=0.88)
    ink = np.array(PENS[int(rng.integers(len(PENS)))], np.float64)
    shade = np.rint(255 - alpha.max(initial=0) * (1 - ink / 255))
    region = rgb[y0:y1, x0:x1]
    for c in range(3):
        factor = cv2.convertScaleAbs(alpha, alpha=-(255 - shade[c]) / max(1, alpha.max()), beta=255)
        region[..., c] = cv2.multiply(region[..., c], factor, scale=1 / 255)
