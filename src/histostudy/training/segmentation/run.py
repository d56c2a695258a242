"""One run: fit on the training slides, choose the threshold on the inner ones, predict the test slides once."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from histostudy.errors import ModelError
from histostudy.files import atomic, write_text
from histostudy.training.determinism import deterministic, pick_device
from histostudy.training.guard import LeakError
from histostudy.training.segmentation.annotations import IGNORE, ClassMap
from histostudy.training.segmentation.cases import Case, OpenSlides, View
from histostudy.training.segmentation.predict import choose_threshold, counts, histogram
from histostudy.training.segmentation.segmenters import Colour, Prior, Segmenter, Setting, segmenter_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from histostudy.study import Model, Training
    from histostudy.tasks import Segmentation

logger = logging.getLogger(__name__)

#: Longer side of an overlay, px.
OVERLAY_PX = 1200
#: Colours of the classes in overlays and in QuPath, red, green, blue (Okabe and Ito).
COLOURS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (240, 228, 66))


class TestSlides:
    """The guard over the test part: a slide's truth is read when its mask is submitted, and once.

    Parameters
    ----------
    cases : sequence of Case
    task : Segmentation
    """

    __test__ = False  # not a test class

    def __init__(self, cases: Sequence[Case], task: Segmentation) -> None:
        self.cases, self._task = tuple(cases), task
        self._submitted: set[str] = set()

    def views(self) -> list[View]:
        """The slides, to be predicted; they have no truth."""
        return [View(case, self._task, self._task.mpp, truth=False) for case in self.cases]

    def submit(self, view: View, mask: ClassMap) -> tuple[np.ndarray, ClassMap]:
        """Hand in the mask of a slide; returns tp, fp, fn, tn of each class and the truth.

        Raises
        ------
        LeakError
            For a slide that is not of the test part, a second mask of one, or a mask of another shape.
        """
        case = view.case
        if case not in self.cases or case.slide_id in self._submitted:
            raise LeakError(f"slide {case.slide_id} is no test slide, or was predicted before")
        if mask.shape != view.shape:
            raise LeakError(f"a mask of {mask.shape} for a slide of {view.shape}")
        self._submitted.add(case.slide_id)
        truth = View(case, self._task, self._task.mpp, truth=True).classes()
        return counts(mask, truth, len(self._task.labels)), truth


class SegmenterRun(NamedTuple):
    """What a run leaves: weights, a row a test slide and class, a row an epoch, counts."""

    tensors: dict[str, Tensor]
    predictions: pd.DataFrame
    history: pd.DataFrame
    info: dict[str, Any]


def segmenter_run(
    model: Model | None,
    control: str,
    task: Segmentation,
    parts: dict[str, list[Case]],
    folder: Path,
    *,
    training: Training,
    seed: int,
    threads: int = 1,
) -> SegmenterRun:
    """Run one model on one fold; writes `outlines/<slide>.geojson` and `overlays/<slide>.png` under `folder`.

    Parameters
    ----------
    model : Model or None
        None for a control.
    control : str
        ``prior`` or ``colour`` where `model` is None.
    task : Segmentation
    parts : dict
        Slides of train, val and test.
    folder : Path
        Of the run.
    training : Training
        The model's, or the default one.
    seed, threads : int

    Raises
    ------
    ModelError
        If nothing of any class is drawn in the training part.
    """
    import pandas as pd

    start = time.perf_counter()
    with deterministic(seed, threads), OpenSlides() as slides:
        train, inner = (_with_truth(parts[part], task) for part in ("train", "val"))
        n_train, n_val = (len({view.case.patient_id for view in views}) for views in (train, inner))
        if not train:
            raise ModelError(f"task {task.name}: nothing is drawn in the training part", todo="use fewer folds")
        if not inner:
            logger.warning("%s: nothing is drawn in the inner part: the last epoch and a threshold of a half are taken",
                           task.name)  # fmt: skip
        setting = Setting(len(task.labels), task.mpp, training, model.options if model else {}, seed,
                          pick_device(training.device), slides)  # fmt: skip
        segmenter = _build(model, control, setting)
        history = segmenter.fit(train, inner)
        found = [histogram(segmenter.predict(view), view.classes(), len(task.labels)) for view in inner]
        threshold = choose_threshold(found)
        test = TestSlides(parts["test"], task)
        rows: list[dict[str, Any]] = []
        for view in test.views():
            mask = segmenter.predict(view).mask(threshold)
            counted, truth = test.submit(view, mask)
            _write_outlines(folder / "outlines" / f"{view.case.slide_id}.geojson", mask, view, task.labels)
            _write_overlay(folder / "overlays" / f"{view.case.slide_id}.png", mask, truth, view, slides)
            for name, (tp, fp, fn, tn) in zip(task.labels, counted.tolist(), strict=True):
                row = {"slide_id": view.case.slide_id, "patient_id": view.case.patient_id, "class": name}
                rows.append(row | {"tp": tp, "fp": fp, "fn": fn, "tn": tn})
        tensors = segmenter.tensors()
    columns = ["stage", "epoch", "lr", "train_loss", "val_loss", "best"]
    table = pd.DataFrame(history, columns=columns)
    info = {
        "n_train": n_train, "n_val": n_val,
        "n_test": len({c.patient_id for c in parts["test"]}), "slides_test": len(parts["test"]),
        "parameters": sum(t.numel() for t in tensors.values()), "epochs": len(table),
        "best_epoch": int(table.loc[table["best"] == 1, "epoch"].iloc[-1]) if len(table) else 0,
        "threshold": threshold / 255, "seconds": round(time.perf_counter() - start, 3),
    }  # fmt: skip
    return SegmenterRun(tensors, pd.DataFrame(rows), table, info)


def _build(model: Model | None, control: str, setting: Setting) -> Segmenter:
    if model is None:
        return {"prior": Prior, "colour": Colour}[control](setting)
    return segmenter_of(str(model.segmenter))(setting)


def _with_truth(cases: Sequence[Case], task: Segmentation) -> list[View]:
    """Slides of a part that say what some pixel is, be it background alone; none if nobody drew a class on any."""
    views, foreground = [], False
    for view in (View(case, task, task.mpp, truth=True) for case in cases):
        drawn = view.painter.annotations
        if drawn is None:
            continue
        values = {value for value, _ in drawn.painted if value != IGNORE}
        foreground |= bool(values - {0})
        if values or drawn.base == 0:
            views.append(view)
    return views if foreground else []


def _write_outlines(path: Path, mask: ClassMap, view: View, names: Sequence[str]) -> None:
    """The mask as annotations that QuPath opens, in level-0 pixels."""
    import json
    import uuid

    from histostudy.tissue.geojson import polygons_of

    lines = []
    scale = (view.case.width_px0 / view.shape[1], view.case.height_px0 / view.shape[0])
    for number, name in enumerate(names, start=1):
        colour = list(COLOURS[(number - 1) % len(COLOURS)])
        for polygon in polygons_of(mask == number, scale):
            rings = [polygon.exterior, *polygon.interiors]
            shape = [[[round(x, 1), round(y, 1)] for x, y in ring.coords] for ring in rings]
            about = {"objectType": "annotation", "classification": {"name": name, "color": colour}}
            one: dict[str, Any] = {"type": "Feature"}
            one["id"] = str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([name, shape])))
            one |= {"geometry": {"type": "Polygon", "coordinates": shape}, "properties": about}
            lines.append(json.dumps(one, sort_keys=True, separators=(",", ":")))
    write_text(path, '{"type":"FeatureCollection","features":[\n' + ",\n".join(lines) + "\n]}\n")


def _write_overlay(path: Path, mask: ClassMap, truth: ClassMap, view: View, slides: OpenSlides) -> None:
    """The slide with the prediction tinted, the truth outlined in black, and what is ignored in grey."""
    import cv2
    from PIL import Image

    slide = slides.of(view.case)
    rgb = slide.shrunk(max(1.0, max(view.case.width_px0, view.case.height_px0) / OVERLAY_PX))
    size = (rgb.shape[1], rgb.shape[0])
    shown, drawn = (cv2.resize(m, size, interpolation=cv2.INTER_NEAREST) for m in (mask, truth))
    out = rgb.copy()
    out[drawn == IGNORE] = 128
    for number in range(1, max(int(mask.max(initial=0)), 1) + 1):
        tone = np.array(COLOURS[(number - 1) % len(COLOURS)])
        out[shown == number] = (0.6 * out[shown == number] + 0.4 * tone).astype(np.uint8)
    values = [v for v in np.unique(drawn) if v not in (0, IGNORE)]
    for value in values:
        edge, _ = cv2.findContours((drawn == value).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(out, edge, -1, (0, 0, 0), 2)
        cv2.drawContours(out, edge, -1, COLOURS[(int(value) - 1) % len(COLOURS)], 1)
    with atomic(path) as temporary:
        Image.fromarray(out).save(temporary)
