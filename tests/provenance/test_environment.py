"""The lock pins every file by its hash, and what is written from it is what is in the tree."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from pathlib import Path

import pytest
import yaml
from studies import ROOT

from histostudy.errors import ConfigError
from histostudy.provenance.environment import (
    LOCK,
    Pin,
    compare,
    environment_files,
    normalised,
    python_version,
    read_lock,
    write_environment_files,
)  # fmt: skip

HASH = "0" * 64


def _checkout(folder: Path, lock: str) -> Path:
    (folder / "envs").mkdir(parents=True)
    (folder / LOCK).write_text(lock)
    (folder / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.12,<3.14"\n')
    return folder


def _steps(dockerfile: str) -> list[tuple[str, str]]:
    """Instruction and its arguments, lines joined."""
    lines = [line for line in dockerfile.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines()]


def test_every_distribution_is_pinned_by_hash() -> None:
    pins = read_lock(ROOT / LOCK)
    assert len(pins) > 200
    assert [name for name, pin in pins.items() if not pin.hashes] == []
    text = (ROOT / LOCK).read_text()
    pinned_or_hash = re.compile(r"[a-z0-9][\w.-]*==\S+( \\)?|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for line in text.splitlines() if not pinned_or_hash.fullmatch(line)] == []  # no index, no path


def test_the_lock_holds_what_the_package_requires() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    pins = read_lock(ROOT / LOCK)
    (block,) = re.findall(r"^dependencies = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)
    wanted = {normalised(re.match(r"[\w.-]+", text)[0]) for text in re.findall(r'"([^"]+)"', block)}
    assert "torch" in wanted and wanted <= set(pins)


def test_the_files_in_the_tree_are_those_of_the_lock() -> None:
    for path, text in environment_files(ROOT).items():
        assert (ROOT / path).read_text() == text, f"{path}: run `make envs`"


def test_the_conda_environment_has_the_pins_of_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "envs/environment.yaml").read_text())
    *conda, last = environment["dependencies"]
    assert f"python={python_version(ROOT)}" in conda and "pip" in conda
    assert dict(line.split("==") for line in last["pip"]) == {n: p.version for n, p in read_lock(ROOT / LOCK).items()}


def test_another_lock_gives_other_files(tmp_path: Path) -> None:
    checkout = _checkout(tmp_path, f"one==1.0 \\\n    --hash=sha256:{HASH}\n")
    assert write_environment_files(checkout) == list(environment_files(checkout))
    conda = (checkout / "envs/environment.yaml").read_text()
    assert "python=3.12" in conda and "one==1.0" in conda
    assert hashlib.sha256((checkout / LOCK).read_bytes()).hexdigest() in conda
    assert "FROM python:3.12-" in (checkout / "envs/Dockerfile").read_text()
    assert "From: python:3.12-" in (checkout / "envs/histostudy.def").read_text()


def test_a_changed_line_of_code_keeps_the_layer_of_packages() -> None:
    steps = _steps((ROOT / "envs/Dockerfile").read_text())
    lock, code = steps.index(("COPY", f"{LOCK} {LOCK}")), steps.index(("COPY", "--chown=histostudy:histostudy . ."))
    (packages,) = [i for i, (_, text) in enumerate(steps) if "--require-hashes" in text]
    assert lock < packages < code
    assert [name for name, _ in steps[:packages]].count("COPY") == 1


def test_the_container_is_small_pinned_and_not_root() -> None:
    steps = _steps((ROOT / "envs/Dockerfile").read_text())
    assert {name for name, _ in steps} <= {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}
    assert steps[0][0] == "FROM" and re.fullmatch(r"python:\d+\.\d+-slim-\w+", steps[0][1])  # never `latest`
    assert steps[-3:] == [("USER", "histostudy"), ("ENTRYPOINT", '["snakemake"]'), ("CMD", '["--cores", "all"]')]
    for text in (text for name, text in steps if name == "RUN"):
        if "apt-get install" in text:
            assert "--no-install-recommends" in text and text.endswith("rm -rf /var/lib/apt/lists/*")
            assert {"git", "make"} <= set(text.split())
        if "pip install" in text:
            assert "--no-cache-dir" in text and ("--require-hashes" in text or "--no-deps" in text)


def test_what_the_containers_copy_is_there() -> None:
    section = (ROOT / "envs/histostudy.def").read_text().split("%files\n")[1].split("\n\n")[0]
    sources = [line.split()[0] for line in section.splitlines()]
    assert [name for name in sources if not (ROOT / name).exists()] == [] and "src" in sources
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".venv/", "data/**", "results/**", ".snakemake/"} <= set(ignored)
    assert not {"src", "envs", "workflow", "config", "README.md", ".git"} & {line.strip("/") for line in ignored}


@pytest.mark.parametrize("lock", ["", "one>=1.0\n", "one==1\ntwo @ file:two.whl\n", "one==1\none==2\n", "-r other\n"])
def test_what_is_no_lock_is_refused(tmp_path: Path, lock: str) -> None:
    with pytest.raises(ConfigError, match="make lock"):
        read_lock(_checkout(tmp_path, lock) / LOCK)


def test_what_is_installed_is_compared() -> None:
    pins = {name: Pin("1.0", frozenset()) for name in ("absent", "equal", "local", "newer")}

    def version(name: str) -> str:
        if name == "absent":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"equal": "1.0", "local": "1.0+cpu", "newer": "1.1"}[name]

    found = compare(pins, version)
    assert (found.equal, found.missing) == (1, {"absent": "1.0"})
    assert found.other == {"local": ("1.0+cpu", "1.0"), "newer": ("1.1", "1.0")} and not found.same
    assert compare({"equal": pins["equal"]}, version).same
