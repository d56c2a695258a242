"""Draw a cohort of features rather than pixels: bags of tiles, tables beside them, and the truth.

For planted-effect studies of the statistics themselves, hundreds of patients in seconds. Each bag holds components
in shares softmax(B z) of the patient's morphology, junk far from all of them, and the shift of its site; see
`histostudy.simulate.latent` for what the outcomes follow.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histostudy.features.store import write_features
from histostudy.files import write_json, write_table
from histostudy.log import progress
from histostudy.seeds import derive_seed
from histostudy.simulate.latent import (
    CLINICAL,
    SHARED,
    SUBTYPE_LOG_ODDS,
    SUBTYPES,
    UNITS,
    Floats,
    Latent,
    auroc,
    draw_latent,
    oracles,
    without_the_latents,
)  # fmt: skip

if TYPE_CHECKING:
    from histostudy.simulate_keys import Simulate, SimulateFeatures

logger = logging.getLogger(__name__)

TILE_PX, MPP = 224, 0.5
CENTRE = 3.0  # norm of a component's centre
JUNK, JUNK_NOISE = 9.0, 1.5  # norm of junk's centre; its noise as a multiple of the tiles'
LOADING = 1.2  # of z on the logit of a component: two components a latent, of opposite signs, and two of none
COMPONENTS = 8
GENE_MEANS, GENE_MEANS_SD, LEAST_MEAN = 8.0, 3.0, 4.0  # log2 scale
SITE_BATCH = 0.2  # s.d. of a site's offset of a gene of rna.csv, log2 scale
#: Which latent the genes follow, in turn: expression.csv, and pathways of rna.csv.
EXPRESSION_FOLLOWS = ("z1", None, "g1", "z2", None, "g2")
PATHWAY_FOLLOWS = ("g1", "g2", None, None)


@dataclass(frozen=True)
class FeaturePlan:
    """A cohort of features to be drawn.

    Parameters
    ----------
    slides : list of tuple
        (slide, row of its patient), sorted by slide.
    patient_ids : list of str
        Sorted.
    """

    slides: list[tuple[str, int]]
    patient_ids: list[str]

    @property
    def slide_ids(self) -> list[str]:
        """Ids of the slides, sorted."""
        return [slide for slide, _ in self.slides]


@dataclass(frozen=True)
class _Population:
    """What all bags of a cohort share: centres (K, D), loadings (K, 3), junk (D,), shifts of sites (S, D)."""

    centres: Floats
    loadings: Floats
    junk: Floats
    shifts: Floats


def plan_features(simulate: Simulate, seed: int) -> FeaturePlan:
    """Ids of a cohort of features, without drawing it."""
    n = simulate.patients
    ids = [f"SIM-{i:0{max(3, len(str(n)))}d}" for i in range(1, n + 1)]
    rng = np.random.default_rng(derive_seed(seed, "simulate", "features", "slides"))
    two = set(rng.permutation(n)[: round(simulate.slides_extra * n)].tolist())
    slides = [(f"{patient}-S{k + 1}", i) for i, patient in enumerate(ids) for k in range(1 + (i in two))]
    return FeaturePlan(slides, ids)


def simulate_features(simulate: Simulate, seed: int, out_dir: str | Path) -> FeaturePlan:
    """Draw a cohort of features.

    Writes `features/<slide>.h5` (the plain layout), `slides.csv`, `patients.csv` (covariates, os and pfi in days,
    subtype), `expression.csv` (bulk genes, to be predicted from slides), `rna.csv` and `groups.csv` (genes in
    pathways, a modality beside the slides; some patients have none) and `truth.json`.

    Parameters
    ----------
    simulate : Simulate
        The study's `cohort.simulate`, with `features`.
    seed : int
        The study's seed; the same gives the same bytes.
    out_dir : str or Path
        Folder to write to.
    """
    import pandas as pd

    keys = simulate.features
    assert keys is not None
    out_dir = Path(out_dir)
    planned = plan_features(simulate, seed)
    latent = draw_latent(simulate, seed)
    population = _population(keys, simulate.sites, seed)
    for slide, patient in progress(planned.slides, "drawing features", total=len(planned.slides)):
        own = np.random.default_rng(derive_seed(seed, "simulate", "features", slide))
        vectors, coords = draw_bag(own, keys, population, latent.morphology[patient], int(latent.site[patient]))
        write_features(
            out_dir / "features" / f"{slide}.h5",
            vectors,
            coords,
            {"encoder": "simulated", "tile_px": TILE_PX, "mpp_requested": MPP, "mpp_slide": MPP, "overlap_px": 0},
            coords_attrs={"patch_size_level0": TILE_PX},
        )
    sites = [f"site_{i:02d}" for i in range(1, simulate.sites + 1)]
    site = [sites[i] for i in latent.site]
    slides: dict[str, list[Any]] = {
        "slide_id": planned.slide_ids,
        "patient_id": [planned.patient_ids[i] for _, i in planned.slides],
        "site": [site[i] for _, i in planned.slides],
        "mpp": [MPP] * len(planned.slides),
    }
    expression, follows = expression_table(latent, planned.patient_ids, simulate.genes, keys.gene_r, seed)
    rna, groups, drivers = rna_tables(latent, planned.patient_ids, keys, simulate.sites, seed)
    patients = patients_table(latent, planned.patient_ids, site)
    tables = {"slides": slides, "patients": patients, "expression": expression, "rna": rna, "groups": groups}
    for name, columns in tables.items():
        write_table(out_dir / f"{name}.csv", pd.DataFrame(columns))
    truth = _truth(simulate, seed, latent, planned.patient_ids, sites, follows)
    truth["rna"] = {"follows": drivers, "r": keys.gene_r, "patients": len(rna["patient_id"])}
    write_json(out_dir / "truth.json", truth)
    logger.info("drew features of %d slides of %d patients", len(planned.slides), len(planned.patient_ids))
    return planned


def draw_bag(
    rng: np.random.Generator, keys: SimulateFeatures, population: _Population, z: Floats, site: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw one slide's tiles.

    Parameters
    ----------
    rng : Generator
        The slide's own.
    keys : SimulateFeatures
    population : _Population
    z : ndarray, (3,)
        The patient's morphology.
    site : int

    Returns
    -------
    tuple
        Vectors (N, dim) float32, and level-0 px of their top left (N, 2) in the order of a lattice.
    """
    n = int(rng.integers(keys.tiles[0], keys.tiles[1], endpoint=True))
    logits = population.loadings @ z
    share = np.exp(logits - logits.max())
    component = rng.choice(COMPONENTS, n, p=share / share.sum())
    component[: round(rng.uniform(*keys.junk) * n)] = COMPONENTS
    places = _domains(rng, n)
    component = np.sort(component)[places[1]]
    centres = np.vstack([population.centres, population.junk])
    noise = np.where(component == COMPONENTS, JUNK_NOISE, 1.0) * keys.noise
    vectors = centres[component] + noise[:, None] * rng.normal(size=(n, keys.dim)) + population.shifts[site]
    return vectors.astype(np.float32), places[0] * TILE_PX


