"""The pinned environment: the lock read, compared with what is installed, and written out for conda and containers.

`envs/requirements.lock` (name, version and SHA-256 of every distribution) and `pyproject.toml` are the one source.
`make envs` writes from them the conda environment, the Dockerfile and the Apptainer definition; nobody edits those.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from histostudy.errors import ConfigError
from histostudy.files import sha256, write_text

LOCK = Path("envs") / "requirements.lock"
#: What the base image lacks: DVC and the record of the commit need git, `make` runs the checks.
SYSTEM = ("ca-certificates", "git", "make")
HEAD = "# Written by `make envs` from pyproject.toml and envs/requirements.lock: change those, not this file.\n"
INSTALL = "python -m pip install --no-cache-dir --disable-pip-version-check"
#: Folder of the checkout inside a container.
HOME = "/histostudy"
#: A distribution of the lock and its version, at the beginning of a line.
PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True)
class Pin:
    """One distribution of the lock: its version, and the SHA-256 of each of its files."""

    version: str
    hashes: frozenset[str]


@dataclass(frozen=True)
class Comparison:
    """Distributions of the lock beside those installed.

    Attributes
    ----------
    equal : int
        How many are installed at the pinned version.
    other : dict
        Name -> (version installed, version pinned) of those that differ.
    missing : dict
        Name -> version pinned of those that are not installed.
    """

    equal: int
    other: dict[str, tuple[str, str]]
    missing: dict[str, str]

    @property
    def same(self) -> bool:
        """Whether every pin is met."""
        return not (self.other or self.missing)


def read_lock(path: Path) -> dict[str, Pin]:
    """The pins of a lock, by normalised name.

    Raises
    ------
    ConfigError
        If a line pins nothing, a distribution is named twice, or there is no pin at all.
    """
    text = path.read_text(encoding="utf-8")
    pins: dict[str, Pin] = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        if block.startswith("#") or not block:
            continue
        match = PINNED.match(block)
        if match is None or match[1] in pins:
            raise ConfigError(f"not one pin of one distribution: {block[:60]!r}", where=path, todo="run `make lock`")
        pins[normalised(match[1])] = Pin(match[2], frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", block)))
    if not pins:
        raise ConfigError("no pins", where=path, todo="run `make lock`")
    return pins


def normalised(name: str) -> str:
    """Name of a distribution as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def compare(pins: Mapping[str, Pin], version: Callable[[str], str] = importlib.metadata.version) -> Comparison:
    """Compare the lock with what is installed.

    Parameters
    ----------
    pins : mapping
        As `read_lock` gives them.
    version : callable
        Name -> version installed; raises `PackageNotFoundError`.

    Notes
    -----
    A local build (``2.14.1+cpu``) is another version than the one pinned: its kernels are others.
    """
    equal, other, missing = 0, {}, {}
    for name, pin in sorted(pins.items()):
        try:
            have = version(name)
        except importlib.metadata.PackageNotFoundError:
            missing[name] = pin.version
            continue
        if have == pin.version:
            equal += 1
        else:
            other[name] = (have, pin.version)
    return Comparison(equal, other, missing)


def python_version(root: Path) -> str:
    """The Python that the lock is made for: the lower bound of ``requires-python``, such as ``3.11``."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    match = re.search(r">=\s*(\d+\.\d+)", project["requires-python"])
    if match is None:
        raise ConfigError(
            "requires-python has no lower bound", where=root / "pyproject.toml", todo="write it as >=3.11,<3.13"
        )
    return match[1]


def environment_files(root: Path) -> dict[Path, str]:
    """Path, from the checkout, and content of every file that is written from the lock."""
    python = python_version(root)
    return {
        Path("envs") / "environment.yaml": _conda(root, python),
        Path("envs") / "Dockerfile": _dockerfile(python),
        Path("envs") / "histostudy.def": _apptainer(python),
    }


def write_environment_files(root: Path) -> list[Path]:
    """Write them into the checkout; returns their paths."""
    files = environment_files(root)
    for path, text in files.items():
        write_text(root / path, text)
    return list(files)


def _conda(root: Path, python: str) -> str:
    # Snakemake copies this file elsewhere before it reads it, so pins stand here, not `-r requirements.lock`;
    # it also keeps the file in the record of every output, so hashes do not
    pins = "\n".join(f"      - {name}=={pin.version}" for name, pin in read_lock(root / LOCK).items())
    tools = "\n".join(f"  - {name}" for name in SYSTEM if name != "ca-certificates")
    return f"""{HEAD}# conda env create -f envs/environment.yaml, then `pip install --no-deps --editable .` in it
# pins of {LOCK.as_posix()}, SHA-256 {sha256(root / LOCK)}
name: histostudy
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python={python}
{tools}
  - pip
  - pip:
{pins}
"""


def _packages(indent: str) -> str:
    return (
        "apt-get update"
        f" \\\n{indent}&& apt-get install --yes --no-install-recommends {' '.join(SYSTEM)}"
        f" \\\n{indent}&& rm -rf /var/lib/apt/lists/*"
    )


def _dockerfile(python: str) -> str:
    return f"""{HEAD}# docker build -f envs/Dockerfile -t histostudy .
FROM python:{python}-slim-bookworm
RUN {_packages("    ")}
RUN useradd --create-home --uid 1000 histostudy \\
    && install --directory --owner=histostudy --group=histostudy {HOME} \\
    && git config --system --add safe.directory {HOME}
WORKDIR {HOME}
COPY {LOCK.as_posix()} {LOCK.as_posix()}
RUN {INSTALL} --require-hashes -r {LOCK.as_posix()}
COPY --chown=histostudy:histostudy . .
RUN {INSTALL} --no-deps --no-build-isolation --editable .
USER histostudy
ENTRYPOINT ["snakemake"]
CMD ["--cores", "all"]
"""


def _apptainer(python: str) -> str:
    # a folder is copied whole, so what is not code (data, results, .venv) is left out by naming what is
    copied = "\n".join(
        f"    {name} {HOME}/{name}" for name in ("pyproject.toml", "README.md", "LICENSE", LOCK.as_posix(), "src")
    )
    return f"""{HEAD}# apptainer build histostudy.sif envs/histostudy.def
# In a checkout: apptainer run --nv histostudy.sif --cores 8 --configfile config/studies/<study>.yaml
Bootstrap: docker
From: python:{python}-slim-bookworm

%files
{copied}

%post
    set -e
    {_packages("        ")}
    cd {HOME}
    {INSTALL} --require-hashes -r {LOCK.as_posix()}
    {INSTALL} --no-deps --no-build-isolation --editable .

%environment
    export LC_ALL=C.UTF-8

%runscript
    exec snakemake "$@"
"""
