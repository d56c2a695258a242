"""Networks that learn from pixels of labelled tiles: an encoder that is fine-tuned, and DCT-HistoTransformer."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from histostudy.encoders.augment import INTENSITY, TRANSFORMS, augment, sample
from histostudy.errors import ModelError
from histostudy.models.layers import full_precision
from histostudy.models.registry import is_count, require

if TYPE_CHECKING:
    from histostudy.study import Features, Training

Codes = NDArray[np.int64]

#: What `light` augmentation leaves out: it changes what is in a tile, or how sharp it is.
HEAVY = ("crop", "gaussian_blur", "erosion", "dilation")
#: Tiles of which the mean and spread of colour are taken.
MOMENTS_OF = 512
#: Settings of `training` that say nothing here; see `check_training`.
UNUSED = ("max_tiles", "loss", "bins", "alpha", "start", "l1", "modality_dropout", "trace")


@dataclass(frozen=True)
class PixelOptions:
    """What every network of pixels takes.

    augment : ``none``, ``light`` (turns, flips, colour and stain) or ``full`` (crops, blur, erosion and dilation too);
    intensity : of colour and stain, see `histostudy.encoders.augment`.
    """

    augment: str = "light"
    intensity: float = INTENSITY

    def __post_init__(self) -> None:
        require(self.augment in ("none", "light", "full"), "augment is none, light or full")
        require(isinstance(self.intensity, int | float) and 0 <= self.intensity <= 1, "intensity is from 0 to 1")


@dataclass(frozen=True)
class FinetuneOptions(PixelOptions):
    """Options of fine-tuning, beside `PixelOptions`.

    train : ``all`` of the encoder, its ``last_block``, or the ``head`` alone; encoder_lr : learning rate of the
    encoder; that of the head is `training.lr`.
    """

    train: str = "all"
    encoder_lr: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.train in ("all", "last_block", "head"), "train is all, last_block or head")
        require(isinstance(self.encoder_lr, int | float) and self.encoder_lr > 0, "encoder_lr is above 0")


@dataclass(frozen=True)
class ScratchOptions(PixelOptions):
    """Options of a network that starts from nothing, beside `PixelOptions` and those of its architecture.

    input_px : side that tiles are brought to; None: their own.
    """

    input_px: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.input_px is None or is_count(self.input_px), "input_px is a whole number from 1, or null")


class PixelNetwork(nn.Module):
    """Tiles as uint8 (B, H, W, 3) to logits (B, classes).

    `groups` gives the parameters that are trained, with the learning rate of each group.
    """

    mean: Tensor
    scale: Tensor

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits, in float32 or better."""
        raise NotImplementedError

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def learn(self) -> None:
        """Training mode."""
        self.train()