def patients_table(latent: Latent, ids: list[str], site: list[str]) -> dict[str, list[Any]]:
    """Columns of patients.csv."""
    covariates = latent.covariates
    (os_days, os_event), (pfi_days, pfi_event) = latent.endpoint("os"), latent.endpoint("pfi")
    return {
        "patient_id": ids, "site": site, "age": covariates["age"].tolist(),
        "sex": np.where(covariates["male"] > 0, "male", "female").tolist(),
        "stage": [("I", "II", "III", "IV")[int(s) - 1] for s in covariates["stage"]],
        "high_grade": covariates["high_grade"].astype(int).tolist(),
        "subtype": [SUBTYPES[int(v)] for v in latent.subtype],
        "os_days": os_days.astype(int).tolist(), "os_event": os_event.astype(int).tolist(),
        "pfi_days": pfi_days.astype(int).tolist(), "pfi_event": pfi_event.astype(int).tolist(),
    }  # fmt: skip


def expression_table(
    latent: Latent, ids: list[str], genes: int, r: float, seed: int
) -> tuple[dict[str, list[Any]], dict[str, str | None]]:
    """Columns of expression.csv (linear scale), and which latent each gene follows.

    Gene means spread as N(0, 3) on the log2 scale: a predictor of nothing but the means is right about most of what
    differs between the genes of one patient, and about nothing of what differs between patients.
    """
    rng = np.random.default_rng(derive_seed(seed, "simulate", "features", "expression"))
    follows = {f"GENE{i + 1:03d}": EXPRESSION_FOLLOWS[i % len(EXPRESSION_FOLLOWS)] for i in range(genes)}
    levels = _levels(rng, latent, list(follows.values()), r)
    table: dict[str, list[Any]] = {"patient_id": ids}
    return table | {gene: _linear(levels[:, k]) for k, gene in enumerate(follows)}, follows


