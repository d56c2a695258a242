"""WiKG: a slow loop, neighbours in blocks, both weights, and the cap on large bags."""

from __future__ import annotations

import pytest
import torch
from models.aggregators import mixing
from models.aggregators.mixing import auroc, random_bags, trained, witnessed
from torch.nn.functional import leaky_relu

from histostudy.errors import ModelError
from histostudy.models.aggregators import wikg
from histostudy.models.aggregators.wikg import WiKG, best_neighbours
from histostudy.models.batch import BagBatch
from histostudy.models.registry import build_aggregator

SMALL = {"hidden": 16, "attention": 8, "neighbours": 4}


def build(**options: object) -> WiKG:
    torch.manual_seed(0)
    model = build_aggregator("wikg", 6, {**SMALL, **options})
    assert isinstance(model, WiKG)
    return model


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("count", [1, 3, 4, 25])
def test_it_equals_a_slow_loop(count: int, published: bool) -> None:
    model = build(published_weight=published).double().eval()
    (bag,) = random_bags(count)
    with torch.no_grad():
        vectors, maps = model(BagBatch.pack([bag]))
        x = model.embed(bag)
        x = (x + x.mean(0)) / 2
        head, tail = model.head(x), model.tail(x)
        found = []
        for i in range(count):
            scores = [float(head[i] @ tail[j]) / 4.0 for j in range(count)]  # sqrt(16)
            near = sorted(range(count), key=lambda j: -scores[j])[:4]
            share = torch.tensor([scores[j] for j in near], dtype=torch.float64).softmax(0)
            weight = []
            for p, j in zip(share, near, strict=True):
                gate = torch.tanh(head[i] + p * tail[j] + (1 - p) * head[i])
                weight.append(tail[j].sum() * gate.sum() if published else tail[j] @ gate)
            taken = sum(w * tail[j] for w, j in zip(torch.stack(weight).softmax(0), near, strict=True))
            found.append(leaky_relu(model.both(head[i] + taken)) + leaky_relu(model.product(head[i] * taken)))
        h = torch.stack(found)
        weights = model.readout(h).softmax(0)
        expected = model.norm((weights * h).sum(0))
    torch.testing.assert_close(maps, weights[:, 0], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(vectors[0], expected, atol=1e-9, rtol=1e-9)


def test_the_two_weights_are_not_the_same() -> None:
    batch = BagBatch.pack(random_bags(25))
    with torch.no_grad():
        ours, theirs = (build(published_weight=p).double().eval()(batch)[0] for p in (False, True))
    assert not torch.allclose(ours, theirs, atol=1e-3)


def test_neighbours_in_blocks_are_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    heads, tails = random_bags(50, 50)
    whole = (heads @ tails.T).topk(5, dim=1).indices
    model, batch = build().double().eval(), BagBatch.pack(random_bags(50, 7))
    with torch.no_grad():
        before = model(batch)
        monkeypatch.setattr(wikg, "BLOCK", 7)
        monkeypatch.setattr(wikg, "ROWS", 9)
        assert torch.equal(best_neighbours(heads, tails, 5), whole)
        after = model(batch)
    torch.testing.assert_close(after, before)


def test_large_bags_are_refused_where_the_study_says_so() -> None:
    batch = BagBatch.pack([bag.float() for bag in random_bags(3, 30)])
    build(most_tiles=30)(batch)
    with pytest.raises(ModelError, match="a bag of 30 tiles, at most 29 are allowed.*most_tiles"):
        build(most_tiles=29)(batch)


def test_no_gradient_graph_holds_all_pairs() -> None:
    """The largest tensor kept for the backward pass has N k rows of numbers, not N N."""
    count, largest = 1500, 0

    def note(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        build()(BagBatch.pack([bag.float() for bag in random_bags(count)]))
    assert largest <= count * 4 * 16 < count * count


def test_every_weight_is_trained() -> None:
    model = build()
    model(BagBatch.pack([bag.float() for bag in random_bags(20, 9)]))[0].square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.head.weight.grad.abs().sum() > 0 and model.tail.weight.grad.abs().sum() > 0


def test_who_else_is_in_the_batch_does_not_matter() -> None:
    mixing.check_company_changes_nothing(build())
    mixing.check_gradients_stay_in_their_bag(build())


def test_tiny_bags_half_precision_and_no_chance_in_evaluation() -> None:
    mixing.check_tiny_bags(build())
    mixing.check_half_precision(build())
    mixing.check_evaluation_draws_nothing(build())


def test_the_order_of_tiles_does_not_matter() -> None:
    assert max(mixing.moved_by_permutation(build())) < 1e-9


def test_it_learns_which_bags_hold_witnesses_which_the_mean_hardly_sees() -> None:
    train, test = witnessed(0, 192), witnessed(1, 120)
    found = auroc(trained("wikg", {"hidden": 32}, *train, epochs=20), *test)
    assert found > 0.85
    assert found > auroc(trained("mean", {}, *train, epochs=20), *test) + 0.05
