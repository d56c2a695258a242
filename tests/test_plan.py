"""What the workflow's rules depend on: a change that matters changes a digest, another does not."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from studies import ROOT

from histostudy import codeversion
from histostudy.errors import StudyError
from histostudy.files import sha256
from histostudy.plan import STAGES, Plan, make_plan
from histostudy.stages import as_written

EVALUATED = {"evaluate", "evaluate_segmentation", "evaluate_tiles"}
TASK = {"name": "label", "kind": "classification", "target": "label", "adjust": ["age"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve slides with precomputed features, and their patients."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features").mkdir()
    rows = range(12)
    (tmp_path / "slides.csv").write_text("slide_id,patient_id\n" + "".join(f"s{i},{i:03d}\n" for i in rows))
    patients = "".join(f"{i:03d},{'ab'[i % 2]},{50 + i},{i % 4}\n" for i in rows)
    (tmp_path / "patients.csv").write_text("patient_id,label,age,site\n" + patients)
    for i in rows:
        with h5py.File(tmp_path / "features" / f"s{i}.h5", "w") as file:
            file["features"] = np.full((3, 4), i, np.float32)
    return tmp_path


def plan(folder: Path, **sections: object) -> Plan:
    """The study of the folder, laid out."""
    study = {
        "study": "x",
        "cohort": {"name": "c", "slides": "slides.csv", "patients": "patients.csv"},
        "features": {"precomputed": "features"},
        "splits": {"folds": 2},
        "tasks": [TASK],
        "models": {"mean": {"aggregator": "mean"}, "abmil": {"aggregator": "abmil"}},
    } | sections
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return make_plan(study, folder / "study.yaml")


def _stages_of_verbs() -> dict[str, set[str]]:
    """The words of each verb that a rule calls -> the stages whose code the rule names."""
    found: dict[str, set[str]] = {}
    kinds = {"train": {"train", "segment", "train_tiles"}, "evaluate": STAGES.keys() & EVALUATED}
    for file in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for rule in re.split(r"^\s*rule ", file.read_text(), flags=re.MULTILINE)[1:]:
            if verb := re.search(r'"histostudy ([a-z-]+(?: (?:summary|slides|features)\b)?)', rule):
                code = re.search(r'code=(?:PLAN\.code|code_of_task)\("(\w+)"\)', rule)
                assert code is not None, f"rule {rule.splitlines()[0]} names no code"
                stage = code.group(1)
                found.setdefault(verb.group(1), set()).update(kinds.get(stage, {stage}))
    return found


def _called(verb: str) -> set[str]:
    """What the function of the command line that is a verb imports to do its work on a study."""
    trees = [ast.parse(file.read_text()) for file in (ROOT / "src" / "histostudy").glob("cli*.py")]
    name = "cohort_summary" if verb == "cohort summary" else verb.split()[0].replace("-", "_")
    (function,) = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name]
    imports = [node for node in ast.walk(function) if isinstance(node, ast.ImportFrom) and node.module]
    if verb.startswith("index "):  # by the name that it has there
        return {f"histostudy.verbs.slides:join_{verb.split()[1]}"}
    named = {f"{n.module}:{a.name}" for n in imports for a in n.names if str(n.module).startswith(codeversion.VERBS)}
    named = {one for one in named if not one.startswith("histostudy.verbs.single")}  # of a slide without a study
    return named or {str(n.module) for n in imports}


@pytest.mark.parametrize("verb", _stages_of_verbs())
def test_the_code_that_a_verb_runs_is_in_its_version(verb: str) -> None:
    stages = _stages_of_verbs()[verb]
    known = {name for stage in stages for name in codeversion.closure(*STAGES[stage])}
    functions = _called(verb)
    needed = {name for function in functions for name in codeversion._parsed(function)[1]}
    if len(stages) == 1:  # else it only looks which of them a task is of
        needed |= functions
    whole = {name for name in needed if name.partition(":")[0] in known}
    missing = needed - known - whole - codeversion.NEUTRAL
    assert functions and not missing, f"{verb}: no code version of {', '.join(stages)} sees {sorted(missing)}"


def test_a_stage_does_not_depend_on_the_work_of_others() -> None:
    for stage, others in {
        "slides": ("tissue", "features", "models", "evaluation"),
        "tissue": ("features", "encoders", "models", "evaluation"),
        "tiles": ("features", "encoders", "models", "evaluation"),
        "embed": ("tissue", "models", "training", "evaluation"),
        "embed_tiles": ("evaluation", "report", "figures"),
        "train": ("evaluation", "tissue", "training.segmentation", "figures"),
        "segment": ("evaluation", "training.stage", "figures"),
        "evaluate": ("models", "training.stage", "training.segmentation", "evaluation.few_shot", "figures"),
        "learn": ("evaluation", "training.stage"),
        "sequence": ("training.continual", "training.stage", "models"),
    }.items():
        code = codeversion.closure(*STAGES[stage])
        assert not [c for c in code for other in others if f"{c}.".startswith(f"histostudy.{other}.")], stage


def test_what_the_page_and_the_figures_read_runs_their_rules(folder: Path) -> None:
    """The page prints the whole study; a figure is drawn by the names, the models and the scale of its tiles."""
    rules = {
        rule.split(":")[0]: re.search(r"settings=PLAN\.settings\((.*?)\),\n", rule)
        for rule in re.split(r"^rule ", (ROOT / "workflow/rules/study.smk").read_text(), flags=re.MULTILINE)[1:]
    }
    keys = {}
    for rule in ("report", "figures", "overview"):
        assert (given := rules[rule]) is not None, f"rule {rule} has no settings"
        keys[rule] = re.findall(r'"(\w+)"', given.group(1))

    def digests(**sections: object) -> dict[str, str]:
        planned = plan(folder, **sections)
        return {rule: planned.settings(*names) for rule, names in keys.items()}

    before = digests()
    for sections, runs in (
        ({"splits": {"folds": 2, "inner": 0.3}}, {"report"}),
        ({"tiles": {"size": 112}}, {"report", "figures"}),
        ({"models": {"abmil": {"aggregator": "abmil"}}}, {"report", "figures", "overview"}),
    ):
        after = digests(**sections)
        assert {rule for rule in keys if before[rule] != after[rule]} == runs


def test_replaced_features_are_noticed(folder: Path) -> None:
    before = plan(folder).files(Path("features"))
    file = folder / "features" / "s3.h5"
    os.utime(file, ns=(1, 1))
    assert plan(folder).files(Path("features")) == before  # pulled or copied, it is the same
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert plan(folder).files(Path("features")) != before


def test_a_covariate_concerns_the_clinical_model_alone(folder: Path) -> None:
    one, other = plan(folder), plan(folder, tasks=[TASK | {"adjust": ["age", "site"]}])
    assert one.model_settings("label", "abmil") == other.model_settings("label", "abmil")
    assert one.model_settings("label", "clinical") != other.model_settings("label", "clinical")
    assert one.outcomes() == other.outcomes()


def test_one_models_setting_is_its_own(folder: Path) -> None:
    models = {"mean": {"aggregator": "mean"}, "abmil": {"aggregator": "abmil", "training": {"lr": 0.01}}}
    one, other = plan(folder), plan(folder, models=models)
    assert one.model_settings("label", "mean") == other.model_settings("label", "mean")
    assert one.model_settings("label", "abmil") != other.model_settings("label", "abmil")


def test_an_edited_study_is_not_read_by_the_jobs_of_the_old_one(folder: Path) -> None:
    one, other = plan(folder), plan(folder, seed=5)
    one.write()
    old = one.file.read_text()
    other.write()
    assert one.file != other.file and one.file.read_text() == old
    assert yaml.safe_load((one.layout.home / "study.yaml").read_text())["seed"] == 5


def test_folds_that_cannot_be_are_refused_before_any_work(folder: Path) -> None:
    with pytest.raises(StudyError, match="no column 'hospital'"):
        plan(folder, splits={"folds": 2, "preserve": "hospital"})
    assert not (folder / "results").exists()


def test_the_members_of_a_shard_decide_its_digest(folder: Path) -> None:
    cohort = {"name": "c", "slides": "slides.csv", "patients": "patients.csv", "shard_size": 3}
    before = plan(folder, cohort=cohort).shards
    lines = (folder / "slides.csv").read_text().splitlines()
    (folder / "slides.csv").write_text("\n".join([*lines[:-1], "s11b,011"]) + "\n")
    after = plan(folder, cohort=cohort).shards
    changed = [i for i in set(before) | set(after) if before.get(i) != after.get(i)]
    assert 1 <= len(changed) <= 2


def test_a_file_is_used_as_its_stage_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text("{}")
    digest = sha256(path)
    assert as_written(path, digest) == path
    path.write_text("{} ")
    with pytest.raises(StudyError, match="not as its stage wrote it"):
        as_written(path, digest)
