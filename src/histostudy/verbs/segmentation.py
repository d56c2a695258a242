"""Verbs of a segmentation task: check its annotations, train its models, score them, and what its figures show."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from histostudy.cohort.annotated import SUFFIX, annotation_of, check_strays
from histostudy.errors import ConfigError, TableError
from histostudy.files import frame_to_json, write_json, write_table
from histostudy.training.runfolder import write_index

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.study import Model, Study
    from histostudy.tasks import Segmentation
    from histostudy.training.segmentation.cases import Case
    from histostudy.verbs.tables import Tables

logger = logging.getLogger(__name__)


def check_segmentation(study: Study, slide_ids: list[str] | None, listed: Iterable[str] = ()) -> None:
    """Check what segmenters and annotations say before any work starts.

    Parameters
    ----------
    study : Study
    slide_ids : list of str or None
        Slides of the cohort; None: a simulated one, whose annotations are not drawn yet.
    listed : iterable of str
        All slides of the slide table, those left out too; not looked at where `slide_ids` is None.

    Raises
    ------
    StudyError
        For an unknown segmenter or option, a key of `training` that a segmenter has no use for, slides without
        pixels, a file of annotations of no slide, or an annotation of a class that the task does not name.
    """
    from histostudy.training.segmentation.annotations import read_annotations

    for task in (t for t in study.tasks if t.kind == "segmentation"):
        if not study.has_slides or study.features.precomputed is not None:
            raise ConfigError(f"task {task.name} needs the slides themselves", where="tasks",
                              todo="give cohort.slides with paths, and no features.precomputed")  # fmt: skip
        if slide_ids is not None:
            check_strays(task, [*slide_ids, *listed])
        drawn: set[str] = set()
        for slide in slide_ids or []:
            if (path := annotation_of(task, slide)).is_file():
                annotations = read_annotations(path, task)
                drawn |= {task.labels[k - 1] for k, _ in annotations.painted if 1 <= k <= len(task.labels)}
        if slide_ids is not None and (missing := [name for name in task.labels if name not in drawn]):
            raise TableError(f"task {task.name}: nothing is drawn of class {missing[0]}", where=task.annotations,
                             todo="check its names, or leave it out")  # fmt: skip


def check_segmenter_model(study: Study, model: Model) -> None:
    """Check a segmenter's name, options and training keys."""
    from histostudy.study import Training
    from histostudy.training.segmentation.cases import OpenSlides
    from histostudy.training.segmentation.segmenters import Setting, check_segmenter, segmenter_of

    check_segmenter(str(model.segmenter), model.options)
    used = {"epochs", "min_epochs", "patience", "lr", "weight_decay", "batch_size", "schedule", "device"}
    default = Training()
    if odd := [k for k in Training.model_fields if k not in used and getattr(model.training, k) != getattr(default, k)]:
        raise ConfigError(f"training.{odd[0]} says nothing to a segmenter", todo=f"it takes {', '.join(sorted(used))}")
    for task in (t for t in study.tasks if t.kind == "segmentation"):
        try:
            setting = Setting(len(task.labels), task.mpp, model.training, model.options, 0, "cpu", OpenSlides())
            segmenter_of(str(model.segmenter))(setting)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"options: {error}", todo="see the options of segmenters in the README") from None


def cases_of(tables: Tables, task: Segmentation) -> list[Case]:
    """The annotated slides of a task that have tissue, sorted."""
    from histostudy.training.segmentation.cases import Case

    patients = set(tables.outcomes[task.name].patient_ids)
    paths = tables.cohort.slides.set_index("slide_id")["path"]
    cases = []
    for row in tables.good.sort_values("slide_id").to_dict("records"):
        annotations = annotation_of(task, row["slide_id"])
        if row["patient_id"] not in patients or not annotations.is_file():
            continue
        cases.append(
            Case(
                row["slide_id"],
                row["patient_id"],
                str(paths[row["slide_id"]]),
                float(row["mpp"]),
                int(row["width_px0"]),
                int(row["height_px0"]),
                str(row["fingerprint"]),
                str(row["tissue_identity"]),
                tables.layout.tissue / f"{row['slide_id']}{SUFFIX}",
                annotations,
            )  # fmt: skip
        )
    return cases


