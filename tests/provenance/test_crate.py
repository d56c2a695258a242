"""The RO-Crate says what was run, of what and by what, and holds together."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from histostudy.files import sha256
from histostudy.hashcache import HashCache
from histostudy.provenance.crate import NAME, hash_uri, jobs_of, write_crate
from histostudy.provenance.versions import LOCK

COHORT, HOME = Path("results/cohorts/c"), Path("results/studies/s")


def _line(target: Path, rule: str, inputs: list[Path], log: str) -> dict[str, Any]:
    record = {"rule": rule, "log": [log], "params": ["'x'"], "input": [str(i) for i in inputs], "code": f"do {rule}"}
    return {"target": str(target), "sha256": sha256(target), "record": record}


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    files = {
        "table": Path("data/patients.csv"),
        "index": COHORT / "shard-0.parquet",
        "more": COHORT / "shard-1.parquet",
    }
    files |= {"metrics": HOME / "metrics/t.csv", "figure": HOME / "figures/t.svg", "pdf": HOME / "figures/t.pdf"}
    for name, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    lines = {
        COHORT: [_line(files[f], "embed", [files["table"]], f"log/{f}") for f in ("index", "more")],
        HOME: [
            _line(files["metrics"], "evaluate", [files["index"], files["more"]], "log/e"),
            *(_line(files[f], "figures", [files["metrics"]], "log/f") for f in ("figure", "pdf")),
        ],
    }
    for folder, some in lines.items():
        (folder / "provenance.jsonl").write_text("".join(json.dumps(line) + "\n" for line in some))
    software = {"snakemake": "9", "torch": "2", "commit": "abc"}
    records = [folder / "provenance.jsonl" for folder in lines]
    about = {"name": "s", "software": software, "description": "d"}
    written = [write_crate(HOME, records, Path("workflow/Snakefile"), HashCache(), **about).read_bytes() for _ in "ab"]
    assert written[0] == written[1]
    return {entity["@id"]: entity for entity in json.loads(written[0])["@graph"]}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and set(value) == {"@id"}:
        yield value["@id"]
    elif isinstance(value, list):
        for one in value:
            yield from _references(one)


def _ids(value: Any) -> list[str]:
    return sorted(_references(value))


def test_every_reference_is_to_something_there(graph: dict[str, dict[str, Any]]) -> None:
    specification = "https://w3id.org/ro/crate/1.1"
    for entity in graph.values():
        for key, value in entity.items():
            assert {r for r in _references(value) if r != specification} <= set(graph), (entity["@id"], key)


def test_the_profiles_required_parts_are_there(graph: dict[str, dict[str, Any]]) -> None:
    root = graph["./"]
    assert graph[NAME]["about"] == {"@id": "./"} and graph[NAME]["conformsTo"]["@id"].endswith("/crate/1.1")
    assert {"https://w3id.org/ro/wfrun/provenance/0.5"} <= set(_ids(root["conformsTo"]))
    main = graph[root["mainEntity"]["@id"]]
    assert {"ComputationalWorkflow", "HowTo", "SoftwareSourceCode"} <= set(main["@type"]) and main[
        "programmingLanguage"
    ]
    for step in _ids(main["step"]):
        tool = graph[step]["workExample"]["@id"]
        assert graph[step]["@type"] == "HowToStep" and tool in _ids(main["hasPart"])
    (organize,) = [e for e in graph.values() if e["@type"] == "OrganizeAction"]
    assert graph[organize["instrument"]["@id"]]["name"] == "Snakemake"
    assert graph[organize["result"]["@id"]]["instrument"] == root["mainEntity"]
    for control in _ids(organize["object"]):
        assert graph[control]["@type"] == "ControlAction"
        assert (
            graph[graph[control]["instrument"]["@id"]]["workExample"]
            == graph[graph[control]["object"]["@id"]]["instrument"]
        )
    assert set(_ids(root["mentions"])) == {e["@id"] for e in graph.values() if e["@type"] == "CreateAction"}


def test_every_job_has_its_inputs_and_outputs_by_their_bytes(graph: dict[str, dict[str, Any]]) -> None:
    jobs = {e["name"]: e for e in graph.values() if e["@id"].startswith("#job/")}
    assert sorted(name.split()[0] for name in jobs) == ["embed", "embed", "evaluate", "figures"]
    evaluate = next(job for name, job in jobs.items() if name.startswith("evaluate"))
    wanted = sorted(hash_uri(sha256(COHORT / f"shard-{i}.parquet")) for i in (0, 1))
    assert _ids(evaluate["object"]) == wanted and _ids(evaluate["result"]) == ["metrics/t.csv"]
    figures = next(job for name, job in jobs.items() if name.startswith("figures"))
    assert _ids(figures["result"]) == ["figures/t.pdf", "figures/t.svg"]
    for name in ("metrics/t.csv", "figures/t.svg"):
        assert graph[name]["sha256"] == sha256(HOME / name)
    run = graph["#run"]
    assert _ids(run["object"]) == [hash_uri(sha256("data/patients.csv"))]


def test_the_lock_of_the_environment_is_named_by_its_bytes(graph: dict[str, dict[str, Any]]) -> None:
    lock = graph[hash_uri(sha256(LOCK))]
    assert lock["@type"] == "File" and lock["sha256"] == sha256(LOCK)
    assert lock["@id"] in _ids(graph[graph["./"]["mainEntity"]["@id"]]["softwareRequirements"])


def test_a_name_by_bytes_is_that_of_rfc_6920() -> None:
    # the example of the RFC: the SHA-256 of "Hello World!"
    import hashlib

    digest = hashlib.sha256(b"Hello World!").hexdigest()
    assert hash_uri(digest) == "ni:///sha-256;f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk"
    assert base64.urlsafe_b64decode(hash_uri(digest).partition(";")[2] + "=").hex() == digest


def test_outputs_of_one_job_are_one_action() -> None:
    same = {"rule": "r", "log": ["l"], "params": [], "input": []}
    lines = [{"target": t, "sha256": "", "record": same} for t in "ba"]
    lines.append({"target": "c", "sha256": "", "record": same | {"log": ["m"]}})
    assert [[line["target"] for line in job] for job in jobs_of(lines)] == [["a", "b"], ["c"]]
