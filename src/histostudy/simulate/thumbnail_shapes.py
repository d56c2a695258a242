"""Shapes and fields that thumbnails are drawn from; all in pixels, all from a numpy Generator."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Size = tuple[int, int]


def noise(rng: np.random.Generator, size: Size, scale: float) -> Field:
    """Smooth noise, (H, W), of about unit variance that changes over `scale` px."""
    scale = max(scale, 0.5)
    if scale <= 1:
        return blur(rng.standard_normal(size, np.float32), scale / 2) * np.float32(1 + scale)
    cells = [int(side / scale) + 4 for side in size]
    coarse = rng.standard_normal(cells, np.float32)
    # a piece between the nodes, so that no node falls on the border of every picture
    step = 1 / scale
    y0, x0 = rng.uniform(1, 2, 2)
    affine = np.array([[step, 0, x0], [0, step, y0]], np.float32)
    out = cv2.warpAffine(coarse, affine, size[::-1], flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                         borderMode=cv2.BORDER_REFLECT)  # fmt: skip
    return np.asarray(out * 1.35, np.float32)


def step(values: Field) -> Field:
    """Soft step from 0 to 1."""
    return np.asarray(1 / (1 + np.exp(-4 * np.clip(values, -10, 10))), np.float32)


def blur(values: Field, sigma: float) -> Field:
    """Gaussian blur; none below a tenth of a pixel."""
    if sigma < 0.1:
        return values
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.float32)


def jitter(rng: np.random.Generator, vector: Field, sd: float) -> Field:
    """A stain moved a little, never below zero."""
    return np.asarray(np.maximum(vector + rng.normal(0, sd, 3), 0.02), np.float32)


def wide(mask: NDArray[np.bool_], width: float) -> NDArray[np.bool_]:
    """Those parts of a mask that hold a disc of this width."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(1, round(width)),) * 2)
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc).astype(bool)


def closed(mask: NDArray[np.bool_], width: float) -> NDArray[np.bool_]:
    """A mask without its gaps narrower than `width`."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(1, round(width)),) * 2)
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc).astype(bool)


def _outline(rng: np.random.Generator) -> NDArray[np.float64]:
    """A closed curve around zero, of radius about 1, (72, 2)."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.ones_like(angle)
    for k in range(1, 8):
        radius += rng.normal(0, 0.22 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.3, 1.7)
    stretch = np.exp(rng.uniform(-0.35, 0.35))
    return np.stack([radius * np.cos(angle) * stretch, radius * np.sin(angle) / stretch], 1)


