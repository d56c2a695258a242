"""Which sequences of tasks can be learned."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from histostudy.continual_keys import Continual, check_sequence

KINDS = {"a": "classification", "b": "classification", "os": "survival"}
ALONE: dict[str, Continual] = {"m": TypeAdapter(Continual).validate_python({"method": "finetune"})}


def test_a_sequence_that_can_be_learned() -> None:
    check_sequence(["b", "a"], KINDS, ALONE)
    check_sequence([], KINDS, {})


@pytest.mark.parametrize(
    ("sequence", "kinds", "words"),
    [
        ([], KINDS, "give both, or neither"),
        (["a"], KINDS, "two tasks at least"),
        (["a", "b", "a"], KINDS, "each once"),
        (["a", "os"], KINDS, "'os' is not a classification task"),
        (["a", "c"], KINDS, "'c' is not a classification task"),
        (["a", "b"], KINDS | {"sequence": "regression"}, "is taken"),
    ],
)
def test_one_that_cannot(sequence: list[str], kinds: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_sequence(sequence, kinds, ALONE)


def test_negatives_are_of_tasks_in_the_sequence() -> None:
    keys = TypeAdapter(Continual).validate_python({"method": "comel", "negatives": {"os": "no"}})
    with pytest.raises(ValueError, match="'os' is not in the sequence"):
        check_sequence(["a", "b"], KINDS, {"m": keys})
    with pytest.raises(ValueError, match="give both, or neither"):
        check_sequence(["a", "b"], KINDS, {})
