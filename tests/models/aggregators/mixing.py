"""What every aggregator that mixes tiles must hold to, and a short training on bags with or without coordinates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from histostudy.models.batch import BagBatch, segment_sum
from histostudy.models.model import MILModel
from histostudy.models.registry import Aggregator

#: Of the bags in the checks; all of one tile, then several of a kind beside very different ones.
LENGTHS = (1, 2, 3, 9, 30, 31, 5, 40, 1)


def random_bags(*lengths: int, dim: int = 6, seed: int = 0) -> list[Tensor]:
    """Bags (n, dim) in float64."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in lengths]


def on_a_grid(bags: list[Tensor], step: int = 224) -> list[Tensor]:
    """Coordinates of bags in rows of 6."""
    return [torch.stack([torch.arange(len(b)) % 6, torch.arange(len(b)) // 6], 1) * step + 17 for b in bags]


@torch.no_grad()
def check_company_changes_nothing(model: Aggregator, coords: bool = False) -> None:
    """Each bag alone has the vector and the map that it has among others."""
    model = model.double().eval()
    bags = random_bags(*LENGTHS)
    places = on_a_grid(bags) if coords else None
    vectors, maps = model(BagBatch.pack(bags, places))
    assert vectors.shape == (len(bags), model.dim_out)
    alone = [model(BagBatch.pack([b], None if places is None else [places[i]])) for i, b in enumerate(bags)]
    torch.testing.assert_close(vectors, torch.cat([v for v, _ in alone]), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(maps, torch.cat([m for _, m in alone]), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(segment_sum(maps, BagBatch.pack(bags)), torch.ones(len(bags)).double())
    assert (maps >= 0).all()
    # what is in another bag, however large, stays there
    others = [100 * b if i % 2 else b for i, b in enumerate(bags)]
    changed = model(BagBatch.pack(others, places))[0]
    torch.testing.assert_close(changed[::2], vectors[::2], atol=1e-9, rtol=1e-9)


def check_gradients_stay_in_their_bag(model: Aggregator, coords: bool = False) -> None:
    """The vector of one bag has no gradient from the tiles of another."""
    bags = [bag.requires_grad_() for bag in random_bags(9, 7, 30)]
    vectors, _ = model.double().eval()(BagBatch.pack(bags, on_a_grid(bags) if coords else None))
    vectors[1].square().sum().backward()
    assert bags[1].grad is not None and bags[1].grad.abs().sum() > 0
    assert bags[0].grad is not None and not bags[0].grad.any() and bags[2].grad is not None and not bags[2].grad.any()


def check_tiny_bags(model: Aggregator) -> None:
    """Bags of 1, 2 and 3 tiles, alike and not, in training and evaluation: finite, also the gradients."""
    for training in (True, False):
        model.float().train(training)
        for lengths in ((1,), (2,), (3,), (1, 2, 3)):
            bags = [bag.float() for bag in random_bags(*lengths)]
            for made in (bags, [torch.zeros_like(bag) for bag in bags]):
                tiles = [bag.clone().requires_grad_() for bag in made]
                model.zero_grad()
                vectors, maps = model(BagBatch.pack(tiles))
                loss = vectors.square().sum()
                own = model.penalty({}, lambda v, p=None: v.sum())
                (loss if own is None else loss + own).backward()
                assert torch.isfinite(vectors).all() and torch.isfinite(maps).all()
                assert all(torch.isfinite(tile.grad).all() for tile in tiles)
                assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def check_half_precision(model: Aggregator) -> None:
    """Under autocast all stays finite, maps sum to 1, tiles of large values included."""
    batch = BagBatch.pack([30 * bag.float() for bag in random_bags(1, 40, 300)])
    with torch.autocast("cpu", torch.bfloat16):
        vectors, maps = model.float().train()(batch)
    vectors.float().square().sum().backward()
    assert torch.isfinite(vectors).all()
    assert maps.dtype == torch.float32
    torch.testing.assert_close(segment_sum(maps, batch), torch.ones(3), atol=1e-4, rtol=0)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def check_evaluation_draws_nothing(model: Aggregator) -> None:
    """Two evaluations are the same and leave the global generator as it was."""
    model.float().eval()
    batch, before = BagBatch.pack([bag.float() for bag in random_bags(30, 5)]), torch.get_rng_state()
    assert torch.equal(model(batch)[0], model(batch)[0])
    assert torch.equal(before, torch.get_rng_state())


@torch.no_grad()
def moved_by_permutation(model: Aggregator, coords: bool = False) -> tuple[float, float]:
    """How far vector and map (brought back into order) move when a bag's tiles come in another order."""
    model = model.double().eval()
    (bag,) = random_bags(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    places = on_a_grid([bag]) if coords else None
    vector, maps = model(BagBatch.pack([bag], places))
    other, shuffled = model(BagBatch.pack([bag[order]], None if places is None else [places[0][order]]))
    return float((vector - other).abs().max()), float((maps[order] - shuffled).abs().max())


def trained(
    name: str, options: dict[str, Any], bags: list[Tensor], y: Tensor, coords: list[Tensor] | None = None, *,
    epochs: int = 15, lr: float = 2e-3, seed: int = 0,
) -> MILModel:  # fmt: skip
    """Train a model of two classes on batches of 16 patients, with a falling rate."""
    torch.manual_seed(seed)
    tiles = torch.cat(bags)
    model = MILModel(tiles.shape[1], name, options, {"kind": "classification", "classes": ["no", "yes"]})
    model.standardise_by(tiles.mean(0), tiles.std(0))
    drawn = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(seed))
    model.aggregator.prepare(lambda most: (tiles[drawn[:most]] - model.mean) / model.scale, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    steps = epochs * -(-len(bags) // 16)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(bags)).split(16):
            raw, _ = model(picked(bags, coords, chosen))
            loss = cross_entropy(raw, y[chosen]) if raw.shape[1] == 2 else _binary(raw, y[chosen])
            own = model.aggregator.penalty({"y": y[chosen]}, lambda v, p=None: v.sum())
            optimiser.zero_grad()
            (loss if own is None else loss + own).backward()
            optimiser.step()
            falling.step()
    return model.eval()


def _binary(raw: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(raw[:, 0], y.to(raw.dtype))


def picked(bags: list[Tensor], coords: list[Tensor] | None, chosen: Tensor) -> BagBatch:
    """A batch of some of the bags."""
    return BagBatch.pack([bags[i] for i in chosen], None if coords is None else [coords[i] for i in chosen])


@torch.no_grad()
def auroc(model: MILModel, bags: list[Tensor], y: Tensor, coords: list[Tensor] | None = None) -> float:
    """Area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    raw = model(picked(bags, coords, torch.arange(len(bags))))[0]
    return float(roc_auc_score(y.numpy(), (raw[:, -1] - (raw[:, 0] if raw.shape[1] == 2 else 0)).numpy()))


def witnessed(seed: int, count: int, dim: int = 12, shift: float = 2.0) -> tuple[list[Tensor], Tensor]:
    """Bags of 15 to 40 tiles; in every second one a fifth of the tiles is moved along three dimensions."""
    generator = torch.Generator().manual_seed(seed)
    y, bags = torch.arange(count) % 2, []
    for label in y:
        n = int(torch.randint(15, 41, (1,), generator=generator))
        bag = torch.randn(n, dim, generator=generator) + 0.5 * torch.randn(dim, generator=generator)
        if label:
            bag[: max(2, n // 5), :3] += shift
        bags.append(bag[torch.randperm(n, generator=generator)])
    return bags, y


def neighbouring(seed: int, count: int, side: int = 6) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Slides of side * side tiles with six of one kind: in every second slide side by side in pairs, else apart.

    The tiles themselves say nothing of the class, only where they lie; they come in a drawn order.
    """
    generator = torch.Generator().manual_seed(seed)
    y, bags, coords = torch.arange(count) % 2, [], []
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).reshape(-1, 2)
    for label in y:
        bag = 0.3 * torch.randn(side * side, 4, generator=generator)
        for row in range(0, side, 2):
            if label:
                first = int(torch.randint(side - 1, (1,), generator=generator))
                taken = (first, first + 1)
            else:
                first = int(torch.randint(side - 3, (1,), generator=generator))
                taken = (first, int(torch.randint(first + 3, side, (1,), generator=generator)))
            for column in taken:
                bag[row * side + column, 0] += 3
        order = torch.randperm(side * side, generator=generator)
        bags.append(bag[order])
        coords.append(places[order] * 448)
    return bags, y, coords
