"""Published tissue segmenters whose weights the user has: AtlasPatch, GrandQC and the one of HEST.

None of these weights may ship with the package, so each method wants `tissue.checkpoint`; what goes in and what comes
out is as their authors do it. None of them knows pen: it is left to the classical rules, or stays in.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from histostudy.errors import ConfigError
from histostudy.files import sha256
from histostudy.tissue.density import relative_density
from histostudy.tissue.pen import find_pen
from histostudy.tissue.registry import IDENTITIES, SEGMENTERS, BoolMask, Image, Segmentation

#: Side that AtlasPatch squeezes a thumbnail to, and of the tiles of the other two, px.
SAM_PX, TILE_PX = 1024, 512
MEAN, SD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
#: A slide may be read this much coarser than a network learned at.
COARSER = 1.25


@SEGMENTERS.register("atlaspatch")
def atlaspatch(rgb: Image, mpp: float, *, checkpoint: Path | None = None, exclude_pen: bool = True) -> Segmentation:
    """AtlasPatch (arXiv 2602.03998): SAM 2.1 Hiera-tiny, of which the normalisation layers were tuned.

    A thumbnail at 1.25x (about 8 um/px), squeezed to 1024 x 1024 whatever its shape, one box around all of it, one
    mask, cut at a logit of 0 and brought back by nearest neighbour. Wants the package `sam2`.

    Parameters
    ----------
    rgb : ndarray of uint8, (H, W, 3)
    mpp : float
        Micrometres per pixel.
    checkpoint : Path
        `model.pth` of AtlasAnalyticsLab/AtlasPatch.
    exclude_pen : bool
        Leave out pen that the classical rules find.

    Raises
    ------
    ConfigError
        Without the weights or the package, or if they do not fit.
    """
    from PIL import Image as PillowImage

    predictor = _sam2(_given("atlaspatch", checkpoint))
    squeezed = PillowImage.fromarray(rgb).resize((SAM_PX, SAM_PX), PillowImage.Resampling.BILINEAR)
    predictor.set_image(np.array(squeezed))
    box = np.array([0, 0, SAM_PX, SAM_PX], np.float32)
    masks, _, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
    mask = (np.asarray(masks[0], np.float32) > 0).astype(np.uint8)
    tissue = cv2.resize(mask, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    return _with_pen(rgb, mpp, tissue, exclude_pen)


@SEGMENTERS.register("grandqc")
def grandqc(
    rgb: Image, mpp: float, *, checkpoint: Path | None = None, threshold: float = 0.5, exclude_pen: bool = True
) -> Segmentation:
    """Tissue detection of GrandQC (Nat Commun 15:10685, 2024): U-Net++ on EfficientNet-B0 at 10 um/px.

    The image is compressed by JPEG at quality 80, as those it learned from were; class 0 is tissue. Wants the package
    `segmentation_models_pytorch`.

    Parameters
    ----------
    rgb : ndarray of uint8, (H, W, 3)
    mpp : float
        Micrometres per pixel.
    checkpoint : Path
        `Tissue_Detection_MPP10.pth`.
    threshold : float
        Probability from which a pixel is tissue.
    exclude_pen : bool
        Leave out pen that the classical rules find.

    Raises
    ------
    ConfigError
        Without the weights or the package, or if they do not fit.
    """
    network = _grandqc(_given("grandqc", checkpoint))
    seen = _at_scale(rgb, mpp, 10.0, "grandqc")
    seen = _compressed(seen, 80)
    tissue = _grown(_in_tiles(network, seen)[0], rgb) >= threshold
    return _with_pen(rgb, mpp, tissue, exclude_pen)


@SEGMENTERS.register("hest")
def hest(
    rgb: Image, mpp: float, *, checkpoint: Path | None = None, threshold: float = 0.5, exclude_pen: bool = True
) -> Segmentation:
    """Tissue segmentation of HEST and TRIDENT (arXiv 2406.16192): DeepLabV3 on ResNet-50 at 1 um/px; class 1 is tissue.

    It looks at single cells, so the study must say `tissue.working_mpp: 1`, and a whole slide at that scale is held
    in memory at once.

    Parameters
    ----------
    rgb : ndarray of uint8, (H, W, 3)
    mpp : float
        Micrometres per pixel.
    checkpoint : Path
        `deeplabv3_seg_v4.ckpt` of MahmoodLab/hest-tissue-seg.
    threshold : float
        Probability from which a pixel is tissue.
    exclude_pen : bool
        Leave out pen that the classical rules find.

    Raises
    ------
    ConfigError
        Without the weights, or if they do not fit; or if the image is much coarser than 1 um/px.
    """
    network = _hest(_given("hest", checkpoint))
    seen = _at_scale(rgb, mpp, 1.0, "hest")
    tissue = _grown(_in_tiles(network, seen)[1], rgb) >= threshold
    return _with_pen(rgb, mpp, tissue, exclude_pen)


def _register(method: str) -> None:
    @IDENTITIES.register(method)
    def identity(checkpoint: Path | None = None) -> dict[str, str]:
        return {"weights": sha256(_given(method, checkpoint))}


for _method in ("atlaspatch", "grandqc", "hest"):
    _register(_method)

#: Where each method's weights are had.
SOURCES = {
    "atlaspatch": "model.pth of AtlasAnalyticsLab/AtlasPatch on Hugging Face",
    "grandqc": "Tissue_Detection_MPP10.pth of Zenodo record 14507273",
    "hest": "deeplabv3_seg_v4.ckpt of MahmoodLab/hest-tissue-seg on Hugging Face",
}


def _given(method: str, checkpoint: Path | None) -> Path:
    if checkpoint is None:
        raise ConfigError(
            f"tissue method {method!r} has no weights of its own", todo=f"give tissue.checkpoint: {SOURCES[method]}"
        )
    path = Path(checkpoint)
    if not path.is_file():
        raise ConfigError(f"no such weights of tissue method {method!r}", where=path, todo=f"get {SOURCES[method]}")
    return path


def _cached(build: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """`build`, once for every state of the file."""

    @lru_cache(maxsize=1)
    def built(path: Path, size: int, time_ns: int) -> Any:
        return build(path)

    def get(path: Path) -> Any:
        stat = path.stat()
        return built(path, stat.st_size, stat.st_mtime_ns)

    return get


@_cached
def _sam2(path: Path) -> Any:
    try:
        from sam2.build_sam import build_sam2
        from sam2.sam2_image_predictor import SAM2ImagePredictor
    except ImportError:
        raise ConfigError("tissue method 'atlaspatch' needs the package sam2", todo="install SAM 2 of Meta") from None
    model = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", ckpt_path=None, device="cpu", apply_postprocessing=False)
    _fill(model, _state(path), path)
    return SAM2ImagePredictor(model, mask_threshold=0.0)


@_cached
def _grandqc(path: Path) -> Any:
    try:
        from segmentation_models_pytorch import UnetPlusPlus
    except ImportError:
        raise ConfigError(
            "tissue method 'grandqc' needs the package segmentation_models_pytorch", todo="pip install it"
        ) from None
    model = UnetPlusPlus(encoder_name="timm-efficientnet-b0", encoder_weights=None, classes=2, activation=None)
    return _fill(model, _state(path), path)


@_cached
def _hest(path: Path) -> Any:
    from torchvision.models.segmentation import deeplabv3_resnet50

    model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=2, aux_loss=False)
    state = {name.removeprefix("model."): value for name, value in _state(path).items() if "aux" not in name}
    return _fill(model, state, path)


def _state(path: Path) -> dict[str, Any]:
    """Tensors of a checkpoint, of safetensors or of torch, read without running what it may hold of code."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, IndexError, KeyError) as error:
        raise ConfigError(
            f"not a file of tensors alone ({type(error).__name__})",
            where=path,
            todo="if you trust it, save its state_dict as safetensors",
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError("no state_dict in it", where=path, todo="save the network's state_dict")
    return state


def _fill(model: Any, state: dict[str, Any], path: Path) -> Any:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise ConfigError(f"weights of another network: {' '.join(lines[:2])}", where=path) from None
    return model.eval()


def _at_scale(rgb: Image, mpp: float, wanted: float, method: str) -> Image:
    """The image at the scale a network learned at."""
    if mpp > wanted * COARSER:
        raise ConfigError(
            f"tissue method {method!r} looks at {wanted:g} um/px, and the image has {mpp:g}",
            todo=f"set tissue.working_mpp to {wanted:g}; a slide coarser than that needs another method",
        )
    size = tuple(max(1, round(side * mpp / wanted)) for side in rgb.shape[1::-1])
    return rgb if size == rgb.shape[1::-1] else np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def _compressed(rgb: Image, quality: int) -> Image:
    """The image as JPEG leaves it."""
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB), np.uint8)


def _in_tiles(network: Any, rgb: Image) -> NDArray[np.float32]:
    """Probabilities, (2, H, W), tile by tile; tiles beyond the border are filled up with white."""
    import torch

    height, width = rgb.shape[:2]
    out = np.zeros((2, height, width), np.float32)
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            part = rgb[top : top + TILE_PX, left : left + TILE_PX]
            tile = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
            tile[: part.shape[0], : part.shape[1]] = part
            image = torch.from_numpy(((tile / np.float32(255) - MEAN) / SD).transpose(2, 0, 1))[None]
            with torch.inference_mode():
                found = network(image)
            logits = found["out"] if isinstance(found, dict) else found
            share = torch.softmax(logits[0], dim=0).numpy()
            out[:, top : top + TILE_PX, left : left + TILE_PX] = share[:, : part.shape[0], : part.shape[1]]
    return out


def _grown(share: NDArray[np.float32], rgb: Image) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(share, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _with_pen(rgb: Image, mpp: float, tissue: BoolMask, exclude_pen: bool) -> Segmentation:
    pen = find_pen(relative_density(rgb, mpp).density, mpp)
    return Segmentation(tissue & ~pen if exclude_pen else tissue, pen)
