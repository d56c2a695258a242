"""What a report is made from: plain data, so that a page can be made and tested without a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

MEDIA = {"svg": "image/svg+xml", "png": "image/png", "jpeg": "image/jpeg"}


@dataclass(frozen=True)
class FigureItem:
    """A figure of the report.

    Parameters
    ----------
    title : str
        Few words.
    caption : str
        What is shown, how to read it, and over how many.
    data : bytes
        The file's bytes.
    kind : {'svg', 'png', 'jpeg'}
    task : str, optional
        The task it belongs to; figures of no task stand in a section of their own.
    wide : bool
        Whether it takes the whole width.
    """

    title: str
    caption: str
    data: bytes
    kind: Literal["svg", "png", "jpeg"] = "svg"
    task: str | None = None
    wide: bool = False

    @classmethod
    def of(
        cls, path: str | Path, title: str, caption: str, *, task: str | None = None, wide: bool = False
    ) -> FigureItem:
        """Read a figure from an .svg, .png, .jpg or .jpeg file."""
        path = Path(path)
        kinds: dict[str, Literal["svg", "png", "jpeg"]] = {
            ".svg": "svg", ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg",
        }  # fmt: skip
        if path.suffix.lower() not in kinds:
            raise ValueError(f"{path.name}: a report shows svg, png and jpeg")
        return cls(title, caption, path.read_bytes(), kinds[path.suffix.lower()], task, wide)


@dataclass
class ReportContext:
    """All that the page shows; what is None or empty is left out of it.

    Parameters
    ----------
    study : mapping
        The resolved study (`histostudy.study.resolve`).
    flow : mapping, optional
        As `cohort_flow.json`: steps with step, slides, patients, excluded.
    table_one : DataFrame, optional
        Text: variable, level, missing, overall, one column a group.
    splits : DataFrame, optional
        repeat, fold, patient_id, part.
    leakage : mapping, optional
        As `leakage.json`; `ok` says whether it passed.
    metrics : mapping of str to DataFrame
        A task's metrics: model, metric, [gene,] estimate, low, high, n, events.
    comparison : mapping of str to DataFrame
        A task's comparisons: model, reference, metric, difference, low, high, p, p_adjusted.
    overview, ranks : DataFrame, optional
        All models over all tasks, and their ranks (`histostudy.evaluation.overview`).
    sequence : DataFrame, optional
        Metrics of the tasks learned in sequence (`histostudy.evaluation.continual`).
    stain : DataFrame, optional
        The audit of stain (`histostudy.evaluation.stain_audit`).
    figures : sequence of FigureItem
    slides : DataFrame, optional
        One row a slide, with at least slide_id and status; other columns are shown where they are known.
    thumbnails : mapping of str to bytes
        JPEG of a slide, by its id.
    planted : DataFrame, optional
        Of a simulated cohort: effect, planted, found [, agrees].
    findings : sequence of str, optional
        Key findings (default: made from metrics and comparison).
    methods : sequence of str, optional
        Paragraphs (default: made from the study).
    counts : mapping
        patients, slides, tiles, for the methods; taken from `flow` and `slides` where they are missing.
    software : mapping of str to str
        Names and versions.
    data : DataFrame, optional
        Files of the study: file, rows or size, sha256, ...
    curves : mapping of str to mapping of str to DataFrame
        By task, the tables behind its figures; of survival `cox` and `added` are told of.
    follow_up : mapping of str to float
        Median follow-up of a survival task, days.
    encoders, layouts : sequence of str
        Encoders that precomputed features name, and whose layout they have.
    asked : str
        How many of the files of precomputed features were asked for their encoder: ``16 of 120 files read``.
    """

    study: Mapping[str, Any]
    flow: Mapping[str, Any] | None = None
    table_one: pd.DataFrame | None = None
    splits: pd.DataFrame | None = None
    leakage: Mapping[str, Any] | None = None
    metrics: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    comparison: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    overview: pd.DataFrame | None = None
    ranks: pd.DataFrame | None = None
    sequence: pd.DataFrame | None = None
    stain: pd.DataFrame | None = None
    figures: Sequence[FigureItem] = ()
    slides: pd.DataFrame | None = None
    thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    planted: pd.DataFrame | None = None
    findings: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    data: pd.DataFrame | None = None
    curves: Mapping[str, Mapping[str, pd.DataFrame]] = field(default_factory=dict)
    follow_up: Mapping[str, float] = field(default_factory=dict)
    encoders: Sequence[str] = ()
    layouts: Sequence[str] = ()
    asked: str = ""