def sections(rng: np.random.Generator, size: Size, n: int, *, torn: bool) -> NDArray[np.int32]:
    """Up to `n` cross-sections in the cells of a grid, labelled from 1; torn ones lie in two pieces.

    A section whose neighbour took its place is left out; labels have no gaps.
    """
    height, width = size
    columns = int(np.clip(round(np.sqrt(n * width / height)), 1, n))
    rows = -(-n // columns)
    cell = np.array([width / columns, height / rows])
    serial = rng.random() < 0.5  # cuts of one block look alike
    shape, turn = _outline(rng), rng.uniform(0, 2 * np.pi)
    fill = rng.uniform(0.22, 0.42)
    places = rng.permutation(rows * columns)[:n]
    labels = np.zeros(size, np.int32)
    for place in places:
        if not serial:
            shape, turn = _outline(rng), rng.uniform(0, 2 * np.pi)
        angle = turn + (rng.normal(0, 0.15) if serial else 0)
        centre = (np.array([place % columns, place // columns]) + 0.5) * cell + rng.normal(0, 0.05, 2) * cell
        radius = min(cell) * fill * np.exp(rng.normal(0, 0.05 if serial else 0.25))
        mask = _fill(size, centre + radius * shape @ _rotation(angle))
        if torn and rng.random() < 0.7:
            mask = _tear(rng, mask, centre, float(radius))
        free = mask & (cv2.dilate((labels > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
        if free.sum() >= 0.8 * max(1, mask.sum()) and free.any():
            labels[free] = labels.max() + 1
    return labels


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _fill(size: Size, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def _tear(
    rng: np.random.Generator, mask: NDArray[np.bool_], centre: NDArray[np.float64], radius: float
) -> NDArray[np.bool_]:
    """The section without a strip through its middle, so that it is in two pieces."""
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    angle = rng.uniform(0, np.pi)
    across = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    along = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
    wave = rng.uniform(0, 0.1) * radius * np.sin(along / max(1.0, radius) * rng.uniform(2, 8))
    gap = max(1.5, radius * rng.uniform(0.04, 0.22))
    return mask & (np.abs(across + wave + rng.normal(0, 0.2) * radius) > gap / 2)


def stroke(rng: np.random.Generator, size: Size, width: float) -> Field:
    """A stroke of pen, 0 to 1: a line, a curve, a loop, a dot, letters, or a border of the picture."""
    height, wide_px = size
    canvas = np.zeros(size, np.uint8)
    kind = rng.choice(["curve", "line", "loop", "dot", "letters", "border"], p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.1])
    start = rng.uniform(0, 1, 2) * (wide_px, height)
    thick = max(1, round(width))
    if kind == "letters":
        text = "".join(rng.choice(list("ABCHPST0123456789"), size=int(rng.integers(1, 6))))
        place = (int(start[0] * 0.8), int(start[1]))
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX, width / 4 + 0.5, 255, max(1, thick // 3),
                    cv2.LINE_AA)  # fmt: skip
    elif kind == "border":
        side, depth = rng.integers(4), int(width * rng.uniform(0.5, 2)) + 1
        np.moveaxis(canvas, side % 2, 0)[:depth] = 255
        canvas = canvas[::-1, ::-1].copy() if side > 1 else canvas
    elif kind == "dot":
        cv2.circle(canvas, (int(start[0]), int(start[1])), max(1, int(width * rng.uniform(0.5, 1.5))), 255, -1,
                   cv2.LINE_AA)  # fmt: skip
    else:
        if kind == "loop":
            points = start + _outline(rng) * rng.uniform(0.08, 0.4) * min(size)
            points = points[: int(rng.integers(50, 73))]
        else:
            bends = 0.0 if kind == "line" else rng.uniform(0.05, 0.35)
            heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bends, 40))
            length = rng.uniform(0.1, 1.1) * max(size) / 40
            points = start + np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * length, 0)
        path = np.round(points * 16).astype(np.int32)
        cv2.polylines(canvas, [path], False, 255, thick, cv2.LINE_AA, shift=4)
    return np.asarray(canvas.astype(np.float32) / 255, np.float32)


def specks(rng: np.random.Generator, size: Size, n: int, radius: float) -> Field:
    """Dust, 0 to 1: dots and short hairs."""
    canvas = np.zeros(size, np.uint8)
    for _ in range(n):
        x, y = int(rng.integers(size[1])), int(rng.integers(size[0]))
        if rng.random() < 0.8:
            r = radius * rng.uniform(0.2, 1.2)
            axes = (max(1, round(r)), max(1, round(r * rng.uniform(0.3, 1))))
            cv2.ellipse(canvas, (x, y), axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
        else:
            dx, dy = rng.normal(0, 6 * radius, 2)
            cv2.line(canvas, (x, y), (x + int(dx), y + int(dy)), 255, 1, cv2.LINE_AA)
    return np.asarray(canvas.astype(np.float32) / 255, np.float32)


def spot_grid(rng: np.random.Generator, size: Size, pitch: float) -> Field:
    """A printed grid of spots, 0 to 1, as on slides of spatial transcriptomics."""
    pitch = max(pitch, 4.0)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    y, x = y + rng.uniform(0, pitch), x + rng.uniform(0, pitch)
    near = ((x + pitch / 2) % pitch - pitch / 2) ** 2 + ((y + pitch / 2) % pitch - pitch / 2) ** 2
    return np.asarray(near < (pitch * rng.uniform(0.15, 0.35)) ** 2, np.float32)


def rings(rng: np.random.Generator, size: Size, radius: float) -> Field:
    """Bubbles, 0 to 1: dark rims."""
    canvas = np.zeros(size, np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        place = (int(rng.integers(size[1])), int(rng.integers(size[0])))
        cv2.circle(canvas, place, max(2, int(radius * rng.uniform(0.4, 1.2))), 255, int(rng.integers(1, 4)),
                   cv2.LINE_AA)  # fmt: skip
    return np.asarray(canvas.astype(np.float32) / 255, np.float32)


def coverslip(rng: np.random.Generator, size: Size, width: float) -> Field:
    """The edge of a coverslip, 0 to 1: a straight line through the whole picture, or a corner of two."""
    canvas = np.zeros(size, np.uint8)
    corner = np.array([rng.uniform(0.02, 0.98) * size[1], rng.uniform(0.02, 0.98) * size[0]])
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.05)
    ends = [angle, angle + np.pi] if rng.random() < 0.7 else [angle, angle + np.pi / 2]
    for end in ends:
        tip = corner + 3 * max(size) * np.array([np.cos(end), np.sin(end)])
        cv2.line(canvas, (int(corner[0]), int(corner[1])), (int(tip[0]), int(tip[1])), 255, max(1, round(width)),
                 cv2.LINE_AA)  # fmt: skip
    return np.asarray(canvas.astype(np.float32) / 255, np.float32)
