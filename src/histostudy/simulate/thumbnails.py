"""Draw thumbnails of slides with their truth: tissue, pen and cross-sections.

What a segmenter of thumbnails meets: one to nine sections, torn or not, of any stain from pale to heavy, fat, holes
and blood; glass that is white, pink, grey, yellow, graded or stitched of two tones, with haloes of eosin, dust,
coverslip edges, bubbles and printed spots; pen of four colours over glass and tissue. Colours follow Beer and Lambert
on the stain vectors of Ruifrok and Johnston (Anal Quant Cytol Histol 23:291, 2001). Drawn from numbers alone, without
a pixel of any slide. Sizes are in micrometres, so that one drawing holds at any scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histostudy.simulate import thumbnail_shapes as shapes
from histostudy.tissue.picture import Picture

Field = NDArray[np.float32]

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
EOSIN = np.array([0.07, 0.95, 0.30], np.float32)
DAB = np.array([0.27, 0.57, 0.78], np.float32)
BLOOD = np.array([0.10, 0.80, 0.58], np.float32)
#: Ink as densities of red, green and blue light; scaled by how wet the pen was.
INKS = {
    "red": (0.10, 0.85, 0.72), "green": (0.80, 0.26, 0.42), "blue": (0.82, 0.50, 0.14), "black": (0.80, 0.80, 0.80),
}  # fmt: skip
GLASS = {
    "white": (244, 244, 245), "pink": (238, 216, 232), "grey": (205, 205, 207), "yellow": (238, 234, 212),
    "bluish": (222, 228, 238),
}  # fmt: skip


def draw_thumbnail(rng: np.random.Generator, size: tuple[int, int] = (320, 320), mpp: float = 8.0) -> Picture:
    """Draw a thumbnail.

    Parameters
    ----------
    rng : Generator
        Two calls with generators of one state give the same bytes.
    size : tuple of int
        Height and width, px.
    mpp : float
        Micrometres per pixel: what is a texture at 8 is a shade at 32.

    Returns
    -------
    Picture
    """
    kind = rng.choice(["sections", "window", "all tissue", "bare glass"], p=[0.62, 0.26, 0.07, 0.05])
    labels = np.zeros(size, np.int32)
    if kind == "sections":
        labels = shapes.sections(rng, size, int(rng.integers(1, 10)), torn=rng.random() < 0.5)
    elif kind == "window":  # a part of a slide whose sections are larger than the picture
        far = shapes.sections(rng, (2 * size[0], 2 * size[1]), int(rng.integers(1, 4)), torn=rng.random() < 0.3)
        top, left = rng.integers(0, size[0] + 1), rng.integers(0, size[1] + 1)
        labels = np.ascontiguousarray(far[top : top + size[0], left : left + size[1]])
    elif kind == "all tissue":
        labels[:] = 1
    density, tissue, halo = _tissue(rng, labels, mpp)
    labels = np.where(tissue, labels, 0).astype(np.int32)
    light = _glass(rng, size, halo, mpp)
    foreign, edge = _foreign(rng, size, mpp, busy=kind != "all tissue")
    pen, ink = _pen(rng, size, mpp) if rng.random() < 0.55 else (np.zeros(size, bool), np.zeros((*size, 3), np.float32))
    rgb = light * 10 ** -(density + foreign + ink)
    rgb = shapes.blur(rgb, float(rng.choice([0.0, rng.uniform(0.3, 1.6)])))
    rgb += rng.normal(0, rng.uniform(0.2, 3.0), (*size, 1)) + rng.normal(0, rng.uniform(0.1, 2.0), rgb.shape)
    marks = pen | edge
    return Picture(np.clip(rgb, 0, 255).astype(np.uint8), tissue & ~marks, marks, labels)


def _tissue(rng: np.random.Generator, labels: NDArray[np.int32], mpp: float) -> tuple[Field, NDArray[np.bool_], Field]:
    """Density (H, W, 3) of the sections, where they are, and the haze of stain around them (H, W)."""
    size = labels.shape
    ragged = shapes.blur((labels > 0).astype(np.float32), 1.5) + 0.18 * shapes.noise(rng, size, max(1.5, 40 / mpp))
    where = (labels > 0) & (ragged > 0.45)
    if (labels > 0).all():
        where[:] = True
    # what a section is made of, from broad to fine
    cells = shapes.step(shapes.noise(rng, size, rng.uniform(150, 900) / mpp) + rng.uniform(-1.2, 0.8))
    fat = shapes.step(shapes.noise(rng, size, rng.uniform(300, 1200) / mpp) - rng.uniform(0.3, 3.5))
    holes = shapes.step(4 * (shapes.noise(rng, size, rng.uniform(80, 300) / mpp) - rng.uniform(1.6, 3.2)))
    grain = np.exp(rng.uniform(0.1, 0.6) * shapes.noise(rng, size, max(0.7, 10 / mpp)))
    fibre = np.exp(rng.uniform(0.08, 0.4) * shapes.noise(rng, size, max(0.8, 45 / mpp)))
    walls = np.exp(-((shapes.noise(rng, size, max(0.8, rng.uniform(35, 70) / mpp)) / 0.22) ** 2))
    strength = float(np.exp(rng.uniform(np.log(0.5), np.log(1.6))))  # from a pale section to a heavy one
    h = strength * rng.uniform(0.15, 0.75) * (0.15 + 0.85 * cells) * grain
    e = strength * rng.uniform(0.20, 0.50) * (0.55 + 0.45 * (1 - cells)) * fibre
    body = (1 - fat) * (1 - holes)
    if rng.random() < 0.6:  # gaps between cells and fibres, with the glass showing through
        fine = shapes.noise(rng, size, max(0.8, rng.uniform(8, 60) / mpp))
        body = body * (1 - rng.uniform(0.5, 1.0) * shapes.step(3 * (fine - rng.uniform(0.1, 1.6))))
    h, e = h * (body + 0.15 * fat * walls), e * (body + fat * (0.04 + walls * 0.9))
    second = EOSIN if rng.random() < 0.85 else DAB
    vectors = [shapes.jitter(rng, v, 0.06) for v in (HAEMATOXYLIN, second, BLOOD)]
    density = h[..., None] * vectors[0] + e[..., None] * vectors[1]
    if rng.random() < 0.3:
        blood = shapes.step(5 * (shapes.noise(rng, size, rng.uniform(60, 300) / mpp) - rng.uniform(1.2, 2.4)))
        density += (strength * rng.uniform(0.3, 0.9) * blood * body)[..., None] * vectors[2]
    soft = shapes.blur(where.astype(np.float32), max(0.4, 6 / mpp))[..., None]
    # holes as wide as 160 um (20,000 um2, as studies fill them) are glass, others belong to the tissue around them
    wide = shapes.wide(where & (holes > 0.5), 160 / mpp)
    haze = shapes.blur((labels > 0).astype(np.float32), rng.uniform(100, 900) / mpp)
    return np.asarray(density * soft, np.float32), where & ~wide, haze


def _glass(rng: np.random.Generator, size: tuple[int, int], halo: Field, mpp: float) -> Field:
    """Light through the bare slide, (H, W, 3)."""
    tone = np.array(GLASS[str(rng.choice(list(GLASS), p=[0.42, 0.28, 0.12, 0.1, 0.08]))], np.float32)
    tone = np.clip(tone + rng.normal(0, 5) + rng.normal(0, 2.5, 3), 150, 255).astype(np.float32)
    light = np.broadcast_to(tone, (*size, 3)).astype(np.float32)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32) / max(size)
    if rng.random() < 0.4:  # graded
        angle = rng.uniform(0, 2 * np.pi)
        slope = (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))[..., None]
        light = light * (1 + slope * (rng.normal(0, 0.05) + rng.normal(0, 0.03, 3)))
    if rng.random() < 0.2:  # stitched of two scans
        at = rng.uniform(0.15, 0.85)
        light = light * np.where((x if rng.random() < 0.5 else y) < at, 1, rng.uniform(0.8, 1.0))[..., None]
    if rng.random() < 0.15:  # rows of the scanner
        period = rng.uniform(200, 1500) / mpp / max(size)
        light = light * (1 - rng.uniform(0.005, 0.03) * (np.floor(y / period) % 2))[..., None]
    if rng.random() < 0.5:  # mounting medium takes up some eosin: around the sections, and in clouds with an edge
        cloud = shapes.step(rng.uniform(0.3, 2.5) * (shapes.noise(rng, size, rng.uniform(600, 4000) / mpp) - 0.4))
        around, apart = np.exp(rng.uniform(np.log(0.005), np.log((0.07, 0.03))))
        shade = (around * halo * (0.2 + 0.8 * cloud) + apart * cloud) * rng.uniform(0.2, 1.0)
        light = light * 10 ** -(shade[..., None] * shapes.jitter(rng, EOSIN, 0.08))
    return np.asarray(np.clip(light, 0, 255), np.float32)


def _pen(rng: np.random.Generator, size: tuple[int, int], mpp: float) -> tuple[NDArray[np.bool_], Field]:
    """Where strokes of pen lie, and their density."""
    pen, density = np.zeros(size, bool), np.zeros((*size, 3), np.float32)
    colours = rng.choice(list(INKS), size=int(rng.integers(1, 3)))
    for _ in range(int(rng.integers(1, 6))):
        ink = shapes.jitter(rng, np.array(INKS[str(rng.choice(colours))], np.float32), 0.10)
        width_px = float(np.exp(rng.uniform(np.log(80), np.log(900)))) / mpp
        stroke = shapes.stroke(rng, size, min(max(width_px, 2.0), max(size) / 8))
        wet = rng.uniform(0.3, 1.6) * np.exp(rng.uniform(0, 0.35) * shapes.noise(rng, size, max(1.0, 120 / mpp)))
        if dry := rng.random() < 0.2:  # a dry pen leaves gaps
            wet = wet * shapes.step(2 * (shapes.noise(rng, size, max(1.0, 50 / mpp)) + rng.uniform(-0.3, 1.0)))
        density = np.maximum(density, (shapes.blur(stroke, 0.6) * wet)[..., None] * ink)
        seen = (stroke > 0.5) & (wet * ink.max() > 0.12)
        pen |= shapes.closed(seen, 80 / mpp) if dry else stroke > 0.5
    return pen, density


def _foreign(
    rng: np.random.Generator, size: tuple[int, int], mpp: float, *, busy: bool
) -> tuple[Field, NDArray[np.bool_]]:
    """Grey density of dust, bubbles, spots and coverslip edges, (H, W, 1), and where the edges are."""
    density, edge = np.zeros(size, np.float32), np.zeros(size, bool)
    if rng.random() < 0.4:
        density += rng.uniform(0.1, 0.9) * shapes.specks(rng, size, int(rng.integers(1, 40)), 40 / mpp)
    if busy and rng.random() < 0.2:
        density += rng.uniform(0.03, 0.15) * shapes.spot_grid(rng, size, rng.uniform(150, 300) / mpp)
    if rng.random() < 0.15:
        density += rng.uniform(0.05, 0.5) * shapes.rings(rng, size, rng.uniform(100, 1500) / mpp)
    if busy and rng.random() < 0.2:
        line = shapes.coverslip(rng, size, max(1.5, rng.uniform(30, 200) / mpp))
        strength = rng.uniform(0.15, 1.2)
        density += strength * line * np.exp(0.2 * shapes.noise(rng, size, max(1.0, 60 / mpp)))
        edge = line > 0.5
    return density[..., None], edge
