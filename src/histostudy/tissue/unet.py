"""Tissue, pen and cross-sections by the small U-Net that ships with the package.

After SlideSegmenter (arXiv 2401.13511); see `histostudy.tissue.network`, and ``weights/unet.md`` for what it was
trained on and what it reaches.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from histostudy.errors import ConfigError
from histostudy.files import sha256
from histostudy.tissue.density import odd, relative_density
from histostudy.tissue.mask import nearest_label
from histostudy.tissue.pen import find_pen
from histostudy.tissue.registry import IDENTITIES, SEGMENTERS, BoolMask, Image, Segmentation

if TYPE_CHECKING:
    from histostudy.tissue.network import UNet

WEIGHTS = Path(__file__).parent / "weights" / "unet.safetensors"
#: Scales that the network looks at, um/px; a coarser image is enlarged up to four times.
NETWORK_MPP, MOST_ENLARGED = (7.0, 17.0), 4.0
#: Larger images go through in pieces of this side with this margin, px, so that memory stays bounded.
PIECE, MARGIN = 2048, 256
#: Sections are told apart on an overview of this many pixels, as they were learned.
OVERVIEW_PX = 256 * 256


@SEGMENTERS.register("unet")
def unet(
    rgb: Image,
    mpp: float,
    *,
    checkpoint: Path | None = None,
    tissue_threshold: float = 0.5,
    pen_threshold: float = 0.5,
    close_um: float = 40.0,
    exclude_pen: bool = True,
    pen_rules: bool = True,
    sections: bool = False,
    pixels_per_bin: float = 8.0,
    sigma: float = 2.0,
    window: int = 7,
    percentile: float = 95.0,
    least: float = 0.01,
) -> Segmentation:
    """Tissue and pen by a trained network.

    Parameters
    ----------
    rgb : ndarray of uint8, (H, W, 3)
    mpp : float
        Micrometres per pixel.
    checkpoint : Path, optional
        Weights of ``histostudy train-tissue`` instead of the ones that ship.
    tissue_threshold, pen_threshold : float
        Probability from which a pixel is tissue, or pen.
    close_um : float
        Gaps up to this width, such as lumina and the cells of fat, belong to the tissue around them (0: none).
    exclude_pen : bool
        Leave pen out of the tissue.
    pen_rules : bool
        Pen is also what the rules on colour of `histostudy.tissue.pen` find; otherwise the network alone says.
    sections : bool
        Tell cross-sections apart by their predicted centres, rather than by the gaps between them.
    pixels_per_bin, sigma, window, percentile, least
        See `histostudy.tissue.centroids.separate`; in pixels of the overview of about 256 x 256 that sections are told
        apart on.

    Raises
    ------
    ConfigError
        If there are no such weights, or a threshold lies outside 0 to 1.
    """
    for name, value in (("tissue_threshold", tissue_threshold), ("pen_threshold", pen_threshold)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} must lie between 0 and 1, not {value}")
    network, offset_px = _load(checkpoint)
    height, width = rgb.shape[:2]
    scale = min(mpp / float(np.clip(mpp, *NETWORK_MPP)), MOST_ENLARGED)
    seen = _resize(rgb, max(1, round(height * scale)), max(1, round(width * scale)))
    found = predict(network, seen, ("tissue", "pen"))
    size = (width, height)
    grown = {name: cv2.resize(found[name][0], size, interpolation=cv2.INTER_LINEAR) for name in ("tissue", "pen")}
    tissue = grown["tissue"] >= _logit(tissue_threshold)
    pen = grown["pen"] >= _logit(pen_threshold)
    if pen_rules:  # dry strokes are told by their colour; ink that the rules have no colour for, by the network
        pen |= find_pen(relative_density(rgb, mpp).density, mpp)
    if close_um > 0:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (odd(close_um, mpp),) * 2)
        tissue = cv2.morphologyEx(tissue.astype(np.uint8), cv2.MORPH_CLOSE, disc).astype(bool)
    tissue = tissue & ~pen if exclude_pen else tissue
    labels = None
    if sections:
        options = {"pixels_per_bin": pixels_per_bin, "sigma": sigma, "percentile": percentile, "least": least}
        labels = _sections(network, rgb, tissue, offset_px, window=window, **options)
    return Segmentation(tissue, pen, labels)


@IDENTITIES.register("unet")
def identity(checkpoint: Path | None = None) -> dict[str, str]:
    """What the result depends on beside the options: the weights."""
    return {"weights": sha256(_file(checkpoint))}


def predict(network: UNet, rgb: Image, heads: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """Raw outputs of a network, each (C, H, W), in pieces where the image is large.

    Parameters
    ----------
    network : UNet
    rgb : ndarray of uint8, (H, W, 3)
        At the scale of the network. Sides are mirrored to multiples of its stride: white would look like glass.
    heads : tuple of str
        Outputs that are wanted.
    """
    import torch

    height, width = rgb.shape[:2]
    stride = network.stride
    padded = cv2.copyMakeBorder(rgb, 0, -height % stride, 0, -width % stride, cv2.BORDER_REFLECT)
    out = {name: np.zeros((network.config["heads"][name], *padded.shape[:2]), np.float32) for name in heads}
    margin = -(-MARGIN // stride) * stride
    step = max(stride, (PIECE - 2 * margin) // stride * stride)
    whole = max(padded.shape[:2]) <= PIECE
    rows = [0] if whole else range(0, padded.shape[0], step)
    columns = [0] if whole else range(0, padded.shape[1], step)
    for top in rows:
        for left in columns:
            bottom, right = (padded.shape[:2]) if whole else (top + step, left + step)
            y0, x0 = max(0, top - margin), max(0, left - margin)
            piece = padded[y0 : bottom + margin, x0 : right + margin]
            image = torch.from_numpy(np.ascontiguousarray(piece)).permute(2, 0, 1)[None].float() / 255
            with torch.inference_mode():
                found = network(image.contiguous(memory_format=torch.channels_last), heads)
            for name in heads:
                kept = found[name][0].numpy()[:, top - y0 : bottom - y0, left - x0 : right - x0]
                out[name][:, top : top + kept.shape[1], left : left + kept.shape[2]] = kept
    return {name: value[:, :height, :width] for name, value in out.items()}


def _sections(network: UNet, rgb: Image, tissue: BoolMask, offset_px: float, **options: float) -> NDArray[np.int32]:
    """Section of every pixel of tissue, from the offsets of an overview of the whole image."""
    from histostudy.tissue.centroids import separate

    height, width = rgb.shape[:2]
    shrink = min(1.0, float(np.sqrt(OVERVIEW_PX / (height * width))))
    small = max(1, round(height * shrink)), max(1, round(width * shrink))
    found = predict(network, _resize(rgb, *small), ("tissue", "offset"))
    # as in training, where an offset counts as far as the pixel is tissue
    dx, dy = found["offset"] * offset_px / (1 + np.exp(-found["tissue"]))
    mask = cv2.resize(tissue.astype(np.float32), small[::-1], interpolation=cv2.INTER_AREA) > 0.25
    labels, _ = separate(mask, dx, dy, **options)  # type: ignore[arg-type]
    grown = cv2.resize(labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    return nearest_label(grown.astype(np.int32), tissue)


def _resize(rgb: Image, height: int, width: int) -> Image:
    if (height, width) == rgb.shape[:2]:
        return rgb
    shrinks = height * width < rgb.shape[0] * rgb.shape[1]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=kind), np.uint8)


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def _file(checkpoint: Path | None) -> Path:
    file = WEIGHTS if checkpoint is None else Path(checkpoint)
    if not file.is_file():
        raise ConfigError("no such weights of the tissue network", where=file, todo="check tissue.checkpoint")
    return file


def _load(checkpoint: Path | None) -> tuple[UNet, float]:
    file = _file(checkpoint)
    stat = file.stat()
    return _loaded(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2)
def _loaded(file: Path, size: int, time_ns: int) -> tuple[UNet, float]:
    import torch

    from histostudy.tissue.network import load

    network, about = load(file)
    if not {"tissue", "pen", "offset"} <= set(network.config["heads"]) or "offset_px" not in about:
        raise ConfigError("not weights of a tissue network", where=file, todo="make them with `train-tissue`")
    return network.to(memory_format=torch.channels_last), float(about["offset_px"])
