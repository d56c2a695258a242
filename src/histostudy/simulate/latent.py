"""Patients of a cohort of drawn features: latents, sites, covariates, and times that follow planted hazard ratios.

One generator for every statistic of the field that needs a known truth. Morphology z (3) is what the tiles show, the
genome g (2) what the expression tables show, and corr(z1, g1) = 0.5 is what the two share. The log hazard is linear in
z1, g1, z2 g2 (a synergy that no single modality holds), age, stage, grade and the site; times are Weibull, so that the
hazards are proportional with exactly the planted ratios (Bender et al. 2005, Statistics in Medicine 24:1713).

The few statistics of what was drawn (`cox_coefficients`, `harrell_c`, `auroc`) are written out here although
`evaluation` has them too: the evaluation is held against them, so they must not share its errors; and a changed line
of a metric must not make drawn cohorts out of date, which would draw them, and compute all that follows, anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histostudy.seeds import derive_seed

if TYPE_CHECKING:
    from histostudy.simulate_keys import Simulate

Floats = NDArray[np.float64]

SHARED = 0.5  # corr(z1, g1)
WEIBULL_SHAPE = 1.3
MEDIAN_DAYS = 1100.0  # survival at a log hazard of 0
PROGRESSION = 1.5  # hazard of progression before death, as a multiple of that of death
STAGES = (0.3, 0.3, 0.25, 0.15)
STAGE_GENOME = 0.5  # correlation of the stage's score with g2
HIGH_GRADE = 0.4  # share of patients
SUBTYPES = ("conventional", "variant")
SUBTYPE_LOG_ODDS = 3.0  # of variant, per s.d. of z3
#: What each hazard ratio of the study file is a ratio per.
UNITS = {
    "age": "ten years", "stage": "stage", "high_grade": "1 v 0", "male": "male v female", "morphology": "s.d. of z1",
    "genome": "s.d. of g1", "synergy": "s.d. of z2 x g2",
}  # fmt: skip
CLINICAL = ("age", "stage", "high_grade", "male")
#: Patients of the draw that tells what a Cox model of the covariates alone would find.
MANY = 20_000


@dataclass(frozen=True)
class Latent:
    """What was drawn of n patients.

    Parameters
    ----------
    site : ndarray of int, (n,)
    site_log_hazard : ndarray, (sites,)
    morphology : ndarray, (n, 3)
    genome : ndarray, (n, 2)
    covariates : dict of str to ndarray (n,)
        age (years), stage (1 to 4), high_grade and male (0 or 1).
    subtype : ndarray of bool, (n,)
        Whether the patient is of the second of `SUBTYPES`.
    parts : dict of str to ndarray (n,)
        The log hazard's terms, by the names of `UNITS`, and ``site``; their sum is the linear predictor.
    death, progression : ndarray, (n,)
        Days, before censoring.
    censoring : ndarray, (n,)
        Days.
    """

    site: NDArray[np.int64]
    site_log_hazard: Floats
    morphology: Floats
    genome: Floats
    covariates: dict[str, Floats]
    subtype: NDArray[np.bool_]
    parts: dict[str, Floats]
    death: Floats
    progression: Floats
    censoring: Floats

    def sum_of(self, *names: str) -> Floats:
        """Sum of some parts of the log hazard."""
        return np.sum([self.parts[name] for name in names], axis=0)

    def endpoint(self, name: str) -> tuple[Floats, NDArray[np.bool_]]:
        """Days (whole, at least 1) and event of ``os`` (death) or ``pfi`` (progression or death)."""
        first = self.death if name == "os" else np.minimum(self.death, self.progression)
        days = np.maximum(1.0, np.ceil(np.minimum(first, self.censoring)))
        return days, first <= self.censoring


def draw_latent(simulate: Simulate, seed: int, patients: int | None = None) -> Latent:
    """Draw the patients of a cohort.

    Parameters
    ----------
    simulate : Simulate
        With `features`.
    seed : int
        The study's seed.
    patients : int, optional
        Another number than the study's, as a draw of its own from the same population.
    """
    keys = simulate.features
    assert keys is not None
    n = simulate.patients if patients is None else patients
    what = "patients" if patients is None else f"population of {patients}"
    rng = np.random.default_rng(derive_seed(seed, "simulate", "features", what))
    site = _sites(rng, n, simulate.sites)
    z = _standard(rng.normal(size=(n, 3)))
    g = rng.normal(size=(n, 2))
    g[:, 0] = SHARED * z[:, 0] + np.sqrt(1 - SHARED**2) * g[:, 0]
    g = _standard(g)
    score = STAGE_GENOME * g[:, 1] + np.sqrt(1 - STAGE_GENOME**2) * rng.normal(size=n)
    rank = (np.argsort(np.argsort(score)) + 0.5) / n
    covariates = {
        "age": np.clip(rng.normal(62, 11, n), 25, 92).round(1),
        "stage": 1.0 + np.searchsorted(np.cumsum(STAGES)[:-1], rank),
        "high_grade": (rng.random(n) < HIGH_GRADE).astype(float),
        "male": (rng.random(n) < 0.5).astype(float),
    }
    subtype = rng.random(n) < 1 / (1 + np.exp(-SUBTYPE_LOG_ODDS * z[:, 2]))
    # the sites' hazards are of the cohort, not of the draw
    of_site = np.random.default_rng(derive_seed(seed, "simulate", "features", "sites")).normal(size=simulate.sites)
    of_site = _standard(of_site, np.bincount(site, minlength=simulate.sites)) * keys.site_hazard
    log_ratio = {name: float(np.log(ratio)) for name, ratio in keys.hazard_ratios.items()}
    parts = {
        "age": log_ratio["age"] * (covariates["age"] - 62) / 10,
        "stage": log_ratio["stage"] * (covariates["stage"] - 2.25),
        "high_grade": log_ratio["high_grade"] * (covariates["high_grade"] - HIGH_GRADE),
        "male": log_ratio["male"] * (covariates["male"] - 0.5),
        "morphology": log_ratio["morphology"] * z[:, 0],
        "genome": log_ratio["genome"] * g[:, 0],
        "synergy": log_ratio["synergy"] * _standard(z[:, 1] * g[:, 1]),
        "site": of_site[site],
    }
    hazard = np.exp(np.sum(list(parts.values()), axis=0))
    scale = MEDIAN_DAYS / np.log(2) ** (1 / WEIBULL_SHAPE)
    death = scale * (rng.exponential(size=n) / hazard) ** (1 / WEIBULL_SHAPE)
    progression = scale * (rng.exponential(size=n) / (PROGRESSION * hazard)) ** (1 / WEIBULL_SHAPE)
    censoring = _censoring(rng.exponential(size=n), death, keys.events)
    return Latent(site, of_site, z, g, covariates, subtype, parts, death, progression, censoring)


def without_the_latents(simulate: Simulate, seed: int) -> dict[str, float]:
    """Hazard ratios of age, stage, high_grade and male in a Cox model that knows these and nothing else.

    What is left out of a Cox model pulls the others' ratios towards 1, even where it is independent of them (Struthers
    and Kalbfleisch 1986, Biometrika 73:363), so this and the planted ratio are the two ends of what a study can find:
    the one with a model that has learned nothing, the other with one that knows the latents. From `MANY` patients of
    the same population.
    """
    many = draw_latent(simulate, seed, MANY)
    time, event = many.endpoint("os")
    x = np.column_stack([many.covariates[name] / (10 if name == "age" else 1) for name in CLINICAL])
    return dict(zip(CLINICAL, np.exp(cox_coefficients(time, event, x)).tolist(), strict=True))


def cox_coefficients(time: Floats, event: NDArray[np.bool_], x: Floats) -> Floats:
    """Maximum of the Cox partial likelihood by Newton's method, ties by Breslow.

    Parameters
    ----------
    time, event : ndarray, (n,)
    x : ndarray, (n, p)

    Returns
    -------
    ndarray, (p,)
        Log hazard ratios.
    """
    order = np.argsort(-time, kind="stable")
    time, event, x = time[order], event[order], x[order] - x.mean(axis=0)
    last = np.searchsorted(-time, -time, side="right") - 1  # the last row that is at risk with each
    beta = np.zeros(x.shape[1])
    for _ in range(30):
        risk = np.exp(x @ beta)
        s0 = np.cumsum(risk)[last][event]
        s1 = np.cumsum(risk[:, None] * x, axis=0)[last][event]
        s2 = np.cumsum(risk[:, None, None] * x[:, :, None] * x[:, None, :], axis=0)[last][event]
        mean = s1 / s0[:, None]
        gradient = (x[event] - mean).sum(axis=0)
        step = np.linalg.solve((s2 / s0[:, None, None]).sum(axis=0) - mean.T @ mean, gradient)
        beta = beta + step
        if np.abs(step).max() < 1e-10:
            break
    return beta


def harrell_c(time: Floats, event: NDArray[np.bool_], risk: Floats) -> float:
    """Harrell's concordance: a tie in risk counts a half; NaN without a comparable pair."""
    pairs = right = 0.0
    for i in np.flatnonzero(event):
        later = (time > time[i]) | ((time == time[i]) & ~event)
        pairs += later.sum()
        right += (risk[i] > risk[later]).sum() + 0.5 * (risk[i] == risk[later]).sum()
    return float(right / pairs) if pairs else float("nan")


