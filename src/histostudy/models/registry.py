"""Aggregators by name, and how one is built from a study's options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

from torch import Tensor, nn

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch
from histostudy.registry import Registry

AGGREGATORS: Registry[type[Aggregator]] = Registry("aggregator")


class Aggregator(nn.Module):
    """One vector of each bag.

    A subclass names its options as a frozen dataclass `Options` (every field has a default and is checked in
    `__post_init__` by `require`), sets `dim_out`, and implements `forward`.

    Parameters
    ----------
    dim_in : int
        Width of the features.
    options : Options
        The aggregator's options.
    """

    Options: ClassVar[type]
    #: A linear model: features are standardised by the moments of the bag means, the head starts at zero.
    linear: bool = False
    dim_out: int

    def __init__(self, dim_in: int, options: Any) -> None:
        super().__init__()
        self.dim_in, self.options = dim_in, options

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Return (B, dim_out) vectors and (T,) attention that sums to 1 over each bag, or None without one."""
        raise NotImplementedError


def build_aggregator(name: str, dim_in: int, options: Mapping[str, Any] | None = None) -> Aggregator:
    """Build a registered aggregator.

    Raises
    ------
    ConfigError
        If no aggregator has this name.
    ModelError
        If an option is unknown or has a value that cannot be.
    """
    import histostudy.models.aggregators  # noqa: F401  (registers them)

    kind = AGGREGATORS[name]
    options = dict(options or {})
    known = [field.name for field in fields(kind.Options)]
    if unknown := sorted(set(options) - set(known)):
        raise ModelError(f"{name}: unknown option {unknown[0]!r}", todo=f"known: {', '.join(known)}")
    return kind(dim_in, kind.Options(**options))


def require(holds: bool, what: str) -> None:
    """Refuse an option's value: `what` says what it must be, such as ``dropout is from 0 up to 1``."""
    if not holds:
        raise ModelError(f"wrong option: {what}", todo="correct the model's options")


def is_count(value: object) -> bool:
    """Whether `value` is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_share(value: object) -> bool:
    """Whether `value` is a number from 0 up to, but without, 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
