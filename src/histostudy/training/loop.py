"""The loop: one run from bags and a split to predictions and weights."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.ensemble import Ensemble, Network
from histostudy.models.heads import head_config
from histostudy.models.model import MILModel
from histostudy.seeds import derive_seed
from histostudy.training.determinism import deterministic
from histostudy.training.epoch import Epoch, drawn_bags
from histostudy.training.guard import TestPart
from histostudy.training.linear import fit_linear
from histostudy.training.modalities import RunModality, install
from histostudy.training.recipes.base import Recipe, Run, build_recipes, check_recipes
from histostudy.training.recipes.ensemble import EnsembleOfFolds, members_of
from histostudy.training.targets import head_names, targets_of
from histostudy.training.tilestore import TileStore

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.cohort.outcomes import Outcome
    from histostudy.features.pairs import Pairs
    from histostudy.study import Model, Training

logger = logging.getLogger(__name__)


@dataclass
class RunResult:
    """What a run leaves.

    Attributes
    ----------
    predictions : DataFrame
        One row a test patient: truth and prediction.
    tensors, config : dict
        Weights and buffers by name, and what rebuilds the model from them.
    history : DataFrame
        One row an epoch: `epoch`, `lr`, `train_loss`, `val_loss`, `best` (the epoch whose weights were kept).
    info : dict
        Counts: patients of each part, parameters, epochs, patients without a modality.
    epochs : DataFrame, optional
        Predictions of the test part after every epoch, with `epoch`; of a traced training.
    """

    predictions: pd.DataFrame
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    history: pd.DataFrame
    info: dict[str, Any] = field(default_factory=dict)
    epochs: pd.DataFrame | None = None


def train_run(
    model: Model,
    store: TileStore,
    outcome: Outcome,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    test: TestPart,
    *,
    seed: int,
    days: Sequence[int] = (),
    threads: int = 1,
    modalities: Callable[[Sequence[str], Sequence[int]], Mapping[str, RunModality]] | None = None,
    sources: Sequence[Network] = (),
    pairs: Callable[[Sequence[str]], Pairs] | None = None,
) -> RunResult:
    """Train a model on the training part, choose its epoch on the inner part, predict the test part once.

    Everything fitted (standardisation, bins, target moments, weights, the Cox baseline) comes from `train_ids`.
    AdamW with a cosine schedule; the weights kept are those of the epoch with the lowest inner loss, or with
    ``epoch: last`` those of the last, the inner part being trained on too. A linear model of the mean is solved
    instead (see `histostudy.training.linear`). With the recipe `ensemble` several networks are trained, each with
    another inner part, and their predictions averaged; what their one head and the tables take (bins, moments, scale)
    comes from the patients of all members.

    Parameters
    ----------
    model : histostudy.study.Model
        Aggregator, options, recipe and training settings.
    store : TileStore
        Tiles of all patients.
    outcome : Outcome
        The task's outcome; asked for the training and inner part only.
    train_ids, val_ids : sequence of str
        Training part and inner validation part.
    test : TestPart
        The guard of the test part.
    seed : int
        Of weights, order and dropout.
    days : sequence of int
        Where S(t) is reported (survival).
    threads : int
        CPU threads of torch.
    modalities : callable, optional
        Fits the model's modalities: takes the store's patients and the rows of the training part.
    sources : sequence of MILModel
        Trained models of other tasks, for an aggregator that builds on them.
    pairs : callable, optional
        Gives recipes the pairs of training patients, by id; see `histostudy.training.pairs`.

    Raises
    ------
    ModelError
        If an option is wrong, a patient has no tiles, or the loss stops being finite.
    """
    import pandas as pd

    if not train_ids:
        raise ModelError("no patient to train on", todo="use fewer folds")
    if model.aggregator is None:
        raise ModelError("predictions made elsewhere are not trained", todo="give the model an aggregator")
    settings = model.training
    parts = [(list(train_ids), list(val_ids))]
    if settings.epoch == "last":
        parts = [(sorted([*train_ids, *val_ids]), [])]
    recipes = build_recipes(model.recipe)
    if members := members_of(recipes):
        parts = members.parts(outcome, sorted([*train_ids, *val_ids]), settings, seed)
    fitted_ids = sorted({patient for train, _ in parts for patient in train})
    with deterministic(seed, threads):
        targets, rows = targets_of(outcome, fitted_ids), store.rows(fitted_ids)
        tables = {} if modalities is None else modalities(store.patient_ids, rows)
        if tables:
            store = store.beside(tables)
        plan = _Plan(model, outcome, targets, days, tables, sources, pairs)
        trained = []
        for number, (own, judges) in enumerate(parts):
            own_seed = seed if not members else derive_seed(seed, "member", number)
            trained.append(plan.train(store, own, judges, own_seed, test.patient_ids if settings.trace else None))
        network: Network = trained[0].network if not members else Ensemble([one.network for one in trained])
        if network.aggregator.linear:
            store = store.means()
        network.head.finish(raw_predictions(network, store, rows), targets)
        predictions = _predict(network, store, test.patient_ids)
        if "risk" in predictions:
            predictions["risk_median_train"] = _predict(network, store, fitted_ids)["risk"].median()
    histories = [one.history.assign(member=k) if members else one.history for k, one in enumerate(trained)]
    history = pd.concat(histories, ignore_index=True)
    info: dict[str, Any] = {
        "n_train": len(fitted_ids), "n_val": len({p for _, judges in parts for p in judges} - set(fitted_ids)),
        "n_test": len(test.patient_ids), "parameters": network.count_parameters(), "epochs": len(history),
        "best_epoch": int(history.loc[history["best"], "epoch"].median()),
    }  # fmt: skip
    if tables:
        tested = store.rows(test.patient_ids)
        info["missing"] = {n: {"train": t.missing(rows), "test": t.missing(tested)} for n, t in tables.items()}
    scored = test.submit(predictions)
    # nothing is seen of a model that is solved, or not trained: it has no epochs to choose from
    watch = trained[0].watch
    epochs = watch.table(scored) if watch is not None and watch.seen else None
    return RunResult(scored, network.state_dict(), network.config, history, info, epochs)


@dataclass
class _Trained:
    """A trained network, how it went, and what was seen of the test part's predictions on the way."""

    network: MILModel
    history: pd.DataFrame
    watch: _Watch | None


