"""Jobs follow the plan of their run."""

from __future__ import annotations

from pathlib import Path

import pytest

from histostudy.errors import ConfigError
from histostudy.provenance.following import PLANS, follow


def test_a_job_holds_to_the_plans_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLANS, "")
    follow(Path("any.yaml"), leads=False)  # an executor that brings no environment along
    for plan in ("one.yaml", "two.yaml", "one.yaml"):
        follow(Path(plan), leads=True)
    for plan in ("one.yaml", "two.yaml"):
        follow(Path(plan), leads=False)
    with pytest.raises(ConfigError, match="start the run again"):
        follow(Path("three.yaml"), leads=False)
