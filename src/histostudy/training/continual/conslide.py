"""ConSlide (Huang et al., ICCV 2023): HIT trained task after task with rehearsal of regions (BuRo).

After a task, regions of its slides go into one reservoir; while later tasks are learned, pseudo-slides are put together
from regions of one class of an earlier task, whatever slides they are of. Only the classifier's loss is taken of them,
so that rehearsal trains the level of regions alone (the asynchronous update).

Ours differs from the published code: the region's own feature is the mean of its tiles, where features have one scale
only; early stopping has patience; a class of which nothing is kept is left out of a rehearsal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from histostudy.continual_keys import ConSlide
from histostudy.training.continual.buffer import Memory
from histostudy.training.continual.hit import HIT, HITOptions
from histostudy.training.continual.learner import Learner, Part, Setting
from histostudy.training.continual.regions import kept_batch, region_batch


class ConSlideLearner(Learner):
    """HIT with BuRo; see the module.

    Parameters
    ----------
    setting : Setting
        With `regions`.
    keys : ConSlide
        Memory and weights.
    options : HITOptions
        Of the network.
    """

    network: HIT

    def __init__(self, setting: Setting, keys: ConSlide, options: HITOptions) -> None:
        super().__init__(setting)
        assert setting.regions is not None
        self.keys, self.regions = keys, setting.regions
        self.network = HIT(self.store.dim, self.classes.total, self.regions.size, options).to(self.store.device)
        self.memory = Memory(keys.memory, keys.region, setting.seed)

    def logits(self, rows: Sequence[int], most: int | None = None) -> Tensor:
        """(n, classes) of patients."""
        return self.network(region_batch(self.store, self.regions, rows, most, self.generator))[0]

    def loss(self, rows: Sequence[int], y: Tensor, task: Tensor) -> Tensor:
        """Cross-entropy, the cross-scale loss, and the cross-entropy of pseudo-slides of an earlier task."""
        batch = region_batch(self.store, self.regions, rows, self.training.max_tiles, self.generator)
        logits, similar = self.network(batch)
        loss = self.cross_entropy(logits, y, task) + self.keys.weight * similar
        for _ in range(self.keys.draws):
            again = self._rehearsal(rows)
            loss = loss if again is None else loss + self.keys.alpha / self.keys.draws * again
        return loss

    def _rehearsal(self, rows: Sequence[int]) -> Tensor | None:
        """Sum over the classes of an earlier task of a pseudo-slide's cross-entropy; None where nothing is kept."""
        past = self.memory.past_task()
        if past is None:
            return None
        rng = self.memory.rng
        if self.keys.pseudo is None:
            count = len(self.regions.rows[rows[int(rng.integers(len(rows)))]])
        else:
            count = int(rng.integers(self.keys.pseudo[0], self.keys.pseudo[1] + 1))
        slides = self.memory.pseudo_slides(past, count)
        logits, _ = self.network(kept_batch(slides, self.regions.size, self.store.device))
        y = torch.tensor([slide[0].y for slide in slides], device=logits.device)
        return len(slides) * self.cross_entropy(logits, y, torch.full_like(y, past))

    def start(self, task: int, train: Part) -> None:
        """Before the first task: some epochs of the cross-scale loss alone, for which nobody's class is needed."""
        if task or not self.keys.first_epochs:
            return
        optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.training.lr, weight_decay=self.training.weight_decay
        )
        self.network.train()
        for _ in range(self.keys.first_epochs):
            for chosen in torch.randperm(len(train), generator=self.generator).split(self.training.batch_size):
                rows = [train.rows[i] for i in chosen.tolist()]
                batch = region_batch(self.store, self.regions, rows, self.training.max_tiles, self.generator)
                optimiser.zero_grad(set_to_none=True)
                (self.keys.first_weight * self.network(batch)[1]).backward()
                optimiser.step()

    def finish(self, task: int, train: Part) -> None:
        """Show a drawn share of each training slide's regions to the reservoir, slides in a drawn order."""
        rng, regions = self.memory.rng, self.regions
        for at in rng.permutation(len(train)):
            row = train.rows[at]
            count = len(regions.rows[row])
            for i in rng.permutation(count)[: max(1, round(self.keys.share * count))]:
                tiles = self.store.features[regions.rows[row][i].to(self.store.features.device)]
                self.memory.offer(tiles, regions.cells[row][i], int(train.y[at]), task)

    def info(self) -> dict[str, float]:
        """What is kept."""
        return {"kept_tiles": self.memory.tiles, "kept_regions": len(self.memory)}