@dataclass
class _Plan:
    """What the members of a run share: the model, and all that its head and tables take from the training part."""

    model: Model
    outcome: Outcome
    targets: dict[str, Tensor]
    days: Sequence[int]
    tables: Mapping[str, RunModality]
    sources: Sequence[Network]
    pairs: Callable[[Sequence[str]], Pairs] | None

    def train(
        self, store: TileStore, train_ids: list[str], val_ids: list[str], seed: int, watched: Sequence[str] | None
    ) -> _Trained:
        """Train one network; `watched` are patients to be predicted after every epoch."""
        settings, outcome = self.model.training, self.outcome
        torch.manual_seed(seed)
        recipes = build_recipes(self.model.recipe)
        network = self._network(store.dim, recipes)
        if network.aggregator.linear:
            store = store.means()
        rows, targets = store.rows(train_ids), targets_of(outcome, train_ids)
        network.standardise_by(*store.moments(rows))
        if self.sources:
            sources = [one for one in self.sources if isinstance(one, MILModel)]
            network.aggregator.set_sources(sources, network.mean, network.scale)
        val_targets = targets_of(outcome, val_ids) if val_ids else {}
        val = (store.rows(val_ids), val_targets) if settings.epoch == "inner" and _can_judge(val_targets) else None
        watch = _Watch(network, store, watched) if watched is not None else None
        # an ensemble asks for no steps: its linear members are solved as one is
        by_steps = [recipe for recipe in recipes if not isinstance(recipe, EnsembleOfFolds)]
        if network.aggregator.linear and not by_steps and settings.epochs > 0:
            return _Trained(network, fit_linear(network, store, (rows, targets), val), watch)
        network.aggregator.prepare(_drawer(network, store, rows, seed), seed)
        if settings.epochs > 0:
            network.to(store.device)
            network.aggregator.pretrain(drawn_bags(store, network, rows, settings.batch_size, seed), seed)
        history = _fit(network, store, (rows, targets), val, settings, seed, recipes, watch, self.pairs)
        return _Trained(network, history, watch)

    def _network(self, dim: int, recipes: Sequence[Recipe]) -> MILModel:
        """A network at its start."""
        model, settings, kind = self.model, self.model.training, self.outcome.task.kind
        head = head_config(kind, settings, self.targets, **head_names(self.outcome, self.days))
        specs, options = [table.spec for table in self.tables.values()], dict(model.options)
        if self.sources:
            options["sources"] = [source.config for source in self.sources]
        front = {name: layers for recipe in recipes for name, layers in recipe.front().items()}
        network = MILModel(dim, str(model.aggregator), options, head, specs, model.fusion, front)
        check_recipes(recipes, network.aggregator, head["kind"])
        network.head.start(self.targets)
        if settings.start == "zero":
            torch.nn.init.zeros_(network.head.linear.bias)  # type: ignore[arg-type]
        network.aggregator.start(self.targets)
        install(network, self.tables)
        return network


