"""Aggregators by name, and how one is built from a study's options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, Modality
from histostudy.registry import Registry

if TYPE_CHECKING:
    from histostudy.models.model import MILModel

AGGREGATORS: Registry[type[Aggregator]] = Registry("aggregator")


@dataclass(frozen=True)
class Moment:
    """How far a training is.

    Attributes
    ----------
    progress : float
        Share that is done, from 0 up to 1.
    epoch : float
        Epochs that are done, with their fraction.
    """

    progress: float = 0.0
    epoch: float = 0.0


#: Draws at most this many tiles of the training part, evenly over its patients, standardised: (n, D) on the CPU.
DrawTiles = Callable[[int], Tensor]
#: Goes once over the training part in a drawn order: batches of standardised bags, without outcomes.
DrawBags = Callable[[], Iterator[BagBatch]]
#: The head's loss of vectors (B, dim_out), one a patient; or of (V, dim_out), with the places (V,) of their patients.
Loss = Callable[..., Tensor]


class Aggregator(nn.Module):
    """One vector of each bag.

    A subclass names its options as a frozen dataclass `Options` (every field has a default and is checked in
    `__post_init__` by `require`), sets `dim_out`, and implements `forward`. What it fits to the training part before
    the first step (prototypes) it keeps in buffers that `prepare` fills; a loss of its own it gives as `penalty`.

    Parameters
    ----------
    dim_in : int
        Width of the features; 0 where the study has no tiles.
    options : Options
        The aggregator's options.
    """

    Options: ClassVar[type]
    #: A linear model: features are standardised by the moments of the bag means, the head starts at zero.
    linear: bool = False
    #: The head's weights are drawn from N(0, 1 / width), as the network's own (Klambauer et al., NeurIPS 2017).
    lecun_head: ClassVar[bool] = False
    #: It looks at tiles.
    uses_tiles: ClassVar[bool] = True
    #: It tells tiles of several scales apart: its bags hold the tiles' parents at coarser scales, where there are such.
    scales: ClassVar[bool] = False
    #: Its constructor takes `modalities`, a tuple of `Modality` of at least one.
    multimodal: ClassVar[bool] = False
    #: Its constructor takes `outputs` and its vectors are the predictions: the head adds no weights, only a bias.
    scores: ClassVar[bool] = False
    #: It builds on trained models: its options have `sources`, their configurations, and `set_sources` takes them.
    sources: ClassVar[bool] = False
    #: Where the training is; the loop keeps it up to date.
    moment: Moment = Moment()
    dim_out: int

    def __init__(self, dim_in: int, options: Any) -> None:
        super().__init__()
        self.dim_in, self.options = dim_in, options

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor | None]:
        """Return (B, dim_out) vectors and (T,) attention that sums to 1 over each bag, or None without one."""
        raise NotImplementedError

    def start(self, targets: Mapping[str, Tensor]) -> None:
        """Take what is needed from the training part's outcomes before the first step."""

    def set_sources(self, models: Sequence[MILModel], mean: Tensor, scale: Tensor) -> None:
        """Take trained models before the first step, where `sources` says that it builds on them.

        Parameters
        ----------
        models : sequence of MILModel
            Of the same features.
        mean, scale : Tensor
            (dim_in,) by which this model's features are standardised.
        """
        raise NotImplementedError(f"{type(self).__name__} builds on no other model")

    def prepare(self, draw: DrawTiles, seed: int) -> None:
        """Fit what needs the training part's tiles before the first step, into buffers."""

    def pretrain(self, bags: DrawBags, seed: int) -> None:
        """Train without outcomes on the training part's bags before the first step, after `prepare`."""

    def penalty(self, targets: Mapping[str, Tensor], loss: Loss) -> Tensor | None:
        """A scalar added to the loss of the last training batch that went `forward`, or None.

        Parameters
        ----------
        targets : mapping
            Outcomes of the batch's patients: `y`, or `time` (days) and `event`.
        loss : callable
            The head's loss of other vectors than those that `forward` returned: ``loss(vectors)`` of one (B, dim_out)
            a patient, ``loss(vectors, patients)`` of (V, dim_out), each of the patient at that place in the batch (V,).
        """
        return None


def aggregator_kind(name: str) -> type[Aggregator]:
    """The class of a registered aggregator.

    Raises
    ------
    ConfigError
        If no aggregator has this name.
    """
    import histostudy.models.aggregators
    import histostudy.models.multimodal  # noqa: F401  (both register theirs)

    return AGGREGATORS[name]


def build_aggregator(
    name: str,
    dim_in: int,
    options: Mapping[str, Any] | None = None,
    *,
    modalities: Sequence[Modality] = (),
    outputs: int = 1,
) -> Aggregator:
    """Build a registered aggregator.

    Parameters
    ----------
    name : str
        Registered name.
    dim_in : int
        Width of the features.
    options : mapping
        Its options.
    modalities : sequence of Modality
        For a multimodal one.
    outputs : int
        Number of predictions, for one whose vectors are the predictions.

    Raises
    ------
    ConfigError
        If no aggregator has this name.
    ModelError
        If an option is unknown or has a value that cannot be, or a modality is needed and none given.
    """
    kind = aggregator_kind(name)
    options = dict(options or {})
    known = [field.name for field in fields(kind.Options)]
    if unknown := sorted(set(options) - set(known)):
        raise ModelError(f"{name}: unknown option {unknown[0]!r}", todo=f"known: {', '.join(known)}")
    more: dict[str, Any] = {}
    if kind.multimodal:
        if not modalities:
            raise ModelError(f"{name} needs a modality", todo="name one of the study's under the model's `modalities`")
        more["modalities"] = tuple(modalities)
    if kind.scores:
        more["outputs"] = outputs
    return kind(dim_in, kind.Options(**options), **more)


def require(holds: bool, what: str) -> None:
    """Refuse an option's value: `what` says what it must be, such as ``dropout is from 0 up to 1``."""
    if not holds:
        raise ModelError(f"wrong option: {what}", todo="correct the model's options")


def is_count(value: object) -> bool:
    """Whether `value` is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_number(value: object) -> bool:
    """Whether `value` is a finite number; text such as ``1e-1``, which YAML does not read as one, is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_positive(value: Any) -> bool:
    """Whether `value` is a finite number above 0."""
    return is_number(value) and value > 0


def is_share(value: Any) -> bool:
    """Whether `value` is a number from 0 up to, but without, 1."""
    return is_number(value) and 0 <= value < 1
