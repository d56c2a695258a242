"""Modalities of a run: what is chosen and measured on the training part, and on nobody else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from histostudy.cohort.modalities import ModalityTable
from histostudy.errors import ModelError
from histostudy.models.batch import Modality as Spec
from histostudy.models.model import MILModel
from histostudy.study import Modality
from histostudy.training.modalities import RunModality, fit_modality, install

NAN = np.nan
VALUES = np.array([[1.0, 5, 0, 7], [3, 5, NAN, 7], [5, 5, 4, 7], [99, -99, 99, 1], [2, 5, 2, 7]])
IDS = ["a", "b", "c", "tested", "d"]
STORE = ["a", "b", "c", "nobody", "tested"]


def fit(
    values: np.ndarray = VALUES, groups: dict | None = None, rows: tuple = (0, 1, 2, 3), **keys: Any
) -> RunModality:
    table = ModalityTable("rna", ["A", "flat", "B", "still"], values, IDS, groups or {})
    return fit_modality(table, Modality(columns=["*"], **keys), STORE, list(rows))


def test_columns_and_moments_are_those_of_the_training_part() -> None:
    run = fit()
    assert run.spec.columns == ("A", "B")  # the others vary in the test part alone
    assert run.spec.groups == ((0, 1),)
    assert run.fill.tolist() == [3, 2]
    np.testing.assert_allclose(run.centre, [3, 2])
    np.testing.assert_allclose(run.scale, [np.std([1, 3, 5]), 2], rtol=1e-6)
    assert run.present.tolist() == [True, True, True, False, True]
    np.testing.assert_array_equal(run.values, [[1, 0], [3, NAN], [5, 4], [NAN, NAN], [99, 99]])


@pytest.mark.parametrize("scale", ["zscore", "minmax", "none"])
def test_other_patients_change_nothing_that_is_fitted(scale: str) -> None:
    spoiled = VALUES.copy()
    spoiled[[3, 4]] = [[-7.0, NAN, 1e6, 0], [0, 0, 0, 0]]
    one, two = fit(scale=scale), fit(spoiled, scale=scale)
    for name in ("fill", "centre", "scale"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert one.spec == two.spec


def test_minmax_puts_the_training_part_between_minus_one_and_one() -> None:
    run = fit(scale="minmax")
    scaled = (run.values[:3] - run.centre) / run.scale
    np.testing.assert_allclose(scaled, [[-1, -1], [0, NAN], [1, 1]])
    plain = fit(scale="none")
    assert plain.centre.tolist() == [0, 0] and plain.scale.tolist() == [1, 1]


def test_top_keeps_the_columns_that_vary_most_and_their_groups() -> None:
    values = np.array([[1.0, 0, 0, 5], [2, 9, 1, 5], [3, 0, 0, 6], [0, 0, 0, 0], [0, 0, 0, 0]])
    groups = {"one": ["A", "B"], "two": ["still", "flat"], "gone": ["B"]}
    run = fit(values, groups, top=2)
    assert run.spec.columns == ("A", "flat")
    assert run.spec.groups == ((0,), (1,))
    assert fit(values, groups).spec.groups == ((0, 2), (3, 1), (2,))


def test_rows_of_a_batch_and_who_is_missing() -> None:
    run = fit()
    values = run.of([4, 3, 0], "cpu")
    assert values.present.tolist() == [True, False, True] and values.values[2].tolist() == [1, 0]
    assert run.missing([0, 1, 2, 3]) == 1 and run.missing([0]) == 0


def test_what_cannot_be_fitted_is_one_line() -> None:
    with pytest.raises(ModelError, match="nobody in a training part has modality 'rna'; use fewer folds"):
        fit(rows=(3,))
    with pytest.raises(ModelError, match="no column of modality 'rna' varies in a training part"):
        fit(rows=(0, 3))


def test_a_network_takes_the_moments() -> None:
    run = fit()
    network = MILModel(0, "snn", {"width": 4, "blocks": 1}, {"kind": "survival_cox", "days": []}, [run.spec])
    install(network, {"rna": run})
    table = network.tables["rna"]
    assert torch.equal(table.fill, run.fill) and torch.equal(table.centre, run.centre)
    assert torch.equal(table.scale, run.scale)
    scaled = table(run.of(range(5), "cpu"))
    assert torch.isfinite(scaled.values).all() and (scaled.values[3] == 0).all()
    assert scaled.values[1, 1] == 0  # the median of B is also its mean here
    assert isinstance(run.spec, Spec)
