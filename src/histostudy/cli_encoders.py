"""Verbs that make encoders."""

from __future__ import annotations

from typing import Annotated

import typer

from histostudy.cli_cohort import StudyFile


def pretrain(
    study: StudyFile,
    shards: Annotated[int, typer.Option(help="Number of shards of the cohort's slides.")] = 1,
) -> None:
    """Make the encoder `pretrained` of the cohort's own tiles, self-supervised or distilled from another encoder."""
    from histostudy.verbs.pretrain import pretrain_study

    pretrain_study(study, shards)
