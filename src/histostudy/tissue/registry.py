"""The tissue methods by name, and what each of them returns.

A segmenter takes the slide at a working resolution and says which pixels are tissue and which are pen or other
foreign marks. It does no cleaning up by area: `histostudy.tissue.mask` does that for all of them alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histostudy.errors import ConfigError
from histostudy.registry import Registry

BoolMask = NDArray[np.bool_]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Segmentation:
    """Tissue and foreign marks of one image.

    Attributes
    ----------
    tissue : ndarray of bool, (H, W)
        Tissue, without the pen where the method leaves pen out.
    pen : ndarray of bool, (H, W)
        Pen, coverslip edges and other dark colourless marks.
    sections : ndarray of int32, (H, W), optional
        Cross-section of every pixel of tissue, counted from 1, where the method tells them apart itself.
    """

    tissue: BoolMask
    pen: BoolMask
    sections: NDArray[np.int32] | None = None


Segmenter = Callable[..., Segmentation]

#: name -> ``f(rgb uint8 (H, W, 3), mpp, **options) -> Segmentation``
SEGMENTERS: Registry[Segmenter] = Registry("tissue method")

#: name -> ``f(checkpoint) -> dict`` of what a method's result depends on beside its options: its weights.
IDENTITIES: Registry[Callable[..., dict[str, str]]] = Registry("tissue method with weights")


def segment(
    rgb: Image, mpp: float, method: str, options: Mapping[str, Any] | None = None, checkpoint: Path | None = None
) -> Segmentation:
    """Segment an image by a registered method.

    Parameters
    ----------
    rgb : ndarray of uint8, (H, W, 3)
        The slide, or a part of it.
    mpp : float
        Micrometres per pixel of `rgb`.
    method : str
        Name in `SEGMENTERS`.
    options : mapping, optional
        Keyword arguments of the method.
    checkpoint : Path, optional
        Weights of the method.

    Raises
    ------
    ConfigError
        If the method or one of its options is unknown, or it takes no weights.
    ValueError
        If `rgb` is not an 8-bit RGB image or `mpp` not positive.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
        raise ValueError(f"an 8-bit RGB image is wanted, not {rgb.dtype} of shape {rgb.shape}")
    if not mpp > 0:
        raise ValueError(f"mpp must be positive, not {mpp}")
    _register()
    function = SEGMENTERS[method]
    check_options(method, function, options or {})
    given = dict(options or {})
    if checkpoint is not None:
        if method not in IDENTITIES:
            raise ConfigError(f"tissue method {method!r} takes no checkpoint", todo="leave tissue.checkpoint out")
        given["checkpoint"] = checkpoint
    return function(np.ascontiguousarray(rgb), float(mpp), **given)


def weights_of(method: str, checkpoint: Path | None = None) -> dict[str, str]:
    """What the result of a method depends on beside its options: the hash of its weights, where it has any."""
    _register()
    return IDENTITIES[method](checkpoint) if method in IDENTITIES else {}


def _register() -> None:
    import histostudy.tissue.adapters
    import histostudy.tissue.classical
    import histostudy.tissue.otsu
    import histostudy.tissue.unet  # noqa: F401  importing registers


def check_options(method: str, function: Segmenter, options: Mapping[str, Any]) -> None:
    """Raise ConfigError, with the known names, for an option that the method does not have."""
    known = [name for name in list(inspect.signature(function).parameters)[2:] if name != "checkpoint"]
    for name in options:
        if name not in known:
            raise ConfigError(f"unknown option {name!r} of tissue method {method!r}", todo=f"known: {', '.join(known)}")
