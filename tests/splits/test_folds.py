"""Folds: properties, balance, sites, the published example."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from histostudy.cohort.outcomes import Outcome, outcome_of
from histostudy.errors import SplitError, TableError
from histostudy.splits.audit import audit
from histostudy.splits.folds import make_splits
from histostudy.splits.groups import deal_groups, group_cost
from histostudy.splits.strata import deal, strata_of
from histostudy.study import Splits
from histostudy.tasks import Classification, Regression, Survival


def make(n: int, seed: int = 0, sites: int = 7, classes: int = 2) -> tuple[pd.DataFrame, list[Outcome]]:
    rng = np.random.default_rng(seed)
    share = np.arange(1.0, classes + 1)
    patients = pd.DataFrame(
        {
            "patient_id": [f"P{i:04d}" for i in range(n)],
            "site": rng.choice([f"S{i}" for i in range(sites)], n),
            "kind": rng.choice([f"c{i}" for i in range(classes)], n, p=share / share.sum()),
            "days": rng.integers(1, 3000, n).astype(float),
            "dead": (rng.random(n) < 0.4).astype(int),
            "value": rng.normal(size=n),
        }
    )  # fmt: skip
    return patients, [outcome_of(Classification(name="k", kind="classification", target="kind"), patients)]


def parts(splits: pd.DataFrame) -> dict[tuple[int, int], dict[str, set[str]]]:
    return {
        key: {part: set(rows.loc[rows["part"] == part, "patient_id"]) for part in ("train", "val", "test")}
        for key, rows in splits.groupby(["repeat", "fold"])
    }


@settings(max_examples=50, deadline=None)
@example(n=41, folds=4, repeats=1, classes=4, stratify=True, inner=0.2, seed=255)
@given(
    n=st.integers(12, 80), folds=st.integers(2, 6), repeats=st.integers(1, 2), classes=st.integers(2, 4),
    stratify=st.booleans(), inner=st.sampled_from([0.05, 0.2, 0.4]), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_every_patient_is_tested_once_and_on_one_side(
    n: int, folds: int, repeats: int, classes: int, stratify: bool, inner: float, seed: int
) -> None:
    try:
        patients, outcomes = make(n, seed, classes=classes)
    except TableError:  # few patients can all fall into one class
        assume(False)
    assume(all((outcomes[0].y == k).sum() >= 2 for k in range(len(outcomes[0].classes))))
    settings_ = Splits(folds=folds, repeats=repeats, stratify=stratify, inner=inner)
    splits = make_splits(patients, outcomes, settings_, seed)
    assert len(splits) == n * folds * repeats and not splits.duplicated(["repeat", "fold", "patient_id"]).any()
    test = splits[splits["part"] == "test"]
    assert (test.groupby(["repeat", "patient_id"]).size() == 1).all() and len(test) == n * repeats
    for found in parts(splits).values():
        assert found["train"] and found["val"] and found["test"]
        training = n - len(found["test"])
        assert abs(len(found["val"]) - inner * training) <= 1 + 1e-9
        assert n // folds <= len(found["test"]) <= -(-n // folds)
        if stratify:
            for k in range(len(outcomes[0].classes)):
                members = set(outcomes[0].patient_ids[outcomes[0].y == k])
                in_test = len(members & found["test"])
                assert len(members) // folds <= in_test <= -(-len(members) // folds)
                wanted = inner * (len(members) - in_test)
                assert abs(len(members & found["val"]) - wanted) <= 1 + 1e-9
    shuffled = patients.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(splits, make_splits(shuffled, outcomes, settings_, seed))
    assert audit(splits, patients, pd.DataFrame({"slide_id": [], "patient_id": []}), outcomes)["ok"]


def test_seed_and_repeat_change_the_folds() -> None:
    patients, outcomes = make(60)
    for preserve in (None, "site"):
        kept = Splits(folds=3, repeats=2, preserve=preserve)
        one, two = (make_splits(patients, outcomes, kept, seed) for seed in (0, 1))
        assert not one.equals(two)
        test = one[one["part"] == "test"].set_index("patient_id")
        repeats = [test.loc[test["repeat"] == r, "fold"].sort_index() for r in (0, 1)]
        assert not repeats[0].equals(repeats[1])
        # the first repeat does not depend on how many there are
        alone = make_splits(patients, outcomes, Splits(folds=3, repeats=1, preserve=preserve), 0)
        assert alone.equals(one[one["repeat"] == 0].reset_index(drop=True))


def test_several_tasks_are_balanced_together() -> None:
    patients, outcomes = make(300, classes=3)
    patients.loc[:40, "value"] = np.nan
    outcomes += [
        outcome_of(Survival(name="os", kind="survival", time="days", event="dead"), patients),
        outcome_of(Regression(name="v", kind="regression", target="value"), patients),
    ]
    labels, names = strata_of(patients["patient_id"].tolist(), outcomes, 5)
    assert names == [
        "k=c0", "k=c1", "k=c2", "os=event q1", "os=event q2", "os=censored q1", "os=censored q2",
        "v=q1", "v=q2", "v=q3", "v=q4", "v=missing", "everybody",
    ]  # fmt: skip
    assert (labels.sum(axis=1) == 4).all()  # one stratum a task, and everybody
    splits = make_splits(patients, outcomes, Splits(folds=5), 3)
    order = {p: i for i, p in enumerate(patients["patient_id"])}
    drawn = np.array([labels[[order[p] for p in f["test"]]].sum(axis=0) for f in parts(splits).values()])
    random = np.random.default_rng(0).permutation(300) % 5
    chance = np.array([labels[random == k].sum(axis=0) for k in range(5)])
    even = labels.sum(axis=0) / 5
    assert np.abs(drawn - even).mean() < 0.4 * np.abs(chance - even).mean()
    assert np.abs(drawn - even).max() <= 4 and np.abs(drawn[:, -1] - 60).max() <= 2


def test_dealing_by_shares() -> None:
    labels = np.column_stack([np.arange(100) < 10, np.arange(100) >= 10, np.ones(100, bool)])
    part = deal(labels, [0.7, 0.2, 0.1], np.random.default_rng(0))
    assert [int((part[:10] == k).sum()) for k in range(3)] == [7, 2, 1]
    assert [int((part == k).sum()) for k in range(3)] == [70, 20, 10]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 3))
def test_a_site_is_never_on_both_sides(seed: int, sites: int, folds: int) -> None:
    patients, outcomes = make(60, seed, sites=sites)
    assume(patients["site"].nunique() >= folds)
    splits = make_splits(patients, outcomes, Splits(folds=folds, preserve="site"), seed)
    site = dict(zip(patients["patient_id"], patients["site"], strict=True))
    for found in parts(splits).values():
        assert all(found.values())
        assert not {site[p] for p in found["test"]} & {site[p] for p in found["train"] | found["val"]}
    shuffled = patients.sample(frac=1, random_state=seed)
    assert splits.equals(make_splits(shuffled, outcomes, Splits(folds=folds, preserve="site"), seed))
    report = audit(splits, patients, pd.DataFrame({"slide_id": [], "patient_id": []}), outcomes, "site")
    assert report["ok"] and all(f["shared_site_patients"] == 0 for f in report["folds"])


def test_groups_against_exhaustive_search() -> None:
    optimal = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        counts = rng.poisson(6, (8, 2)) * rng.integers(1, 4, (8, 1))
        shares = [1 / 3] * 3
        best = min(
            group_cost(counts, shares, np.array(p))
            for p in product(range(3), repeat=8)
            if len(set(p)) == 3 and p[0] == 0
        )
        found = group_cost(counts, shares, deal_groups(counts, shares, rng))
        assert found >= best - 1e-9
        optimal += found <= best + 1e-9
    assert optimal >= 19


def test_inner_parts_are_of_whole_sites_where_there_are_enough() -> None:
    patients, outcomes = make(200, sites=20)
    splits = make_splits(patients, outcomes, Splits(folds=4, preserve="site"), 0)
    site = dict(zip(patients["patient_id"], patients["site"], strict=True))
    for found in parts(splits).values():
        assert not {site[p] for p in found["val"]} & {site[p] for p in found["train"]}
        assert abs(len(found["val"]) / (200 - len(found["test"])) - 0.2) < 0.05


def test_the_example_of_howard_et_al(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "papers" / "site_cv" / "example.csv", dtype=str)
    patients = table.rename(columns={"patient": "patient_id"})
    outcome = outcome_of(Classification(name="f", kind="classification", target="feature"), patients)
    for seed in range(5):
        splits = make_splits(patients, [outcome], Splits(folds=3, preserve="site"), seed)
        test = splits[splits["part"] == "test"].merge(patients, on="patient_id")
        counts = test.groupby(["fold", "feature"]).size().unstack()
        assert sorted(counts["A"]) == [54, 54, 54] and sorted(counts["B"]) == [250, 250, 251]
        assert (test.groupby("site")["fold"].nunique() == 1).all()


def test_what_cannot_be_divided() -> None:
    patients, outcomes = make(8)
    with pytest.raises(SplitError, match="8 patients for 9 folds"):
        make_splits(patients, outcomes, Splits(folds=9), 0)
    with pytest.raises(SplitError, match="2 patients for 2 folds"):
        make_splits(patients[:2], [], Splits(folds=2), 0)
    patients["rare"] = ["x"] + ["y"] * 7
    rare = [outcome_of(Classification(name="r", kind="classification", target="rare"), patients)]
    with pytest.raises(SplitError, match="one patient with 'x'"):
        make_splits(patients, rare, Splits(folds=2), 0)
    patients["few"] = ["x", "x", "y", "y"] + [None] * 4
    few = [outcome_of(Classification(name="f", kind="classification", target="few"), patients)]
    with pytest.raises(SplitError, match="task 'f': 4 patients with the outcome for 5 folds"):
        make_splits(patients, few, Splits(folds=5), 0)
    patients, outcomes = make(20)
    with pytest.raises(SplitError, match="no column 'centre'"):
        make_splits(patients, outcomes, Splits(folds=2, preserve="centre"), 0)
    with pytest.raises(SplitError, match="2 values of site for 3 folds"):
        make_splits(patients.assign(site=["a", "b"] * 10), outcomes, Splits(folds=3, preserve="site"), 0)
    patients.loc[3, "site"] = None
    with pytest.raises(SplitError, match="1 patients have no site .the first: P0003"):
        make_splits(patients, outcomes, Splits(folds=2, preserve="site"), 0)


def test_a_class_smaller_than_the_folds_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    patients, _ = make(30)
    patients["rare"] = ["x"] * 3 + ["y"] * 27
    rare = [outcome_of(Classification(name="r", kind="classification", target="rare"), patients)]
    splits = make_splits(patients, rare, Splits(folds=5), 0)
    assert "some folds test none" in caplog.text
    # the class is trained on in every fold
    assert all(f["train"] & {"P0000", "P0001", "P0002"} for f in parts(splits).values())
