"""Bad input is one line that names the place and says what to do, exit code 2, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from studies import Snakemake

pytestmark = pytest.mark.workflow

SLIDES = "slide_id,patient_id\n" + "".join(f"s{i},p{i}\n" for i in range(12))
PATIENTS = "patient_id,label,time,event\n" + "".join(f"p{i},{'ab'[i % 2]},{100 + i},{i % 2}\n" for i in range(12))
SURVIVAL = [{"name": "o", "kind": "survival", "time": "time", "event": "event", "horizons": [105]}]


def _study(
    folder: Path, *, slides: str = SLIDES, patients: str = PATIENTS, spoil: str = "", **sections: object
) -> Path:
    """A study of twelve slides with precomputed features, spoilt as asked."""
    (folder / "features").mkdir(parents=True)
    (folder / "slides.csv").write_text(slides)
    (folder / "patients.csv").write_text(patients)
    rng = np.random.default_rng(0)
    for i in range(12):
        vectors = rng.normal(size=(5, 9 if spoil == "width" and i == 3 else 8)).astype(np.float32)
        if spoil == "nan" and i == 3:
            vectors[2, 4] = np.nan
        with h5py.File(folder / "features" / f"s{i}.h5", "w") as file:
            file["features"], file["coords"] = vectors, np.zeros((5, 2), np.int64)
    study = {
        "study": "bad",
        "cohort": {"name": "bad", "slides": "slides.csv", "patients": "patients.csv"},
        "features": {"precomputed": "features"},
        "splits": {"folds": 3},
        "tasks": [{"name": "label", "kind": "classification", "target": "label"}],
        "models": {"mean": {"aggregator": "mean"}},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study | sections))
    return file


CASES = {
    "duplicate id": ({"slides": SLIDES + "s3,p3\n"}, ["slides.csv row 14 column slide_id", "'s3' is in row 5 too"]),
    "climbing id": ({"slides": SLIDES.replace("s3,", "../s3,")}, ["slides.csv row 5 column slide_id", "'../s3'"]),
    "one class": ({"patients": PATIENTS.replace(",b,", ",a,")}, ["patients.csv column label", "needs two classes"]),
    "two labels": ({"patients": PATIENTS + "p3,a,103,1\n"}, ["patients.csv row 14", "'p3' is in row 5 too", "label"]),
    "few patients": ({"splits": {"folds": 20}}, ["12 patients for 20 folds"]),
    "NaN": ({"spoil": "nan"}, ["s3.h5 row 2 column 4", "nan"]),
    "widths": ({"spoil": "width"}, ["s3.h5", "9 wide"]),
    "word": ({"patients": PATIENTS.replace(",103,", ",soon,"), "tasks": SURVIVAL}, ["row 5 column time", "'soon'"]),
    "negative": ({"patients": PATIENTS.replace(",103,", ",-5,"), "tasks": SURVIVAL}, ["row 5 column time", "negative"]),
    "no column": (
        {"tasks": [{"name": "t", "kind": "classification", "target": "labl"}]},
        ["no column 'labl'", "did you mean 'label'"],
    ),
    "no slide file": (
        {"slides": "slide_id,patient_id,path\n" + "".join(f"s{i},p{i},study.yaml\n" for i in range(11)) + "s11,p11,x\n"}
        | {"features": {"encoder": "builtin"}},
        ["slides.csv row 13 column path", "no slide file"],
    ),
    "model": ({"models": {"m": {"aggregator": "abmill"}}}, ["models.m", "did you mean 'abmil'"]),
    "option": ({"models": {"m": {"aggregator": "abmil", "options": {"hiden": 3}}}}, ["models.m", "'hiden'", "hidden"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, snakemake: Snakemake, tmp_path: Path) -> None:
    changes, says = CASES[case]
    study = _study(tmp_path, **changes)  # type: ignore[arg-type]
    done = snakemake(study, tmp_path, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1 and all(words in errors[0] for words in says), errors
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(tmp_path.glob("results/studies/*"))


def test_the_same_study_runs_when_nothing_is_wrong(snakemake: Snakemake, tmp_path: Path) -> None:
    snakemake(_study(tmp_path), tmp_path, "--until", "evaluate")
    assert (tmp_path / "results/studies/bad/metrics/label.csv").is_file()


def test_a_job_of_another_plan_stops(tmp_path: Path, snakemake: Snakemake, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the study file was edited while its jobs waited in a cluster's queue."""
    study = _study(tmp_path)
    as_a_job = ("--mode", "remote", "--dry-run")
    assert snakemake(study, tmp_path, *as_a_job).returncode == 0
    monkeypatch.setenv("HISTOSTUDY_PLANS", "another.yaml")
    done = snakemake(study, tmp_path, *as_a_job, check=False)
    assert done.returncode == 2 and "changed while the run was going on; start the run again" in done.stderr


@pytest.mark.parametrize("option", ["--dry-run", "-nq", "--summary", "--unlock", "--list"])
def test_a_look_leaves_no_results(option: str, tmp_path: Path, snakemake: Snakemake) -> None:
    study = _study(tmp_path)
    snakemake(study, tmp_path, option, check=False)
    assert not (tmp_path / "results").exists()
