"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

# as in a run: threads of many small sums wait for each other more than they help; read when torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# the same examples at every run: a test that fails here fails everywhere; HYPOTHESIS_PROFILE=search looks further
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search", max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides and tables: $HISTOSTUDY_SHARED, or `shared/data` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HISTOSTUDY_SHARED", beside))
    if not (folder / "MANIFEST.csv").is_file():
        pytest.skip(f"no real data at {folder} (set HISTOSTUDY_SHARED)")
    return folder
