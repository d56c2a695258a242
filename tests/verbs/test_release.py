"""Versions of a study: pinned, brought back, refused; on a workflow small enough to run many times."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from releases import make_checkout
from releases import run as _run
from releases import study_text as _study

from histostudy.errors import ConfigError
from histostudy.verbs.release import ReleaseError, Versioned, release, restore

SNAKEFILE = """
from pathlib import Path
from histostudy.hashcache import HashCache
from histostudy.provenance import records

S, CACHE = config["study"], HashCache()
FILES = {
    Path("results/cohorts/c/provenance.jsonl"): ["results/cohorts/c/"],
    Path(f"results/studies/{S}/provenance.jsonl"): [f"results/studies/{S}/", f"results/summary/{S}."],
}
if workflow.is_main_process:
    for file in FILES:
        records.restore(file, CACHE)

rule all:
    default_target: True
    input: f"results/studies/{S}/runs/weights.txt", expand(f"results/summary/{S}.{{x}}", x=["json", "csv"])

rule features:
    input: "results/cohorts/c/features.txt"

rule embed:
    output: "results/cohorts/c/features.txt"
    shell: "echo features > {output}"

rule train:
    input: "results/cohorts/c/features.txt"
    output: f"results/studies/{S}/runs/weights.txt"
    params: seed=config.get("seed", 0)
    shell: "echo {params.seed} $(cat {input}) > {output}"

rule summary:
    input: f"results/studies/{S}/runs/weights.txt"
    output: f"results/summary/{S}.json", f"results/summary/{S}.csv"
    params: seed=config.get("seed", 0)
    shell:
        "echo '{{\\"task\\": {{\\"auroc\\": {params.seed}}}}}' > {output[0]}; "
        "printf 'model,estimate\\nm,{params.seed}\\n' > {output[1]}"

onsuccess:
    for file, prefixes in FILES.items():
        records.save(file, prefixes, CACHE)

if workflow.is_main_process:
    records.refuse_unrecorded(output for rule in workflow.rules for output in rule.output)
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a released first version of its study `s`, and a second one."""
    return make_checkout(tmp_path_factory.mktemp("checkout"), SNAKEFILE)


def _refused(match: str, **where: Path) -> None:
    with pytest.raises(ReleaseError, match=match):
        release("s", "v1", where["root"])


def test_versions_from_the_first_to_the_second_and_back(origin: Path, tmp_path: Path) -> None:
    _refused("no remote", root=origin)
    _run(origin, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    _refused("not committed", root=origin)  # .dvc/config
    _run(origin, "git", "commit", "--quiet", "-am", "remote")
    _refused("not finished", root=origin)
    _run(origin, "snakemake", "--cores", "1", "--configfile", "config/studies/s.yaml")
    _refused("dvc status is not clean", root=origin)
    _run(origin, "dvc", "repro", "study@s")
    assert release("s", "v1", origin) == "study/s/v1"
    assert _run(origin, "git", "status", "--porcelain") == ""
    assert "s@v1.0.0" in _run(origin, "git", "tag")
    with pytest.raises(ReleaseError, match="there is a version v1"):
        release("s", "v1", origin)

    (origin / "config/studies/s.yaml").write_text(_study("s", seed=7))
    _run(origin, "git", "commit", "--quiet", "-am", "another seed")
    _run(origin, "dvc", "repro", "study@s")
    release("s", "v2", origin)
    weights = Path("results/studies/s/runs/weights.txt")
    assert (origin / weights).read_text() == "7 features\n"
    # its models alone, as somebody who knows the registry would take them
    _run(origin, "dvc", "artifacts", "get", ".", "s", "--rev", "v1.0.0", "-o", str(tmp_path / "model"))
    assert (tmp_path / "model/weights.txt").read_text() == "0 features\n"

    # a clone elsewhere, with nothing but git and the remote
    clone = tmp_path / "elsewhere" / "clone"
    clone.parent.mkdir()
    _run(clone.parent, "git", "clone", "--quiet", str(origin), str(clone))
    _run(clone, "git", "checkout", "--quiet", "-B", "main")
    for version, said in (("v1", "0"), ("v2", "7"), ("v1", "0")):
        assert restore("s", version, clone) == f"study/s/{version}"
        assert (clone / weights).read_text() == f"{said} features\n"
        assert json.loads((clone / "results/summary/s.json").read_text())["task"]["auroc"] == int(said)
        assert Versioned("s", clone).left_to_do() == ""
        assert json.loads(_run(clone, "dvc", "status", "--json", "study@s")) == {}
    with pytest.raises(ReleaseError, match=r"no version v3 of s \(known: study/s/v1, study/s/v2\)|no version v3"):
        restore("s", "v3", clone)
    # beside it, in a folder of its own
    restore("s", "v2", clone, tmp_path / "beside")
    assert (tmp_path / "beside" / weights).read_text() == "7 features\n"
    assert (clone / weights).read_text() == "0 features\n"

    # a changed result is noticed, never lost by a checkout, and healed from the remote
    (clone / weights).write_text("forged\n")
    with pytest.raises(ReleaseError, match="kept nowhere else"):
        restore("s", "v2", clone)
    assert (clone / weights).read_text() == "forged\n"
    assert "study@s" in json.loads(_run(clone, "dvc", "status", "--json", "study@s"))
    _run(clone, "dvc", "checkout", "--force", "study@s")
    assert (clone / weights).read_text() == "0 features\n"
    assert Versioned("s", clone).left_to_do() == ""


def test_made_again_from_nothing_the_lock_is_the_same(origin: Path) -> None:
    _run(origin, "dvc", "repro", "study@s")
    lock = (origin / "dvc.lock").read_bytes()
    shutil.rmtree(origin / "results")
    shutil.rmtree(origin / ".snakemake")
    _run(origin, "dvc", "repro", "--force", "study@s")
    assert (origin / "dvc.lock").read_bytes() == lock


def test_tables_that_nobody_keeps_are_named(tmp_path: Path) -> None:
    for name in ("config/studies", "data/one", "data/two"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "config/config.yaml").write_text(_study("other"))
    tables = {"name": "c", "slides": "../../data/one/slides.csv", "patients": "../../data/two/patients.csv"}
    (tmp_path / "config/studies/t.yaml").write_text(yaml.safe_dump({"study": "t", "cohort": tables}))
    _run(tmp_path, "git", "init", "--quiet")
    one = Versioned("t", tmp_path)
    assert one.tracked == ([], ["data/one/slides.csv", "data/two/patients.csv"])
    (tmp_path / "data/one.dvc").touch()  # DVC keeps the folder, git the other table
    (tmp_path / "data/two/patients.csv").touch()
    _run(tmp_path, "git", "add", "data/two/patients.csv")
    assert one.tracked == (["data/one.dvc"], [])


def test_what_is_not_a_version_or_a_study(origin: Path) -> None:
    with pytest.raises(ConfigError, match="not a number"):
        release("s", "final", origin)
    with pytest.raises(ConfigError, match="no study 'nobody'"):
        release("nobody", "v1", origin)
