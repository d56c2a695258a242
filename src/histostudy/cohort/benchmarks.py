"""The classic benchmark bags of multiple-instance learning, as tables and features of a study.

Musk1 (Dietterich, Lathrop and Lozano-Perez, Artificial Intelligence 1997): molecules as bags of conformations; elephant
(Andrews, Tsochantaridis and Hofmann, NeurIPS 2002): images as bags of segments.
"""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path

import numpy as np

from histostudy.errors import TableError, at
from histostudy.files import atomic, write_table

logger = logging.getLogger(__name__)


def build_benchmark(path: str | Path, out: str | Path) -> None:
    """Write ``slides.csv``, ``patients.csv`` (patient_id, label) and ``features/<bag>.npy`` of a table of instances.

    Parameters
    ----------
    path : str or Path
        CSV without a header: label (0 or 1), bag, and the instance's numbers; the rows of a bag say one label.
    out : str or Path
        Folder of the tables. A bag is a patient with one slide.

    Raises
    ------
    TableError
        If a row is short or no number, a label is not 0 or 1, or a bag has two.
    """
    import pandas as pd

    path, out = Path(path), Path(out)
    if not path.is_file():
        raise TableError("no such file", where=path, todo="name the CSV of instances")
    bags: dict[int, list[list[float]]] = {}
    labels: dict[int, int] = {}
    width = None
    for row, cells in enumerate(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))), start=1):
        width = width or len(cells)
        try:
            label, bag, *values = (float(cell) for cell in cells)
        except ValueError:
            raise TableError("not a label, a bag and numbers", where=at(path, row=row), todo="mend the row") from None
        if len(cells) != width or not values or not np.isfinite(values).all():
            raise TableError(f"not {width} finite numbers", where=at(path, row=row), todo="mend the row")
        if label not in (0, 1):
            raise TableError(f"label {label:g} is not 0 or 1", where=at(path, row=row), todo="mend the row")
        if labels.setdefault(int(bag), int(label)) != label:
            raise TableError(f"bag {int(bag)} has two labels", where=at(path, row=row), todo="mend the row")
        bags.setdefault(int(bag), []).append(values)
    if not bags:
        raise TableError("no rows", where=path, todo="name the CSV of instances")
    names = {bag: f"{path.stem}-{bag:04d}" for bag in sorted(bags)}
    for bag, name in names.items():
        with atomic(out / "features" / f"{name}.npy") as temporary, temporary.open("wb") as stream:
            np.save(stream, np.asarray(bags[bag], np.float32))
    ids = list(names.values())
    write_table(out / "slides.csv", pd.DataFrame({"slide_id": ids, "patient_id": ids}))
    write_table(out / "patients.csv", pd.DataFrame({"patient_id": ids, "label": [labels[bag] for bag in names]}))
    logger.info("%s: %d bags of %d instances", out, len(bags), sum(map(len, bags.values())))
