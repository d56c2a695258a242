"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides and tables: $HISTOSTUDY_SHARED, or `shared/data` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HISTOSTUDY_SHARED", beside))
    if not (folder / "MANIFEST.csv").is_file():
        pytest.skip(f"no real data at {folder} (set HISTOSTUDY_SHARED)")
    return folder
