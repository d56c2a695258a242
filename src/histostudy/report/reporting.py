"""The files of a study's ``reporting`` folder, and the same for its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from histostudy.report.applies import follows_remark, follows_tripod, reporting_names
from histostudy.report.availability import (
    availability_markdown,
    code_availability,
    data_availability,
    encoder_rows,
    library_rows,
)
from histostudy.report.bibtex import cite, render
from histostudy.report.citations import cited
from histostudy.report.licences import licence_notice
from histostudy.report.standards.checklist import STATES, Checklist, as_markdown
from histostudy.report.standards.facts import Facts

if TYPE_CHECKING:
    from histostudy.report.bibtex import Entry
    from histostudy.report.context import ReportContext

FOLDER = "reporting"


def checklists(facts: Facts) -> list[Checklist]:
    """The checklists that apply to a study, filled."""
    from histostudy.report.standards.remark import remark
    from histostudy.report.standards.tripod import tripod_ai

    found = [tripod_ai(facts)] if follows_tripod(facts.study) else []
    return found + ([remark(facts)] if follows_remark(facts.study) else [])


def _references(context: ReportContext) -> list[Entry]:
    return cited(context.study, context.encoders, context.layouts)


def reporting_files(context: ReportContext) -> dict[str, str]:
    """Text of every file of `reporting_names`; the same for the same context."""
    facts = Facts(context)
    name = str(context.study.get("study", "study"))
    files = {
        "methods.md": "\n\n".join([f"# Methods: {name}", *facts.methods]) + "\n",
        "availability.md": availability_markdown(facts),
        "references.bib": render(_references(context)),
    }
    stems = {"TRIPOD+AI": "tripod_ai", "REMARK": "remark"}
    files |= {f"{stems[one.name]}.md": as_markdown(one, name) for one in checklists(facts)}
    return {key: files[key] for key in reporting_names(context.study)}


def reporting_section(context: ReportContext) -> dict[str, Any]:
    """What the page shows: the notice of its first lines, checklists, availability, licences, references."""
    facts = Facts(context)
    return {
        "notice": licence_notice(facts.weights),
        "checklists": [
            {"name": one.name, "summary": one.summary, "items": [(i, STATES[i.state]) for i in one.items]}
            for one in checklists(facts)
        ],
        "data": " ".join(data_availability(facts)),
        "code": " ".join(code_availability(facts)),
        "encoders": encoder_rows(facts.weights),
        "libraries": library_rows(facts),
        "references": [cite(entry) for entry in _references(context)],
        "files": [f"{FOLDER}/{name}" for name in reporting_names(context.study)],
    }
