"""Jobs follow the plan of their run: one that finds another by now would be recorded as what it is not."""

from __future__ import annotations

import os
from pathlib import Path

from histostudy.errors import ConfigError

#: Variable by which the jobs of a run know its plans; of a workflow with modules there are several.
PLANS = "HISTOSTUDY_PLANS"


def follow(plan: Path, *, leads: bool) -> None:
    """Say which plan the jobs belong to, or hold a job to it.

    Parameters
    ----------
    plan : Path
        The resolved study, named by its content.
    leads : bool
        True in the process that plans, False in a job of it.

    Raises
    ------
    ConfigError
        In a job, if the study changed since the run began, as where its file was edited while jobs waited in a queue.
    """
    known = [name for name in os.environ.get(PLANS, "").split(os.pathsep) if name]
    if leads:
        os.environ[PLANS] = os.pathsep.join(dict.fromkeys([*known, str(plan)]))
    elif known and str(plan) not in known:
        raise ConfigError("the study changed while the run was going on", todo="start the run again")