class FineTuned(PixelNetwork):
    """An encoder with a linear layer on its standardised vectors.

    Parameters
    ----------
    features : histostudy.study.Features
        Names the encoder.
    mpp, size : float, int
        Scale and side of the tiles.
    options : FinetuneOptions
    classes : int
    moments : (ndarray, ndarray)
        Mean and spread of the vectors of the training part before it is tuned.
    device : str

    Raises
    ------
    ModelError
        If the encoder is not a torch network.
    """

    def __init__(
        self, features: Features, mpp: float, size: int, options: FinetuneOptions, classes: int,
        moments: tuple[np.ndarray, np.ndarray], device: str,
    ) -> None:  # fmt: skip
        super().__init__()
        from histostudy.encoders.registry import load_encoder
        from histostudy.encoders.vision import VisionEncoder

        encoder = load_encoder(features, mpp, device, size)
        if not isinstance(encoder, VisionEncoder) or not isinstance(getattr(encoder, "module", None), nn.Module):
            what = f"encoder {features.encoder} is no network of torch"
            raise ModelError(what, todo="fine-tune one of timm or transformers (features.runtime: torch)")
        self.encoder, self.options = encoder, options
        self.module = encoder.module
        self.head = nn.Linear(len(moments[0]), classes)
        nn.init.zeros_(self.head.weight)
        self.register_buffer("mean", torch.from_numpy(np.asarray(moments[0], np.float32)))
        self.register_buffer("scale", torch.from_numpy(np.asarray(moments[1], np.float32)))
        self.tuned: list[nn.Module] = []
        if options.train != "head":
            self.tuned = [self.module] if options.train == "all" else last_block(self.module)
        for module in self.tuned:
            module.requires_grad_(True)

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits of uint8 tiles."""
        vectors = full_precision(self.encoder.vectors(tiles))
        return self.head((vectors - self.mean) / self.scale)

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """The head, and what is tuned of the encoder."""
        tuned = [p for p in self.module.parameters() if p.requires_grad]
        head = {"params": list(self.head.parameters()), "lr": lr}
        return [head, {"params": tuned, "lr": self.options.encoder_lr}] if tuned else [head]

    def learn(self) -> None:
        """Only what is tuned is in training mode: statistics of frozen layers stay as they are."""
        self.eval()
        self.head.train()
        for module in self.tuned:
            module.train()


class FromScratch(PixelNetwork):
    """A registered tile network, on pixels standardised by the training part."""

    def __init__(
        self, name: str, architecture: Mapping[str, Any], options: ScratchOptions, classes: int, colours: np.ndarray
    ) -> None:
        super().__init__()
        from histostudy.models.tilenets import build_tilenet

        self.network, self.options = build_tilenet(name, classes, architecture), options
        pixels = colours.reshape(-1, 3).astype(np.float64) / 255
        spread = np.maximum(pixels.std(0), 1 / 255)
        self.register_buffer("mean", torch.from_numpy(pixels.mean(0).astype(np.float32)).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.from_numpy(spread.astype(np.float32)).view(1, 3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits of uint8 tiles."""
        image = tiles.permute(0, 3, 1, 2).float() / 255
        side = self.options.input_px
        if side is not None and image.shape[2] != side:
            image = nn.functional.interpolate(image, (side, side), mode="bilinear", antialias=True)
        return full_precision(self.network((image - self.mean) / self.scale))


def last_block(module: nn.Module) -> list[nn.Module]:
    """The last of a network's repeated blocks, and the layers after it.

    Blocks are the children of the last container that has several with weights; layers after it (a norm) are found in
    the order in which the network registers its parts.
    """
    after: list[nn.Module] = []
    for child in reversed(list(module.children())):
        own = [one for one in child.children() if any(True for _ in one.parameters())]
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(own) > 1:
            return [own[-1], *after]
        if own and any(isinstance(one, nn.ModuleList | nn.Sequential) for one in child.modules() if one is not child):
            return [*last_block(child), *after]
        if any(True for _ in child.parameters()):
            after.insert(0, child)
    return after


def check_training(training: Training) -> None:
    """Refuse settings that a network of tiles has no use for.

    Raises
    ------
    ModelError
        For one that is not at its default.
    """
    for name in UNUSED:
        if getattr(training, name) != type(training).model_fields[name].default:
            raise ModelError(f"training.{name} says nothing of models of labelled tiles", todo="leave it out")


