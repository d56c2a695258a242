"""Masked hard instance mining: what each tile becomes, the teacher, and that hard tiles are learned by masking."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from training.recipes.recipedata import (
    auc_of,
    begun,
    network_of,
    planted,
    random_batch,
    recipes_of,
    step_of,
    store_of,
    through,
    trained,
)

from histostudy.errors import ModelError
from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_softmax, segment_sum
from histostudy.models.registry import AGGREGATORS
from histostudy.study import Training
from histostudy.training.recipes.base import Run
from histostudy.training.recipes.mhim import MHIM, MHIMSettings

#: Nothing is masked, merged or asked of the teacher's likeness.
NOTHING = {"warmup": 0, "high": 0.0, "keep_fraction": 1.0, "alpha": 0.0}
#: The settings of the notes' toy: attention scores, no recycled tokens.
TOY = {"score": "attention", "high": 0.05, "merge_tokens": 0, "momentum": 0.999}


@dataclass(frozen=True)
class TwoMapsOptions:
    pass


@pytest.fixture
def two_maps() -> Iterator[str]:
    """An aggregator of two maps, whose vector is no sum over tokens."""

    class TwoMaps(AttentionAggregator):
        Options = TwoMapsOptions

        def __init__(self, dim_in: int, options: TwoMapsOptions) -> None:
            super().__init__(dim_in, options)
            self.width = self.dim_out = 16
            self.embed, self.score = nn.Linear(dim_in, 16), nn.Linear(16, 2)

        def pool(self, tokens: BagBatch) -> Pooled:
            maps = segment_softmax(self.score(tokens.features), tokens)
            self.last = maps  # as models do that give a penalty later: no teacher can be a deep copy
            return Pooled(segment_sum(maps.mean(1, keepdim=True) * tokens.features, tokens).tanh(), maps)

    AGGREGATORS.register("two_maps")(TwoMaps)
    yield "two_maps"
    del AGGREGATORS._items["two_maps"]


def mask_of(recipe: Any, scores: Tensor, batch: BagBatch, progress: float = 0.0, seed: int = 0) -> Any:
    return recipe.mask(scores, batch, progress, torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(0, 90), st.integers(0, 99), st.integers(0, 99),
    st.integers(1, 100), st.integers(1, 3),
)  # fmt: skip
def test_each_tile_is_kept_masked_or_rest_and_no_bag_is_empty(
    lengths: list[int], high: int, low: int, random: int, keep: int, maps: int
) -> None:
    recipe = MHIM(MHIMSettings(high=high / 100, low=low / 100, random=random / 100, keep_fraction=keep / 100))
    batch = random_batch(*lengths, dim=1)
    parts = mask_of(recipe, torch.randn(sum(lengths), maps), batch)
    assert torch.equal(parts.kept.long() + parts.masked.long() + parts.rest.long(), torch.ones(sum(lengths)).long())
    kept, masked, rest = (segment_sum(m.long(), batch).tolist() for m in (parts.kept, parts.masked, parts.rest))
    for n, k, m, r in zip(lengths, kept, masked, rest, strict=True):
        assert k >= 1
        assert k == max(1, math.floor(Fraction(keep, 100) * (k + r)))
        if not low and not random:
            assert m == min(n - 1, math.ceil(Fraction(high, 100) * n))


def test_the_highest_are_masked_and_version_1_takes_random_and_lowest_ones_too() -> None:
    batch = random_batch(40, 20, dim=1)
    scores = torch.randn(60, 1)
    parts = mask_of(MHIM(MHIMSettings(high=0.1, keep_fraction=1.0)), scores, batch)
    for bag, count in ((0, 4), (1, 2)):
        own = batch.segments == bag
        assert set(parts.masked[own].nonzero()[:, 0].tolist()) == set(scores[own, 0].topk(count).indices.tolist())
    low = mask_of(MHIM(MHIMSettings(version=1, random=0.0, high=0.0, low=0.2)), scores, batch)
    assert set(low.masked[:40].nonzero()[:, 0].tolist()) == set((-scores[:40, 0]).topk(8).indices.tolist())
    first = MHIM(MHIMSettings(version=1, random=0.0, high=0.2, drop=0.5))
    # of the 16 highest of 40 half are masked; half way through, of ceil(40 x .1 / .5) = 8
    for progress, top, count in ((0.0, 16, 8), (0.5, 8, 4)):
        masked = mask_of(first, scores, batch, progress).masked[:40].nonzero()[:, 0]
        assert len(masked) == count
        assert set(masked.tolist()) <= set(scores[:40, 0].topk(top).indices.tolist())
    both = mask_of(MHIM(MHIMSettings(version=1, random=0.5, high=0.0)), scores, batch)
    assert segment_sum(both.masked.long(), batch).tolist() == [20, 10]


def test_versions_choose_the_defaults() -> None:
    one, two = MHIMSettings(version=1), MHIMSettings()
    assert (one.score, one.random, one.drop, one.decay, one.merge_tokens) == ("attention", 0.5, 0.5, True, 0)
    assert (two.score, two.random, two.drop, two.decay, two.merge_tokens) == ("class", 0.0, 1.0, False, 5)
    assert MHIMSettings(version=1, random=0.1).random == 0.1


def test_empty_masks_are_the_plain_model_exactly() -> None:
    bags, labels = planted.sb2(0, 32)
    plain, _ = trained({}, bags, labels, epochs=3)
    masked, history = trained({"mhim": NOTHING}, bags, labels, epochs=3)
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in masked.state_dict().items())
    assert (history["mhim_kept"] == 1).all()
    network, batch = network_of(), random_batch(1, 6, 30)
    step = step_of(network, batch)
    through(step, begun(network, "mhim", **NOTHING))
    assert torch.equal(step.vectors, network.aggregator(batch)[0])


def test_the_teacher_changes_by_its_average_alone() -> None:
    network = network_of()
    recipe = begun(network, "mhim", warmup=0, momentum=0.9)
    start = copy.deepcopy(dict(recipe.teacher.named_parameters()))
    optimiser = torch.optim.SGD(network.parameters(), 0.5)
    step = step_of(network, random_batch(20, 9, 30))
    through(step, recipe).backward()
    optimiser.step()
    assert all(torch.equal(p, start[name]) for name, p in recipe.teacher.named_parameters())
    assert all(p.grad is None and not p.requires_grad for p in recipe.teacher.parameters())
    recipe.after_step(step)
    for name, live in network.aggregator.named_parameters():
        expected = 0.9**3 * start[name] + (1 - 0.9**3) * live
        assert torch.allclose(recipe.teacher.get_parameter(name), expected, atol=1e-6)


def test_a_momentum_that_rises_ends_still() -> None:
    network = network_of()
    recipe = begun(network, "mhim", warmup=0, momentum=0.5, momentum_cosine=True)
    step = step_of(network, random_batch(4, 4), progress=0.75)
    before = recipe.teacher_head.weight.clone()
    with torch.no_grad():
        network.head.linear.weight += 1
    recipe.after_step(step)
    momentum = (1 - 0.5 * (1 + math.cos(0.75 * math.pi)) / 2) ** 2
    assert torch.allclose(recipe.teacher_head.weight, before + 1 - momentum, atol=1e-6)


def test_consistency_is_its_formula_and_pulls_the_student_alone() -> None:
    network = network_of()
    recipe = begun(network, "mhim", warmup=0, high=0.2, merge_tokens=0, alpha=2.0)
    batch = random_batch(20, 9)
    step = step_of(network, batch)
    loss = through(step, recipe)
    teacher = network.aggregator(batch)[0].detach()
    student = step.vectors
    expected = -((teacher / 0.1).softmax(1) * student.log_softmax(1)).sum(1).mean()
    assert (loss - step.loss(student)).item() == pytest.approx(2 * expected.item(), abs=1e-5)
    row = recipe.log()
    assert row["mhim_consistency"] == pytest.approx(expected.item(), abs=1e-5)
    assert row["mhim_kept"] == pytest.approx((math.floor(0.8 * 16) + math.floor(0.8 * 7)) / 29)
    assert math.isnan(recipe.log()["mhim_kept"])


def test_class_scores_are_those_of_a_loop() -> None:
    network = network_of(heads=2, head={"kind": "classification", "classes": ["a", "b", "c"]})
    recipe = begun(network, "mhim", warmup=0)
    batch = random_batch(4, 6)
    scores = recipe.ask(step_of(network, batch))
    network.eval()
    for bag in range(2):
        own = batch.features[batch.segments == bag]
        _, maps = network.aggregator.pool(BagBatch.pack([network.aggregator.embed(own)]))
        for i, h in enumerate(network.aggregator.embed(own)):
            u = torch.cat([maps[i, 0] * h, maps[i, 1] * h])
            c = (network.head.linear.weight @ u).softmax(0)
            assert scores[batch.segments == bag][i].item() == pytest.approx(c.max().item(), abs=1e-6)


def test_the_rest_becomes_k_tokens_after_those_kept() -> None:
    network = network_of()
    recipe = begun(network, "mhim", warmup=0, high=0.1, keep_fraction=0.5, merge_tokens=3, merge_width=16)
    step = step_of(network, random_batch(1, 2, 20, 41))
    loss = through(step, recipe)
    # 1; 2 less 1 masked; 18 halved; 36 halved; and three tokens each
    assert step.attended.lengths.tolist() == [4, 4, 12, 21]
    assert segment_sum(step.maps, step.attended).flatten().tolist() == pytest.approx([1.0] * 4)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in recipe.extra.parameters())


def test_the_recycle_network_is_trained_and_is_no_part_of_the_model() -> None:
    bags, labels = planted.sb2(0, 32)
    network, _ = trained({"mhim": {"warmup": 1}}, bags, labels, epochs=2)
    assert set(network.state_dict()) == set(network_of().state_dict())
    batch = next(store_of(bags).evaluation_batches(range(32)))
    assert torch.equal(network(batch)[0], network(batch)[0])


def test_warmup_trains_plainly_and_teacher_and_student_start_from_it() -> None:
    network, asked = network_of(), []

    def fit(epochs: int) -> None:
        asked.append(epochs)
        nn.init.constant_(network.head.linear.weight, 7.0)
        nn.init.constant_(network.aggregator.embed[0].weight, 5.0)

    (recipe,) = recipes_of(network, mhim={"warmup": 4})
    recipe.begin(Run(network, store_of(planted.sb2(0, 4)[0]), [0, 1, 2, 3], {}, Training(), 0, fit))
    assert asked == [4]
    assert (recipe.teacher_head.weight == 7).all()
    assert (recipe.teacher.embed[0].weight == 5).all()
    assert recipe.teacher.embed[0].weight is not network.aggregator.embed[0].weight
    bags, labels = planted.sb2(0, 32)
    warmed, history = trained({"mhim": {"warmup": 4}}, bags, labels, epochs=4)
    cold, _ = trained({"mhim": {"warmup": 0}}, bags, labels, epochs=4)
    assert len(history) == 4
    assert auc_of(warmed, bags, labels) > auc_of(cold, bags, labels)


@pytest.mark.parametrize("dropout", [False, True])
def test_the_teacher_works_without_dropout_unless_asked(dropout: bool) -> None:
    network = network_of(dropout=0.5)
    recipe = begun(network, "mhim", warmup=0, teacher_dropout=dropout)
    step = step_of(network, random_batch(20))
    assert torch.equal(recipe.ask(step), recipe.ask(step)) is not dropout


def test_what_does_not_fit_is_refused(two_maps: str) -> None:
    with pytest.raises(ModelError, match="needs attention over embedded tiles"):
        recipes_of(network_of("mean"), mhim={})
    with pytest.raises(ModelError, match="TwoMaps says not what each tile contributes"):
        recipes_of(network_of(two_maps), mhim={})
    with pytest.raises(ModelError, match="class-aware scores are not for regression"):
        recipes_of(network_of(head={"kind": "regression", "columns": ["x"]}), mhim={})
    network = network_of()
    network.head.linear.out_features = 1
    with pytest.raises(ModelError, match="two outputs"):
        begun(network, "mhim", warmup=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 3}, {"version": []}, {"score": "both"}, {"high": 1.0}, {"high": 0.6, "drop": 0.5}, {"drop": 0},
        {"random": "0.5"}, {"low": -0.1}, {"decay": 1}, {"keep_fraction": 0}, {"keep_fraction": 1.1},
        {"merge_tokens": -1}, {"merge_tokens": True}, {"warmup": 1.5}, {"alpha": -1}, {"teacher_temperature": 0},
        {"student_temperature": None}, {"momentum": 1.0}, {"momentum_cosine": "no"}, {"teacher_dropout": 0},
        {"merge_momentum": 2}, {"merge_heads": 0}, {"merge_width": 127}, {"merge_dropout": 1},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ModelError, match=f"wrong option: {next(iter(wrong))}"):
        MHIMSettings(**wrong)


@pytest.mark.parametrize("version", [1, 2])
def test_other_aggregators_with_attention_and_other_recipes_go_along(two_maps: str, version: int) -> None:
    bags, labels = planted.sb2(0, 48)
    recipe = {"mhim": {"version": version, "score": "attention", "warmup": 2}, "aem": {}, "ema": {}}
    network, history = trained(recipe, bags, labels, aggregator=two_maps, epochs=3)
    assert {"mhim_kept", "mhim_consistency", "aem_entropy"} <= set(history)
    assert np.isfinite(history[["mhim_kept", "mhim_consistency", "aem_entropy", "train_loss"]]).all(axis=None)
    again, _ = trained(recipe, bags, labels, aggregator=two_maps, epochs=3)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in network.state_dict().items())


def test_masking_teaches_the_hard_tiles_and_the_likeness_alone_does_not() -> None:
    gain = []
    for seed in range(3):
        bags, labels = planted.sb2(100 + seed, 80)
        hard, truth = planted.sb2(1900 + seed, 200, hard_only=True)
        areas = [
            auc_of(trained({"mhim": TOY | changed}, bags, labels, seed, epochs=20)[0], hard, truth)
            for changed in ({}, {"high": 0.0, "keep_fraction": 1.0})
        ]
        gain.append(areas[0] - areas[1])
    assert np.mean(gain) > 0.005


@pytest.mark.parametrize("version", [1, 2])
def test_the_defaults_find_a_planted_effect_and_permuted_labels_stay_at_chance(version: int) -> None:
    bags, labels = planted.sb2(100, 80)
    held_out, truth = planted.sb2(900, 200)
    recipe = {"mhim": {"version": version, "warmup": 10}}
    assert auc_of(trained(recipe, bags, labels, epochs=25)[0], held_out, truth) > 0.8
    areas = []
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(labels)
        areas.append(auc_of(trained({"mhim": {"version": version, "warmup": 4}}, bags, shuffled, seed, epochs=4)[0],
                            held_out, truth))  # fmt: skip
    assert abs(np.mean(areas) - 0.5) < 0.14
