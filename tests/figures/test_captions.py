"""Captions stand twice, in a figure's registration and in a file that Snakemake's report reads: they agree."""

from __future__ import annotations

from studies import ROOT

from histostudy.figures import FIGURES


def test_captions_of_snakemakes_report_are_the_figures_own() -> None:
    folder = ROOT / "workflow" / "report"
    written = {f.stem: f.read_text().strip() for f in folder.glob("*.rst") if f.stem not in ("workflow", "report")}
    assert written == {name: FIGURES[name].spec.caption for name in FIGURES}