class _Watch:
    """What the test part would be predicted after every epoch: for showing what choosing one there would add.

    It holds predictions alone; they meet the truth after the run's own prediction was submitted.
    """

    def __init__(self, network: MILModel, store: TileStore, patient_ids: Sequence[str]) -> None:
        self.network, self.store, self.patient_ids = network, store, patient_ids
        self.seen: list[pd.DataFrame] = []

    def look(self, epoch: int) -> None:
        """Predict after an epoch; what only `finish` can give (S(t) of a Cox model) is left out."""
        import pandas as pd

        raw = raw_predictions(self.network, self.store, self.store.rows(self.patient_ids))
        device = next(self.network.parameters()).device
        columns = self.network.head.cpu().predict(raw)
        self.network.to(device)
        kept = {name: values for name, values in columns.items() if not name.startswith("surv_")}
        self.seen.append(pd.DataFrame({"epoch": epoch, "patient_id": list(self.patient_ids)} | kept))

    def table(self, scored: pd.DataFrame) -> pd.DataFrame:
        """All epochs beside the truth."""
        import pandas as pd

        truth = scored[[c for c in scored if c == "patient_id" or c in ("time", "event") or c.startswith("truth")]]
        return pd.concat(self.seen, ignore_index=True).merge(truth, on="patient_id", validate="m:1")


def _drawer(network: MILModel, store: TileStore, rows: list[int], seed: int) -> Callable[[int], Tensor]:
    """Standardised tiles of the training part, for what an aggregator fits to them."""
    return lambda most: (store.draw(rows, most, seed) - network.mean) / network.scale


