"""The plan of a synthetic cohort holds the effects it says it plants."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from histostudy.simulate.cohort import Effects, plan
from histostudy.simulate_keys import Simulate


@pytest.fixture(scope="module")
def large():
    return plan(Simulate(patients=600, sites=5, genes=9), seed=3)


def test_same_seed_same_plan_other_seed_other():
    simulate = Simulate(patients=20)
    assert plan(simulate, 1) == plan(simulate, 1)
    assert plan(simulate, 1) != plan(simulate, 2)


def test_slides_and_patients(large):
    ids = large.patient_ids
    assert len(set(ids)) == 600
    assert ids == sorted(ids)
    assert large.slide_ids == sorted(set(large.slide_ids))
    assert len(large.slides) == 600 + 120
    assert {s.patient_id for s in large.slides} == set(ids)
    assert sum(s.pen for s in large.slides) == round(0.15 * 720)


def test_shares_make_a_whole(large):
    for s in large.slides:
        parts = (s.stroma, s.glands, s.nests, s.fat)
        assert min(parts) >= 0
        assert sum(parts) < 1


def test_only_positives_have_nests(large):
    positive = {p for p, c in zip(large.patient_ids, large.patients["subtype"], strict=True) if c == "beta"}
    assert len(positive) == 300
    assert {s.patient_id for s in large.slides if s.nests > 0} == positive


def test_cox_finds_the_planted_hazard_ratios(large):
    from statsmodels.duration.hazard_regression import PHReg

    stroma = np.array(large.latent["stroma_share"])
    age = np.array(large.patients["age"])
    x = np.stack([(stroma - stroma.mean()) / stroma.std(), age / 10], 1)
    time, event = (np.array(large.patients[c]) for c in ("os_days", "os_event"))
    fit = PHReg(time, x, status=event).fit()
    assert np.exp(fit.params) == pytest.approx([2.7, 1.5], rel=0.15)
    assert np.mean(large.patients["os_event"]) == pytest.approx(0.65, abs=0.005)
    assert large.truth["survival"]["censored"] == pytest.approx(0.35, abs=0.005)


def test_genes_follow_glands_or_nothing(large):
    glands = np.array(large.latent["gland_share"])
    driven = large.truth["expression"]["r"]
    assert len(driven) == 3
    for gene, values in large.expression.items():
        if gene != "patient_id":
            r = pearsonr(np.log2(1 + np.array(values)), glands)[0]
            assert r == pytest.approx(driven.get(gene, 0.0), abs=0.13)


def test_a_null_has_no_effect():
    null = plan(Simulate(patients=400), 5, Effects(hazard_ratio_stroma=1.0, gene_r=0.0))
    dead = np.array(null.patients["os_event"]) == 1
    assert abs(pearsonr(np.array(null.latent["stroma_share"])[dead], np.log(null.patients["os_days"])[dead])[0]) < 0.15


def test_stroma_percent_is_the_share_with_error(large):
    error = np.array(large.patients["stroma_percent"]) - 100 * np.array(large.latent["stroma_share"])
    assert error.std() == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize("patients", [12, 13, 48])
def test_small_cohorts_have_both_classes_and_events(patients):
    small = plan(Simulate(patients=patients, sites=1, slides_extra=0.0), 0)
    assert len(set(small.patients["subtype"])) == 2
    assert 0 < sum(small.patients["os_event"]) < patients
    assert min(small.patients["os_days"]) >= 1