def fit_network(
    network: PixelNetwork, pixels: np.ndarray, train: tuple[Codes, Codes], val: tuple[Codes, Codes] | None,
    classes: int, options: PixelOptions, settings: Training, seed: int, device: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train in place by AdamW on the cross-entropy; end with the weights of the lowest inner loss, in evaluation mode.

    Parameters
    ----------
    network : PixelNetwork
    pixels : ndarray of uint8, (N, H, W, 3)
    train, val : (rows, classes)
        Places in `pixels` and classes of the training part and the inner part; without one the last epoch is kept.
    classes : int
    options : PixelOptions
    settings : Training
    seed : int
        Of the order and the augmentation.
    device : str

    Returns
    -------
    list of dict
        One row an epoch: epoch, lr, train_loss, val_loss, best.

    Raises
    ------
    ModelError
        If the loss stops being finite.
    """
    network.to(device)
    if settings.epochs == 0:
        network.eval()
        loss = _loss(network, pixels, train, settings.batch_size, device)
        return [{"epoch": 0, "lr": 0.0, "train_loss": loss, "val_loss": math.nan, "best": True}]
    groups = network.groups(settings.lr)
    rates = [group["lr"] for group in groups]
    optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    order, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    best, state, since, chosen = math.inf, None, 0, 0
    history: list[dict[str, Any]] = []
    for epoch in range(settings.epochs):
        shape = 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs)) if settings.schedule == "cosine" else 1.0
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * shape
        network.learn()
        total, seen = 0.0, 0
        for places in _batches(train[1], classes, settings, order):
            tiles = _changed(pixels[train[0][places]], options, rng)
            y = torch.from_numpy(train[1][places]).to(device)
            with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
                logits = network(torch.from_numpy(tiles).to(device))
            step_loss = nn.functional.cross_entropy(full_precision(logits), y)
            optimiser.zero_grad(set_to_none=True)
            step_loss.backward()
            optimiser.step()
            total, seen = total + float(step_loss.detach()) * len(y), seen + len(y)
        if not math.isfinite(total):
            raise ModelError(f"the loss is not finite in epoch {epoch + 1}", todo="lower training.lr")
        network.eval()
        judged = math.nan if val is None else _loss(network, pixels, val, settings.batch_size, device)
        if judged < best or (val is None and epoch + 1 == settings.epochs):
            best, state, since, chosen = judged, copy.deepcopy(network.state_dict()), 0, epoch
        else:
            since += 1
        row = {"epoch": epoch + 1, "lr": settings.lr * shape, "train_loss": total / seen, "val_loss": judged}
        history.append(row)
        if val is not None and epoch + 1 >= settings.min_epochs and since >= settings.patience:
            break
    if state is None:
        raise ModelError("the inner loss was never finite", todo="lower training.lr")
    network.load_state_dict(state)
    for number, row in enumerate(history):
        row["best"] = number == chosen
    return history


@torch.no_grad()
def predict(network: PixelNetwork, pixels: np.ndarray, rows: Codes, batch_size: int, device: str) -> np.ndarray:
    """Logits (n, classes) in float64 of the tiles at `rows`, without dropout or autocast."""
    network.to(device).eval()
    parts = np.array_split(rows, max(1, math.ceil(len(rows) / max(batch_size, 1))))
    found = [network(torch.from_numpy(np.ascontiguousarray(pixels[part])).to(device)).double().cpu() for part in parts]
    return torch.cat(found).numpy()


def colours_of(pixels: np.ndarray, rows: Codes, seed: int) -> np.ndarray:
    """Pixels of some tiles of the training part, one of sixteen along each axis pair: (m, 3) uint8."""
    some = np.sort(np.random.default_rng(seed).permutation(rows)[:MOMENTS_OF])
    return np.concatenate([np.asarray(pixels[row])[::4, ::4].reshape(-1, 3) for row in some])


def shift_of(y: Codes, classes: int, settings: Training) -> np.ndarray:
    """What is added to logits so that probabilities are those of the training part's shares, however it was drawn."""
    if settings.sampling == "shuffle":
        return np.zeros(classes)
    counts = np.bincount(y, minlength=classes)
    return np.log(np.maximum(counts, 0.5) / len(y))


def _batches(y: Codes, classes: int, settings: Training, order: torch.Generator) -> Iterator[Codes]:
    """Places of each step: all tiles in a drawn order, or drawn with equal chance of each class; never one alone."""
    if settings.sampling == "balanced":
        weights = 1 / np.bincount(y, minlength=classes)[y]
        drawn = torch.multinomial(torch.from_numpy(weights), len(y), replacement=True, generator=order).numpy()
    else:
        drawn = torch.randperm(len(y), generator=order).numpy()
    starts = list(range(0, len(drawn), settings.batch_size))
    # batch normalisation cannot learn from one tile: the last joins the step before
    if len(starts) > 1 and len(drawn) - starts[-1] == 1:
        starts.pop()
    for start, end in zip(starts, [*starts[1:], len(drawn)], strict=True):
        yield drawn[start:end]


def _changed(tiles: np.ndarray, options: PixelOptions, rng: np.random.Generator) -> np.ndarray:
    """Augmented tiles."""
    if options.augment == "none":
        return np.ascontiguousarray(tiles)
    drawn = sample(len(tiles), rng, options.intensity)
    values = drawn.values
    if options.augment == "light":
        values = values * np.array([transform.name not in HEAVY for transform in TRANSFORMS], np.float32)
    return np.stack([augment(tile, v, p) for tile, v, p in zip(tiles, values, drawn.positions, strict=True)])


def _loss(network: PixelNetwork, pixels: np.ndarray, part: tuple[Codes, Codes], batch_size: int, device: str) -> float:
    logits = torch.from_numpy(predict(network, pixels, part[0], batch_size, device))
    return float(nn.functional.cross_entropy(logits, torch.from_numpy(part[1])))
