"""Every key of every profile is an option of the locked Snakemake or of the plugin that the profile is for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.cli import parse_args
from studies import ROOT

PROFILES = sorted((ROOT / "profiles").glob("*/profile.yaml"))
#: Plugins that the lock leaves out: nothing here can run them.
FOREIGN = {
    "kubernetes": ("snakemake_executor_plugin_kubernetes", "snakemake_storage_plugin_s3"),
}
#: What makes a run on a cluster the run that it is here.
AS_LOCAL = ("rerun-incomplete", "keep-going", "max-checksum-file-size", "show-failed-logs")


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "profiles" / name / "profile.yaml").read_text())


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.parent.name)
def test_snakemake_knows_every_key(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = [name for name in FOREIGN.get(profile.parent.name, ()) if find_spec(name) is None]
    if absent:
        pytest.skip(f"{' and '.join(absent)} not installed")
    try:
        _, args = parse_args(["--profile", str(profile), "--workflow-profile", "none", "--cores", "1"])
    except SystemExit:
        pytest.fail(capsys.readouterr().err[-500:])
    assert args.executor == yaml.safe_load(profile.read_text()).get("executor")


def test_an_unknown_key_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "profile.yaml").write_text("slurm-status-comand: squeue\n")
    with pytest.raises(SystemExit):
        parse_args(["--profile", str(tmp_path), "--workflow-profile", "none", "--cores", "1"])
    assert "slurm-status-comand" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_cluster_decides_as_this_machine_does_what_is_to_be_made(name: str) -> None:
    here, there = _read("default"), _read(name)
    assert {key: there[key] for key in AS_LOCAL} == {key: here[key] for key in AS_LOCAL}
    # the one GPU of this machine is no limit of a cluster
    assert "resources" not in there


def test_rules_of_the_profiles_are_rules_of_the_workflow() -> None:
    text = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    for profile in PROFILES:
        for rule in yaml.safe_load(profile.read_text()).get("set-resources", {}):
            assert f"rule {rule}:" in text, f"{profile}: {rule}"


def test_no_rule_names_what_only_a_cluster_has_and_each_asks_for_more_when_tried_again() -> None:
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        text = file.read_text()
        assert [word for word in ("slurm", "partition=", "gres=", "gpu_model=") if word in text] == [], file.name
        if file.name != "common.smk":
            assert text.count("shell:") == text.count("mem_mb=memory("), file.name
