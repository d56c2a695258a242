"""The figure of the audit of stain."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables as tables

from histostudy.figures import FIGURES
from histostudy.report.stain import audit_paragraph, audit_rows, audit_warning, stain_sentence

audit = tables.stain_audit


@pytest.mark.parametrize(("methods", "site"), [(("none", "macenko", "reinhard", "vahadane"), True), (("none",), False)])
def test_words_keep_apart(methods: tuple[str, ...], site: bool) -> None:
    tables.assert_words_apart(FIGURES["stain_audit"].draw(audit(methods, site)))


def test_the_same_bytes_twice_and_nothing_says_so(tmp_path: Path) -> None:
    tables.assert_same_bytes("stain_audit", tmp_path, audit())
    tables.assert_says_empty("stain_audit")


def test_units_counts_and_the_warning_are_said() -> None:
    fig = FIGURES["stain_audit"].draw(audit())
    said = tables.words(fig)
    assert "n = 200 tiles, 20 patients, 36 pairs of versions" in said and "!" in said.split("\n")
    bold = [text.get_text() for text in fig.axes[0].get_yticklabels() if text.get_weight() == "bold"]
    assert bold == ["macenko"]


def test_the_report_says_the_same() -> None:
    rows = audit_rows(audit()).set_index("stain")
    assert list(rows.index) == ["chance", "none", "macenko (in use)", "reinhard", "vahadane"]
    assert rows.loc["none", "slide told \N{DOWNWARDS ARROW}"] == "0.300 [0.240, 0.350]"
    assert rows.loc["macenko (in use)", "cosine"].endswith("!") and not rows.loc["none", "cosine"].endswith("!")
    assert rows.loc["chance", "top-10, both"] == "0.050" and rows.loc["chance", "cosine"] == ""
    warning = audit_warning(audit())
    assert "marked ! (macenko) is no evidence" in warning and "vahadane 2" in warning
    assert audit_warning(audit(("none",))) == ""


def test_methods_say_what_was_done_and_nothing_where_nothing_was() -> None:
    assert stain_sentence({"features": {"stain": None}}) == audit_paragraph({"audit": []}) == ""
    own = stain_sentence({"features": {"stain": {"method": "vahadane", "target": "/far/ours.png"}}})
    assert "Vahadane" in own and "ours.png" in own and "/far" not in own
    assert "nothing was fitted to the cohort" in stain_sentence({"features": {"stain": {"method": "macenko"}}})
    text = audit_paragraph({"audit": ["stain"], "features": {"encoder": "builtin"}})
    assert "not a slide stained and scanned again" in text and "having units" in text
    assert "having units" not in audit_paragraph({"audit": ["stain"], "features": {"encoder": "uni"}})
