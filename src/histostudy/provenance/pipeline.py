"""`dvc.yaml`, written from the studies: a stage for each cohort's features, and one for each study.

DVC versions what Snakemake makes. Each stage calls Snakemake, which alone knows what is to be done, so every output
is `persist`: DVC must not delete it first. The features of a cohort are a stage of their own, shared by its studies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from histostudy.errors import ConfigError
from histostudy.layout import Layout
from histostudy.study import Study
from histostudy.studyfile import paths_of, read_study_file

DEFAULT = Path("config") / "config.yaml"
STUDIES = Path("config") / "studies"
HEAD = "# Written by `make dvc` from config/: change the studies, not this file.\n"
#: What every stage depends on beside its data.
CODE = ("Snakefile", "workflow", "src/histostudy")


def study_files(root: Path) -> list[Path]:
    """The study files of a checkout: the default one, then those of ``config/studies`` by name."""
    return [Path(DEFAULT), *(STUDIES / path.name for path in sorted((root / STUDIES).glob("*.yaml")))]


def pipeline(root: Path) -> dict[str, Any]:
    """The content of ``dvc.yaml``.

    Parameters
    ----------
    root : Path
        The checkout.

    Raises
    ------
    ConfigError
        If a study file is wrong, or two have one name.
    """
    features: dict[str, dict[str, str]] = {}
    studies: dict[str, dict[str, str]] = {}
    for file in study_files(root):
        study = Study.model_validate(read_study_file(root / file))
        if study.train_tissue is not None:  # makes weights, of no cohort and without a report
            continue
        if study.study in studies:
            raise ConfigError(f"two studies are named {study.study!r}", where=file, todo="rename one")
        if artifact_name(study.study) in map(artifact_name, studies):
            raise ConfigError(f"the models of {study.study!r} have another study's name", where=file, todo="rename one")
        layout = Layout(study)
        facts = {"file": str(file), "data": _data(study, file)}
        if study.has_slides:
            call = _call(file, "features")
            one = features.setdefault(study.cohort.name, {"cmd": call, "data": facts["data"]})
            if call not in one["cmd"]:
                one["cmd"] += f" && {call}"
        studies[study.study] = facts | {"from": str(layout.cohort) if study.has_slides else facts["data"]}
    return {
        "stages": {
            "features": {
                "foreach": features,
                "do": {
                    "cmd": "${item.cmd}",
                    "deps": ["${item.data}", *CODE],
                    "outs": [{"results/cohorts/${key}": {"persist": True}}],
                },
            },
            "study": {
                "foreach": studies,
                "do": {
                    "cmd": _call("${item.file}"),
                    "deps": ["${item.from}", *CODE],
                    "params": [{"${item.file}": None}],
                    "outs": [{"results/studies/${key}": {"persist": True}}],
                    "metrics": [{"results/summary/${key}.json": {"cache": False, "persist": True}}],
                    "plots": [
                        {"results/summary/${key}.csv": {"cache": False, "persist": True, "x": "estimate", "y": "model"}}
                    ],
                },
            },
        },
        "artifacts": {
            artifact_name(name): {
                "path": f"results/studies/{name}/runs", "type": "model", "desc": "weights of every run of the study",
            }
            for name in studies
        },
    }  # fmt: skip


def pipeline_text(root: Path) -> str:
    """``dvc.yaml`` as it is written."""
    return HEAD + yaml.safe_dump(pipeline(root), sort_keys=False, width=120)


def data_of(study: Study, file: Path) -> list[Path]:
    """Paths in the checkout of every table, folder and file that a study names."""
    # of a drawn cohort the tables are results
    given = (Path(os.path.expandvars(path)).expanduser() for _, path, _ in paths_of(study))
    return [Path(os.path.normpath(file.parent / path)) for path in given]


def artifact_name(study: str) -> str:
    """Name of a study's models in the registry: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")


def _call(file: Path | str, *targets: str) -> str:
    return " ".join(["snakemake", *targets, "--cores all --configfile", str(file)])


def _data(study: Study, file: Path) -> str:
    """What the study's data are in the checkout: the folder of its tables, or, of drawn ones, the study file."""
    given: Iterable[Path | None] = (study.cohort.patients, study.cohort.slides)
    tables = [path for path in given if path is not None]
    if not tables:
        return str(file)
    return os.path.normpath(file.parent / tables[0].parent)
