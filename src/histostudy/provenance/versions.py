"""What a result was made with: software, machine, code and data."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from histostudy.files import sha256
from histostudy.provenance import environment

if TYPE_CHECKING:
    import pandas as pd

#: Packages whose version a reader asks for.
PACKAGES = (
    "histostudy", "snakemake", "dvc", "torch", "timm", "transformers", "openslide-python", "openslide-bin", "numpy",
    "pandas", "scipy", "scikit-image", "scikit-learn", "scikit-survival", "statsmodels", "matplotlib", "tableone",
    "rocrate",
)  # fmt: skip
#: The checkout that this code runs from, its lock and its code; a package installed elsewhere has none.
HOME = Path(__file__).resolve().parents[3]
LOCK = HOME / environment.LOCK
CODE = ("Snakefile", "workflow", "src", "envs")


def software() -> dict[str, str]:
    """Names and versions of the packages, of Python and of the system; the lock's hash; the commit.

    The commit, the last of the code, is left out where the package is not in a git checkout.
    """
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    if LOCK.is_file():
        found["environment lock (SHA-256)"] = sha256(LOCK)[:16]
    if commit := _commit():
        found["commit"] = commit
    return found


def _commit() -> str | None:
    """The last commit that changed the code (12 digits), marked where tracked files of the code differ from it.

    Not the checkout's newest: the one that keeps a study's own lock comes after its run, and would make another page.
    """
    if not (said := _git("log", "-1", "--format=%H", "--", *CODE)):
        return None
    return said[:12] + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no", "--", *CODE) else "")


def _git(*arguments: str) -> str:
    """What git says of the checkout that this code runs from; nothing where there is none."""
    try:
        done = subprocess.run(["git", "-C", str(HOME), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def data(paths: Iterable[Path]) -> pd.DataFrame:
    """Tables of a study: file, size in bytes and SHA-256 of each that is there."""
    import pandas as pd

    rows = [{"file": p.name, "bytes": p.stat().st_size, "sha256": sha256(p)} for p in paths if p.is_file()]
    return pd.DataFrame(rows, columns=["file", "bytes", "sha256"])
