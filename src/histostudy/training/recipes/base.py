"""What a recipe is: the places of a training step at which it may act.

A training step goes from tiles to tokens to vectors to a loss. Each recipe of a model may act at each of these places,
so that several compose; one that needs the tokens between embedding and pooling asks for an aggregator that has both
(`histostudy.models.attention.AttentionAggregator`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from histostudy.errors import ModelError
from histostudy.models.attention import AttentionAggregator
from histostudy.models.batch import BagBatch
from histostudy.models.registry import Aggregator, Loss, Moment
from histostudy.registry import Registry

if TYPE_CHECKING:
    import torch

    from histostudy.features.pairs import Pairs
    from histostudy.models.model import MILModel
    from histostudy.study import Training
    from histostudy.training.tilestore import TileStore

RECIPES: Registry[type[Recipe]] = Registry("recipe")
#: Heads whose loss compares patients with each other.
RELATIVE = ("survival_cox", "survival_rank")


@dataclass
class Run:
    """The run that a recipe is part of.

    Attributes
    ----------
    network : MILModel
        The model, on its device.
    store : TileStore
        Tiles of all patients.
    rows : list of int
        The training part's places in `store`.
    targets : mapping
        The training part's outcomes, in the order of `rows`, on the device.
    settings : Training
        Of the model.
    seed : int
        Of the run.
    fit : callable
        Trains `network` in place for so many epochs without recipes, the inner part choosing the epoch.
    pairs : callable, optional
        Gives pairs of tiles and changed versions of them, of training patients by id; see `histostudy.features.pairs`.
    """

    network: MILModel
    store: TileStore
    rows: list[int]
    targets: Mapping[str, Tensor]
    settings: Training
    seed: int
    fit: Callable[[int], None]
    pairs: Callable[[Sequence[str]], Pairs] | None = None


@dataclass
class Step:
    """One training step on its way from tiles to a loss; what is not reached yet is None.

    Attributes
    ----------
    network : MILModel
        The model in training mode.
    batch : BagBatch
        Bags of standardised tiles.
    rows : list of int
        The patients' places in the store.
    targets : mapping
        Their outcomes.
    moment : Moment
        How far the training is.
    generator : torch.Generator
        Of what is drawn on the CPU.
    loss : callable
        The head's loss of vectors (B, dim_out); see `histostudy.models.registry.Loss`.
    tokens : BagBatch
        Bags of embedded tiles, (T', width).
    vectors : Tensor
        (B, dim_out).
    maps : Tensor
        (T', K) attention maps of `tokens`, or of the tiles where the aggregator has no tokens; None without attention.
    """

    network: MILModel
    batch: BagBatch
    rows: list[int]
    targets: Mapping[str, Tensor]
    moment: Moment
    generator: torch.Generator
    loss: Loss
    tokens: BagBatch | None = None
    vectors: Tensor | None = None
    maps: Tensor | None = None

    @property
    def attended(self) -> BagBatch:
        """The bags that `maps` belong to."""
        return self.batch if self.tokens is None else self.tokens


class Recipe:
    """Something done beside the plain training of a model.

    A subclass names its settings as a frozen dataclass `Settings` (every field has a default and is checked in
    `__post_init__`) and implements the places at which it acts. Nothing it does may touch a model in evaluation mode.

    Parameters
    ----------
    settings : Settings
        The recipe's settings.
    """

    Settings: ClassVar[type]
    #: Recipes act in this order at each place; of one order, by name.
    order: ClassVar[int] = 50
    #: It looks at attention, or at tokens between embedding and pooling: the aggregator must have them.
    needs_attention: ClassVar[bool] = False
    #: Its maths asks for a loss that is a mean over patients, as Cox's and the ranking loss are not.
    needs_mean_loss: ClassVar[bool] = False
    #: What it trains beside the model; set in `begin`, never part of the model that predicts.
    extra: nn.Module | None = None

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def check(self, aggregator: Aggregator, kind: str) -> None:
        """Refuse what it does not go with; `kind` is that of the head: classification, regression, survival_nll, ...

        Raises
        ------
        ModelError
            If the aggregator lacks what the recipe needs, or the maths does not hold for this head.
        """
        if self.needs_attention and not isinstance(aggregator, AttentionAggregator):
            raise ModelError(
                f"recipe {self.name} needs attention over embedded tiles, which {type(aggregator).__name__} has not",
                todo="leave it out, or name an attention aggregator such as abmil",
            )
        if self.needs_mean_loss and kind in RELATIVE:
            raise ModelError(
                f"recipe {self.name}: this loss compares patients, and a mixture of some has no time to be compared at",
                todo="set `training.loss: nll`",
            )

    @property
    def name(self) -> str:
        """As it is registered."""
        return next(name for name in RECIPES if RECIPES[name] is type(self))

    def front(self) -> Mapping[str, Mapping[str, Any]]:
        """Layers that it puts before the aggregator, for good: see `histostudy.models.front`."""
        return {}

    def begin(self, run: Run) -> None:
        """Get ready, once, before the first step."""

    def tiles(self, step: Step) -> None:
        """Choose or change the tiles of `step.batch`."""

    def tokens(self, step: Step) -> None:
        """Choose or change the embedded tiles of `step.tokens`; asks for `needs_attention`."""

    def vectors(self, step: Step) -> None:
        """Change `step.vectors`, or what their loss is (`step.loss`)."""

    def penalty(self, step: Step) -> Tensor | None:
        """A scalar added to the loss, or None."""
        return None

    def after_step(self, step: Step) -> None:
        """Follow the weights after the optimiser moved them."""

    def weights(self) -> Mapping[str, Tensor] | None:
        """The model's state dictionary to be judged and kept after an epoch in place of the trained one, or None."""
        return None

    def log(self) -> Mapping[str, float]:
        """Columns of the epoch's row in the history; what is counted starts again from nothing."""
        return {}


def build_recipes(settings: Mapping[str, Mapping[str, Any]]) -> list[Recipe]:
    """Build the recipes of a model, in the order in which they act.

    Raises
    ------
    ConfigError
        If no recipe has this name.
    ModelError
        If a recipe has no such setting, or a value cannot be.
    """
    import histostudy.training.recipes  # noqa: F401  (registers them all)

    recipes = []
    for name in sorted(settings):
        kind = RECIPES[name]
        known = [field.name for field in fields(kind.Settings)]
        if unknown := sorted(set(settings[name] or {}) - set(known)):
            raise ModelError(f"recipe {name}: unknown key {unknown[0]!r}", todo=f"known: {', '.join(known)}")
        recipes.append(kind(kind.Settings(**(settings[name] or {}))))
    return sorted(recipes, key=lambda recipe: recipe.order)


def check_recipes(recipes: Sequence[Recipe], aggregator: Aggregator, kind: str) -> None:
    """Refuse recipes that do not go with the aggregator, or with the head of this kind.

    Raises
    ------
    ModelError
        Saying which, and why.
    """
    for recipe in recipes:
        recipe.check(aggregator, kind)
    averages = [recipe.name for recipe in recipes if type(recipe).weights is not Recipe.weights]
    if len(averages) > 1:
        raise ModelError(f"recipes {' and '.join(averages)} both average the weights", todo="keep one of them")