def train_segmenter_of_study(tables: Tables, task: Segmentation, model: str, splits: pd.DataFrame) -> None:
    """Train all runs of a segmenter, or of a control, on a task."""
    from histostudy.training.segmentation.stage import train_segmenter

    folder = tables.layout.runs(task.name, model)
    index = train_segmenter(tables.study, task, model, cases_of(tables, task), splits, folder)
    write_index(folder, index, tables.study.compare.timings)


def evaluate_segmentation_of_study(tables: Tables, task: Segmentation) -> None:
    """Score a task: a row a slide and class, metrics with intervals, comparisons."""
    import pandas as pd

    from histostudy.evaluation.runs import gather
    from histostudy.evaluation.segmentation import evaluate_segmentation, scored_slides

    layout, study = tables.layout, tables.study
    predictions = {model: gather(layout.runs(task.name, model)) for model in study.model_names(task.name)}
    metrics, comparison, curves = evaluate_segmentation(study, task, predictions)
    for model, frame in predictions.items():
        keys = ["slide_id", "class", "repeat", "fold"]
        write_table(layout.predictions(task.name, model), scored_slides(frame).sort_values(keys, ignore_index=True))
    write_table(layout.home / "metrics" / f"{task.name}.csv", metrics)
    write_table(layout.home / "comparison" / f"{task.name}.csv", comparison)
    tables_of = {name: frame_to_json(pd.DataFrame(frame)) for name, frame in curves.items()}
    write_json(layout.curves(task.name), tables_of)


def overlay_parts(tables: Tables, task: Segmentation, slides: pd.DataFrame) -> list[dict[str, Any]]:
    """The worst, the middle and the best test slide of a task's reference model, with outlines in level-0 pixels.

    Parameters
    ----------
    tables : Tables
    task : Segmentation
    slides : DataFrame
        The table `slides` of the evaluation.

    Returns
    -------
    list of dict
        slide_id, dice (mean over the classes), which, rgb, width_px0, truth and found: class to list of rings.
    """
    import numpy as np

    from histostudy.slides.reader import open_indexed
    from histostudy.training.segmentation.annotations import read_annotations
    from histostudy.training.segmentation.cases import View
    from histostudy.training.segmentation.stage import shuffled

    model = tables.study.reference_of(task.name) or "prior"
    mine = slides[slides["model"] == model]
    by_slide = mine.groupby(["slide_id", "repeat", "fold"])["dice"].mean().dropna().reset_index()
    ranked = by_slide.sort_values(["dice", "slide_id"], ignore_index=True)
    if ranked.empty:
        return []
    wanted = {"worst": 0, "median": len(ranked) // 2, "best": len(ranked) - 1}
    known = cases_of(tables, task)
    cases = {case.slide_id: case for case in (known if task.permute is None else shuffled(known, task.permute))}
    out = []
    for which, row in wanted.items():
        slide_id, repeat, fold, dice = ranked.loc[row, ["slide_id", "repeat", "fold", "dice"]]
        case = cases[str(slide_id)]
        drawn = View(case, task, task.mpp, truth=True).painter.annotations
        assert drawn is not None
        truth = {task.labels[k - 1]: p for k, p in drawn.painted if 1 <= k <= len(task.labels)}
        run = tables.layout.runs(task.name, model) / f"r{repeat}f{fold}" / "outlines" / f"{slide_id}{SUFFIX}"
        found = read_annotations(run, task.model_copy(update={"classes": {name: [name] for name in task.labels}}))
        called = {task.labels[k - 1]: p for k, p in found.painted}
        with open_indexed(vars(case)) as slide:
            rgb = slide.shrunk(max(1.0, max(case.width_px0, case.height_px0) / 700))

        def rings(shapes: dict[str, Any]) -> dict[str, list[np.ndarray]]:
            return {
                name: [np.asarray(r.coords)[:, :2] for p in polygons for r in (p.exterior, *p.interiors)]
                for name, polygons in shapes.items()
            }

        out.append({
            "slide_id": str(slide_id), "dice": float(dice), "which": which, "rgb": rgb, "width_px0": case.width_px0,
            "truth": rings(truth), "found": rings(called),
        })  # fmt: skip
    return out
