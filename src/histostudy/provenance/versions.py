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
    "histostudy", "snakemake", "torch", "timm", "transformers", "openslide-python", "openslide-bin", "numpy", "pandas",
    "scikit-image", "scikit-learn", "scikit-survival", "statsmodels", "matplotlib",
)  # fmt: skip
#: The lock of the checkout that this code runs from; a package installed elsewhere has none.
LOCK = Path(__file__).resolve().parents[3] / environment.LOCK


def software() -> dict[str, str]:
    """Names and versions of the packages, of Python and of the system; the lock's hash; the commit.

    The commit is left out where the package is not in a git checkout.
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
    """Short hash of the checkout's commit, marked where tracked files differ from it."""
    command = ["git", "-C", str(LOCK.parents[1]), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def data(paths: Iterable[Path]) -> pd.DataFrame:
    """Tables of a study: file, size in bytes and SHA-256 of each that is there."""
    import pandas as pd

    rows = [{"file": p.name, "bytes": p.stat().st_size, "sha256": sha256(p)} for p in paths if p.is_file()]
    return pd.DataFrame(rows, columns=["file", "bytes", "sha256"])
