"""What the stain of a slide is, from a sample of its pixels: vectors and strengths, or moments of its colour.

Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009, with the constants of
the code that is in common use; Vahadane et al., "Structure-preserving color normalization and sparse stain separation",
IEEE Trans. Med. Imaging 2016; Reinhard et al., "Color transfer between images", IEEE CG&A 2001. Fitted to a slide,
never to a tile: a tile that holds one stain alone has no second vector to be found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Intensity of the light, grey levels; density is -ln((I + 1) / IO).
IO = 240.0
#: Pixels with a density below this are glass.
BETA = 0.15
#: Percentile of the angles that the vectors are taken at, and 100 less it.
ALPHA = 1.0
#: Percentile of a stain's amounts that is its strength.
STRENGTH_PERCENTILE = 99.0
#: Haematoxylin and eosin (columns) of the reference, densities of red, green and blue; and their strengths.
HE_REFERENCE = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
STRENGTH_REFERENCE = np.array([1.9705, 1.0308])
#: Mean and s.d. of l-alpha-beta of TCGA-A2-A3XS-DX1 (Amgad et al., Bioinformatics 2019), in common use as a target.
LAB_REFERENCE = (np.array([8.74108109, -0.12440419, 0.0444982]), np.array([0.6135447, 0.10989545, 0.0286032]))
#: Fewer tissue pixels describe no stain.
LEAST_PIXELS = 100
#: Two vectors nearer than this are one stain: their inverse amplifies noise. Degrees; our reading of "singular".
LEAST_ANGLE = 2.0
#: Weight of the sum of the amounts in Vahadane's sparse factorisation.
SPARSITY = 0.1
#: Pixels that the factorisation looks at, evenly drawn, and its most rounds.
FACTORISED, ROUNDS = 20_000, 300

RGB_TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
LMS_TO_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1.0, 1, 1], [1, 1, -2], [1, -1, 0]])

#: Density of each grey level. One is added as in the common code: black has a density.
DENSITY = -np.log((np.arange(256) + 1) / IO)


@dataclass(frozen=True)
class StainFit:
    """The stain of a slide, or of a target.

    Attributes
    ----------
    method : str
    tissue_px : int
        Pixels it was fitted to; 0 for published constants.
    fallback : str
        Why there is none (``few_pixels``, ``singular``); tiles are then left as they are. Empty: it holds.
    vectors : ndarray of float64, (3, 2) or None
        Densities of red, green and blue for one unit of haematoxylin and eosin (columns of length 1).
    strengths : ndarray of float64, (2,) or None
        99th percentile of the amount of each.
    mean, sd : ndarray of float64, (3,) or None
        Moments of l-alpha-beta (Reinhard).
    """

    method: str
    tissue_px: int = 0
    fallback: str = ""
    vectors: np.ndarray | None = field(default=None, compare=False)
    strengths: np.ndarray | None = field(default=None, compare=False)
    mean: np.ndarray | None = field(default=None, compare=False)
    sd: np.ndarray | None = field(default=None, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, six digits after the point, for identities and tables."""
        arrays = {key: getattr(self, key) for key in ("vectors", "strengths", "mean", "sd")}
        numbers = {key: np.round(value, 6).tolist() for key, value in arrays.items() if value is not None}
        return {"method": self.method, "tissue_px": self.tissue_px, "fallback": self.fallback} | numbers


def densities(pixels: np.ndarray) -> np.ndarray:
    """Optical densities (float64) of uint8 pixels (..., 3)."""
    return DENSITY[pixels]


def tissue_pixels(pixels: np.ndarray, *, every: bool = False) -> np.ndarray:
    """Those of uint8 (N, 3) that hold stain: a density of `BETA`, mean of the channels.

    With `every`, in every channel, as Macenko's code asks: pale eosin lets red through, so that pixels of eosin alone
    are lost with the glass and its vector is found among mixed ones.
    """
    density = densities(pixels)
    return pixels[(density >= BETA).all(axis=1) if every else density.mean(axis=1) >= BETA]


def fit_macenko(pixels: np.ndarray) -> StainFit:
    """Stain vectors at the extreme angles in the plane of largest variance of the densities.

    Parameters
    ----------
    pixels : ndarray of uint8, (N, 3)
        Of one slide; glass may be among them and counts in the strengths, as in the common code.
    """
    tissue = tissue_pixels(_checked(pixels), every=True)
    if len(tissue) < LEAST_PIXELS:
        return StainFit("macenko", len(tissue), "few_pixels")
    density = densities(tissue)
    plane = np.linalg.eigh(np.cov(density, rowvar=False))[1][:, [2, 1]]
    # an eigenvector's sign is the library's whim; with a negative one the angles lie around pi and are cut in two
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    along = density @ plane
    low, high = np.percentile(np.arctan2(along[:, 1], along[:, 0]), [ALPHA, 100 - ALPHA])
    ends = plane @ np.array([[np.cos(low), np.cos(high)], [np.sin(low), np.sin(high)]])
    return _with_strengths("macenko", ends, pixels, len(tissue))


