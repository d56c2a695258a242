"""What a synthetic cohort will hold, before a pixel is drawn: numbers only, so that it is cheap to ask for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.seeds import derive_seed

if TYPE_CHECKING:
    from histostudy.simulate_keys import Simulate

CLASSES = ("alpha", "beta")
GENES_DRIVEN = 3  # one gene in so many follows the share of glands


@dataclass(frozen=True)
class Effects:
    """The planted effects, in the units of the outcome they act on."""

    positive: float = 0.5  # share of patients of class beta
    site_log_odds: float = 0.35  # half the spread over the sites of the log-odds of beta: a mild confounder
    nest_share: tuple[float, float] = (0.07, 0.13)  # of a positive slide's tissue
    nest_grade: tuple[float, float] = (0.2, 1.0)  # 0: as the epithelium around it, 1: large, dark, crowded nuclei
    stroma_share: tuple[float, float] = (0.12, 0.62)  # of the tissue
    gland_share: tuple[float, float] = (0.15, 0.75)  # of the tissue that is neither stroma, fat nor nest
    slide_jitter: float = 0.03  # sd of a share between slides of a patient
    hazard_ratio_stroma: float = 2.7  # per sd of the share of stroma
    hazard_ratio_age: float = 1.5  # per ten years
    weibull_shape: float = 1.3
    median_days: float = 1100.0  # survival at average covariates
    censored: float = 0.35  # share of patients
    gene_r: float = 0.75  # of log2 expression with the share of glands, over patients
    stroma_percent_sd: float = 3.0  # error of the recorded percentage, percentage points


@dataclass(frozen=True)
class SlidePlan:
    """All that the drawing of one slide depends on.

    Parameters
    ----------
    slide_id, patient_id, site : str
    seed : int
        Seed of the drawing.
    width_px0, height_px0 : int
    mpp : float
    stroma, glands, nests, fat : float
        Shares of the tissue's area.
    grade : float
        How unlike the epithelium the nests are, 0 to 1.
    cellularity : float
        Factor on the number of nuclei; a nuisance of the patient.
    lymphocytes : float
        Share of the tissue with clusters of small dark nuclei; a nuisance of the patient.
    stain : tuple of float
        Factor of haematoxylin, factor of eosin, turn of the hue (radians), thickness.
    pen : bool
        Whether a pen mark is drawn.
    """

    slide_id: str
    patient_id: str
    site: str
    seed: int
    width_px0: int
    height_px0: int
    mpp: float
    stroma: float
    glands: float
    nests: float
    fat: float
    grade: float
    cellularity: float
    lymphocytes: float
    stain: tuple[float, float, float, float]
    pen: bool


@dataclass(frozen=True)
class Plan:
    """A cohort to be drawn.

    Parameters
    ----------
    slides : list of SlidePlan
        Sorted by `slide_id`.
    patients : dict of str to list
        Columns of the patients' table, sorted by `patient_id`.
    expression : dict of str to list
        Columns of the expression table: `patient_id` and one a gene (not logged).
    latent : dict of str to list
        What the outcomes were made from, a value a patient.
    truth : dict
        The planted effects, as the user is told them.
    """

    slides: list[SlidePlan]
    patients: dict[str, list[Any]]
    expression: dict[str, list[Any]]
    latent: dict[str, list[Any]]
    truth: dict[str, Any] = field(default_factory=dict)

    @property
    def slide_ids(self) -> list[str]:
        """Ids of the slides, sorted."""
        return [s.slide_id for s in self.slides]

    @property
    def patient_ids(self) -> list[str]:
        """Ids of the patients, sorted."""
        return list(self.patients["patient_id"])


def plan(simulate: Simulate, seed: int, effects: Effects | None = None) -> Plan:
    """Decide patients, outcomes and slides of a synthetic cohort.

    Parameters
    ----------
    simulate : Simulate
        The study's `cohort.simulate`.
    seed : int
        The study's seed.
    effects : Effects, optional
        Other effects than the default ones: ``Effects(hazard_ratio_stroma=1.0)`` is a null.

    Returns
    -------
    Plan
        The same for the same arguments, whatever the machine.
    """
    effects = effects or Effects()
    rng = np.random.default_rng(derive_seed(seed, "simulate", "patients"))
    n = simulate.patients
    ids = [f"SIM-{i:0{max(3, len(str(n)))}d}" for i in range(1, n + 1)]
    sites = [f"site_{i}" for i in range(1, simulate.sites + 1)]
    site = rng.permutation(np.arange(n) % simulate.sites)
    positive = _classes(rng, site, simulate.sites, effects)
    stroma = rng.permutation(_spread(n, *effects.stroma_share))
    glands = rng.permutation(_spread(n, *effects.gland_share))
    nests = np.where(positive, rng.uniform(*effects.nest_share, n), 0.0)
    age = np.clip(rng.normal(62, 10, n), 32, 90).round(1)
    female = rng.random(n) < 0.5
    stage = rng.choice(4, n, p=[0.3, 0.3, 0.25, 0.15])
    time, event = _survival(rng, stroma, age, effects)
    fat = rng.uniform(0.0, 0.10, n)
    of_rest = 1 - stroma - nests - fat
    genes, expression = _expression(rng, glands * of_rest, simulate.genes, ids, effects)
    percent = np.clip(100 * stroma + rng.normal(0, effects.stroma_percent_sd, n), 0, 100).round(1)

    patients = {
        "patient_id": ids, "site": [sites[i] for i in site], "age": age.tolist(),
        "sex": np.where(female, "female", "male").tolist(),
        "stage": [("I", "II", "III", "IV")[i] for i in stage],
        "subtype": [CLASSES[int(p)] for p in positive], "os_days": time.tolist(), "os_event": event.tolist(),
        "stroma_percent": percent.tolist(),
    }  # fmt: skip
    stains = _stains(simulate.sites, seed)
    grade = rng.uniform(*effects.nest_grade, n)
    cellularity = rng.uniform(0.7, 1.3, n)
    lymphocytes = rng.uniform(0.0, 0.16, n)
    two = np.zeros(n, bool)
    two[rng.permutation(n)[: round(simulate.slides_extra * n)]] = True
    slides = []
    for i, patient_id in enumerate(ids):
        for k in range(1 + int(two[i])):
            slide_id = f"{patient_id}-S{k + 1}"
            own = np.random.default_rng(derive_seed(seed, "simulate", slide_id))
            low, high = simulate.size_px
            width, height = own.integers(low, high, 2, endpoint=True)
            jitter = own.normal(0, effects.slide_jitter, 2)
            share = float(np.clip(stroma[i] + jitter[0], 0.03, 0.8 - nests[i] - fat[i]))
            rest = 1 - share - nests[i] - fat[i]
            slides.append(
                SlidePlan(
                    slide_id,
                    patient_id,
                    sites[site[i]],
                    derive_seed(seed, "draw", slide_id),
                    int(width),
                    int(height),
                    simulate.mpp,
                    share,
                    float(np.clip(glands[i] + jitter[1], 0.02, 0.95) * rest),
                    float(nests[i]),
                    float(fat[i]),
                    float(grade[i]),
                    float(cellularity[i]),
                    float(lymphocytes[i]),
                    tuple((stains[site[i]] + own.normal(0, (0.05, 0.05, 0.015, 0.04))).tolist()),
                    False,
                )  # fmt: skip
            )
    slides = _pens(slides, simulate.pen_share, seed)
    latent = {
        "patient_id": ids, "stroma_share": stroma.tolist(), "gland_share": (glands * of_rest).tolist(),
        "nest_share": nests.tolist(), "fat_share": fat.tolist(), "nest_grade": np.where(positive, grade, 0.0).tolist(),
        "cellularity": cellularity.tolist(),
    }  # fmt: skip
    truth = _truth(effects, patients, genes, sites, stains, positive, site, event)
    return Plan(slides, patients, expression, latent, truth)


def _spread(n: int, low: float, high: float) -> np.ndarray:
    """`n` values evenly over an interval: a cohort of 24 holds the whole range, as one of 400 does."""
    return low + (high - low) * (np.arange(n) + 0.5) / n


def _classes(rng: np.random.Generator, site: np.ndarray, sites: int, effects: Effects) -> np.ndarray:
    """Draw the class, mildly tied to the site, with the planted share exact."""
    tilt = np.linspace(-effects.site_log_odds, effects.site_log_odds, sites) if sites > 1 else np.zeros(1)
    score = tilt[site] + rng.logistic(size=site.size)
    positive = np.zeros(site.size, bool)
    positive[np.argsort(-score)[: round(effects.positive * site.size)]] = True
    return positive


def _survival(
    rng: np.random.Generator, stroma: np.ndarray, age: np.ndarray, effects: Effects
) -> tuple[np.ndarray, np.ndarray]:
    """Weibull times with proportional hazards, and uniform censoring scaled to the planted share."""
    z = (stroma - stroma.mean()) / stroma.std()
    log_hazard = np.log(effects.hazard_ratio_stroma) * z
    log_hazard += np.log(effects.hazard_ratio_age) * (age - age.mean()) / 10
    scale = effects.median_days / np.log(2) ** (1 / effects.weibull_shape)
    death = scale * (rng.exponential(size=z.size) / np.exp(log_hazard)) ** (1 / effects.weibull_shape)
    entry = rng.uniform(0.25, 1.0, z.size)  # of the longest follow-up
    order = np.sort(death / entry)
    kept = min(z.size - 1, max(1, round((1 - effects.censored) * z.size)))
    follow_up = entry * (order[kept - 1] + order[kept]) / 2
    event = death <= follow_up
    return np.maximum(1, np.minimum(death, follow_up).round()).astype(int), event.astype(int)


def _expression(
    rng: np.random.Generator, glands: np.ndarray, genes: int, ids: list[str], effects: Effects
) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Draw log2(1 + x) normal per gene, a third of the genes tied to the glands, with signs in turn."""
    z = (glands - glands.mean()) / glands.std()
    table: dict[str, list[Any]] = {"patient_id": ids}
    driven: dict[str, float] = {}
    for g in range(genes):
        follows = g % GENES_DRIVEN == 0
        r = (effects.gene_r if (g // GENES_DRIVEN) % 2 == 0 else -effects.gene_r) if follows else 0.0
        level = rng.uniform(5, 8) + rng.uniform(0.7, 1.3) * (r * z + np.sqrt(1 - r * r) * rng.normal(size=z.size))
        name = f"GENE{g + 1:02d}"
        table[name] = (2.0 ** np.maximum(level, 0) - 1).round(3).tolist()
        if follows:
            driven[name] = r
    return driven, table


def _stains(sites: int, seed: int) -> np.ndarray:
    """Stain of each site: factors of haematoxylin and eosin, turn of the hue, thickness."""
    rng = np.random.default_rng(derive_seed(seed, "simulate", "stains"))
    spread = np.linspace(-1, 1, sites) if sites > 1 else np.zeros(1)
    columns = [rng.permutation(spread) for _ in range(3)]
    return np.stack([1 + 0.18 * columns[0], 1 + 0.22 * columns[1], 0.06 * columns[2], np.ones(sites)], axis=1)


def _pens(slides: list[SlidePlan], share: float, seed: int) -> list[SlidePlan]:
    """Mark the planted share of the slides for a pen stroke."""
    from dataclasses import replace

    rng = np.random.default_rng(derive_seed(seed, "simulate", "pens"))
    chosen = set(rng.permutation(len(slides))[: round(share * len(slides))].tolist())
    return [replace(s, pen=i in chosen) for i, s in enumerate(slides)]


def _truth(
    effects: Effects,
    patients: dict[str, list[Any]],
    genes: dict[str, float],
    sites: list[str],
    stains: np.ndarray,
    positive: np.ndarray,
    site: np.ndarray,
    event: np.ndarray,
) -> dict[str, Any]:
    """The planted effects, as plain data."""
    return {
        "effects": asdict(effects),
        "subtype": {
            "column": "subtype", "positive": CLASSES[1],
            "carried_by": "high-grade nests: rare tiles of large dark crowded nuclei",
            "share_of_tissue_in_positives": list(effects.nest_share),
            "grade": list(effects.nest_grade),
            "positives": int(positive.sum()),
        },
        "survival": {
            "time": "os_days", "event": "os_event", "driven_by": "stroma_share",
            "hazard_ratio_per_sd": effects.hazard_ratio_stroma,
            "hazard_ratio_per_10_years_of_age": effects.hazard_ratio_age,
            "no_effect": ["sex", "stage", "site", "subtype"],
            "censored": 1 - float(event.mean()),
        },
        "regression": {"column": "stroma_percent", "error_sd": effects.stroma_percent_sd},
        "expression": {"driven_by": "gland_share", "r": genes, "no_effect": "every other gene"},
        "site": {
            "stain": {name: dict(zip(("haematoxylin", "eosin", "hue_turn", "thickness"),
                                     map(float, stain), strict=True))
                      for name, stain in zip(sites, stains, strict=True)},
            "share_of_beta": {name: float(positive[site == i].mean()) for i, name in enumerate(sites)},
            "why": "a confounder: each site has its own stain, and the classes are not quite even over the sites",
        },
    }  # fmt: skip
