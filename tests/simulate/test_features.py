"""Drawn features hold the effects they say they plant, in files the study's own readers take."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histostudy.cohort.modalities import read_modality
from histostudy.cohort.tables import read_patients, read_slides
from histostudy.errors import ConfigError
from histostudy.features.layouts import open_precomputed, read_header, read_slide
from histostudy.simulate.features import plan_features, simulate_features
from histostudy.simulate.latent import CLINICAL, auroc, cox_coefficients, draw_latent, harrell_c, oracles
from histostudy.simulate_keys import Simulate
from histostudy.study import Modality
from histostudy.studyfile import checked


def settings(patients: int = 400, sites: int = 38, genes: int = 12, extra: float = 0.0, **features: object) -> Simulate:
    return checked(
        Simulate,
        patients=patients,
        sites=sites,
        genes=genes,
        slides_extra=extra,
        features={"tiles": (40, 80)} | features,
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    simulate_features(settings(), 3, folder)
    return folder


def bag_means(folder: Path) -> np.ndarray:
    return np.stack([read_slide(p).features.mean(axis=0) for p in open_precomputed(folder / "features").values()])


def test_same_seed_same_bytes_other_seed_other(tmp_path: Path) -> None:
    small = settings(16, 3, extra=0.25)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate_features(small, seed, tmp_path / name)
    files = sorted(str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 16 + 4 + 6
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False)[0] == files
    other = filecmp.cmpfiles(tmp_path / "a", tmp_path / "c", files, shallow=False)[0]
    assert set(other) <= {"slides.csv", "groups.csv"}


def test_the_readers_of_a_study_take_the_files(cohort: Path) -> None:
    slides = read_slides(cohort / "slides.csv")
    patients = read_patients(cohort / "patients.csv")
    planned = plan_features(settings(), 3)
    assert slides["slide_id"].tolist() == planned.slide_ids == list(open_precomputed(cohort / "features"))
    assert patients["patient_id"].tolist() == planned.patient_ids == sorted(planned.patient_ids)
    one = read_slide(cohort / "features" / f"{planned.slide_ids[0]}.h5")
    assert (one.positions, one.tile_px0) == ("px0", 224.0)
    assert one.features.dtype == np.float32
    assert one.features.shape[1] == 32
    assert len(np.unique(one.coords, axis=0)) == len(one.coords)
    identities = {json.dumps(read_header(p).identity) for p in open_precomputed(cohort / "features").values()}
    assert len(identities) == 1
    rna = read_modality(
        "rna", Modality(table=cohort / "rna.csv", groups=cohort / "groups.csv", log=True), patients, "patients.csv"
    )
    assert rna.values.shape == (340, 300)  # 15% of the patients have none
    assert len(rna.groups) == 20


def test_cox_finds_the_planted_hazard_ratios() -> None:
    from statsmodels.duration.hazard_regression import PHReg

    drawn = draw_latent(settings(), 3)
    time, event = drawn.endpoint("os")
    x = np.column_stack(
        [*(drawn.covariates[c] for c in CLINICAL), *(drawn.parts[p] for p in ("morphology", "genome", "synergy"))]
    )
    fit = PHReg(time, x, status=event).fit()
    ratios = settings().features.hazard_ratios
    wanted = [np.log(ratios["age"]) / 10, *(np.log(ratios[c]) for c in CLINICAL[1:]), 1, 1, 1]
    z = (fit.params - wanted) / fit.bse
    assert np.abs(z).max() < 2.8
    assert np.exp(fit.conf_int()[2][0]) < 2 < np.exp(fit.conf_int()[2][1])  # high grade
    assert event.mean() == 0.6


def test_our_own_statistics_are_those_of_the_libraries() -> None:
    from sklearn.metrics import roc_auc_score
    from sksurv.metrics import concordance_index_censored
    from statsmodels.duration.hazard_regression import PHReg

    drawn = draw_latent(settings(120), 5)
    time, event = drawn.endpoint("pfi")
    time = np.ceil(time / 60)  # many ties
    x = np.column_stack([drawn.covariates[c] for c in CLINICAL])
    assert cox_coefficients(time, event, x) == pytest.approx(PHReg(time, x, status=event, ties="breslow").fit().params)
    risk = np.round(drawn.sum_of(*drawn.parts), 1)
    assert harrell_c(time, event, risk) == pytest.approx(concordance_index_censored(event, time, risk)[0])
    assert harrell_c(time, event, -risk) == pytest.approx(1 - harrell_c(time, event, risk))
    positive, score = drawn.subtype, np.round(drawn.morphology[:, 2], 1)  # ties too
    assert auroc(positive, score) == pytest.approx(roc_auc_score(positive, score))
    assert np.isnan(auroc(np.ones(3, bool), np.arange(3.0)))


def test_the_oracle_is_the_best_and_told(cohort: Path) -> None:
    truth = json.loads((cohort / "truth.json").read_text())
    told = truth["survival"]["endpoints"]["os_days"]["oracle_c"]
    assert told == oracles(draw_latent(settings(), 3), "os")
    patients = pd.read_csv(cohort / "patients.csv", index_col="patient_id")
    risk = pd.Series({p: v["log_hazard"] for p, v in truth["patients"].items()}).loc[patients.index].to_numpy()
    again = harrell_c(patients["os_days"].to_numpy(float), patients["os_event"].to_numpy() == 1, risk)
    assert again == pytest.approx(told["all"], abs=1e-3)
    assert told["all"] == told["all_but_site"] > max(told["morphology"], told["genome"], told["clinical"]) > 0.55
    assert told["site"] == 0.5


def test_what_is_not_known_pulls_the_ratios_to_one(cohort: Path) -> None:
    ratios = json.loads((cohort / "truth.json").read_text())["survival"]["hazard_ratios"]
    assert 1.4 < ratios["high_grade"]["without_the_latents"] < 1.8 < ratios["high_grade"]["hazard_ratio"] == 2
    assert ratios["male"]["without_the_latents"] == pytest.approx(1, abs=0.06)


def test_bags_hold_morphology_and_nothing_of_the_genome_alone(cohort: Path) -> None:
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict

    means = bag_means(cohort)
    latents = pd.DataFrame(json.loads((cohort / "truth.json").read_text())["patients"]).T.sort_index()
    r = {
        name: np.corrcoef(cross_val_predict(RidgeCV(np.logspace(-2, 3, 6)), means, latents[name], cv=5), latents[name])[
            0, 1
        ]
        for name in ("z1", "z2", "z3", "g1", "g2")
    }
    assert min(r["z1"], r["z2"], r["z3"]) > 0.6
    assert 0.2 < r["g1"] < 0.55  # by what z1 shares with it
    assert abs(r["g2"]) < 0.15


def test_genes_follow_their_latents(cohort: Path) -> None:
    truth = json.loads((cohort / "truth.json").read_text())
    latents = pd.DataFrame(truth["patients"]).T.sort_index()
    level = np.log2(1 + pd.read_csv(cohort / "expression.csv", index_col="patient_id"))
    for gene, name in truth["expression"]["follows"].items():
        if name is not None:
            assert abs(np.corrcoef(level[gene], latents[name])[0, 1]) == pytest.approx(0.75, abs=0.08)
        else:
            assert abs(latents.corrwith(level[gene])).max() < 0.2
    assert level.mean().std() > 1.5  # as N(0, 3), cut below


def test_tiles_lie_in_domains(cohort: Path) -> None:
    rng = np.random.default_rng(0)
    near, shuffled = [], []
    for path in list(open_precomputed(cohort / "features").values())[:20]:
        slide = read_slide(path)
        unit = slide.features / np.linalg.norm(slide.features, axis=1, keepdims=True)
        gap = np.abs(slide.coords[:, None] - slide.coords[None]).sum(axis=-1)
        for rows, out in ((np.arange(len(unit)), near), (rng.permutation(len(unit)), shuffled)):
            alike = unit[rows] @ unit[rows].T
            out.append(alike[gap == 224].mean() - alike[gap > 224 * 4].mean())
    assert np.mean(near) > 0.1
    assert abs(np.mean(shuffled)) < 0.03


def ridge_cox_c(folder: Path, preserve: bool) -> float:
    """Mean within-fold concordance of a ridge Cox model of the bag means, over some draws of five folds."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    means, patients = bag_means(folder), pd.read_csv(folder / "patients.csv")
    time, event = patients["os_days"].to_numpy(float), patients["os_event"].to_numpy() == 1
    truth = np.array(list(zip(event, time, strict=True)), dtype=[("event", bool), ("time", float)])
    rng = np.random.default_rng(0)
    each = []
    for _ in range(3):
        fold = rng.permutation(np.arange(len(patients)) % 5)
        if preserve:
            load, of = np.zeros(5), {}
            for site, count in patients["site"].value_counts().items():
                of[site] = int(np.argmin(load + 5 * rng.random(5)))
                load[of[site]] += count
            fold = patients["site"].map(of).to_numpy()
        for k in range(5):
            train, test = fold != k, fold == k
            x = (means - means[train].mean(axis=0)) / means[train].std(axis=0)
            fit = CoxPHSurvivalAnalysis(alpha=30).fit(x[train], truth[train])
            each.append(harrell_c(time[test], event[test], x[test] @ fit.coef_))
    return float(np.mean(each))


