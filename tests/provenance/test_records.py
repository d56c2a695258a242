"""Snakemake's records travel with the results, and vouch for nothing else than what they are of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from histostudy.errors import StudyError
from histostudy.hashcache import HashCache
from histostudy.provenance import records

SNAKEFILE = """
from histostudy.hashcache import HashCache
from histostudy.provenance import records
from pathlib import Path

FILE, PREFIXES, CACHE = Path("results/provenance.jsonl"), ["results/"], HashCache()
if workflow.is_main_process:
    records.restore(FILE, CACHE)

rule all:
    input: "results/b.txt"

rule a:
    input: "in.txt"
    output: "results/a.txt"
    params: word=config.get("word", "one")
    shell: "echo {params.word} $(cat {input}) > {output}"

rule b:
    input: "results/a.txt"
    output: "results/b.txt"
    shell: "cat {input} > {output}; test ! -e fail"

onsuccess:
    records.save(FILE, PREFIXES, CACHE)

onerror:
    records.save(FILE, PREFIXES, CACHE)

if workflow.is_main_process:
    records.refuse_unrecorded(output for rule in workflow.rules for output in rule.output)
"""


def _run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "snakemake", "--cores", "1", "--max-checksum-file-size", "100GB",
        "--directory", str(folder), "--snakefile", str(folder / "Snakefile"), *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def _jobs(done: subprocess.CompletedProcess[str]) -> set[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.MULTILINE)) - {"all"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "in.txt").write_text("data\n")
    done = _run(folder)
    assert done.returncode == 0, done.stderr
    return folder


def _copy(finished: Path, to: Path, *, snakemake: bool = False) -> Path:
    shutil.copytree(finished, to, ignore=None if snakemake else shutil.ignore_patterns(".snakemake"))
    for file in to.rglob("*.txt"):  # as a checkout does, and not in the order they were made in
        os.utime(file, (1.2e9, 1.2e9) if file.name == "in.txt" else (1e9, 1e9))
    return to


def test_a_copy_elsewhere_has_nothing_to_do(finished: Path, tmp_path: Path) -> None:
    assert _jobs(_run(_copy(finished, tmp_path / "copy"), "-n")) == set()


def test_the_records_say_the_same_whenever_they_are_written(finished: Path, tmp_path: Path) -> None:
    here = _copy(finished, tmp_path / "again")
    shutil.rmtree(here / "results")
    os.utime(here / "in.txt")
    assert _run(here).returncode == 0
    assert (here / "results/provenance.jsonl").read_bytes() == (finished / "results/provenance.jsonl").read_bytes()


def test_a_changed_parameter_is_seen_through_restored_records(finished: Path, tmp_path: Path) -> None:
    here = _copy(finished, tmp_path / "copy")
    assert _jobs(_run(here, "-n", "--config", "word=two")) == {"a", "b"}


def test_a_result_of_other_content_loses_its_record(finished: Path, tmp_path: Path) -> None:
    here = _copy(finished, tmp_path / "copy")
    (here / "results/b.txt").write_text("tampered\n")
    done = _run(here, "-n")
    assert done.returncode != 0
    assert "results/b.txt" in done.stdout + done.stderr


def test_results_without_records_are_refused(finished: Path, tmp_path: Path) -> None:
    here = _copy(finished, tmp_path / "copy")
    (here / "results/provenance.jsonl").unlink()
    done = _run(here, "-n")
    assert done.returncode != 0
    assert "2 result(s) have no record of how they were made" in done.stdout + done.stderr


def test_what_comes_after_its_records_gets_its_own(finished: Path, tmp_path: Path) -> None:
    """As of a pull in two parts; of other content it stays without one."""
    here = _copy(finished, tmp_path / "copy")
    away = (here / "results/a.txt").rename(here / "away.txt")
    assert _run(here, "-n").returncode == 0
    away.rename(here / "results/a.txt")
    assert _jobs(_run(here, "-n")) == set()
    assert _jobs(_run(here, "-n", "--config", "word=two")) == {"a", "b"}
    other = _copy(finished, tmp_path / "other")
    (other / "results/a.txt").unlink()
    _run(other, "-n")
    (other / "results/a.txt").write_text("foreign\n")
    done = _run(other, "-n")
    assert done.returncode != 0 and "results/a.txt" in done.stdout + done.stderr


def test_a_failed_run_keeps_the_records_of_what_it_made(finished: Path, tmp_path: Path) -> None:
    here = _copy(finished, tmp_path / "failing", snakemake=True)
    (here / "fail").touch()
    assert _run(here, "--config", "word=two").returncode != 0
    lines = [json.loads(line) for line in (here / "results/provenance.jsonl").read_text().splitlines()]
    made = {line["target"]: line["record"]["params"] for line in lines}
    assert made["results/a.txt"] == ["'two'"]
    # back to the first parameter: the a of the second one must not be taken for it
    (here / "fail").unlink()
    elsewhere = _copy(here, tmp_path / "elsewhere")
    assert _jobs(_run(elsewhere, "-n")) == {"a", "b"}
    assert _run(elsewhere).returncode == 0
    assert (elsewhere / "results/b.txt").read_text() == "one data\n"


def _here(finished: Path, to: Path) -> Path:
    """The folder that made the results, or as good as: with Snakemake's records, and every time as it was."""
    return shutil.copytree(finished, to)


