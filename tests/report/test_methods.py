"""The methods text is true of each kind of study: tables, predictions made elsewhere, nulls, spots, modalities."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from histostudy.report.aggregators import AGGREGATORS, OWN_FUSION
from histostudy.report.methods import methods_paragraphs
from histostudy.report.tasks import detectable_hazard_ratio, power_note, task_text
from histostudy.study import Study

STUDIES = sorted((Path(__file__).parents[2] / "config").rglob("*.yaml"))
OS = {"name": "os", "kind": "survival", "time": "t", "event": "e"}
TABLES = {"name": "c", "patients": "p.csv"}


def written(counts: dict[str, int] | None = None, of_tasks: Any = None, **keys: Any) -> str:
    """The methods of a study, without looking for its files."""
    study = Study.model_validate({"study": "s", "cohort": {"name": "c", "slides": "s.csv", "patients": "p.csv"}} | keys)
    return "\n".join(methods_paragraphs(study.model_dump(mode="json"), counts, None, of_tasks))


def test_every_aggregator_has_a_phrase():
    from histostudy.models.registry import AGGREGATORS as REGISTERED
    from histostudy.models.registry import aggregator_kind

    aggregator_kind("mean")  # registers them all
    assert set(AGGREGATORS) == set(REGISTERED), "describe it in report/aggregators.py"
    assert {name for name in REGISTERED if REGISTERED[name].multimodal} == OWN_FUSION
    cited = [name for name, phrase in AGGREGATORS.items() if "(" in phrase]
    assert set(AGGREGATORS) - set(cited) == {"mean", "max"}


def test_every_recipe_is_described():
    import histostudy.training.recipes  # noqa: F401  (registers them all)
    from histostudy.report.recipes import RECIPES
    from histostudy.training.recipes.base import RECIPES as registered

    assert set(RECIPES) == set(registered), "describe it in report/recipes.py"


@pytest.mark.parametrize("file", STUDIES, ids=lambda f: f.stem)
def test_a_study_file_can_be_told(file):
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    study = Study.model_validate(config)
    text = "\n".join(methods_paragraphs(study.model_dump(mode="json"), {"patients": 30, "slides": 30}))
    assert "None" not in text
    assert "{" not in text
    assert ".." not in text
    for name in study.models:
        assert name in text, name
    for task in study.tasks:
        assert task.name in text, task.name
    bags = [m for m in study.models.values() if m.aggregator and m.aggregator != "mean" and m.training.epochs]
    steps = bags + [m for m in study.models.values() if m.segmenter and m.training.epochs]
    steps += [m for m in study.models.values() if m.classifier in ("finetune", "dct_histotransformer")]
    assert ("AdamW" in text) == bool(steps)
    assert ("were drawn with known effects" in text) == (study.cohort.simulate is not None)
    if not study.has_slides:
        for word in ("Tissue was", "pen marks", "0 slides", "30 slides"):
            assert word not in text, word
    if study.splits.column or study.splits.published:
        assert "cross-validation" not in text


def test_tables_alone_and_predictions_made_elsewhere():
    text = written(
        {"patients": 2831, "slides": 0, "folds": 5, "once": 1}, cohort=TABLES, splits={"column": "fold"}, tasks=[OS],
        models={"snn": {"predictions": "x/snn.csv"}, "mcat": {"predictions": "x/mcat.csv"}},
    )  # fmt: skip
    assert "the study has no slides. It has 2,831 patients." in text
    assert "the 5 folds that the column fold of the patient table names" in text
    assert "Predictions made elsewhere were scored as they are: snn (snn.csv) and mcat (mcat.csv)" in text
    for wrong in ("slides of", "AdamW", "20%", "inner", "Losses", "aggregator", "epoch"):
        assert wrong not in text, wrong


def test_controls_alone():
    text = written({"patients": 9, "slides": 0}, cohort=TABLES, tasks=[OS], splits={"folds": 3, "repeats": 7})
    assert "There is no model in this study" in text
    assert "Controls were tested by 3-fold" in text
    assert "repeated 7 times" in text
    assert "drawn over all of them, as each is tested more than once" in text
    assert "compared with" not in text


def test_published_folds():
    text = written(splits={"published": "a/splits"}, tasks=[OS], models={"abmil": {"aggregator": "abmil"}})
    assert "folds published in splits" in text
    assert "where the folds name none) chose the epoch and the ridge penalty" in text
    assert "cross-validation" not in text


def test_how_models_were_trained():
    plain = {"epochs": 20, "lr": 2e-4, "sampling": "balanced", "epoch": "last", "schedule": "constant"}
    text = written(
        cohort=TABLES, tasks=[OS], modalities={"rna": {"table": "rna.csv", "log": True, "top": 200, "groups": "g.csv"}},
        models={
            "a": {"aggregator": "snn", "modalities": ["rna"], "training": plain},
            "b": {"aggregator": "snn", "modalities": ["rna"], "training": plain | {"l1": 0.0032}},
            "c": {"aggregator": "snn", "modalities": ["rna"], "training": plain | {"loss": "cox", "max_tiles": 64}},
            "d": {"aggregator": "snn", "modalities": ["rna"], "training": {"epochs": 0}},
        },
    )  # fmt: skip
    assert "of which the last was kept, the inner part being trained on too" in text
    assert "patients drawn with equal chance of each class" in text
    assert "The model b was trained likewise, but with an L1 penalty of all weights of 0.0032." in text
    assert "The model c was trained likewise, but with 64 tiles of each drawn a step." in text
    assert "d (with rna; not trained: what the architecture alone does)" in text
    assert "intervals at quantiles of the training part's event times (a and b)" in text
    assert "Breslow's baseline (c)" in text
    assert "log2(1 + x), standardised, the 200 columns of largest variance in the training part, in the groups" in text
    assert "No epoch or penalty was chosen" in text
    assert "Predicted probabilities of a and b, not the risks, were shifted" in text
    assert "hidden from 10% of the training patients" in text
    hidden = {"aggregator": "snn", "modalities": ["rna"], "training": {"modality_dropout": 0.3}}
    text = written(cohort=TABLES, tasks=[OS], modalities={"rna": {"table": "rna.csv"}}, models={"a": hidden})
    assert "each modality hidden from 30% of the patients at a step" in text
    assert "shifted" not in text


def test_solved_models_agree_with_their_verb():
    one = written(tasks=[OS], models={"mean": {"aggregator": "mean"}})
    assert "The model mean is linear and was solved" in one
    two = written(
        tasks=[OS], models={"mean": {"aggregator": "mean"}, "cox": {"aggregator": "mean", "training": {"loss": "cox"}}}
    )
    assert "The models mean and cox are linear and were solved" in two
    assert "AdamW" not in two
    stepped = written(tasks=[OS], models={"mean": {"aggregator": "mean", "options": {"hidden": 8}}})
    assert "AdamW" in stepped
    assert "chose the epoch;" in stepped


def test_fusion_sources_trace_and_transfer():
    text = written(
        tasks=[OS, OS | {"name": "pfi"}], modalities={"rna": {"table": "rna.csv"}, "unused": {"table": "u.csv"}},
        models={
            "abmil": {"aggregator": "abmil", "training": {"trace": True}},
            "late": {"aggregator": "abmil", "modalities": ["rna"], "fusion": "bilinear"},
            "moe": {"aggregator": "moe_pkt", "sources": "abmil"},
        },
        compare={"reference": "abmil", "transfer": ["abmil"], "correction": "none"},
    )  # fmt: skip
    assert "late (with rna, joined by gated bilinear fusion" in text
    assert "its sources are the frozen models abmil" in text
    assert "Of abmil the test part was also predicted after every epoch" in text
    assert "abmil was also tried on the test patients of the other survival tasks" in text
    assert "without correction" in text
    assert "u.csv" not in text


def test_spots_say_sections_and_blocks():
    genes = {"name": "genes", "kind": "expression", "level": "spot", "table": "x.csv", "library": True, "top": 50}
    text = written(
        tiles={"spots": "a/spots.csv"}, tasks=[genes | {"permute": 3}], splits={"column": "fold"},
        models={"ridge": {"aggregator": "mean", "options": {"penalty": 0.1, "pca": 64}, "training": {"epoch": "last"}}},
    )  # fmt: skip
    assert "Around each spot of spots.csv one tile was cut, 224" in text
    assert "lattice" not in text
    assert "the 50 genes of largest variance over all spots" in text
    assert "in blocks of 500" in text
    assert "other spots of these slides, not with other patients" in text
    assert "outcomes were shuffled among the spots (seed 3)" in text
    assert "stratified" not in text
    assert "at a ridge penalty of 0.1 with the inner part trained on too" in text


def test_drawn_features_are_no_slides():
    simulate = {"patients": 20, "features": {"dim": 32, "tiles": [40, 120]}}
    text = written(cohort={"name": "c", "simulate": simulate}, features={"precomputed": "x", "layout": "plain"})
    assert "features of tiles and outcomes were drawn with known effects" in text
    assert "each slide is 40 to 120 tiles of 32 numbers" in text
    assert "extracted beforehand" not in text


def test_tasks_name_their_patients_and_subtypes():
    assert task_text(OS | {"where": {"project": ["COAD", "READ"], "sex": "female"}}) == (
        "time t with event e; of patients with project COAD or READ and sex female"
    )
    genes = {"name": "g", "kind": "expression", "genes": ["A", "B"], "subtypes": True, "log": False}
    assert task_text(genes) == (
        "2 genes, one value a patient; subtypes called from measured and predicted expression by the nearest centroid "
        "(clusters of the training part, named by marker genes)"
    )


def test_the_detectable_hazard_ratio_is_schoenfelds():
    """By the formula with tabled quantiles, and by simulated log-rank tests at that ratio."""
    assert detectable_hazard_ratio(60) == pytest.approx(math.exp(math.sqrt(4 * (1.959964 + 0.841621) ** 2 / 60)), 1e-6)
    assert "With 60 events a hazard ratio below 2.06" in power_note(60)
    assert detectable_hazard_ratio(0) == math.inf
    assert detectable_hazard_ratio(100, power=0.9) > detectable_hazard_ratio(100)

    import numpy as np

    from histostudy.evaluation.censoring import log_rank

    rng = np.random.default_rng(0)
    high = np.arange(100) % 2 == 1
    found = [
        log_rank(
            rng.exponential(np.where(high, 1 / detectable_hazard_ratio(100), 1.0)), np.ones(100, bool), high,
            np.zeros(100, int),
        ) < 0.05
        for _ in range(400)
    ]  # fmt: skip
    assert 0.72 < np.mean(found) < 0.88


def test_methods_name_the_ratio_of_real_survival_tasks_alone():
    counts = {"os": {"patients": 492, "events": 166}, "null": {"patients": 492, "events": 166}}
    nulls = [OS, OS | {"name": "null", "permute": 1}]
    text = written(None, counts, tasks=nulls, models={"abmil": {"aggregator": "abmil"}})
    assert "1.54 (os, 166 events)" in text
    assert "(null, 166" not in text
    assert "In null outcomes were shuffled among the patients (seed 1)" in text


def test_segmenters_say_their_stages_their_scale_and_whom_they_are_compared_with():
    pixels = {"name": "px", "kind": "segmentation", "annotations": "x", "classes": {"a": ["A"]}, "mpp": 0.25}
    unet, h2g = {"segmenter": "unet"}, {"segmenter": "h2g", "options": {"tile_batch": 16}}
    text = written(tasks=[pixels], models={"u": unet, "h": h2g})
    assert "at 0.25 \N{MICRO SIGN}m per pixel" in text
    assert "Models and controls were compared with u on" in text
    assert (
        "each stage trained for at most 50 epochs" in text and "share of each class in a tile, 16 tiles a step" in text
    )
    label = {"name": "l", "kind": "classification", "target": "y"}
    both = written(tasks=[label, pixels], models={"u": unet, "m": {"aggregator": "abmil"}})
    assert "compared with mean (in classification) and u (in segmentation) on" in both
