"""What was planted beside what was found: agreement, disagreement, and the null."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from histostudy.files import frame_to_json, write_json
from histostudy.simulate.features import simulate_features
from histostudy.study import Study
from histostudy.studyfile import parse_study
from histostudy.verbs.planted import planted_and_found, read_tables

TASKS: list[dict[str, Any]] = [
    {"name": "os", "kind": "survival", "time": "os_days", "event": "os_event", "adjust": ["age", "stage", "sex"]},
    {"name": "genes", "kind": "expression", "table": "expression.csv"},
    {"name": "subtype", "kind": "classification", "target": "subtype"},
]


def study_of(tasks: list[dict[str, Any]] = TASKS, **simulate: Any) -> Study:
    return parse_study({
        "study": "planted",
        "cohort": {"name": "planted", "simulate": {"patients": 60, "sites": 4, "genes": 12} | simulate},
        "tasks": tasks, "models": {"abmil": {"aggregator": "abmil"}}, "compare": {"reference": "abmil"},
    })  # fmt: skip


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    simulate = study_of(features={"tiles": [2, 3]}).cohort.simulate
    assert simulate is not None
    simulate_features(simulate, 0, folder)
    return folder / "truth.json"


def scores(metric: str, rows: dict[str, tuple[float, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [[m, metric, *r] for m, r in rows.items()], columns=["model", "metric", "estimate", "low", "high"]
    )


def found_in(truth: Path, **changes: Any) -> pd.DataFrame:
    """Rows of a study that found what was planted, except for `changes`."""
    told = json.loads(truth.read_text())
    gene = dict.fromkeys(told["expression"]["follows"], (0.0, -0.2, 0.2))
    gene |= dict.fromkeys(told["expression"]["r"], (0.6, 0.4, 0.7))
    gene |= dict.fromkeys(told["expression"]["through_what_is_shared"], (0.2, 0.05, 0.4))
    gene |= changes.get("genes", {})
    nothing = [g for g in gene if g not in told["expression"]["r"]]
    nothing = [g for g in nothing if g not in told["expression"]["through_what_is_shared"]]
    gene |= dict.fromkeys(nothing[: changes.get("others", 0)], (0.4, 0.2, 0.6))
    genes = scores("pearson", gene).rename(columns={"model": "gene"}).assign(model="abmil")
    os = {"prior": (0.5, 0.5, 0.5), "clinical": (0.58, 0.54, 0.62), "abmil": (0.64, 0.6, 0.7)} | changes.get("os", {})
    subtype = {"prior": (0.5, 0.5, 0.5), "abmil": (0.8, 0.75, 0.85)}
    ratios = {"age (per SD)": 1.3, "stage (per unit)": 1.4, "sex: male v female": 1.0, "risk (per SD)": 1.5}
    ratios |= changes.get("cox", {})
    cox = pd.DataFrame(
        [
            ["abmil", kind, t, r, r / 1.1, r * 1.1]
            for t, r in ratios.items()
            for kind in ("univariable", "multivariable")
        ],
        columns=["model", "analysis", "term", "hazard_ratio", "low", "high"],
    )
    metrics = {"os": scores("c_harrell", os), "genes": genes, "subtype": scores("auroc", subtype)}
    study = study_of(features={"tiles": [2, 3]})
    return planted_and_found(study, truth, metrics, {"os": {"cox": cox}}).set_index("effect")


def test_what_was_planted_and_found_agrees(truth: Path) -> None:
    table = found_in(truth)
    assert table["agrees"].all()
    assert list(table.index) == [
        "os: clinical", "os: abmil", "os: age (per SD)", "os: stage (per unit)", "os: sex: male v female",
        "genes: genes that follow morphology", "genes: genes of the genome, by what morphology shares with it",
        "genes: all other genes", "subtype: abmil",
    ]  # fmt: skip
    oracle = json.loads(truth.read_text())["survival"]["endpoints"]["os_days"]["oracle_c"]["all"]
    assert f"true risk {oracle:.2f}" in table.loc["os: abmil", "planted"]
    assert table.loc["os: stage (per unit)", "planted"].startswith("hazard ratio 1.50 (1.")
    assert table.loc["os: stage (per unit)", "found"] == "1.40 (1.27 to 1.54)"


@pytest.mark.parametrize(
    ("change", "effect"),
    [
        ({"os": {"abmil": (0.52, 0.48, 0.56)}}, "os: abmil"),  # found nothing
        ({"os": {"abmil": (0.95, 0.92, 0.97)}}, "os: abmil"),  # better than the truth: a leak
        ({"cox": {"stage (per unit)": 2.5}}, "os: stage (per unit)"),
        ({"cox": {"stage (per unit)": 1.0}}, "os: stage (per unit)"),
        ({"cox": {"age (per SD)": 1.7}}, "os: age (per SD)"),
        ({"genes": {"GENE001": (0.1, -0.1, 0.3)}}, "genes: genes that follow morphology"),
        ({"genes": {"GENE003": (0.9, 0.8, 0.95)}}, "genes: genes of the genome, by what morphology shares with it"),
        ({"others": 4}, "genes: all other genes"),
    ],
)
def test_what_was_not_found_does_not_agree(truth: Path, change: dict[str, Any], effect: str) -> None:
    table = found_in(truth, **change)
    assert table.index[~table["agrees"]].tolist() == [effect]


def test_a_ratio_of_the_other_sex_is_turned_over(tmp_path: Path, truth: Path) -> None:
    told = json.loads(truth.read_text())
    told["survival"]["hazard_ratios"]["male"] = {"hazard_ratio": 2.0, "without_the_latents": 1.6}
    write_json(tmp_path / "truth.json", told)
    assert found_in(tmp_path / "truth.json", cox={"sex: male v female": 1.8})["agrees"].all()
    turned = found_in(tmp_path / "truth.json", cox={"sex: female v male": 0.55, "sex: male v female": 1.8})
    assert turned.loc["os: sex: female v male", "planted"] == "hazard ratio 0.50 (0.62 where nothing else is known)"
    assert turned["agrees"].all()


def test_shuffled_outcomes_hold_chance(truth: Path) -> None:
    study = study_of([TASKS[0] | {"name": "null", "permute": 1}], features={})
    models = {f"m{i}": (0.5, 0.45, 0.55) for i in range(5)} | {"prior": (0.5, 0.5, 0.5)}
    fine = pd.concat([scores("c_harrell", models), scores("auroc_td@365", models), scores("ibs", models)])
    table = planted_and_found(study, truth, {"null": fine})
    assert table["effect"].tolist() == ["null: c_harrell", "null: auroc_td@365"]
    assert table["agrees"].all()
    off = {"m0": (0.6, 0.55, 0.65), "m1": (0.4, 0.35, 0.45), "m2": (0.6, 0.55, 0.65)}
    leak = scores("c_harrell", models | off)
    table = planted_and_found(study, truth, {"null": leak})
    assert table["found"].tolist() == ["mean 0.52; interval without 0.5 for 3 of 5 models"]
    assert not table["agrees"].any()


def test_a_cohort_of_pixels_is_told_as_before(tmp_path: Path) -> None:
    write_json(tmp_path / "truth.json", {
        "effects": {"hazard_ratio_stroma": 2.7}, "expression": {"driven_by": "gland_share", "r": {"GENE01": 0.75}},
    })  # fmt: skip
    gene = scores("pearson", {"all": (0.3, 0.2, 0.4), "GENE01": (0.6, 0.4, 0.7), "GENE02": (0, -0.1, 0.1)})
    metrics = {
        "os": scores("c_harrell", {"abmil": (0.7, 0.6, 0.8)}),
        "genes": gene.rename(columns={"model": "gene"}).assign(model="abmil"),
        "subtype": scores("auroc", {"abmil": (0.6, 0.45, 0.7)}),
    }
    table = planted_and_found(study_of(), tmp_path / "truth.json", metrics)
    assert table.to_dict("list") == {
        "effect": ["os", "genes: genes that follow the glands", "genes: all other genes", "subtype"],
        "planted": [
            "hazard ratio 2.7 a s.d. of stroma", "|r| 0.75 for 1 genes", "no effect for 1 genes",
            "a class carried by rare tiles",
        ],
        "found": [
            "c_harrell 0.70 (0.60 to 0.80)", "mean r 0.60; interval above 0 for 1 of 1",
            "mean r 0.00; interval without 0 for 0 of 1", "auroc 0.60 (0.45 to 0.70)",
        ],
        "agrees": [True, True, True, False],
    }  # fmt: skip


def test_tables_are_read_by_name(tmp_path: Path) -> None:
    write_json(tmp_path / "os_curves.json", {"cox": frame_to_json(pd.DataFrame({"term": ["a"], "p": [0.5]}))})
    assert read_tables(tmp_path / "os_curves.json")["cox"].to_dict("list") == {"term": ["a"], "p": [0.5]}
    assert read_tables(tmp_path / "none.json") == {}
