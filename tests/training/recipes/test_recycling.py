"""The recycle network: k tokens of each bag by attention, and queries that follow in training alone."""

from __future__ import annotations

import math

import torch
from training.recipes.recipedata import random_batch

from histostudy.models.batch import BagBatch
from histostudy.training.recipes.recycling import Recycle


def network(**changed: object) -> Recycle:
    torch.manual_seed(0)
    return Recycle(**({"width": 32, "tokens": 3, "heads": 4, "inner": 16, "dropout": 0.0, "momentum": 0.9} | changed))


def test_tokens_are_those_of_a_loop() -> None:
    batch = random_batch(1, 9, 4)
    module = network().double().eval()
    batch = batch.with_features(batch.features.double())
    merged = module(batch)
    assert merged.shape == (3, 3, 32)
    query = module.to_query(module.norm_queries(module.queries))[0]
    for bag in range(3):
        both = module.to_key_value(module.norm_tokens(batch.features[batch.segments == bag]))
        key, value = both[:, :16], both[:, 16:]
        heads = []
        for h in range(4):
            part = slice(4 * h, 4 * h + 4)
            weights = (query[:, part] @ key[:, part].T / math.sqrt(4)).softmax(1)
            heads.append(weights @ value[:, part])
        assert torch.allclose(merged[bag], module.out(torch.cat(heads, 1)), atol=1e-12)


def test_queries_follow_in_training_alone_and_without_gradient() -> None:
    batch = random_batch(5, 7)
    module = network()
    before = module.queries.clone()
    assert before.abs().max() <= math.sqrt(6 / (2.5 * 32))
    module.eval()(batch)
    assert torch.equal(module.queries, before)
    merged = module.train()(batch)
    share = 1 - 0.9**2
    assert torch.allclose(module.queries, (1 - share) * before + share * merged.mean(0, keepdim=True), atol=1e-6)
    assert not module.queries.requires_grad
    merged.sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert "queries" not in dict(module.named_parameters())


def test_a_bag_does_not_depend_on_its_neighbours() -> None:
    batch = random_batch(2, 30)
    module = network().eval()
    alone = module(BagBatch(batch.features[:2], torch.tensor([0, 2])))
    assert torch.allclose(module(batch)[:1], alone, atol=1e-6)
