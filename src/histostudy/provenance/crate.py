"""A study's run as a Workflow Run RO-Crate: every job, with what it read and wrote.

The profile is Provenance Run Crate 0.5 (https://w3id.org/ro/wfrun/provenance/0.5; Leo et al., PLoS ONE 2024): one
`CreateAction` for the run, one for each job, a `HowToStep` and a tool for each rule. It is written from the records
that travel with the results (`histostudy.provenance.records`), so it holds no times, and two runs that are the same
give the same file. Results of the study are named by their path in the crate; all else (features of the cohort, tables)
by the SHA-256 of its bytes (``ni:///sha-256;...``, RFC 6920).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.files import sha256, write_json
from histostudy.hashcache import HashCache
from histostudy.provenance.records import read_records
from histostudy.provenance.versions import LOCK

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate

NAME = "ro-crate-metadata.json"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
#: Keys of a record that two outputs of one job share.
JOB = ("rule", "log", "params", "input")


class _Crate:
    """The crate while it is put together."""

    def __init__(self, crate: ROCrate, home: Path, cache: HashCache) -> None:
        self.crate, self.home, self.cache = crate, home, cache
        self.files: dict[str, Any] = {}

    def entity(self, uri: str, kind: str | list[str], **properties: Any) -> Any:
        from rocrate.model.contextentity import ContextEntity

        return self.crate.add(ContextEntity(self.crate, uri, {"@type": kind, **properties}))

    def file(self, path: str, digest: str | None = None) -> Any:
        """The entity of a file that a job read or wrote."""
        if path not in self.files:
            digest = digest or self.cache.sha256s([path])[0]
            inside = Path(path).is_relative_to(self.home)
            identifier = str(Path(path).relative_to(self.home)) if inside else hash_uri(digest)
            about = {"name": path, "sha256": digest, "contentSize": str(Path(path).stat().st_size)}
            if identifier in {known.id for known in self.files.values()}:  # the same bytes under two names
                self.files[path] = next(known for known in self.files.values() if known.id == identifier)
            elif inside:
                self.files[path] = self.crate.add_file(dest_path=identifier, properties=about, record_size=False)
            else:
                self.files[path] = self.entity(identifier, "File", **about)
        return self.files[path]


def hash_uri(sha256: str) -> str:
    """Name of a file by its bytes: ``ni:///sha-256;...`` (RFC 6920)."""
    return "ni:///sha-256;" + base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")


def jobs_of(records: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Lines of records, those of one job together, jobs in the order of their first output."""
    jobs: dict[str, list[Mapping[str, Any]]] = {}
    for line in sorted(records, key=lambda line: line["target"]):
        jobs.setdefault(json.dumps([line["record"][key] for key in JOB]), []).append(line)
    return list(jobs.values())


def write_crate(
    home: Path, records: Sequence[Path], workflow: Path, cache: HashCache, *,
    name: str, software: Mapping[str, str], description: str, licence: str | None = None,
) -> Path:  # fmt: skip
    """Write ``ro-crate-metadata.json`` into a study's folder.

    Parameters
    ----------
    home : Path
        The study's results.
    records : sequence of Path
        The files of records (``provenance.jsonl``) of the cohort and the study.
    workflow : Path
        The Snakefile.
    cache : HashCache
        Hashes of the inputs.
    name, description : str
        The study's.
    software : mapping
        Name and version of the packages it ran with; ``commit`` and the lock's hash among them.
    licence : str, optional
        Of the results; nothing is said where nobody said it.
    """
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version="1.1")
    made = _Crate(crate, home, cache)
    root = crate.root_dataset
    root["name"], root["description"] = name, description
    root["conformsTo"] = [
        made.entity(uri, "CreativeWork", name=title, version=uri.rpartition("/")[2]) for uri, title in PROFILES.items()
    ]
    if licence is not None:
        root["license"] = licence
    del root["datePublished"]  # the file says what was done, not when it was said
    engine = made.entity(
        "#snakemake", "SoftwareApplication", name="Snakemake", version=software.get("snakemake", "unknown"),
        url="https://snakemake.github.io",
    )  # fmt: skip
    packages = [
        made.entity(f"#software/{package.replace(' ', '-')}", "SoftwareApplication", name=package, version=version)
        for package, version in sorted(software.items())
    ]
    if LOCK.is_file():
        digest = sha256(LOCK)
        about = {"name": "requirements.lock", "sha256": digest, "contentSize": str(LOCK.stat().st_size)}
        about["description"] = "name, version and SHA-256 of every distribution of the environment"
        packages.append(made.entity(hash_uri(digest), "File", **about))
    main = made.entity(
        f"#{workflow.parent.name}/{workflow.name}", ["SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        name="histostudy", programmingLanguage=_language(made), version=software.get("commit", "unknown"),
    )  # fmt: skip
    root["mainEntity"], crate.root_dataset["mentions"] = main, []
    lines = [line for file in records for line in read_records(file) if Path(line["target"]).is_file()]
    steps: dict[str, Any] = {}
    actions, controls = [], []
    for line in lines:
        made.file(line["target"], line["sha256"])
    for number, job in enumerate(jobs_of(lines)):
        rule = job[0]["record"]["rule"]
        if rule not in steps:
            command = job[0]["record"]["code"]
            tool = made.entity(f"#rule/{rule}", "SoftwareApplication", name=rule, description=command)
            place = str(len(steps))
            steps[rule] = made.entity(f"#step/{rule}", "HowToStep", name=rule, position=place, workExample=tool)
        inputs = [path for path in job[0]["record"]["input"] if Path(path).is_file()]
        action = made.entity(
            f"#job/{number:05d}", "CreateAction", name=f"{rule} {number}", instrument=steps[rule]["workExample"],
            object=[made.file(path) for path in inputs], result=[made.file(line["target"]) for line in job],
            actionStatus="http://schema.org/CompletedActionStatus",
        )  # fmt: skip
        actions.append(action)
        controls.append(
            made.entity(f"#control/{number:05d}", "ControlAction", instrument=steps[rule], object=action)
        )  # fmt: skip
    main["step"] = list(steps.values())
    main["hasPart"] = [step["workExample"] for step in steps.values()]
    written = {line["target"] for line in lines}
    read = {path for job in jobs_of(lines) for path in job[0]["record"]["input"]} - written
    run = made.entity(
        "#run", "CreateAction", name=f"run of {name}", instrument=main,
        object=[made.file(path) for path in sorted(read) if Path(path).is_file()],
        result=[made.file(line["target"]) for line in lines if Path(line["target"]).is_relative_to(home)],
        actionStatus="http://schema.org/CompletedActionStatus",
    )  # fmt: skip
    made.entity("#organize", "OrganizeAction", name="workflow run", instrument=engine, object=controls, result=run)
    main["softwareRequirements"] = packages
    root["mentions"] = [run, *actions]
    document = crate.metadata.generate()
    document["@context"] = [document["@context"], TERMS]
    document["@graph"].sort(key=lambda entity: str(entity["@id"]))
    write_json(home / NAME, document)
    return home / NAME


def _language(made: _Crate) -> Any:
    return made.entity(
        "https://w3id.org/workflowhub/workflow-ro-crate#snakemake", "ComputerLanguage", name="Snakemake",
        identifier="https://doi.org/10.1093/bioinformatics/bts480", url="https://snakemake.readthedocs.io",
    )  # fmt: skip