def fit_vahadane(pixels: np.ndarray) -> StainFit:
    """Stain vectors by sparse non-negative factorisation of the densities (lambda 0.1), starting from Macenko's.

    min over W, C >= 0 of the mean over pixels of |x - W c|^2 / 2 + lambda |c|_1, columns of W of length 1: amounts are
    solved exactly (two unknowns), then each column of W in turn (Mairal et al., JMLR 2010, algorithm 2). Nothing is
    drawn, so that the same pixels give the same vectors.
    """
    tissue = tissue_pixels(_checked(pixels))
    if len(tissue) < LEAST_PIXELS:
        return StainFit("vahadane", len(tissue), "few_pixels")
    start = fit_macenko(pixels)
    vectors = HE_REFERENCE if start.vectors is None else np.maximum(start.vectors, 1e-6)
    vectors = vectors / np.linalg.norm(vectors, axis=0)
    density = densities(tissue[:: -(-len(tissue) // FACTORISED)])
    for _ in range(ROUNDS):
        amounts = amounts_of(density, vectors, SPARSITY)
        second, cross = amounts.T @ amounts, density.T @ amounts
        before = vectors
        for k in range(2):
            if second[k, k] < 1e-9:
                return StainFit("vahadane", len(tissue), "singular")
            column = np.maximum((cross[:, k] - vectors @ second[:, k]) / second[k, k] + vectors[:, k], 0)
            length = np.linalg.norm(column)
            if length < 1e-9:
                return StainFit("vahadane", len(tissue), "singular")
            vectors = vectors.copy()
            vectors[:, k] = column / length
        if np.abs(vectors - before).max() < 1e-5:
            break
    return _with_strengths("vahadane", vectors, pixels, len(tissue))


def fit_reinhard(pixels: np.ndarray) -> StainFit:
    """Mean and s.d. of l-alpha-beta over the tissue pixels: with glass among them its share would count as colour."""
    tissue = tissue_pixels(_checked(pixels))
    if len(tissue) < LEAST_PIXELS:
        return StainFit("reinhard", len(tissue), "few_pixels")
    lab = to_lab(tissue)
    mean, sd = lab.mean(axis=0), lab.std(axis=0)
    if (sd < 1e-6).any():
        return StainFit("reinhard", len(tissue), "singular")
    return StainFit("reinhard", len(tissue), mean=mean, sd=sd)


def amounts_of(density: np.ndarray, vectors: np.ndarray, sparsity: float = 0.0) -> np.ndarray:
    """Non-negative amounts (N, 2) of two stains of unit vectors: the exact minimum of |x - W c|^2 / 2 + s |c|_1.

    With two unknowns of non-negative correlation the minimum is the free one where it is not negative, else the stain
    that came out negative is 0 and the other is solved alone.
    """
    alone = density @ vectors - sparsity
    free = alone @ np.linalg.inv(vectors.T @ vectors)
    other = np.maximum(alone, 0)
    first = np.where(free[:, 0] < 0, 0, np.where(free[:, 1] < 0, other[:, 0], free[:, 0]))
    second = np.where(free[:, 0] < 0, other[:, 1], np.where(free[:, 1] < 0, 0, free[:, 1]))
    return np.stack([first, second], axis=1)


def to_lab(pixels: np.ndarray) -> np.ndarray:
    """l-alpha-beta (float64) of uint8 pixels (..., 3): natural logarithm of LMS, black taken as 1."""
    return np.log(np.maximum(pixels, 1) @ RGB_TO_LMS.T) @ LMS_TO_LAB.T


def angle_between(first: np.ndarray, second: np.ndarray) -> float:
    """Degrees between two vectors."""
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _with_strengths(method: str, vectors: np.ndarray, pixels: np.ndarray, tissue_px: int) -> StainFit:
    """A fit of two vectors in either order: haematoxylin is the one that takes more red."""
    if vectors[0, 0] < vectors[0, 1]:
        vectors = vectors[:, ::-1]
    if angle_between(vectors[:, 0], vectors[:, 1]) < LEAST_ANGLE:
        return StainFit(method, tissue_px, "singular")
    density = densities(pixels)
    # amounts as they are taken when the fit is used
    amounts = amounts_of(density, vectors) if method == "vahadane" else density @ np.linalg.pinv(vectors).T
    strengths = np.percentile(amounts, STRENGTH_PERCENTILE, axis=0)
    if (strengths < 1e-3).any():
        return StainFit(method, tissue_px, "singular")
    return StainFit(method, tissue_px, vectors=np.ascontiguousarray(vectors), strengths=strengths)


def _checked(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3:
        raise ValueError(f"pixels must be uint8 (N, 3), not {pixels.dtype} {pixels.shape}")
    return pixels
