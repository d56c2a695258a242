"""What is checked before any work: plainly named models without torch, all others by building them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from histostudy.models.model import MILModel
from histostudy.models.registry import aggregator_kind
from histostudy.study import Model
from histostudy.verbs.check import PLAIN, is_plain

HEADS = [
    {"kind": "classification", "classes": ["a", "b"]},
    {"kind": "regression", "columns": ["y"]},
]
IMPORTED = """
import sys
from histostudy.cli import main
sys.argv = ["histostudy", "check", "--study", sys.argv[1]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_a_plain_aggregator_builds_from_its_defaults(name: str) -> None:
    kind = aggregator_kind(name)
    assert kind.uses_tiles and not kind.sources
    for head in HEADS:
        assert MILModel(1, name, {}, head, [], "concat").aggregator.dim_out > 0


@pytest.mark.parametrize(
    "more",
    [{"options": {"hidden": 64}}, {"recipe": {"aem": {}}}, {"modalities": ["rna"]}, {"sources": "abmil"},
     {"fusion": "bilinear"}, {"aggregator": "snn"}, {"aggregator": "abmill"}],
)  # fmt: skip
def test_a_model_that_says_more_is_built(more: dict[str, object]) -> None:
    assert is_plain(Model.model_validate({"aggregator": "abmil", "training": {"epochs": 3}}))
    assert not is_plain(Model.model_validate({"aggregator": "abmil"} | more))


@pytest.mark.parametrize(("more", "torch"), [({}, False), ({"recipe": {"aem": {}}}, True)])
def test_plain_models_are_checked_without_torch(tmp_path: Path, more: dict[str, object], torch: bool) -> None:
    study = {
        "study": "s",
        "cohort": {"name": "c", "simulate": {"patients": 12}},
        "tasks": [{"name": "subtype", "kind": "classification", "target": "subtype"}],
        "models": {"mean": {"aggregator": "mean"}, "abmil": {"aggregator": "abmil"} | more},
        "compare": {"reference": "mean"},
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    command = [sys.executable, "-c", IMPORTED, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == [str(torch)], done.stderr
