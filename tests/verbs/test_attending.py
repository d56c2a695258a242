"""Whose attention a study's figures show."""

from __future__ import annotations

import pytest
import torch

from histostudy.models.batch import BagBatch
from histostudy.models.registry import build_aggregator
from histostudy.studyfile import parse_study
from histostudy.verbs.figures import ATTENDING, attending_model


@pytest.mark.parametrize("name", ATTENDING)
def test_each_of_them_has_attention_over_tiles(name: str) -> None:
    aggregator = build_aggregator(name, 6, {}, outputs=1).eval()
    aggregator.prepare(lambda most: torch.randn(min(most, 40), 6), 0)
    with torch.no_grad():
        _, attention = aggregator(BagBatch.pack([torch.randn(5, 6), torch.randn(9, 6)]))
    assert attention.shape == (14,)
    torch.testing.assert_close(attention[:5].sum(), torch.tensor(1.0), check_dtype=False)


@pytest.mark.parametrize(("models", "reference", "shown"), [
    ({"a": "max", "b": "abmil"}, None, "a"), ({"a": "transmil", "b": "abmil"}, "a", "a"),
    ({"a": "mean", "b": "max", "c": "rrt"}, "a", "c"), ({"a": "mean"}, None, None),
])  # fmt: skip
def test_the_reference_if_it_attends_else_the_best_known(
    models: dict, reference: str | None, shown: str | None
) -> None:
    study = parse_study({
        "study": "s", "cohort": {"name": "c", "simulate": {}},
        "tasks": [{"name": "t", "kind": "classification", "target": "y"}],
        "models": {name: {"aggregator": kind} for name, kind in models.items()},
        "compare": {"reference": reference} if reference else {},
    })  # fmt: skip
    assert attending_model(study) == shown
