"""What an encoder is: tiles in, one vector a tile out, and an identity that says by what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
#: How far the scale of the pixels an encoder sees may lie from a scale it was trained at (a ratio). Wide
#: enough for the customary 256 px at 0.5 um/px squeezed into 224 px (0.571), too narrow for 0.25 or 1.0.
MPP_TOLERANCE = 1.2


@dataclass(frozen=True)
class EncoderFacts:
    """What is known of an encoder before its weights are loaded.

    Attributes
    ----------
    name : str
        The name used in a study file.
    source : str
        ``builtin``, ``timm``, ``transformers`` or ``conch`` (how the weights become a network).
    hub_id : str or None
        Repository on the Hugging Face hub; None: weights only from `checkpoint`.
    dim : int or None
        Width of a vector; None: known once the weights are loaded.
    input_px : int or None
        Side of the square image the network takes; None: from the weights' own configuration.
    mpp : tuple of float or None
        Scales (um/px) it was trained at; None: any.
    mean, std : tuple of float or None
        Normalisation of RGB in 0 to 1; None: from the weights' own configuration, else ImageNet's.
    variant : str
        ``cls``, ``mean`` (of the patch tokens, without class and register tokens), ``cls+mean``, or ``pool``
        (the network's own pooling).
    licence : str
        Of the weights.
    gated : bool
        Whether the hub asks to accept terms first.
    revision : str or None
        Commit, tag or branch of the hub repository; None: its main branch. The commit found is recorded.
    architecture : str or None
        timm architecture, for a bare weights file.
    options : dict
        Keyword arguments of the architecture; layer classes as strings (``timm.layers.SwiGLUPacked``).
    note : str
        One line for the reader of the list.
    """

    name: str
    source: str
    hub_id: str | None
    dim: int | None
    input_px: int | None = 224
    mpp: tuple[float, ...] | None = (0.5,)
    mean: tuple[float, float, float] | None = IMAGENET[0]
    std: tuple[float, float, float] | None = IMAGENET[1]
    variant: str = "cls"
    licence: str = "unknown"
    gated: bool = False
    revision: str | None = None
    architecture: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""


class Encoder(ABC):
    """A loaded encoder.

    Attributes
    ----------
    name : str
        The name used in the study file.
    dim : int
        Width of a vector.
    identity : dict
        All that decides the numbers: ``encoder``, ``weights_sha256``, ``variant``, ``transform``, ``code``.
        Vectors of two identities are never mixed.
    """

    name: str
    dim: int
    identity: dict[str, Any]
    interpretable: ClassVar[bool] = False

    @abstractmethod
    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Vectors of a batch of tiles.

        Parameters
        ----------
        batch : ndarray of uint8, (B, H, W, 3)
            RGB tiles at the scale the encoder was loaded for.

        Returns
        -------
        ndarray of float32, (B, dim)
        """

    def names(self) -> tuple[str, ...]:
        """Name of each column; ``f0``, ``f1``, ... where columns have no meaning of their own."""
        return tuple(f"f{i}" for i in range(self.dim))


def check_batch(batch: np.ndarray) -> np.ndarray:
    """Return `batch` if it is a uint8 (B, H, W, 3) array.

    Raises
    ------
    ValueError
        If it is not.
    """
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3:
        raise ValueError(f"tiles must be uint8 (B, H, W, 3), not {batch.dtype} {batch.shape}")
    return batch
