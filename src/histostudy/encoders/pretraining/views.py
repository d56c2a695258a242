"""Views of a tile: drawn crops, turns and changes of colour, and iBOT's blocks of masked patches.

What is drawn is data: one row of numbers a view (`COLUMNS`). Crops are cut on the CPU, a tile at a time; colours are
changed a batch at a time where the network runs. Multi-crop: Caron et al., NeurIPS 2020 (arXiv 2006.09882). The stain
change is that of Tellez et al., IEEE TMI 2018: each stain's density times 1 + a, plus b.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histostudy.encoders.stains import RGB_OF_STAIN, STAIN_OF_RGB

if TYPE_CHECKING:
    from torch import Tensor

    from histostudy.pretrain_keys import Views

#: What is drawn of a view: the crop as shares of the tile, one of 8 turns, factors and shifts of the three stains,
#: factors of brightness, contrast and saturation, width of the blur (px, 0: none), whether it is solarised.
COLUMNS = (
    "x", "y", "w", "h", "turn", "h_times", "e_times", "r_times", "h_plus", "e_plus", "r_plus", "brightness", "contrast",
    "saturation", "sigma", "solarise",
)  # fmt: skip
#: A view that changes nothing.
IDENTITY = np.array([0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0], np.float32)
#: Largest width of a blur's kernel, either side of its middle, px.
REACH = 6


def sides(keys: Views, tile_px: int, patch: int) -> tuple[int, int]:
    """Sides of a global and a local crop, px; a local one is whole patches, 3/7 of the global one where not given."""
    size = keys.size or tile_px
    return size, keys.local_size or max(patch, round(size * 3 / 7 / patch) * patch)


def draw_view(rng: np.random.Generator, keys: Views, scale: tuple[float, float]) -> np.ndarray:
    """Draw a view; always the same count of numbers, so that one option does not move the draws of another.

    Parameters
    ----------
    rng : numpy.random.Generator
    keys : histostudy.pretrain_keys.Views
    scale : (float, float)
        Share of the tile's area in the crop.

    Returns
    -------
    ndarray of float32, (16,)
        See `COLUMNS`.
    """
    u = rng.random(18)
    view = IDENTITY.astype(np.float64)
    area = scale[0] + (scale[1] - scale[0]) * u[0]
    aspect = np.exp((2 * u[1] - 1) * np.log(keys.aspect))
    width, height = min(1.0, np.sqrt(area * aspect)), min(1.0, np.sqrt(area / aspect))
    view[:4] = (1 - width) * u[2], (1 - height) * u[3], width, height
    view[4] = np.floor(8 * u[4]) if keys.turn else 0
    view[5:8] = 1 + keys.stain * (2 * u[5:8] - 1)
    view[8:11] = keys.stain * (2 * u[8:11] - 1)
    view[11:14] = 1 + keys.colour * (2 * u[11:14] - 1)
    low, high = keys.blur_sigma
    view[14] = low + (high - low) * u[15] if u[14] < keys.blur else 0
    view[15] = u[16] < keys.solarise
    return view.astype(np.float32)


def cut(tile: np.ndarray, view: np.ndarray, size: int) -> np.ndarray:
    """Cut a view's crop of a tile (uint8, (H, W, 3)), resized to `size` and turned: uint8, (size, size, 3)."""
    import cv2

    height, width = tile.shape[:2]
    x, y, w, h = (float(v) for v in view[:4])
    columns, rows = max(1, round(w * width)), max(1, round(h * height))
    left, top = min(round(x * width), width - columns), min(round(y * height), height - rows)
    crop = np.ascontiguousarray(tile[top : top + rows, left : left + columns])
    if crop.shape[:2] != (size, size):
        shrinks = rows >= size and columns >= size
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    turn = int(view[4])
    crop = np.rot90(crop, turn % 4)
    return np.ascontiguousarray(crop[:, ::-1] if turn >= 4 else crop)