@pytest.mark.parametrize("when", [None, 1e9], ids=["now", "as if long ago"])
def test_a_changed_result_is_refused_where_it_was_made(finished: Path, tmp_path: Path, when: float | None) -> None:
    here = _here(finished, tmp_path / "here")
    result, kept = here / "results/b.txt", (here / "results/provenance.jsonl").read_bytes()
    made = result.read_bytes()
    result.write_text("tampered\n")
    if when:
        os.utime(result, (when, when))
    for _ in range(2):
        done = _run(here)
        assert done.returncode != 0
        assert "results/b.txt: was changed since it was made" in done.stdout + done.stderr
        assert (here / "results/provenance.jsonl").read_bytes() == kept
    result.unlink()
    assert _jobs(_run(here)) == {"b"}
    assert result.read_bytes() == made
    assert (here / "results/provenance.jsonl").read_bytes() == kept


def test_a_changed_result_is_refused_where_it_was_restored(finished: Path, tmp_path: Path) -> None:
    here = _copy(finished, tmp_path / "copy")
    assert _jobs(_run(here, "-n")) == set()
    (here / "results/a.txt").write_text("tampered\n")
    os.utime(here / "results/a.txt", (1e9, 1e9))
    done = _run(here, "-n")
    assert done.returncode != 0 and "results/a.txt: was changed" in done.stdout + done.stderr
    (here / "results/a.txt").write_text("one data\n")
    assert _jobs(_run(here, "-n")) == set()


def test_a_result_changed_during_a_run_is_not_recorded(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = _here(finished, tmp_path / "here")
    monkeypatch.chdir(here)
    file = Path("results/provenance.jsonl")
    kept = file.read_bytes()
    Path("results/a.txt").write_text("tampered\n")
    assert records.save(file, ["results/"], HashCache()) == 2
    assert file.read_bytes() == kept
    with pytest.raises(StudyError, match="results/a.txt: was changed"):
        records.restore(file, HashCache())


@pytest.mark.parametrize("coarse", [False, True])
def test_what_a_killed_run_made_again_is_taken(finished: Path, tmp_path: Path, coarse: bool) -> None:
    here = _here(finished, tmp_path / "here")
    kept = (here / "results/provenance.jsonl").read_bytes()
    # killed: its last words were not said
    (here / "Snakefile").write_text(SNAKEFILE.replace("    records.save", "    (lambda *_: None)"))
    assert _jobs(_run(here, "--config", "word=two")) == {"a", "b"}
    assert (here / "results/provenance.jsonl").read_bytes() == kept
    (here / "Snakefile").write_text(SNAKEFILE)
    if coarse:  # as the disk remembers it
        for file in (here / "results").glob("*.txt"):
            os.utime(file, (int(file.stat().st_mtime), int(file.stat().st_mtime)))
    assert _jobs(_run(here, "--config", "word=two")) == set()
    # a run that has something to do keeps the records of all
    (here / "results/b.txt").unlink()
    assert _jobs(_run(here, "--config", "word=two")) == {"b"}
    elsewhere = _copy(here, tmp_path / "elsewhere")
    assert _jobs(_run(elsewhere, "-n", "--config", "word=two")) == set()


def test_what_is_brought_back_over_a_killed_run_has_the_record_of_its_own_making(
    finished: Path, tmp_path: Path
) -> None:
    here = _here(finished, tmp_path / "here")
    (here / "Snakefile").write_text(SNAKEFILE.replace("    records.save", "    (lambda *_: None)"))
    assert _jobs(_run(here, "--config", "word=two")) == {"a", "b"}
    (here / "Snakefile").write_text(SNAKEFILE)
    for name in ("a.txt", "b.txt"):  # as `dvc checkout` does
        shutil.copy(finished / "results" / name, here / "results" / name)
    assert _jobs(_run(here, "-n", "--config", "word=two")) == {"a", "b"}
    assert _jobs(_run(here, "-n")) == set()


def test_touched_results_hold(finished: Path, tmp_path: Path) -> None:
    here = _here(finished, tmp_path / "here")
    assert _run(here, "--touch", "--forceall").returncode == 0
    for file in (here / "results").glob("*.txt"):
        assert file.stat().st_mtime > (finished / "results" / file.name).stat().st_mtime
    assert _jobs(_run(here, "-n")) == set()


def test_lines_of_what_is_not_here_are_kept(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = _copy(finished, tmp_path / "copy", snakemake=True)
    monkeypatch.chdir(here)
    file = Path("results/provenance.jsonl")
    line = json.loads(file.read_text().splitlines()[0]) | {"target": "results/other.txt"}
    file.write_text(file.read_text() + json.dumps(line, sort_keys=True) + "\n")
    assert records.save(file, ["results/"], HashCache()) == 3
    assert "results/other.txt" in file.read_text()


def test_a_format_that_is_not_known_fails_loudly(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = _copy(finished, tmp_path / "copy", snakemake=True)
    monkeypatch.chdir(here)
    path = records.record_path("results/a.txt")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"record_format_version": records.FORMAT + 1}))
    with pytest.raises(StudyError, match="format 7, not 6"):
        records.save(Path("results/provenance.jsonl"), ["results/"], HashCache())


