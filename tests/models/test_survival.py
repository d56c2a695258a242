"""Survival maths against statsmodels, a life table, and the clamped form of the likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histostudy.models import survival
from histostudy.models.heads import HEADS, head_config
from histostudy.study import Training


def cohort(seed: int, n: int = 40, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    time = rng.exponential(900 * np.exp(-x[:, 0]))
    if ties:
        time = np.ceil(time / 250) * 250
    return x, time, rng.random(n) < 0.6


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_cox_equals_statsmodels(seed: int, ties: bool) -> None:
    from statsmodels.duration.hazard_regression import PHReg

    x, time, event = cohort(seed, ties=ties)
    beta = np.array([0.7, -0.4, 0.1])
    reference = PHReg(time, x, status=event.astype(int), ties="efron")
    risk = torch.tensor(x @ beta, requires_grad=True)
    value = survival.cox_log_likelihood(risk, torch.tensor(time), torch.tensor(event).double())
    (slope,) = torch.autograd.grad(value, risk)
    assert value.item() == pytest.approx(reference.loglike(beta), abs=1e-8)
    assert slope.numpy() @ x == pytest.approx(reference.score(beta), abs=1e-6)


def test_cox_of_extreme_risks_and_of_no_event_is_finite() -> None:
    time, risk = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([300.0, -300.0, 0.0], requires_grad=True)
    loss = survival.cox_loss(risk, time, torch.tensor([1.0, 1.0, 0.0]))
    assert torch.isfinite(loss)
    empty = survival.cox_loss(risk, time, torch.zeros(3))
    (slope,) = torch.autograd.grad(empty, risk)
    assert empty == 0
    assert (slope == 0).all()


def test_breslow_equals_sksurv() -> None:
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    x, time, event = cohort(3)
    truth = np.array(list(zip(event, time, strict=True)), dtype=[("e", bool), ("t", float)])
    model = CoxPHSurvivalAnalysis(alpha=0.1).fit(x, truth)
    times, hazard = survival.breslow(x @ model.coef_, time, event)
    days = [250, 400, 1000]
    ours = survival.cox_survival(x @ model.coef_, times, hazard, days)
    # scikit-survival's baseline is of centred covariates; its curves are the same
    theirs = np.array([f(days) for f in model.predict_survival_function(x)])
    assert ours == pytest.approx(theirs, abs=1e-10)


@given(st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_nll_equals_the_clamped_form(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.uniform(-6, 6, (7, 4)))  # beyond it the clamp of the usual form binds, and ours has none
    y, event = torch.tensor(rng.integers(0, 4, 7)), torch.tensor(rng.integers(0, 2, 7))
    hazard = torch.sigmoid(logits)
    s = torch.cat([torch.ones(7, 1).double(), (1 - hazard).cumprod(1)], 1)
    row = torch.arange(7)
    seen = -(s[row, y].clamp(min=1e-12).log() + hazard[row, y].clamp(min=1e-12).log())
    censored = -s[row, y + 1].clamp(min=1e-12).log()
    by_hand = torch.where(event > 0, seen, censored).mean()
    assert survival.nll_loss(logits, y, event).item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_nll_gradient_is_finite_far_out() -> None:
    logits = torch.tensor([[50.0, -50.0, 50.0], [-50.0, 50.0, -50.0]], requires_grad=True)
    survival.nll_loss(logits, torch.tensor([2, 1]), torch.tensor([1, 0])).backward()
    assert torch.isfinite(logits.grad).all()


def test_nll_without_covariates_finds_the_life_table() -> None:
    y = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    event = torch.tensor([1, 0, 1, 1, 0, 1, 1, 0, 0, 1])
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = survival.nll_loss(logits.expand(10, 4), y, event)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert torch.sigmoid(logits[0, :3]).tolist() == pytest.approx([2 / 10, 1 / 7, 2 / 5], abs=1e-5)


def test_bins_are_quartiles_of_the_events_of_the_training_part() -> None:
    time, event = np.arange(1, 101.0), np.arange(100) % 2 == 0
    edges = survival.time_bins(time, event)
    assert edges[0] == 0
    assert np.isinf(edges[-1])
    assert edges[1:-1] == pytest.approx(np.quantile(time[event], [0.25, 0.5, 0.75]))
    inner = survival.bin_of(torch.tensor([0.0, edges[1], edges[1] - 0.1, 1e6]), torch.tensor(edges))
    assert inner.tolist() == [0, 1, 0, 3]
    assert survival.time_bins([5, 5, 5], [1, 1, 1]).tolist() == [0, 5, np.inf]


@given(st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_curves_fall_and_pass_through_the_bins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, edges = rng.normal(0, 3, (5, 4)), np.array([0, 100, 300, 900, np.inf])
    curves = survival.nll_survival(logits, edges, 2000, np.arange(0, 3000, 10))
    assert (np.diff(curves, axis=1) <= 1e-12).all()
    assert (curves[:, 0] == 1).all()
    at_edges = survival.nll_survival(logits, edges, 2000, [100, 300, 900, 2000, 9000])
    steps = np.cumprod(1 / (1 + np.exp(logits)), axis=1)
    assert at_edges[:, :4] == pytest.approx(steps)
    assert at_edges[:, 4] == pytest.approx(steps[:, 3])


def test_grid_is_monthly_with_the_horizons() -> None:
    grid = survival.day_grid(100, [50, 365])
    assert grid.tolist() == [30, 50, 61, 91, 122, 365]


@pytest.mark.parametrize("loss", ["nll", "cox", "rank"])
def test_head_predicts_risk_and_curves(loss: str) -> None:
    x, time, event = cohort(1)
    targets = {"time": torch.tensor(time).float(), "event": torch.tensor(event).float()}
    config = head_config("survival", Training(loss=loss), targets, days=[365, 730])
    head = HEADS[config["kind"]](3, config)
    head.start(targets)
    raw = head(torch.tensor(x).float()).detach()
    head.finish(raw, targets)
    columns = head.predict(raw)
    assert list(columns) == ["risk", "surv_365", "surv_730"]
    assert (columns["surv_365"] >= columns["surv_730"]).all()
    if loss == "cox":
        assert np.array_equal(np.argsort(columns["risk"]), np.argsort(-columns["surv_365"]))


def slow_ranking(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    pairs = [(i, j) for i in range(len(time)) for j in range(len(time)) if event[i] and time[i] < time[j]]
    return float(np.mean([1 / (1 + np.exp(risk[i] - risk[j])) for i, j in pairs])) if pairs else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_ranking_loss_equals_a_loop_over_comparable_pairs(seed: int) -> None:
    x, time, event = cohort(seed, 25)
    got = survival.ranking_loss(torch.tensor(x[:, 0]), torch.tensor(time), torch.tensor(event).double())
    assert got.item() == pytest.approx(slow_ranking(x[:, 0], time, event), abs=1e-12)


def test_a_steep_ranking_loss_is_one_minus_the_concordance() -> None:
    from sksurv.metrics import concordance_index_censored

    x, time, event = cohort(1, 50, ties=False)
    got = survival.ranking_loss(torch.tensor(x[:, 0] * 1e5), torch.tensor(time), torch.tensor(event).double())
    assert got.item() == pytest.approx(1 - concordance_index_censored(event, time, x[:, 0])[0], abs=1e-6)


def test_ranking_loss_has_no_gradient_where_nothing_is_comparable() -> None:
    # 0 is censored before all; 1 and 2 tie with events; 3 is censored last
    time, event = torch.tensor([1.0, 2, 2, 5]), torch.tensor([0.0, 1, 1, 0])
    risk = torch.tensor([0.3, -0.2, 1.5, 0.1], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(survival.ranking_loss(risk, time, event), risk)
    assert slope[0] == 0
    assert slope[1] < 0 and slope[2] < 0 and slope[3] > 0
    assert slope.sum().item() == pytest.approx(0, abs=1e-15)
    # 1 and 2 are compared with 3 alone, not with each other
    wrong = torch.sigmoid(risk[3] - risk[1:3]).detach()
    assert slope[1:3].tolist() == pytest.approx((-wrong * (1 - wrong) / 2).tolist())
    for lonely in (torch.zeros(4), torch.tensor([0.0, 0, 0, 1])):
        loss = survival.ranking_loss(risk, time, lonely)
        (slope,) = torch.autograd.grad(loss, risk)
        assert loss == 0 and (slope == 0).all()


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_cox_slope_equals_statsmodels(scale: float, ties: bool) -> None:
    from statsmodels.duration.hazard_regression import PHReg

    x, time, event = cohort(6, 80, ties=ties)
    score = scale * (x[:, 0] + 0.5 * x[:, 1])
    reference = PHReg(time, score[:, None], status=event.astype(int), ties="efron").fit(disp=0).params[0]
    got = survival.cox_slope(torch.tensor(score), torch.tensor(time), torch.tensor(event).double())
    assert got == pytest.approx(reference, rel=1e-5)
    assert survival.cox_slope(torch.tensor(-score), torch.tensor(time), torch.tensor(event).double()) < 0 < got


def test_cox_slope_is_bounded_and_zero_where_nothing_can_be_said() -> None:
    time = torch.arange(1.0, 21)
    perfect = survival.cox_slope(-time, time, torch.ones(20))
    assert np.isfinite(perfect) and 0 < perfect <= 20 / float(time.std(correction=0)) + 1e-9
    assert survival.cox_slope(torch.ones(20), time, torch.ones(20)) == 0
    assert survival.cox_slope(time, time, torch.zeros(20)) == 0
    with torch.no_grad():  # it makes its own gradients
        assert survival.cox_slope(-time, time, torch.ones(20)) == perfect


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.9])
def test_alpha_weighs_censored_patients_down_as_published(alpha: float) -> None:
    """(1 - alpha) times the whole likelihood plus alpha times that of the events (Zadeh and Schmid)."""
    rng = np.random.default_rng(0)
    logits, k, event = rng.normal(size=(12, 4)), rng.integers(0, 4, 12), rng.random(12) < 0.5
    hazard = 1 / (1 + np.exp(-logits))
    total = events = 0.0
    for i in range(12):
        before, through = np.prod(1 - hazard[i, : k[i]]), np.prod(1 - hazard[i, : k[i] + 1])
        seen = -np.log(before * hazard[i, k[i]]) if event[i] else 0.0
        total += seen if event[i] else -np.log(through)
        events += seen
    got = survival.nll_loss(torch.tensor(logits), torch.tensor(k), torch.tensor(event).double(), alpha)
    assert got.item() == pytest.approx(((1 - alpha) * total + alpha * events) / 12, abs=1e-12)


def test_the_shift_of_the_hazards_restores_the_observed_events() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 4, generator=generator, dtype=torch.float64) + torch.tensor([2.0, 1.0, 0.0, -1.0])
    interval = torch.randint(0, 4, (300,), generator=generator)
    event = (torch.rand(300, generator=generator) < 0.3).float()
    shift = survival.hazard_shift(logits, interval, event)
    for k in range(4):
        at_risk = interval >= k
        predicted = torch.sigmoid(logits[at_risk, k] + shift[k]).sum()
        assert float(predicted) == pytest.approx(float(event[interval == k].sum()), abs=1e-6)
    # free logits, no covariates: the life table itself
    constant = survival.hazard_shift(torch.zeros(300, 4), interval, event)
    assert torch.allclose(constant.float(), survival.life_table_logits(interval, event, 4), atol=0.05)
