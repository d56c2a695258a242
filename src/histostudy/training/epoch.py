"""One pass over the training part after another: batches, steps, and the places at which recipes act."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.attention import AttentionAggregator
from histostudy.models.batch import BagBatch, ModalityValues
from histostudy.models.heads import Head
from histostudy.models.layers import full_precision
from histostudy.models.model import MILModel
from histostudy.models.registry import Loss, Moment
from histostudy.models.survival import bin_of, time_bins
from histostudy.training.batchsize import batch_size_of
from histostudy.training.recipes.base import Recipe, Step
from histostudy.training.tilestore import TileStore

if TYPE_CHECKING:
    from histostudy.study import Training

#: Share of training patients whose modality is hidden at a step, where some patient of the cohort lacks it.
HIDDEN_SHARE = 0.1


@dataclass
class Epoch:
    """Steps over the training part.

    Parameters
    ----------
    network : MILModel
        Trained in place.
    store : TileStore
        Tiles of all patients.
    rows : list of int
        The training part's places in the store.
    targets : dict
        Its outcomes, on the device.
    optimiser : torch.optim.Optimizer
        Of the network's parameters, and of the recipes'.
    settings : Training
        Batch size, tiles a patient, sampling, penalties.
    generator : torch.Generator
        Of the order and of drawn tiles.
    recipes : sequence of Recipe
        In the order in which they act.
    """

    network: MILModel
    store: TileStore
    rows: list[int]
    targets: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    settings: Training
    generator: torch.Generator
    recipes: Sequence[Recipe] = ()

    def run(self, epoch: int) -> float:
        """Take the steps of an epoch; return its mean loss, without penalties."""
        self.network.train()
        batches = self._order().split(batch_size_of(self.settings, len(self.rows)))
        total = torch.zeros((), dtype=torch.float64, device=self.store.device)
        for number, chosen in enumerate(batches):
            done = epoch + number / len(batches)
            step = self._step(chosen, Moment(done / self.settings.epochs, done))
            loss = self._loss(step)
            total += loss.detach().double() * len(chosen)
            loss = loss + self._penalties(step)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            for recipe in self.recipes:
                recipe.after_step(step)
            del step, loss  # their memory is free before the next batch is read
        return float(total) / len(self.rows)

    def _step(self, chosen: Tensor, moment: Moment) -> Step:
        """A step over the patients at `chosen` places of the training part."""
        rows = [self.rows[i] for i in chosen.tolist()]
        batch = self.store.batch(rows, self.settings.max_tiles, self.generator)
        batch.modalities = self._hidden(batch.modalities)
        place = chosen.to(self.store.device)
        targets = {name: value[place] for name, value in self.targets.items()}
        self.network.aggregator.moment = moment
        loss = loss_of_vectors(self.network.head, targets)
        return Step(self.network, self.network.standardised(batch), rows, targets, moment, self.generator, loss)

    def _loss(self, step: Step) -> Tensor:
        """Go forward through the recipes to the loss of the vectors."""
        aggregator = step.network.aggregator
        with torch.autocast("cuda", torch.bfloat16, enabled=self.store.device == "cuda"):
            for recipe in self.recipes:
                recipe.tiles(step)
            step.batch = step.network.front(step.batch)
            if isinstance(aggregator, AttentionAggregator):
                step.tokens = aggregator.tokens(step.batch)
                for recipe in self.recipes:
                    recipe.tokens(step)
                step.vectors, step.maps = aggregator.pool(step.tokens)
            else:
                step.vectors, attention = aggregator(step.batch)
                step.maps = None if attention is None else attention[:, None]
            for recipe in self.recipes:
                recipe.vectors(step)
        return step.loss(step.vectors)

    def _penalties(self, step: Step) -> Tensor:
        """What the recipes, the aggregator and the settings add to the loss."""
        found = [recipe.penalty(step) for recipe in self.recipes]
        found.append(self.network.aggregator.penalty(step.targets, step.loss))
        total = torch.zeros((), device=self.store.device)
        for one in found:
            if one is not None:
                total = total + one
        if self.settings.l1:
            total = total + self.settings.l1 * torch.stack([p.abs().sum() for p in self.network.parameters()]).sum()
        return total

    def _hidden(self, tables: Mapping[str, ModalityValues]) -> Mapping[str, ModalityValues]:
        """Hide modalities of some patients, so that what stands for a missing one learns its part."""
        out = {}
        for name, table in tables.items():
            share = self.settings.modality_dropout
            if share is None:
                share = HIDDEN_SHARE if self.store.modalities[name].somebody_lacks_it else 0.0
            seen = torch.rand(len(table.present), generator=self.generator) >= share if share else None
            out[name] = table if seen is None else replace(table, present=table.present & seen.to(table.present.device))
        return out

    def _order(self) -> Tensor:
        """Training patients in a drawn order; balanced: drawn with equal chance of each class, with replacement."""
        n = len(self.rows)
        if self.settings.sampling == "shuffle":
            return torch.randperm(n, generator=self.generator)
        return torch.multinomial(_balance(self.targets, self.settings), n, replacement=True, generator=self.generator)


def loss_of_vectors(head: Head, targets: Mapping[str, Tensor]) -> Loss:
    """The head's loss as a function of vectors; see `histostudy.models.registry.Loss`."""

    def loss(vectors: Tensor, patients: Tensor | None = None) -> Tensor:
        theirs = targets if patients is None else {name: value[patients] for name, value in targets.items()}
        # a head works in full precision, whatever autocast made of the vectors
        return head.loss(head(full_precision(vectors)), theirs)

    return loss


def drawn_bags(store: TileStore, network: MILModel, rows: Sequence[int], size: int, seed: int) -> Callable:
    """Passes over the training part's standardised bags without outcomes; see `histostudy.models.registry.DrawBags`."""
    generator = torch.Generator().manual_seed(seed)

    def bags():  # type: ignore[no-untyped-def]
        for some in torch.randperm(len(rows), generator=generator).split(size):
            batch: BagBatch = store.batch([rows[i] for i in some.tolist()])
            yield network.standardised(batch)

    return bags


def _balance(targets: Mapping[str, Tensor], settings: Training) -> Tensor:
    """Weights (n,) that give each class, or each pair of time interval and event, the same chance."""
    if "time" in targets:
        edges = torch.from_numpy(time_bins(targets["time"].cpu(), targets["event"].cpu(), settings.bins))
        kind = bin_of(targets["time"].cpu().double(), edges) * 2 + targets["event"].cpu().long()
    elif targets["y"].dtype == torch.int64:
        kind = targets["y"].cpu()
    else:
        raise ModelError("balanced sampling is for classes and survival", todo="set `sampling: shuffle`")
    return 1 / torch.bincount(kind).double()[kind]