def test_names_longer_than_a_file_name_may_be(tmp_path: Path) -> None:
    path = records.record_path("results/" + "x" * 400)
    assert all(len(part) <= 255 for part in path.parts)
    assert path.parent.name.startswith("@")


def test_a_temporary_output_is_not_missed(finished: Path, tmp_path: Path) -> None:
    here = tmp_path / "temporary"
    here.mkdir()
    (here / "in.txt").write_text("data\n")
    (here / "Snakefile").write_text(SNAKEFILE.replace('output: "results/a.txt"', 'output: temp("results/a.txt")'))
    assert _run(here).returncode == 0
    assert not (here / "results/a.txt").exists()
    lines = [json.loads(line)["target"] for line in (here / "results/provenance.jsonl").read_text().splitlines()]
    assert lines == ["results/b.txt"]
    elsewhere = _copy(here, tmp_path / "elsewhere")
    # it cannot be asked whether the newer file it was made of is the same: it is made again, and nothing is stale
    assert _jobs(_run(elsewhere, "-n")) == {"a", "b"}
    os.utime(elsewhere / "in.txt", (0.9e9, 0.9e9))
    assert _jobs(_run(elsewhere, "-n")) == set()
    (elsewhere / "in.txt").write_text("other\n")
    assert _jobs(_run(elsewhere, "-n")) == {"a", "b"}
    assert _run(elsewhere).returncode == 0
    assert (elsewhere / "results/b.txt").read_text() == "one other\n"


def test_a_folder_as_an_output_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "in.txt").write_text("data\n")
    (folder / "Snakefile").write_text(SNAKEFILE.replace('output: "results/a.txt"', 'output: directory("results/a")'))
    done = _run(folder, "-n")
    assert done.returncode != 0
    assert "a folder cannot be the output of a rule" in done.stdout + done.stderr


class _Named(str):
    """An output with wildcards that takes every file it is asked about."""

    def match(self, target: str) -> bool:
        return target.startswith("results/")


@pytest.mark.slow
def test_more_than_ten_thousand_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    names = [f"results/{i:05d}.txt" for i in range(12_000)]
    for name in names:
        Path(name).write_text(name)
        path = records.record_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"record_format_version": records.FORMAT, "code": "cat", "rule": name[-9:-4]}))
    file = Path("results/provenance.jsonl")
    assert records.save(file, ["results/"], HashCache()) == len(names)
    shutil.rmtree(".snakemake")
    Path(names[7]).write_text("tampered")
    assert records.restore(file, HashCache()) == len(names) - 1
    record = json.loads(records.record_path(names[-1]).read_text())
    assert record["rule"] == "11999"
    with pytest.raises(StudyError, match=r"results/00007.txt: 1 result\(s\) have no record"):
        records.refuse_unrecorded([_Named("results/{name}.txt")])