def rna_tables(
    latent: Latent, ids: list[str], keys: SimulateFeatures, sites: int, seed: int
) -> tuple[dict[str, list[Any]], dict[str, list[Any]], dict[str, str | None]]:
    """Columns of rna.csv (linear scale) and groups.csv, and which latent each pathway follows.

    Half the genes of a pathway follow its latent; every gene has a small offset of the site, as batches do.
    """
    rng = np.random.default_rng(derive_seed(seed, "simulate", "features", "rna"))
    pathway = np.arange(keys.rna_genes) * keys.pathways // keys.rna_genes
    names = [f"PATHWAY{k + 1:02d}" for k in range(keys.pathways)]
    drivers = {name: PATHWAY_FOLLOWS[k % len(PATHWAY_FOLLOWS)] for k, name in enumerate(names)}
    follows = [drivers[names[k]] if i % 2 == 0 else None for i, k in enumerate(pathway)]
    levels = _levels(rng, latent, follows, keys.gene_r)
    levels += rng.normal(0, SITE_BATCH, (sites, keys.rna_genes))[latent.site]
    there = np.sort(rng.permutation(len(ids))[round(keys.rna_missing * len(ids)) :])
    genes = [f"RNA{i + 1:03d}" for i in range(keys.rna_genes)]
    table: dict[str, list[Any]] = {"patient_id": [ids[i] for i in there]}
    table |= {gene: _linear(levels[there, k]) for k, gene in enumerate(genes)}
    return table, {"group": [names[k] for k in pathway], "column": list(genes)}, drivers


def _levels(rng: np.random.Generator, latent: Latent, follows: list[str | None], r: float) -> Floats:
    """log2 levels (n, genes); genes that follow a latent do so with `r`, up and down in turn."""
    n, genes = len(latent.site), len(follows)
    drivers = {f"z{i + 1}": latent.morphology[:, i] for i in range(3)}
    drivers |= {f"g{i + 1}": latent.genome[:, i] for i in range(2)}
    mean = np.maximum(GENE_MEANS + GENE_MEANS_SD * rng.normal(size=genes), LEAST_MEAN)
    spread = rng.uniform(0.7, 1.3, genes)
    noise = rng.normal(size=(n, genes))
    sign = np.where(rng.random(genes) < 0.5, -1.0, 1.0)
    for k, name in enumerate(follows):
        if name is not None:
            noise[:, k] = sign[k] * r * drivers[name] + np.sqrt(1 - r * r) * noise[:, k]
    return np.asarray(mean + spread * noise)


def _linear(level: Floats) -> list[float]:
    return [round(float(v), 3) for v in 2.0 ** np.maximum(level, 0) - 1]


