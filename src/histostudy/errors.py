"""Errors a user can act on: what is wrong, where, and what to do about it."""

from __future__ import annotations

from pathlib import Path


class StudyError(Exception):
    """Something the user can put right; the command line prints it as one line and exits with 2.

    Parameters
    ----------
    what : str
        What is wrong, in a few words.
    where : str or Path, optional
        File, with row and column where they are known (see `at`).
    todo : str, optional
        The next step.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, todo: str = "") -> None:
        line = f"{where}: {what}" if where else what
        super().__init__(f"{line}; {todo}" if todo else line)
        self.what, self.where, self.todo = what, where, todo


class ConfigError(StudyError):
    """The study file is wrong."""


class TableError(StudyError):
    """A table of the cohort is wrong."""


class FeatureError(StudyError):
    """A feature file is wrong, or features of two identities would mix."""


class EncoderError(StudyError):
    """An encoder cannot be had: not installed, no access, wrong file, wrong scale."""


class SplitError(StudyError):
    """Folds cannot be made, or leak."""


class ModelError(StudyError):
    """A model cannot be built from its settings, or does not fit its task."""


class BadSlideError(Exception):
    """A slide that cannot be used: data, not a failure. Goes into the index as status and reason.

    Parameters
    ----------
    reason : str
        One of the codes of `histostudy.slides.status`, such as ``no_mpp``.
    detail : str
        One line for the reader of the index.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def at(path: str | Path, *, row: int | None = None, column: str | None = None) -> str:
    """Name a place in a table: ``slides.csv row 7 column mpp`` (row 2 is the first below the header)."""
    place = str(path)
    if row is not None:
        place += f" row {row}"
    if column is not None:
        place += f" column {column}"
    return place
