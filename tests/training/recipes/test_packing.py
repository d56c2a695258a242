"""The parts of PackMIL: packing is exact, nothing is lost or leaks, and labels of hyperslides are what hand says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histostudy.models.batch import BagBatch
from histostudy.models.heads import HEADS
from histostudy.models.registry import build_aggregator
from histostudy.models.survival import nll_loss
from histostudy.training.recipes.packing import (
    Hyperslides,
    class_labels,
    hyperslide_loss,
    hyperslides,
    isup_labels,
    next_fit,
    sets_of,
    split_bags,
    survival_labels,
    survival_loss,
)


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def batch_of(*lengths: int, dim: int = 3) -> BagBatch:
    """Every tile knows its number in the batch, in each feature, its position and its scale."""
    total = sum(lengths)
    number = torch.arange(total)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    features = number[:, None].float().expand(-1, dim).contiguous()
    return BagBatch(features, offsets, number[:, None].expand(-1, 2).contiguous(), {}, number.float())


def mixed(*members: int, slides: int = 1) -> Hyperslides:
    """Hyperslides of sets of these sizes, all in one, or so many of as many each."""
    sets = batch_of(*members)
    most = sum(members) // slides
    return hyperslides(sets, torch.arange(len(members)), most)


def test_packed_is_unpacked_forward_and_in_gradients() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = build_aggregator("abmil", 8, {"hidden": 16, "attention": 8, "heads": 2}).double().eval()
    lengths = np.clip(rng.lognormal(4, 1, 64), 5, 2000).astype(int)
    bags = [torch.randn(int(n), 8, dtype=torch.float64) for n in lengths]
    weight = torch.randn(64, model.dim_out, dtype=torch.float64)

    def gradients(vectors: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad((vectors * weight).sum(), list(model.parameters())))

    packed, _ = model(BagBatch.pack(bags))
    single = torch.cat([model(BagBatch.pack([bag]))[0] for bag in bags])
    assert (packed - single).abs().max() < 1e-10
    for one, two in zip(gradients(packed), gradients(single), strict=True):
        assert (one - two).abs().max() < 1e-10 * (1 + two.abs().max())


def test_nothing_leaks_between_packed_slides() -> None:
    torch.manual_seed(0)
    model = build_aggregator("abmil", 8, {}).double().eval()
    bags = [torch.randn(n, 8, dtype=torch.float64, requires_grad=True) for n in (5, 1, 40)]
    vectors, _ = model(BagBatch.pack(bags))
    of_last = torch.autograd.grad(vectors[2].sum(), bags)
    assert not of_last[0].any() and not of_last[1].any() and of_last[2].all(dim=0).any()
    spoilt, _ = model(BagBatch.pack([bags[0], bags[1] * 50, bags[2]]))
    assert torch.equal(vectors[[0, 2]], spoilt[[0, 2]])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.floats(0.05, 0.95),
    st.integers(0, 20),
    st.integers(0, 99),
)
def test_every_token_is_in_one_branch(lengths: list[int], keep: float, smallest: int, seed: int) -> None:
    batch = batch_of(*lengths)
    main, rest = split_bags(batch, keep, smallest, 1000, 1000, torch.Generator().manual_seed(seed))
    for length, one, two in zip(lengths, main.split(lengths), rest.split(lengths), strict=True):
        if length < smallest:
            assert one.all() and two.all()
        else:
            assert (one ^ two).all()
            assert one.sum() == max(1, int(length * keep + 1e-9))
    cut = split_bags(batch, keep, smallest, 7, 3, torch.Generator().manual_seed(seed))
    for part, whole, most in zip(cut, (main, rest), (7, 3), strict=True):
        assert (part & ~whole).sum() == 0
        for one, two in zip(part.split(lengths), whole.split(lengths), strict=True):
            assert one.sum() == min(most, int(two.sum()))


def test_the_split_is_drawn_evenly_and_anew() -> None:
    batch, generator = batch_of(10, 4), drawn()
    counts = sum(split_bags(batch, 0.4, 0, 99, 99, generator)[0].double() for _ in range(1500)) / 1500
    assert counts.numpy() == pytest.approx([0.4] * 10 + [0.25] * 4, abs=0.06)


def test_residual_sets_hold_their_tiles_positions_and_scales() -> None:
    batch = batch_of(1, 9, 4)
    main, rest = split_bags(batch, 0.5, 0, 99, 99, drawn())
    sets, patients = sets_of(batch, rest)
    assert patients.tolist() == [1, 2]  # the bag of one tile has nothing left
    assert sets.lengths.tolist() == [5, 2]
    assert torch.equal(sets.features[:, 0].long(), rest.nonzero()[:, 0])
    assert torch.equal(sets.coords[:, 0], rest.nonzero()[:, 0]) and torch.equal(sets.scales, sets.features[:, 0])
    assert len(batch.select(main).features) + len(sets.features) == 14


def test_next_fit_by_hand() -> None:
    sizes = torch.tensor([3, 4, 4, 1, 12, 2, 5, 3])
    assert next_fit(sizes, 8).tolist() == [0, 0, 1, 1, 2, 3, 3, 4]
    assert next_fit(torch.tensor([8, 8]), 8).tolist() == [0, 1]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(30, 90))
def test_next_fit_keeps_to_the_capacity_and_wastes_less_than_half(sizes: list[int], most: int) -> None:
    pack = next_fit(torch.tensor(sizes), most)
    totals = torch.bincount(pack, torch.tensor(sizes).double())
    assert totals.max() <= most
    assert (pack.diff() >= 0).all() and (pack.diff() <= 1).all()
    assert (totals[:-1] + totals[1:] > most).all()


def test_a_hyperslide_is_one_bag_of_its_members() -> None:
    sets = batch_of(3, 4, 4, 1)
    packed = hyperslides(sets, torch.tensor([2, 0, 5, 7]), 8)
    assert packed.slide.tolist() == [0, 0, 1, 1]
    assert packed.batch.lengths.tolist() == [7, 5]
    assert packed.tokens.tolist() == [3, 4, 4, 1] and packed.patients.tolist() == [2, 0, 5, 7]
    assert torch.equal(packed.batch.features, sets.features) and packed.batch.coords is None


def test_labels_of_classes() -> None:
    same = class_labels(torch.tensor([2, 2, 2]), 3, mixed(5, 1, 9))
    assert same.tolist() == [[0, 0, 1]]
    tie = class_labels(torch.tensor([0, 1]), 2, mixed(4, 4))
    assert tie.tolist() == [[0.5, 0.5]]
    two = class_labels(torch.tensor([0, 1, 1, 2]), 3, mixed(3, 1, 2, 2, slides=2))
    assert two.tolist() == [[0.75, 0.25, 0], [0, 0.5, 0.5]]


@pytest.mark.parametrize("grade", range(6))
def test_a_hyperslide_of_one_grade_has_that_grade(grade: int) -> None:
    label = isup_labels(torch.full((3,), grade), mixed(5, 1, 9))[0]
    assert label.tolist() == pytest.approx([float(k == grade) for k in range(6)])


@pytest.mark.parametrize(
    ("grades", "tokens", "expected"),
    [
        ((1, 4), (1, 1), {2: 1.0}),  # 3.5 + 3.5 = 7, minor not below major: grade 2
        ((0, 1), (1, 1), {0: 0.5, 1: 0.5}),  # 2.5 + 2.5 = 5, half way from 4 to 6
        ((1, 3), (1, 1), {2: 1.0}),  # 3.5 + 3 = 6.5, major leads: half way from 1 to 3
        ((1, 2), (1, 1), {1: 0.5, 2: 0.5}),  # 3 + 3.5, minor leads: half way from 1 to 2
        ((2, 3), (1, 1), {2: 1.0}),  # 3.5 + 3.5 = 7
        ((2, 3), (1, 3), {3: 1.0}),  # 3.75 + 3.25 = 7, major leads
        ((3, 4), (1, 3), {3: 0.25, 4: 0.75}),  # 4 + 3.75 = 7.75
        ((4, 5), (3, 1), {4: 0.5, 5: 0.5}),  # 4.25 + 4.25 = 8.5
        ((4, 5), (1, 3), {5: 1.0}),  # 9.5: above 9 it is grade 5
        ((0, 5), (2, 1), {1: 1.0}),  # 3 + 3 = 6
    ],
)
def test_isup_labels_by_hand(grades: tuple, tokens: tuple, expected: dict) -> None:
    label = isup_labels(torch.tensor(grades), mixed(*tokens))[0]
    assert label.tolist() == pytest.approx([expected.get(k, 0.0) for k in range(6)])


@pytest.mark.parametrize(
    ("interval", "event", "tokens", "expected"),
    [
        ((2, 1, 3), (1, 1, 0), (1, 1, 8), (1, 1, 0.0)),  # the earliest has its event: no censoring
        ((2, 1, 3), (1, 0, 1), (3, 2, 5), (2, 1, 0.2)),  # the earliest is censored: event of the first who has one
        ((2, 1), (0, 0), (1, 1), (1, 1, 1.0)),  # nobody has an event
        ((1, 1), (0, 1), (3, 1), (1, 1, 0.0)),  # a tie: the event counts, whoever came first
        ((1, 1), (1, 0), (3, 1), (1, 1, 0.0)),
        ((3,), (0,), (4,), (3, 3, 1.0)),
    ],
)
def test_survival_labels_by_hand(interval: tuple, event: tuple, tokens: tuple, expected: tuple) -> None:
    label = survival_labels(torch.tensor(interval), torch.tensor(event).float(), mixed(*tokens))
    assert [float(x) for x in label] == pytest.approx(expected)


def test_survival_loss_is_the_published_formula() -> None:
    logits = torch.tensor([[0.3, -0.2, 0.5, 1.0], [0.1, 0.2, -0.4, 0.0]], dtype=torch.float64)
    hazard = logits.sigmoid()
    through = torch.cat([torch.ones(2, 1).double(), (1 - hazard).cumprod(1)], 1)
    label = (torch.tensor([2, 0]), torch.tensor([1, 0]), torch.tensor([0.3, 1.0]).double())
    for alpha in (0.0, 0.4):
        expected = 0.0
        for i, (seen, first, c) in enumerate(zip(*label, strict=True)):
            uncensored = -(1 - c) * (through[i, seen].log() + hazard[i, seen].log())
            censored = -c * through[i, first + 1].log()
            expected += ((1 - alpha) * (censored + uncensored) + alpha * uncensored) / 2
        assert survival_loss(logits, label, alpha).item() == pytest.approx(float(expected), rel=1e-12)


def test_a_hyperslide_of_one_patient_has_the_patients_loss() -> None:
    packed = mixed(4, 4, 4, slides=3)
    torch.manual_seed(0)
    vectors, time = torch.randn(3, 5), torch.tensor([100.0, 700.0, 300.0])
    targets = {
        "classification": {"y": torch.tensor([0, 2, 1])},
        "survival_nll": {"time": time, "event": torch.tensor([1.0, 0.0, 1.0])},
        "regression": {"y": torch.tensor([[1.0, 5.0], [2.0, float("nan")], [4.0, 4.0]])},
    }
    more = {"classification": {"classes": [*"abc"]}, "survival_nll": {"bins": 2, "days": []},
            "regression": {"columns": [*"ab"]}}  # fmt: skip
    for kind, theirs in targets.items():
        head = HEADS[kind](5, {"kind": kind, **more[kind]})
        head.start(theirs)
        one = hyperslide_loss(head, vectors, theirs, packed, isup=False)
        assert one.item() == pytest.approx(head.loss(head(vectors), theirs).item(), rel=1e-6), kind


def test_numbers_are_averaged_by_tokens_and_missing_ones_are_left_out() -> None:
    nan = float("nan")
    y = torch.tensor([[1.0, nan, nan], [5.0, 2.0, nan]])
    mean = mixed(3, 1).mean(y)
    assert mean[0, :2].tolist() == [2.0, 2.0] and torch.isnan(mean[0, 2])


def test_nll_loss_is_what_a_certain_label_gives() -> None:
    logits = torch.randn(1, 4, dtype=torch.float64)
    at = torch.tensor([2])
    for share in (0.0, 1.0):
        loss = survival_loss(logits, (at, at, torch.tensor([share]).double()))
        assert loss.item() == pytest.approx(nll_loss(logits, at, torch.tensor([1 - share])).item())