def _population(keys: SimulateFeatures, sites: int, seed: int) -> _Population:
    rng = np.random.default_rng(derive_seed(seed, "simulate", "features", "components"))
    directions = np.linalg.qr(rng.normal(size=(keys.dim, COMPONENTS + 1)))[0].T
    loadings = np.zeros((COMPONENTS, 3))
    for latent in range(3):
        loadings[2 * latent, latent], loadings[2 * latent + 1, latent] = LOADING, -LOADING
    shift = rng.normal(size=(sites, keys.dim))
    shift *= keys.site_shift / np.linalg.norm(shift, axis=1, keepdims=True)
    return _Population(CENTRE * directions[:-1], loadings, JUNK * directions[-1], shift)


def _domains(rng: np.random.Generator, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places (n, 2) of n tiles on a lattice, row by row, and the rank of each in a smooth field.

    Components sorted by that rank lie in domains, as tissue does.
    """
    side = int(np.ceil(np.sqrt(1.3 * n)))
    y, x = np.divmod(np.arange(side * side), side)
    inside = np.sort(np.argsort((x - side / 2 + 0.5) ** 2 + (y - side / 2 + 0.5) ** 2, kind="stable")[:n])
    x, y = x[inside], y[inside]
    wave = rng.normal(0, 2.5 / side, (4, 2))
    field = np.cos(x[:, None] * wave[:, 0] + y[:, None] * wave[:, 1] + rng.uniform(0, 2 * np.pi, 4)).sum(axis=1)
    return np.column_stack([x, y]), np.argsort(np.argsort(field, kind="stable"), kind="stable")


def _truth(
    simulate: Simulate, seed: int, latent: Latent, ids: list[str], sites: list[str], follows: dict[str, str | None]
) -> dict[str, Any]:
    """The planted effects, as plain data."""
    keys = simulate.features
    assert keys is not None
    marginal = without_the_latents(simulate, seed)
    ratios: dict[str, dict[str, Any]] = {
        name: {"per": UNITS[name], "hazard_ratio": ratio} for name, ratio in keys.hazard_ratios.items()
    }
    for name in CLINICAL:
        ratios[name] |= {"without_the_latents": round(marginal[name], 4)}
    age = latent.covariates["age"]
    count = np.bincount(latent.site, minlength=len(sites))
    latents = {f"z{i + 1}": latent.morphology[:, i] for i in range(3)}
    latents |= {f"g{i + 1}": latent.genome[:, i] for i in range(2)}
    latents["log_hazard"] = latent.sum_of(*latent.parts)
    seen = {gene: keys.gene_r for gene, name in follows.items() if name in ("z1", "z2", "z3")}
    shared = {gene: SHARED * keys.gene_r for gene, name in follows.items() if name == "g1"}
    return {
        "drawn": "features",
        "effects": {"seed": seed, "sites": simulate.sites, **keys.model_dump(mode="json")},
        "survival": {
            "endpoints": {
                f"{name}_days": {
                    "event": f"{name}_event", "events": round(float(latent.endpoint(name)[1].mean()), 4),
                    "oracle_c": oracles(latent, name),
                }
                for name in ("os", "pfi")
            },
            "hazard_ratios": ratios,
            "age_sd": round(float(age.std(ddof=1)), 4),
        },
        "subtype": {
            "column": "subtype", "positive": SUBTYPES[1], "carried_by": "z3", "log_odds_per_sd": SUBTYPE_LOG_ODDS,
            "oracle_auroc": round(auroc(latent.subtype, latent.morphology[:, 2]), 4),
        },
        "expression": {
            "driven_by": "morphology", "r": seen, "through_what_is_shared": shared,
            "follows": follows, "no_effect": "every other gene, as far as a slide can tell",
        },
        "site": {
            "shift": keys.site_shift, "log_hazard_sd": keys.site_hazard,
            "patients": dict(zip(sites, count.tolist(), strict=True)),
            "log_hazard": dict(zip(sites, (np.round(latent.site_log_hazard, 4) + 0.0).tolist(), strict=True)),
        },
        "patients": {
            patient: {name: round(float(values[i]), 4) for name, values in latents.items()}
            for i, patient in enumerate(ids)
        },
    }  # fmt: skip