def _fit(
    network: MILModel,
    store: TileStore,
    train: tuple[list[int], dict[str, Tensor]],
    val: tuple[list[int], dict[str, Tensor]] | None,
    settings: Training,
    seed: int,
    recipes: Sequence[Recipe] = (),
    watch: _Watch | None = None,
    pairs: Callable[[Sequence[str]], Pairs] | None = None,
) -> pd.DataFrame:
    """Train in place, end with the best epoch's weights, return the history."""
    import pandas as pd

    rows, targets = train
    network.to(store.device)
    targets = {name: value.to(store.device) for name, value in targets.items()}
    if not settings.epochs or not any(p.requires_grad for p in network.parameters()):
        loss = _loss_of(network, store, rows, targets)
        return pd.DataFrame({"epoch": [0], "lr": [0.0], "train_loss": [loss], "val_loss": [math.nan], "best": [True]})

    def fit(epochs: int) -> None:
        _fit(network, store, train, val, settings.model_copy(update={"epochs": epochs}), derive_seed(seed, "first"))

    for recipe in recipes:
        recipe.begin(Run(network, store, rows, targets, settings, seed, fit, pairs))
    extra = [recipe.extra.to(store.device) for recipe in recipes if recipe.extra is not None]
    optimiser = _optimiser([p for module in (network, *extra) for p in module.parameters()], settings)
    step = Epoch(network, store, rows, targets, optimiser, settings, torch.Generator().manual_seed(seed), recipes)
    best, best_state, since = math.inf, None, 0
    history: list[dict[str, Any]] = []
    for epoch in range(settings.epochs):
        shape = 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs)) if settings.schedule == "cosine" else 1.0
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * shape
        train_loss = step.run(epoch)
        if not math.isfinite(train_loss):
            raise ModelError(f"the loss is not finite in epoch {epoch + 1}", todo="lower training.lr")
        with _judged(network, recipes):
            val_loss = _loss_of(network, store, *val) if val is not None else math.nan
            if watch is not None:
                watch.look(epoch + 1)
            last = epoch + 1 == settings.epochs
            if val_loss < best or (val is None and last):
                best, best_state, since = val_loss, copy.deepcopy(network.state_dict()), 0
            else:
                since += 1
        row = {"epoch": epoch + 1, "lr": settings.lr * shape, "train_loss": train_loss, "val_loss": val_loss}
        history.append(row | {name: value for recipe in recipes for name, value in recipe.log().items()})
        # a traced training goes on to its end: what comes after the stop is what it is to show
        if val is not None and since >= settings.patience and epoch + 1 >= settings.min_epochs and watch is None:
            break
    if best_state is not None:
        network.load_state_dict(best_state)
    network.eval()
    frame = pd.DataFrame(history)
    chosen = frame["val_loss"].idxmin() if val is not None and best_state is not None else len(frame) - 1
    frame["best"] = frame.index == chosen
    return frame


def _optimiser(parameters: Sequence[torch.nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """AdamW over what is trained; a parameter that says `_no_weight_decay` (a decay rate, a step size) has none."""
    trained = [p for p in parameters if p.requires_grad]
    spared = [p for p in trained if getattr(p, "_no_weight_decay", False)]
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if not getattr(p, "_no_weight_decay", False)]}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


@contextmanager
def _judged(network: MILModel, recipes: Sequence[Recipe]) -> Iterator[None]:
    """The network with the weights that a recipe wants judged and kept, then again with those that are trained."""
    averaged = [weights for recipe in recipes if (weights := recipe.weights()) is not None]
    if not averaged:
        yield
        return
    trained = copy.deepcopy(network.state_dict())
    network.load_state_dict(averaged[-1])
    try:
        yield
    finally:
        network.load_state_dict(trained)


def _can_judge(targets: dict[str, Tensor]) -> bool:
    """Whether the inner part can choose an epoch: it has patients, and where time matters pairs to compare."""
    if not targets:
        logger.warning("the inner part is empty; the last epoch is kept")
        return False
    if "event" in targets:
        first = targets["time"][targets["event"] > 0]
        if not len(first) or not bool((targets["time"] > first.min()).any()):
            logger.warning("the inner part has no event with somebody at risk after it; the last epoch is kept")
            return False
    return True


@torch.no_grad()
def raw_predictions(network: Network, store: TileStore, rows: Sequence[int]) -> Tensor:
    """Raw outputs (n, outputs) on the CPU of patients at `rows`, in float32 without dropout or autocast."""
    network.to(store.device).eval()
    raw = [network(batch)[0].cpu() for batch in store.evaluation_batches(rows)]
    return torch.cat(raw)


def _loss_of(network: MILModel, store: TileStore, rows: list[int], targets: dict[str, Tensor]) -> float:
    raw = raw_predictions(network, store, rows).to(store.device)
    return float(network.head.loss(raw, {name: value.to(store.device) for name, value in targets.items()}))


def _predict(network: Network, store: TileStore, patient_ids: Sequence[str]) -> pd.DataFrame:
    """Predict patients; the network ends on the CPU."""
    import pandas as pd

    raw = raw_predictions(network, store, store.rows(patient_ids))
    network.cpu()
    return pd.DataFrame({"patient_id": list(patient_ids)} | network.head.predict(raw))
