"""CoMEL (arXiv 2507.02395; no code, so our reading): continual learning of bags and their tiles without rehearsal.

Grouped double attention (`gdat`), adapters kept off earlier tasks (`owlora`), and pseudo-labels of tiles from the
prototypes of positive and negative bags (BPPL). Tiles are judged as embedded one by one: once they met, every tile of a
bag knows the class of the bag. Thresholds are quantiles of the scores of negative bags' tiles, all of which are
negative, rather than numbers to be tuned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histostudy.continual_keys import CoMEL
from histostudy.models.batch import BagBatch, segment_sum
from histostudy.training.continual.gdat import GDATNetwork, GDATOptions, Seen
from histostudy.training.continual.learner import Learner, Part, Setting
from histostudy.training.continual.owlora import adapted


class Prototypes:
    """Moving averages of what positive and negative bags look like, and pseudo-labels of tiles from them (BPPL).

    Parameters
    ----------
    keys : CoMEL
        Quantiles and momentum.
    """

    def __init__(self, keys: CoMEL) -> None:
        self.keys = keys
        self.positive: Tensor | None = None
        self.negative: Tensor | None = None
        self.bounds: Tensor | None = None

    def follow(self, seen: Seen, batch: BagBatch, bags: Tensor, right: Tensor) -> None:
        """Take in a batch: the attention-weighted tiles of the bags that were classified right.

        Parameters
        ----------
        seen : Seen
        batch : BagBatch
        bags, right : Tensor
            (B,) bool, whether a bag is positive, and was classified right.
        """
        vectors = segment_sum(seen.attention.detach()[:, None] * seen.tiles.detach(), batch)
        for name, which in (("positive", bags & right), ("negative", ~bags & right)):
            if bool(which.any()):
                old, new = getattr(self, name), vectors[which].mean(0)
                kept = self.keys.momentum
                setattr(self, name, new if old is None else kept * old + (1 - kept) * new)

    def calibrate(self, scores: Tensor) -> None:
        """Set the thresholds by the scores (n,) of negative bags' tiles, all of which are negative."""
        few = scores[:: -(-len(scores) // (1 << 20))]  # torch.quantile takes no more than some millions
        self.bounds = torch.quantile(few, torch.tensor([self.keys.doubtful, self.keys.confident], device=few.device))

    def scores(self, tiles: Tensor) -> Tensor | None:
        """(T,) cos(x, P+) - cos(x, P-) of embedded tiles; None before both are known."""
        if self.positive is None or self.negative is None:
            return None
        one, other = (F.cosine_similarity(tiles, p[None], dim=1) for p in (self.positive, self.negative))
        return one - other

    def labels(self, tiles: Tensor, positive: Tensor) -> Tensor:
        """(T,) pseudo-labels: 1, 0, or -1 for tiles left out; those of negative bags are all 0.

        Parameters
        ----------
        tiles : Tensor
            (T, C) embedded.
        positive : Tensor
            (T,) bool, whether the tile's bag is positive.
        """
        labels = torch.where(positive, -1, 0)
        scores = self.scores(tiles.detach())
        if scores is None or self.bounds is None:
            return labels
        labels[positive & (scores < self.bounds[0])] = 0
        labels[positive & (scores > self.bounds[1])] = 1
        return labels


class CoMELLearner(Learner):
    """CoMEL; see the module.

    Parameters
    ----------
    setting : Setting
    keys : CoMEL
        Adapters and pseudo-labels.
    options : GDATOptions
        Of the network.
    """

    network: GDATNetwork

    def __init__(self, setting: Setting, keys: CoMEL, options: GDATOptions) -> None:
        super().__init__(setting)
        self.keys = keys
        self.network = GDATNetwork(self.store.dim, self.classes.counts, options, keys.rank).to(self.store.device)
        self.prototypes = Prototypes(keys)
        self.sampler = np.random.default_rng(setting.seed)

    def logits(self, rows: Sequence[int], most: int | None = None) -> Tensor:
        """(n, classes) of patients."""
        return self.network(self.store.batch(rows, most, self.generator)).logits

    def start(self, task: int, train: Part) -> None:
        """New adapters, a new head; all else is frozen."""
        self.prototypes = Prototypes(self.keys)
        for step, heads in enumerate(zip(self.network.heads, self.network.instances, strict=True)):
            for head in heads:
                head.requires_grad_(step == task)
        if task:
            for layer in adapted(self.network):
                layer.begin(self.generator)

    def trained(self) -> list[nn.Parameter]:
        """What the task trains: weight decay of anything else would be forgetting."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def after_step(self) -> None:
        """The optimiser does not keep to a subspace; A is put back into it."""
        if self.learned:
            for layer in adapted(self.network):
                layer.project()

    @torch.no_grad()
    def before_epoch(self, train: Part) -> None:
        """Set the thresholds of the pseudo-labels by all negative bags, as the network and the prototypes are now."""
        negative = self.negative_class()
        if negative is None or not self.keys.instance or self.epoch < self.keys.warm_up:
            return
        self.network.eval()
        rows = [row for row, y in zip(train.rows, train.y.tolist(), strict=True) if y == negative]
        scores = []
        for chunk in self._chunks(rows):
            batch = self.store.batch(chunk)
            some = self.prototypes.scores(self.network(batch).tiles)
            scores += [] if some is None else [some]
        if scores:
            self.prototypes.calibrate(torch.cat(scores))

    def loss(self, rows: Sequence[int], y: Tensor, task: Tensor) -> Tensor:
        """Loss of the bags and, where a class is negative, of the tiles' pseudo-labels."""
        batch = self.store.batch(rows, self.training.max_tiles, self.generator)
        seen = self.network(batch)
        loss = self.cross_entropy(seen.logits, y, task)
        negative = self.negative_class()
        if negative is None or not self.keys.instance:
            return loss
        own = self.classes.own(self.learned)
        right = seen.logits[:, own].argmax(1) == y - own.start
        self.prototypes.follow(seen, batch, y != negative, right)
        if self.epoch < self.keys.warm_up:
            return loss
        labels = self.prototypes.labels(seen.tiles, (y != negative)[batch.segments])
        return loss + self.keys.instance * self._instance_loss(seen.tiles, labels)

    def _instance_loss(self, tiles: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of tiles: the mean over positive ones and that over negative ones, in equal parts."""
        logits = self.network.instances[self.learned](tiles)[:, 0]
        known = [labels == value for value in (0, 1) if bool((labels == value).any())]
        each = [F.binary_cross_entropy_with_logits(logits[at], labels[at].to(logits.dtype)) for at in known]
        return torch.stack(each).mean() if each else logits.sum() * 0

    def negative_class(self) -> int | None:
        """Number, of all classes, of the negative one of the task that is learned; None where none is."""
        name, classes = self.classes.names[self.learned] if self.classes.names else ("", ())
        if name not in self.keys.negatives:
            return None
        return self.classes.own(self.learned).start + classes.index(self.keys.negatives[name])

    def finish(self, task: int, train: Part) -> None:
        """Merge the adapters, and protect what the task's patients put into each layer, or the adapters' rows."""
        layers = adapted(self.network)
        for layer in layers:
            rows = layer.merge()
            layer.base.requires_grad_(False)
            if self.keys.orthogonality == "rows":
                layer.protect(rows, 1.0)
        if self.keys.orthogonality == "rows":
            return
        for layer, inputs in zip(layers, self._inputs(train.rows), strict=True):
            layer.protect(inputs, self.keys.energy)

    @torch.no_grad()
    def _inputs(self, rows: Sequence[int]) -> list[Tensor]:
        """What patients put into each adapted layer: at most `tokens` rows of it, drawn."""
        layers = adapted(self.network)
        kept: list[list[Tensor]] = [[] for _ in layers]
        chunks = list(self._chunks(rows))
        for chunk in chunks:
            for layer in layers:
                layer.heard = []
            self.logits(chunk)
            for layer, some in zip(layers, kept, strict=True):
                some.append(self._drawn(torch.cat(layer.heard or []), -(-2 * self.keys.tokens // len(chunks))))
                layer.heard = None
        return [self._drawn(torch.cat(some), self.keys.tokens) for some in kept]

    def _drawn(self, values: Tensor, most: int) -> Tensor:
        if len(values) <= most:
            return values
        return values[torch.from_numpy(np.sort(self.sampler.permutation(len(values))[:most]))]

    def info(self) -> dict[str, float]:
        """Mean and largest share of a layer's directions that are taken."""
        used = [layer.used for layer in adapted(self.network)]
        return {"directions_used": sum(used) / len(used), "directions_used_most": max(used)}
