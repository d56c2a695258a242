"""Losses of self-distillation and distillation, and what balances their targets.

DINO: Caron et al., ICCV 2021 (arXiv 2104.14294). iBOT: Zhou et al., ICLR 2022 (arXiv 2111.07832). KoLeo:
Sablayrolles et al., ICLR 2019 (arXiv 1806.03198). Sinkhorn-Knopp targets: SwAV (arXiv 2006.09882) as DINOv2 uses them
(arXiv 2304.07193). Distillation on a teacher's own heads: H0-mini (arXiv 2501.16239).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histostudy.encoders.pretraining.parallel import all_mean, all_rows, all_sum


class Head(nn.Module):
    """Tokens to prototype logits: MLP, l2-normalised bottleneck, weight-normed linear layer without gain or bias.

    Parameters
    ----------
    dim, hidden, bottleneck, prototypes : int
        Widths; DINO's defaults are 2048, 256 and 65,536.
    """

    def __init__(self, dim: int, hidden: int = 2048, bottleneck: int = 256, prototypes: int = 4096) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (..., prototypes) of tokens (..., dim): cosines between -1 and 1."""
        with torch.autocast(tokens.device.type, enabled=False):  # cosines over a temperature of 0.04 want float32
            low = F.normalize(self.mlp(tokens.float()), dim=-1, eps=1e-6)
            return F.linear(low, F.normalize(self.prototypes, dim=-1, eps=1e-6))


def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Targets that use all prototypes equally, by Sinkhorn-Knopp.

    Parameters
    ----------
    logits : Tensor, (N, K)
        Of the teacher; over several processes, this one's rows.
    temperature : float
    iterations : int
        Rounds: prototypes to 1 / K each, then rows to 1 / N.

    Returns
    -------
    Tensor, (N, K)
        Rows sum to 1.
    """
    scaled = logits.double() / temperature
    top = all_rows(scaled.amax().reshape(1).detach()).amax()
    q = torch.exp(scaled - top)
    rows = all_sum(torch.tensor(float(len(q)), dtype=q.dtype, device=q.device))
    q = q / all_sum(q.sum())
    for _ in range(iterations):
        q = q / (all_sum(q.sum(dim=0)).clamp_min(1e-300) * q.shape[1])
        q = q / (q.sum(dim=1, keepdim=True).clamp_min(1e-300) * rows)
    return (q * rows).to(logits.dtype)


class Targets(nn.Module):
    """A teacher's logits as targets: softmax after a moving centre is taken off, or Sinkhorn-Knopp.

    Parameters
    ----------
    prototypes : int
    how : {'centre', 'sinkhorn'}
    momentum : float
        Of the centre's moving average (DINO: 0.9).
    """

    centre: Tensor

    def __init__(self, prototypes: int, how: str = "centre", momentum: float = 0.9) -> None:
        super().__init__()
        self.how, self.momentum = how, momentum
        self.register_buffer("centre", torch.zeros(prototypes))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Targets (N, K) of logits (N, K); the centre moves afterwards."""
        if self.how == "sinkhorn":
            return sinkhorn(logits, temperature)
        given = torch.softmax((logits - self.centre) / temperature, dim=-1)
        self.centre.lerp_(all_mean(logits.mean(dim=0)), 1 - self.momentum)
        return given


def dino_loss(targets: Sequence[Tensor], logits: Sequence[Tensor], temperature: float = 0.1) -> Tensor:
    """Cross-entropy of each student crop to the teacher's target of each other crop.

    Parameters
    ----------
    targets : sequence of Tensor, (B, K)
        Of the global crops.
    logits : sequence of Tensor, (B, K)
        Of the student's crops, the global ones first and in the same order.
    temperature : float
        Of the student.

    Returns
    -------
    Tensor, ()
        Mean over pairs of crops that differ, and over tiles.
    """
    logs = [F.log_softmax(one / temperature, dim=-1) for one in logits]
    terms = [
        -(target * log).sum(dim=-1).mean() for g, target in enumerate(targets) for c, log in enumerate(logs) if g != c
    ]
    return torch.stack(terms).mean()


def patch_loss(targets: Tensor, logits: Tensor, weights: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of patch tokens: iBOT's of the masked ones, H0-mini's of all.

    Parameters
    ----------
    targets, logits : Tensor, (N, K)
    weights : Tensor, (N,)
        Of each patch; see `mask_weights`.
    temperature : float
        Of the student.
    """
    return (-(targets * F.log_softmax(logits / temperature, dim=-1)).sum(dim=-1) * weights).sum()


def mask_weights(masks: Tensor) -> Tensor:
    """Weight of each masked patch: images with a mask count alike, the patches of one share its weight.

    Parameters
    ----------
    masks : Tensor of bool, (B, P)
        Over several processes, this one's rows; the weights are such that the mean over processes is right.

    Returns
    -------
    Tensor, (masks.sum(),)
    """
    masked = masks.sum(dim=1)
    images = all_mean((masked > 0).sum().double()).clamp_min(1e-9)
    each = (1 / masked.clamp_min(1) / images).float()
    return each[:, None].expand_as(masks)[masks]


def koleo(tokens: Tensor) -> Tensor:
    """Minus the mean log distance of each l2-normalised token to its nearest: small where tokens are spread.

    Parameters
    ----------
    tokens : Tensor, (N, D)
        At least two over all processes; neighbours are sought among all of them.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        x = F.normalize(all_rows(tokens.float()), dim=-1, eps=1e-8)
        with torch.no_grad():
            similar = x @ x.T
            similar.fill_diagonal_(-2)
            nearest = similar.argmax(dim=1)
        return -torch.log((x - x[nearest]).norm(dim=-1) + 1e-8).mean()


class FeatureMatch(nn.Module):
    """Distillation without the teacher's heads: cosine and squared error to its standardised tokens.

    What stands in for H0-mini's losses where only a backbone is public. A linear projector takes the student's token
    to the teacher's width and is thrown away afterwards.

    Parameters
    ----------
    dim, teacher_dim : int
        Widths of the two.
    cosine, mse : float
        Weights.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, teacher_dim: int, cosine: float = 1.0, mse: float = 1.0) -> None:
        super().__init__()
        self.cosine, self.mse = cosine, mse
        self.projector = nn.Linear(dim, teacher_dim)
        self.register_buffer("mean", torch.zeros(teacher_dim))
        self.register_buffer("scale", torch.ones(teacher_dim))

    def standardise_by(self, vectors: Tensor) -> None:
        """Take the moments of some of the teacher's tokens, (N, teacher_dim); a constant column keeps its scale."""
        wide = vectors.double()
        spread = wide.std(dim=0, correction=0)
        self.mean.copy_(wide.mean(dim=0))
        self.scale.copy_(torch.where(spread > 1e-6 * spread.max().clamp_min(1e-12), spread, torch.ones_like(spread)))

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Any]:
        """Losses `cosine` and `mse` and their weighted sum `loss`, of tokens (..., dim) and (..., teacher_dim)."""
        with torch.autocast(student.device.type, enabled=False):
            asked = (teacher.float() - self.mean) / self.scale
            got = self.projector(student.float())
            far = (1 - F.cosine_similarity(got, asked, dim=-1, eps=1e-6)).mean()
            squared = F.mse_loss(got, asked)
        return {"loss": self.cosine * far + self.mse * squared, "cosine": far, "mse": squared}
