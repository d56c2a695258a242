"""Linear layers that learn a task without touching what earlier ones put in (OWLoRA of CoMEL, our reading).

The first task trains the layer W; each later one adds ``B A`` of low rank. CoMEL keeps the rows of A orthogonal to
those of earlier adapters. That protects nothing: what must be zero is ``A x`` for the inputs x of earlier tasks. So A
is kept off the subspace of those inputs, as in gradient projection memory (Saha et al., ICLR 2021) and InfLoRA (Liang
and Li, CVPR 2024); the published way is there to be compared. CoMEL's weight of each component is left to B.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class AdaptedLinear(nn.Module):
    """x W' + b + x A' B', of which a task trains W and b, or A and B.

    Parameters
    ----------
    dim_in, dim_out : int
    rank : int
        Of an adapter.
    """

    basis: Tensor

    def __init__(self, dim_in: int, dim_out: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(dim_in, dim_out)
        rank = min(rank, dim_in, dim_out)
        self.a = nn.Parameter(torch.zeros(rank, dim_in), requires_grad=False)
        self.b = nn.Parameter(torch.zeros(dim_out, rank), requires_grad=False)
        #: (dim_in, q) orthonormal columns that A is kept off.
        self.register_buffer("basis", torch.zeros(dim_in, 0))
        self.heard: list[Tensor] | None = None

    def forward(self, values: Tensor) -> Tensor:
        """(..., dim_in) to (..., dim_out)."""
        if self.heard is not None:
            self.heard.append(values.detach().reshape(-1, values.shape[-1]).cpu())
        return self.base(values) + values @ self.a.T @ self.b.T

    def begin(self, generator: torch.Generator) -> None:
        """Start a new adapter: W and b are frozen, A is drawn off the protected space, B is zero."""
        self.base.requires_grad_(False)
        with torch.no_grad():
            self.a.copy_(torch.randn(self.a.shape, generator=generator) / self.a.shape[1] ** 0.5)
            self.b.zero_()
        self.project()
        self.a.requires_grad_(True)
        self.b.requires_grad_(True)

    @torch.no_grad()
    def project(self) -> None:
        """A <- A (I - U U'), in float64 and twice, so that nothing but rounding is left."""
        if not self.basis.shape[1]:
            return
        a, basis = self.a.double(), self.basis.double()
        for _ in range(2):
            a = a - a @ basis @ basis.T
        self.a.copy_(a)

    @torch.no_grad()
    def merge(self) -> Tensor:
        """Add the adapter to W and end it; returns the rows (rank, dim_in) that it had."""
        rows = self.a.clone()
        self.base.weight += self.b @ self.a
        self.a.zero_()
        self.b.zero_()
        self.a.requires_grad_(False)
        self.b.requires_grad_(False)
        return rows

    @torch.no_grad()
    def protect(self, values: Tensor, energy: float) -> None:
        """Add to the protected space what of `values` is not in it, until `energy` of their squared length is.

        Parameters
        ----------
        values : Tensor
            (n, dim_in) inputs of a task, or rows of its adapter.
        energy : float
            Share, up to 1.
        """
        x, basis = values.double().cpu(), self.basis.double().cpu()
        total = x.square().sum()
        rest = x - x @ basis @ basis.T
        if not total > 0 or rest.square().sum() <= (1 - energy + 1e-14) * total:
            return
        _, lengths, directions = torch.linalg.svd(rest, full_matrices=False)
        left = rest.square().sum() - lengths.square().cumsum(0)
        enough = left <= (1 - energy + 1e-14) * total
        wanted = int(enough.int().argmax()) + 1 if bool(enough.any()) else len(lengths)
        grown = torch.cat([basis, directions[:wanted].T], 1)
        # orthonormal again after rounding; never more columns than rows
        grown = torch.linalg.qr(grown[:, : len(grown)])[0]
        self.basis = grown.to(self.basis)
        if grown.shape[1] == len(grown):
            logger.warning("a layer of %d inputs has no direction left for another task", len(grown))

    @property
    def used(self) -> float:
        """Share of the input directions that are protected."""
        return self.basis.shape[1] / self.basis.shape[0]


def adapted(module: nn.Module) -> list[AdaptedLinear]:
    """All adapted layers of a network, in order."""
    return [part for part in module.modules() if isinstance(part, AdaptedLinear)]