@pytest.mark.parametrize(("shift", "leaks"), [(2.0, True), (0.0, False)])
def test_a_site_leaks_where_its_tiles_show_it(tmp_path: Path, shift: float, leaks: bool) -> None:
    simulate_features(settings(site_shift=shift, site_hazard=0.8, hazard_ratios={"morphology": 1.5}), 0, tmp_path)
    gap = ridge_cox_c(tmp_path, preserve=False) - ridge_cox_c(tmp_path, preserve=True)
    assert gap >= 0.05 if leaks else abs(gap) < 0.05


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"hazard_ratios": {"grade": 2}}, "unknown 'grade'"),
        ({"hazard_ratios": {"age": 0}}, "greater than 0"),
        ({"tiles": (9, 3)}, "smallest, then largest"),
        ({"junk": (0.2, 1.0)}, "below 1"),
        ({"rna_genes": 20, "pathways": 30}, "at most one a gene"),
    ],
)
def test_wrong_keys_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings(**wrong)


@pytest.mark.parametrize(("patients", "sites"), [(12, 1), (13, 38)])
def test_small_cohorts_are_drawn(tmp_path: Path, patients: int, sites: int) -> None:
    simulate_features(settings(patients, sites, tiles=(1, 3), rna_missing=0.0), 0, tmp_path)
    table = pd.read_csv(tmp_path / "patients.csv")
    assert 0 < table["os_event"].sum() < patients
    assert table[["os_days", "pfi_days"]].min().min() >= 1
    assert (table["pfi_days"] <= table["os_days"]).all()