def recolour(crops: Tensor, views: Tensor) -> Tensor:
    """Change the colours of crops as their views say.

    Parameters
    ----------
    crops : Tensor of uint8, (B, size, size, 3)
    views : Tensor of float32, (B, 16)
        On the same device.

    Returns
    -------
    Tensor of float32, (B, 3, size, size)
        0 to 1. Crops whose views change nothing are as they were, to rounding.
    """
    import torch

    image = crops.permute(0, 3, 1, 2).float() / 255
    if bool((views[:, 5:8] != 1).any()) or bool((views[:, 8:11] != 0).any()):
        # density D of a pixel as a row: D' = (D S^-1 * times + plus) S, one 3 x 3 matrix and a shift a view
        unmix = torch.as_tensor(STAIN_OF_RGB, dtype=torch.float32, device=crops.device)
        mix = torch.as_tensor(RGB_OF_STAIN, dtype=torch.float32, device=crops.device)
        matrix = torch.einsum("ij,bj,jk->bki", unmix, views[:, 5:8], mix)
        shift = views[:, 8:11] @ mix
        density = -torch.log(image.clamp_min(1 / 255)).flatten(2)
        # glass has no stain: the shift fades in over the first tenth of density
        tissue = (density.mean(dim=1, keepdim=True) / 0.1).clamp_max(1)
        changed = torch.bmm(matrix, density) + shift[:, :, None] * tissue
        image = torch.exp(-changed).clamp(0, 1).view_as(image)
    brightness, contrast, saturation = (views[:, k].view(-1, 1, 1, 1) for k in (11, 12, 13))
    image = (image * brightness).clamp(0, 1)
    image = ((image - image.mean(dim=(1, 2, 3), keepdim=True)) * contrast).add_(image.mean(dim=(1, 2, 3), keepdim=True))
    grey = (image * image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    image = ((image - grey) * saturation + grey).clamp(0, 1)
    image = _blur(image, views[:, 14])
    inverted = views[:, 15].view(-1, 1, 1, 1) > 0
    return torch.where(inverted & (image > 0.5), 1 - image, image)


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, each image by its own width; 0 leaves it as it is."""
    import torch
    from torch.nn import functional as F

    chosen = torch.nonzero(sigma > 0).flatten()
    if not len(chosen):
        return image
    reach = min(REACH, image.shape[-1] - 1)
    steps = torch.arange(-reach, reach + 1, device=image.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / sigma[chosen, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
    n, side = 3 * len(chosen), image.shape[-1]
    some = F.pad(image[chosen].reshape(1, n, side, side), (reach,) * 4, mode="reflect")
    some = F.conv2d(some, kernel[:, None, None, :], groups=n)
    some = F.conv2d(some, kernel[:, None, :, None], groups=n)
    return image.index_copy(0, chosen, some.view(len(chosen), 3, side, side))


def block_masks(
    n: int, grid: tuple[int, int], rng: np.random.Generator, share: float, ratio: tuple[float, float]
) -> np.ndarray:
    """Masks of patches in blocks, for a share of the images (iBOT; DINOv2: half of them, ratio 0.1 to 0.5).

    Parameters
    ----------
    n : int
        Images; `round(share * n)` of them are masked.
    grid : (int, int)
        Rows and columns of patches.
    rng : numpy.random.Generator
    share : float
    ratio : (float, float)
        Share of an image's patches that is masked is uniform within.

    Returns
    -------
    ndarray of bool, (n, rows * columns)
    """
    masks = np.zeros((n, grid[0] * grid[1]), bool)
    for image in rng.permutation(n)[: round(share * n)]:
        wanted = max(1, round(rng.uniform(*ratio) * masks.shape[1]))
        masks[image] = _blocks(grid, wanted, rng).ravel()
    return masks


def _blocks(grid: tuple[int, int], wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Mask of exactly `wanted` patches: blocks of drawn size and shape, then single patches for the rest."""
    mask = np.zeros(grid, bool)
    for _ in range(50):
        left = wanted - int(mask.sum())
        if left < 4:
            break
        area = rng.uniform(4, left)
        aspect = np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
        rows, columns = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if not (0 < rows <= grid[0] and 0 < columns <= grid[1]):
            continue
        top, start = rng.integers(grid[0] - rows + 1), rng.integers(grid[1] - columns + 1)
        block = mask.copy()
        block[top : top + rows, start : start + columns] = True
        if block.sum() <= wanted:
            mask = block
    free = np.flatnonzero(~mask.ravel())
    mask.ravel()[rng.permutation(free)[: wanted - int(mask.sum())]] = True
    return mask
