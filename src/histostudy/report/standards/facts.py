"""What a run knows of itself that reporting standards ask for: numbers of its tables in short sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from histostudy.evaluation.comparison import MAIN_METRIC
from histostudy.report.applies import PREDICTS
from histostudy.report.counts import counts_of, task_counts
from histostudy.report.findings import CONTROLS, main_rows, shown_model
from histostudy.report.licences import TISSUE, EncoderUse, licensed
from histostudy.report.methods import drawn, has_slides, methods_paragraphs
from histostudy.report.modelling import is_foreign, is_untrained
from histostudy.report.numbers import count, interval, known, listed, metric_name, number
from histostudy.report.tasks import is_null, task_text, unit_of

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.report.context import ReportContext


class Facts:
    """A study's context, as the fillers of checklists ask it.

    Parameters
    ----------
    context : ReportContext
    """

    def __init__(self, context: ReportContext) -> None:
        self.context = context
        self.study = context.study
        self.cohort: Mapping[str, Any] = self.study.get("cohort") or {}
        self.splits: Mapping[str, Any] = self.study.get("splits") or {}
        self.models: Mapping[str, Any] = self.study.get("models") or {}
        self.tasks = [task for task in self.study.get("tasks") or [] if task["kind"] in PREDICTS]
        self.survival = [task for task in self.tasks if task["kind"] == "survival"]
        self.simulated = bool(drawn(self.study))
        self.slides = has_slides(self.study)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Patients, slides, tiles, folds."""
        return counts_of(self.context)

    @cached_property
    def of_tasks(self) -> dict[str, dict[str, Any]]:
        """Patients and events by task."""
        return task_counts(self.context)

    @cached_property
    def methods(self) -> list[str]:
        """The methods paragraphs."""
        given = self.context.methods
        if given is not None:
            return list(given)
        return methods_paragraphs(self.study, self.counts, self.context.software, self.of_tasks)

    @cached_property
    def weights(self) -> list[EncoderUse]:
        """Encoders, their teachers and a tissue network of others, with their licences."""
        uses = licensed(self.study, self.context.encoders)
        if not (self.precomputed and self.context.asked):
            return uses
        return [replace(use, how=f"{use.how} ({self.context.asked})") for use in uses]

    @property
    def encoders(self) -> list[EncoderUse]:
        """Those of `weights` that are of encoders."""
        return [use for use in self.weights if use.how != TISSUE]

    @property
    def precomputed(self) -> bool:
        """Whether another tool made the features."""
        return bool(self.slides and not self.simulated and (self.study.get("features") or {}).get("precomputed"))

    @property
    def reference(self) -> str | None:
        """The model that the study file names as reference."""
        return (self.study.get("compare") or {}).get("reference")

    def covariates(self, tasks: list[Mapping[str, Any]] | None = None) -> str:
        """Clinical covariates of the tasks' clinical models, by task where they differ; empty without any."""
        mine = [task for task in (self.tasks if tasks is None else tasks) if task.get("adjust")]
        alike = {tuple(task["adjust"]) for task in mine}
        if len(alike) == 1 and len(mine) == len(self.tasks if tasks is None else tasks):
            return listed(list(mine[0]["adjust"]))
        return "; ".join(f"{task['name']}: {listed(list(task['adjust']))}" for task in mine)

    def size(self, tasks: list[Mapping[str, Any]] | None = None) -> str:
        """`os: 80 patients, 52 events; subtype: 80 patients, 40 positive`."""
        parts = []
        for task in self.tasks if tasks is None else tasks:
            mine = self.of_tasks.get(task["name"], {})
            if known(mine.get("patients")):
                text = f"{task['name']}: {count(mine['patients'], 'patient')}"
                if known(mine.get("events")):
                    events = int(mine["events"])
                    text += f", {count(events, 'event')}" if task["kind"] == "survival" else f", {events:,} positive"
                parts.append(text)
        return "; ".join(parts)

    def outcomes(self, tasks: list[Mapping[str, Any]] | None = None) -> str:
        """What each task predicts."""
        mine = self.tasks if tasks is None else tasks
        return "; ".join(f"{task['name']} ({task['kind']}): {task_text(task)}" for task in mine)

    def flow(self) -> str:
        """The steps of the flow that left something out, with what and why, and the first and the last."""
        steps = []
        kinds = ("patients", "slides") if self.slides else ("patients",)
        given = (self.context.flow or {}).get("steps") or []
        for at, step in enumerate(given):
            if 0 < at < len(given) - 1 and not step.get("excluded"):
                continue
            text = f"{step['step']}: {count(step['patients'], 'patient')}"
            if self.slides:
                text += f", {count(step['slides'], 'slide')}"
            out = []
            for one in step.get("excluded") or []:
                of = [count(one[k], k[:-1]) for k in kinds if known(one.get(k))]
                out.append(f"{one['reason']}: {', '.join(of)}")
            text += " remain" if at else ""
            steps.append(text + (f" (left out: {'; '.join(out)})" if out else ""))
        return f"{'; '.join(steps)}." if steps else ""

    def left_out(self) -> str:
        """Patients that a task leaves out, and why."""
        parts = []
        for name, mine in ((self.context.flow or {}).get("tasks") or {}).items():
            parts += [f"{name}: {count(e['patients'], 'patient')}, {e['reason']}" for e in mine.get("excluded") or []]
        return f"Left out of a task: {'; '.join(parts)}." if parts else ""

    def missing(self) -> str:
        """Missing values by variable, of Table 1."""
        table = self.context.table_one
        if table is None or "missing" not in table:
            return ""
        rows = [(v, m) for v, m in zip(table["variable"], table["missing"], strict=True) if str(m).strip()]
        some = [f"{variable} {missing}" for variable, missing in rows if str(missing) != "0"]
        if not rows:
            return ""
        return f"Missing values (Table 1): {', '.join(some)}." if some else "No value of Table 1 is missing."

    def variables(self) -> list[str]:
        """Variables of Table 1."""
        table = self.context.table_one
        return [] if table is None else [v for v in dict.fromkeys(table["variable"]) if v and v != "n"]

    def follow_up(self) -> str:
        """Median follow-up by survival task."""
        parts = [f"{name} {number(days, 0)} days" for name, days in self.context.follow_up.items()]
        return f"Median follow-up (reverse Kaplan-Meier): {'; '.join(parts)}." if parts else ""

    def main(self, tasks: list[Mapping[str, Any]] | None = None) -> Iterator[tuple[str, str, str, pd.Series]]:
        """Task, metric, the model that stands for it, and its row of the metrics."""
        for task in self.tasks if tasks is None else tasks:
            table = self.context.metrics.get(task["name"])
            rows = main_rows(table, task["kind"]) if table is not None else None
            if rows is None or len(rows) == 0 or is_null(task):
                continue
            rows = rows.set_index("model")
            shown = shown_model(rows, self.reference)
            yield task["name"], MAIN_METRIC[task["kind"]], shown, rows.loc[shown]

    def performance(self, tasks: list[Mapping[str, Any]] | None = None) -> str:
        """`os: C (Harrell) 0.702 (0.62 to 0.77) of abmil; ...`."""
        parts = []
        for name, metric, model, row in self.main(tasks):
            span = interval(row["low"], row["high"])
            parts.append(
                f"{name}: {metric_name(metric)} {number(row['estimate'])}{f' ({span})' if span else ''} of {model}"
            )
        level = number(100 * float((self.study.get("compare") or {}).get("confidence", 0.95)), 0)
        return f"Main metric with its {level}% interval: {'; '.join(parts)}." if parts else ""

    def heads(self, kinds: set[str] | None = None) -> list[str]:
        """Metrics that the tables hold, by their names for a reader."""
        names: dict[str, None] = {}
        for task in self.tasks:
            table = self.context.metrics.get(task["name"])
            if table is not None and (kinds is None or task["kind"] in kinds):
                names |= dict.fromkeys(metric_name(str(m)) for m in table["metric"])
        return list(names)

    def trained(self) -> list[str]:
        """The study's models, without controls."""
        return [name for name in self.models if name not in CONTROLS]

    @property
    def own(self) -> list[str]:
        """Models that were trained here: neither predictions made elsewhere nor left as they were initialised."""
        return [n for n, m in self.models.items() if n not in CONTROLS and not is_foreign(m) and not is_untrained(m)]

    @property
    def untrained(self) -> list[str]:
        """Models that are left as they were initialised."""
        return [n for n, m in self.models.items() if n not in CONTROLS and is_untrained(m)]

    @property
    def shared_sites(self) -> list[float] | None:
        """Share of each test part's patients from a site that is trained on too; None where that is not known."""
        shared = [fold.get("shared_site_patients") for fold in (self.context.leakage or {}).get("folds") or []]
        return None if not shared or any(one is None for one in shared) else [float(one) for one in shared]

    def wheres(self) -> str:
        """Columns and values by which tasks choose their patients."""
        return "; ".join(f"{t['name']}: {k} {v}" for t in self.tasks for k, v in (t.get("where") or {}).items())

    @property
    def real_survival(self) -> list[Mapping[str, Any]]:
        """Survival tasks that are no null."""
        return [task for task in self.survival if not is_null(task)]

    @property
    def foreign(self) -> list[str]:
        """Models that are predictions made elsewhere."""
        return [name for name, model in self.models.items() if model.get("predictions")]

    def paragraph(self, *starts: str) -> str:
        """The methods paragraphs that begin with one of `starts`."""
        return " ".join(p for p in self.methods if p.startswith(starts))

    def units(self) -> str:
        """What is split and resampled."""
        return listed(sorted({f"{unit_of(task)}s" for task in self.tasks}))
