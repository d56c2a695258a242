"""Heads of survival: the ranking head's scale, and what the study's training keys make of a head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histostudy.models.heads import HEADS, Head, RankingHead, head_config
from histostudy.study import Training

DAYS = [100, 300, 600]


def cohort(n: int = 200, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A score whose log hazard ratio is one, and the outcome."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n)
    died, left = rng.exponential(400 * np.exp(-score)), rng.exponential(900, n)
    targets = {"time": torch.tensor(np.minimum(died, left)), "event": torch.tensor(died <= left)}
    return torch.tensor(score)[:, None], {name: value.float() for name, value in targets.items()}


def head_of(targets: dict[str, torch.Tensor], **training: object) -> Head:
    config = head_config("survival", Training(**training), targets, days=DAYS)
    head = HEADS[config["kind"]](3, config)
    head.start(targets)
    return head


def test_training_keys_choose_the_head() -> None:
    _, targets = cohort()
    assert head_of(targets).config["kind"] == "survival_nll"
    nll = head_of(targets, bins=6, alpha=0.3)
    assert nll.config["bins"] == 6 and nll.config["alpha"] == 0.3 and nll.linear.out_features == 6
    assert isinstance(head_of(targets, loss="rank"), RankingHead)
    raw = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    losses = [head_of(targets, bins=6, alpha=alpha).loss(raw, targets).item() for alpha in (0.0, 0.3)]
    assert losses[1] < losses[0]  # the censored count less


def test_fewer_distinct_event_times_than_bins_make_fewer_intervals() -> None:
    targets = {"time": torch.tensor([5.0, 5, 5, 9]), "event": torch.tensor([1.0, 1, 1, 0])}
    assert head_of(targets, bins=8).config["bins"] == 2


@pytest.mark.parametrize("scale", [1.0, 1e-3, 250.0])
def test_curves_of_a_ranking_do_not_depend_on_its_scale(scale: float) -> None:
    score, targets = cohort()
    cox, rank = head_of(targets, loss="cox"), head_of(targets, loss="rank")
    cox.finish(score, targets)
    rank.finish(score * scale, targets)
    assert rank.slope.item() * scale == pytest.approx(1, abs=0.25)  # a score of log hazards, so its slope is one
    got, wanted = rank.predict(score * scale), cox.predict(score)
    np.testing.assert_array_equal(got["risk"], (score[:, 0] * scale).numpy())  # the ranking is reported as it is
    for day in DAYS:
        curve = got[f"surv_{day}"]
        assert np.abs(curve - wanted[f"surv_{day}"]).mean() < 0.05
        assert (np.diff(curve[np.argsort(score[:, 0].numpy())]) <= 1e-12).all()
    one = head_of(targets, loss="rank")
    one.finish(score, targets)
    np.testing.assert_allclose(got["surv_300"], one.predict(score)["surv_300"], rtol=1e-5)


def test_curves_of_a_ranking_are_calibrated_on_the_training_part() -> None:
    score, targets = cohort()
    rank = head_of(targets, loss="rank")
    rank.finish(score * 40, targets)
    seen, time = targets["event"].numpy() > 0, targets["time"].numpy()
    times = np.unique(time[seen])
    for day in (100, 300):
        left = np.prod([1 - (time[seen] == t).sum() / (time >= t).sum() for t in times[times <= day]])
        assert rank.predict(score * 40)[f"surv_{day}"].mean() == pytest.approx(left, abs=0.03)


def test_a_ranking_against_its_training_part_gives_one_curve_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Curves never contradict the risk: the outcome must not turn a failed ranking round."""
    score, targets = cohort()
    rank, none = head_of(targets, loss="rank"), head_of(targets, loss="rank")
    rank.finish(-score, targets)
    assert "runs against its own training part" in caplog.text
    none.finish(torch.zeros(200, 1), targets)
    columns = rank.predict(-score)
    np.testing.assert_array_equal(columns["risk"], -score[:, 0].numpy())
    assert rank.slope.item() == 0
    for day in DAYS:
        np.testing.assert_allclose(columns[f"surv_{day}"], none.predict(-score)[f"surv_{day}"])


@pytest.mark.parametrize("seed", range(6))
def test_a_higher_risk_never_has_the_better_curve(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Scores of noise point either way on the training part."""
    _, targets = cohort(seed=seed)
    noise = torch.tensor(np.random.default_rng(seed).normal(size=200))[:, None]
    for score in (noise, -noise):
        rank = head_of(targets, loss="rank")
        rank.finish(score, targets)
        columns = rank.predict(score)
        assert all((np.diff(columns[f"surv_{day}"][columns["risk"].argsort()]) <= 1e-12).all() for day in DAYS)
    assert caplog.text.count("runs against") == 1


def test_an_untrained_constant_ranking_gives_one_curve() -> None:
    _, targets = cohort()
    rank = head_of(targets, loss="rank")
    rank.finish(torch.zeros(200, 1), targets)
    curve = rank.predict(torch.zeros(200, 1))["surv_300"]
    assert rank.slope.item() == 0 and np.ptp(curve) == 0 and 0 < curve[0] < 1


def test_vectors_that_are_predictions_get_a_bias_alone() -> None:
    _, targets = cohort()
    config = head_config("survival", Training(loss="cox"), targets, days=DAYS) | {"direct": True}
    head = HEADS[config["kind"]](1, config)
    assert [tuple(p.shape) for p in head.parameters()] == [(1,)]
    vectors = torch.tensor([[1.0], [-2.0]])
    assert torch.equal(head(vectors), vectors)