def auroc(positive: NDArray[np.bool_], score: Floats) -> float:
    """Chance that a positive scores above a negative, a tie counting a half; NaN with one class only."""
    above = score[positive][:, None] - score[~positive][None, :]
    wins = 0.5 * (1 + np.sign(above))
    return float(wins.mean()) if wins.size else float("nan")


def oracles(latent: Latent, endpoint: str) -> dict[str, Any]:
    """Concordance of the true log hazard, and of its parts, on the drawn patients.

    ``all_but_site`` is what can be known of a patient of a new site; ``all`` knows the sites' hazards too.
    """
    time, event = latent.endpoint(endpoint)
    biology = ("morphology", "genome", "synergy")
    sets = {
        "all": tuple(latent.parts), "all_but_site": (*CLINICAL, *biology), "clinical": CLINICAL,
        "morphology": ("morphology",), "genome": ("genome",), "site": ("site",),
    }  # fmt: skip
    return {name: round(harrell_c(time, event, latent.sum_of(*parts)), 4) for name, parts in sets.items()}


def _sites(rng: np.random.Generator, n: int, sites: int) -> NDArray[np.int64]:
    """Zipf: the k-th site has a k-th of the patients of the first; every site has one where there are enough."""
    weight = 1.0 / np.arange(1, sites + 1)
    site = rng.choice(sites, n, p=weight / weight.sum())
    if n >= 2 * sites:
        site[:sites] = np.arange(sites)
    return rng.permutation(site).astype(np.int64)


def _standard(x: Floats, weight: NDArray[np.int64] | None = None) -> Floats:
    """Mean 0 and s.d. 1 over the rows (weighted); zeros where nothing varies."""
    mean = np.average(x, axis=0, weights=weight)
    spread = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight))
    return np.asarray((x - mean) / np.where(spread > 0, spread, 1.0))


def _censoring(waiting: Floats, death: Floats, events: float) -> Floats:
    """Exponential censoring, scaled so that the share of deaths seen is `events`."""
    order = np.sort(death / waiting)
    seen = min(len(order) - 1, max(1, round(events * len(order))))
    return waiting * (order[seen - 1] + order[seen]) / 2
