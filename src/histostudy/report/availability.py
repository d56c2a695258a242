"""Data availability, code availability and licences of a study, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histostudy.report.citations import LIBRARIES, libraries_used
from histostudy.report.licences import TISSUE, UNKNOWN, EncoderUse, licence_notice
from histostudy.report.methods import drawn
from histostudy.report.numbers import count, listed

if TYPE_CHECKING:
    from histostudy.report.standards.facts import Facts


def data_availability(facts: Facts) -> list[str]:
    """Where the data come from, how many there are, and what can be shared."""
    counts = facts.counts
    words = [("patients", "patient"), *([("slides", "slide"), ("tiles", "tile")] if facts.slides else [])]
    size = listed([count(counts[key], word) for key, word in words if key in counts])
    name = facts.cohort.get("name", "")
    has = f": {size}" if size else ""
    if what := drawn(facts.study):
        return [
            f"The cohort {name} is synthetic{has}. No patient's data were used: {what}, tables and outcomes are drawn "
            f"anew, the same bytes, by running the study file with the seed {facts.study.get('seed', 0)}."
        ]
    files = facts.context.data
    listing = ""
    if files is not None and len(files):
        listing = f"Tables read: {', '.join(f'{r.file} (SHA-256 {r.sha256[:16]})' for r in files.itertuples())}."
    shared = (
        "Folds, metrics, comparisons and the record of provenance hold no image; "
        + ("the report and some figures show parts of slides; " if facts.slides else "")
        + "out-of-fold predictions and folds carry the identifiers of patients, which may have to be replaced before "
        "they are shared."
    )
    kept = "Slides, features and patient tables are not part of what is shared here." if facts.slides else ""
    kept = kept or "The patient table is not part of what is shared here."
    return [text for text in (f"The cohort {name} was analysed as given{has}.", listing, shared, kept) if text]


def code_availability(facts: Facts) -> list[str]:
    """Which code made the results, under which licence, and how to run it again."""
    software = facts.context.software
    version = f" {software['histostudy']}" if software.get("histostudy", "not installed") != "not installed" else ""
    commit = f", commit {software['commit']}" if "commit" in software else ""
    lock = software.get("environment lock (SHA-256)")
    elsewhere = [f"the predictions of {listed(facts.foreign)}"] * bool(facts.foreign)
    elsewhere += ["the features"] * facts.precomputed
    made = f"; {listed(elsewhere)} were made elsewhere, by code that is not told here" if elsewhere else ""
    text = [f"The results were made by histostudy{version}{commit} (Apache-2.0) as one Snakemake workflow{made}."]
    if lock:
        text.append(f"The pinned environment has the SHA-256 {lock}.")
    return [*text, "study.yaml holds every setting, ro-crate-metadata.json every job with its inputs and outputs."]


def encoder_rows(uses: list[EncoderUse]) -> list[dict[str, str]]:
    """Encoders and their terms, for a table."""
    rows = []
    for use in uses:
        limits = [use.limits] if use.limits else []
        limits += ["weights on request or after accepting terms"] * use.gated
        limits += ["ask its makers"] * (use.licence == UNKNOWN)
        licence = "not recorded here" if use.how == TISSUE and use.licence == UNKNOWN else use.licence
        rows.append({"encoder": use.name, "did": use.how, "licence": licence, "limits": "; ".join(limits)})
    return rows


def library_rows(facts: Facts) -> list[dict[str, str]]:
    """Libraries with version and licence, for a table."""
    software = facts.context.software
    return [
        {"library": name, "version": software.get(name, "not recorded"), "licence": LIBRARIES[name][1]}
        for name in libraries_used(facts.study)
    ]


def availability_markdown(facts: Facts) -> str:
    """Data and code availability and licences as a Markdown page."""
    lines = [f"# Availability: {facts.study.get('study', 'study')}", ""]
    if notice := licence_notice(facts.weights):
        lines += [f"**{notice}**", ""]
    lines += ["## Data availability", "", " ".join(data_availability(facts)), ""]
    lines += ["For the authors: where and under what conditions the data can be had.", ""]
    lines += ["## Code availability", "", " ".join(code_availability(facts)), ""]
    lines += ["For the authors: the address of the repository and of the archived release.", "", "## Licences", ""]
    for rows in (encoder_rows(facts.weights), library_rows(facts)):
        if rows:
            lines += ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
            lines += ["| " + " | ".join(row.values()) + " |" for row in rows] + [""]
    return "\n".join(lines).rstrip() + "\n"
