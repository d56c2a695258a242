"""Training of the tissue network: its losses, its steps, and a checkpoint to go on from.

SlideSegmenter (arXiv 2401.13511): tissue and pen by Dice plus ten times the cross-entropy, the offsets from the
centres of the sections by their squared error and that of their divergence. The pictures are given by the caller; see
`histostudy.verbs.train_tissue`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from histostudy.files import atomic
from histostudy.tissue.network import UNet
from histostudy.tissue.picture import Picture, offsets_of

if TYPE_CHECKING:
    from histostudy.tissue_keys import TrainTissue

logger = logging.getLogger(__name__)

#: Outputs of the network and their channels.
HEADS = {"tissue": 1, "pen": 1, "offset": 2}
#: number of the step -> the pictures of its batch
Batches = Callable[[int], list[Picture]]


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus the Dice coefficient (Tversky's index at 0.5 and 0.5) of each picture, averaged.

    Parameters
    ----------
    logits, target : Tensor, (B, H, W)
        `target` is 0 or 1.
    smooth : float
        Added above and below, so that two empty masks agree.
    """
    p = torch.sigmoid(logits).flatten(1)
    t = target.flatten(1)
    both = (p * t).sum(1)
    index = (both + smooth) / (both + 0.5 * (p - p * t).sum(1) + 0.5 * (t - p * t).sum(1) + smooth)
    return (1 - index).mean()


def divergence(offset: Tensor) -> Tensor:
    """``d(dx)/dx + d(dy)/dy`` by central differences; (B, 2, H, W) to (B, H - 2, W - 2)."""
    along_x = (offset[:, 0, 1:-1, 2:] - offset[:, 0, 1:-1, :-2]) / 2
    along_y = (offset[:, 1, 2:, 1:-1] - offset[:, 1, :-2, 1:-1]) / 2
    return along_x + along_y


def loss_of(found: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parts of the loss; their sum is what is made small.

    Parameters
    ----------
    found : dict of Tensor
        Raw outputs: `tissue` and `pen` (B, 1, H, W), `offset` (B, 2, H, W), which the share of tissue is taken of.
    target : dict of Tensor
        `tissue`, `pen` (B, H, W) and `offset` (B, 2, H, W), in the network's unit.
    """
    parts = {}
    for name in ("tissue", "pen"):
        logits = found[name][:, 0]
        cross = F.binary_cross_entropy_with_logits(logits, target[name])
        parts[name] = (dice_loss(logits, target[name]) + 10 * cross) / 2
    offset = found["offset"] * torch.sigmoid(found["tissue"])
    parts["offset"] = F.mse_loss(offset, target["offset"])
    parts["divergence"] = F.mse_loss(divergence(offset), divergence(target["offset"]))
    return parts


def tensors_of(pictures: list[Picture], offset_px: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Image (B, 3, H, W) in 0 to 1, and targets; pixels without tissue have no offset."""
    image = torch.from_numpy(np.stack([p.rgb for p in pictures])).permute(0, 3, 1, 2).float() / 255
    target = {
        name: torch.from_numpy(np.stack([getattr(p, name) for p in pictures])).float() for name in ("tissue", "pen")
    }
    offset = np.stack([offsets_of(p.labels) * p.tissue / offset_px for p in pictures])
    return image, target | {"offset": torch.from_numpy(offset.astype(np.float32))}


def build(settings: TrainTissue, seed: int) -> UNet:
    """The untrained network of a study."""
    torch.manual_seed(seed)
    return UNet(
        HEADS, channels=settings.channels, factors=settings.factors, norm=settings.norm, patch=settings.patch,
        decoder=settings.decoder,
    )  # fmt: skip


def fit(network: UNet, batches: Batches, settings: TrainTissue, folder: Path, identity: str) -> list[dict[str, float]]:
    """Train `network` in place; goes on from the checkpoint in `folder` if it is of the same `identity`.

    AdamW under a rate that rises over the first twentieth of the steps and falls to zero along a cosine. The
    last step is kept: nothing is chosen, so that no picture is needed to choose by.

    Parameters
    ----------
    network : UNet
    batches : callable
        From the number of a step to its pictures, so that a resumed training sees what it would have seen.
    settings : TrainTissue
    folder : Path
        Takes `checkpoint.pt` while it lasts.
    identity : str
        Of settings, data and code.

    Returns
    -------
    list of dict
        The mean of each part of the loss over every `checkpoint_every` steps.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    network.to(memory_format=torch.channels_last)
    checkpoint = folder / "checkpoint.pt"
    start, history = 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["identity"] == identity:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            start, history = state["step"], state["history"]
            logger.info("going on from step %d", start)
    network.train()
    sums: dict[str, float] = {}
    for step in range(start, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _rate(step, settings.steps)
        image, target = tensors_of(batches(step), settings.offset_px)
        parts = loss_of(network(image.contiguous(memory_format=torch.channels_last)), target)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        done = step + 1
        if done % settings.checkpoint_every == 0 or done == settings.steps:
            since = done - (history[-1]["step"] if history else 0)
            history.append({"step": done, **{name: round(value / since, 6) for name, value in sums.items()}})
            sums = {}
            logger.info("step %d of %d: %s", done, settings.steps, history[-1])
            state = {
                "identity": identity, "network": network.state_dict(), "optimizer": optimizer.state_dict(),
                "step": done, "history": history,
            }  # fmt: skip
            _save(state, checkpoint)
    network.eval()
    return history


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + float(np.cos(np.pi * step / steps)))


def _save(state: dict[str, Any], path: Path) -> None:
    with atomic(path) as temporary:
        torch.save(state, temporary)
