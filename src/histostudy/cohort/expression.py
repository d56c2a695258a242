"""Expression of genes, of patients or of the spots of their sections, as a task's outcome."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.cohort.columns import Columns, Found, missing
from histostudy.cohort.tables import ROW, read_table
from histostudy.errors import TableError

if TYPE_CHECKING:
    from histostudy.tasks import Expression

logger = logging.getLogger(__name__)

#: Counts of a row are scaled to this total: a fixed one, so that no other row has a say.
LIBRARY = 10_000.0


def expression_of(task: Expression, columns: Columns) -> Found:
    """Expression of the patients of a cohort who have every gene, (n, genes)."""
    found = _values(task, "patient_id", columns.ids, "patient of this cohort")
    listed, complete, values, genes = found
    excluded = missing(columns, listed, "not in the expression table")
    excluded |= missing(columns, complete | ~listed, "a gene is missing")
    return {"y": values, "genes": genes}, excluded


def expression_of_spots(task: Expression, spot_ids: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """Which spots have every gene, (n,) bool, and the fields of their outcome."""
    _, complete, values, genes = _values(task, "spot_id", spot_ids, "spot of this cohort")
    return complete, {"y": values, "genes": genes}


def _values(
    task: Expression, key: str, ids: list[str], what: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Which of `ids` the table lists, which have every gene, their values (n, genes), and the genes."""
    path = task.table
    table = read_table(path)
    key = key if key in table else str(table.columns[0])
    own = Columns(table.rename(columns={key: "patient_id"}), path)
    names = [str(c) for c in table.columns if c not in (key, ROW)]
    genes = names if task.genes is None else list(task.genes)
    if not genes:
        raise TableError("no genes", where=path, todo="one column a gene beside the ids")
    rows: dict[str, int] = {}
    for i, unit in enumerate(own.ids):
        if unit in rows:
            raise TableError(
                f"{unit!r} is in row {own.rows[rows[unit]]} too", where=own.where(key, i), todo="keep one row each"
            )
        rows[unit] = i
    order = [rows.get(p, -1) for p in ids]
    listed = np.array([i >= 0 for i in order], dtype=bool)
    used = [i for i in order if i >= 0]
    wanted = names if task.library else genes  # the total of a row is over all its genes
    every = own.block(wanted)[used]
    if task.library and len(every):
        total = np.nansum(every, axis=1, keepdims=True)
        every = every / np.maximum(total, 1) * LIBRARY
    values = every[:, [wanted.index(gene) for gene in genes]]
    if task.log:
        for i, j in np.argwhere(values < 0)[:1]:
            raise TableError(
                f"expression of {values[i, j]:g} cannot be logged",
                where=own.where(genes[j], used[i]),
                todo="set `log: false` if the table is in logs already",
            )
        values = np.log2(1 + values)
    complete = listed.copy()
    complete[listed] = np.isfinite(values).all(axis=1)
    if not complete.any():
        raise TableError(
            f"no {what} is in it with all {len(genes)} genes",
            where=path,
            todo=f"its first id is {own.ids[0]!r}, the cohort's {ids[0] if ids else ''!r}; name complete `genes`",
        )
    values, genes = _varying(task, values[np.isfinite(values).all(axis=1)], genes)
    return listed, complete, values, genes


def _varying(task: Expression, values: np.ndarray, genes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Leave out genes that do not vary, and with `top` those that vary least: it decides what is asked."""
    flat = [g for g, spread in zip(genes, np.ptp(values, axis=0), strict=True) if spread == 0]
    if len(flat) == len(genes):
        raise TableError("every gene is constant", where=task.table, todo="check the table")
    if flat:
        logger.warning("task %s: %d genes do not vary and are left out (%s)", task.name, len(flat), flat[0])
    keep: Any = np.array([g not in flat for g in genes])
    if task.top is not None and keep.sum() > task.top:
        order = np.argsort(np.where(keep, -values.var(axis=0), np.inf), kind="stable")
        keep = np.isin(np.arange(len(genes)), order[: task.top])
    return values[:, keep], [g for g, kept in zip(genes, keep, strict=True) if kept]
