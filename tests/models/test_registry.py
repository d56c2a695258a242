"""Options of every registered aggregator: what cannot be is one clear error, never a traceback."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from models.multimodal.tables import BOTH

from histostudy.errors import ModelError
from histostudy.models.registry import (
    AGGREGATORS,
    Aggregator,
    aggregator_kind,
    build_aggregator,
    is_count,
    is_number,
    is_positive,
    is_share,
)

aggregator_kind("mean")  # registers them all
EVERY_OPTION = [(name, field) for name in AGGREGATORS for field in fields(AGGREGATORS[name].Options)]
#: YAML reads ``1e-1`` as text.
NEVER = ("big", "1e-1", "", -1, -0.5, math.nan, -math.inf, [-1], ["1"], {}, {"a": 1})


def build(name: str, options: dict) -> Aggregator:
    return build_aggregator(name, 5, options, modalities=BOTH, outputs=2)


@pytest.mark.parametrize(("name", "field"), EVERY_OPTION, ids=lambda value: getattr(value, "name", value))
def test_a_value_that_cannot_be_is_one_line(name: str, field) -> None:
    bad = list(NEVER)
    if "None" not in field.type:
        bad.append(None)
    bad += [0, 1] if field.type == "bool" else [True, False]
    for value in bad:
        with pytest.raises(ModelError, match=rf"wrong option: .*{field.name}"):
            build(name, {field.name: value})


@pytest.mark.parametrize("name", list(AGGREGATORS))
def test_every_option_may_be_given_at_its_default(name: str) -> None:
    kind = AGGREGATORS[name]
    given = build(name, {field.name: getattr(kind.Options(), field.name) for field in fields(kind.Options)})
    assert given.options == kind.Options()


def test_lists_of_yaml_may_stand_for_tuples_and_whole_numbers_for_numbers() -> None:
    assert build("hist2rna", {"widths": [3, 4]}).dim_out == 4
    assert build("otsurv", {"mass": 1, "epsilon": 1, "gamma": math.inf}).options.mass == 1


def test_what_numbers_are() -> None:
    every = {"text": "0.5", "none": None, "true": True, "nan": math.nan, "inf": math.inf, "half": 0.5, "zero": 0,
             "two": 2, "minus": -0.5, "huge": 10**400, "list": [1]}  # fmt: skip
    accepted = {test: {name for name, value in every.items() if test(value)}
                for test in (is_number, is_positive, is_share, is_count)}  # fmt: skip
    assert accepted[is_number] == {"half", "zero", "two", "minus"}
    assert accepted[is_positive] == {"half", "two"}
    assert accepted[is_share] == {"half", "zero"}
    assert accepted[is_count] == {"two", "huge"}


def test_only_what_says_so_builds_on_other_models() -> None:
    assert [name for name in AGGREGATORS if AGGREGATORS[name].sources] == ["moe_pkt"]
    with pytest.raises(NotImplementedError, match="Mean builds on no other model"):
        build("mean", {}).set_sources([], torch.zeros(5), torch.ones(5))
