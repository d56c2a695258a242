"""Whose slides are annotated, and annotations that are of no slide."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from histostudy.cohort.annotated import annotated_outcome, check_strays
from histostudy.errors import TableError
from histostudy.tasks import Segmentation


def test_annotations_of_left_out_slides_are_known_and_those_of_none_refused(tmp_path: Path) -> None:
    for name in ("s0", "s1", "gone", "._s1"):
        (tmp_path / f"{name}.geojson").write_text("{}")
    task = Segmentation(name="t", kind="segmentation", annotations=tmp_path, classes={"a": ["A"]})
    slides = pd.DataFrame({"slide_id": ["s0", "s1", "s2"], "patient_id": ["p0", "p0", "p1"]})
    outcome = annotated_outcome(task, pd.DataFrame({"patient_id": ["p0", "p1"]}), slides)
    assert list(outcome.patient_ids) == ["p0"] and outcome.y.tolist() == [2]
    check_strays(task, ["s0", "s1", "s2", "gone"])
    with pytest.raises(TableError, match="gone.geojson is of no slide of the slide table"):
        check_strays(task, ["s0", "s1", "s2"])
