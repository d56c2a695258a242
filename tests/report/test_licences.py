"""A limited licence stands on the first page, whatever the tool that named the encoder; a free one does not."""

from __future__ import annotations

import dataclasses

import pytest

from histostudy.encoders.known import ENCODERS
from histostudy.report.context import ReportContext
from histostudy.report.licences import UNKNOWN, encoders_used, licence_notice, registered_name
from histostudy.report.page import render_report
from histostudy.report.reporting import reporting_files


def _with(encoder: str) -> dict[str, object]:
    return {"cohort": {"slides": "slides.csv"}, "features": {"encoder": encoder}}


def _on(context: ReportContext, encoder: str) -> ReportContext:
    return dataclasses.replace(context, study={**context.study, "features": {"encoder": encoder}})


@pytest.mark.parametrize("encoder", ["uni", "conch", "virchow2", "h0_mini", "phikon", "lunit_vits8"])
def test_a_non_commercial_encoder_is_told_with_its_licence(encoder: str) -> None:
    notice = licence_notice(encoders_used(_with(encoder)))
    assert encoder in notice and ENCODERS[encoder].licence in notice and "non-commercial" in notice


@pytest.mark.parametrize("encoder", ["builtin", "h_optimus_0", "virchow", "kaiko_vits16", "resnet50", "midnight"])
def test_a_free_encoder_is_not(encoder: str) -> None:
    assert licence_notice(encoders_used(_with(encoder))) == ""


def test_the_notice_stands_at_the_top_of_the_page_and_in_the_text(context: ReportContext) -> None:
    page = render_report(_on(context, "uni"))
    assert "Limited use" in page.split("</header>")[0] and "CC-BY-NC-ND-4.0" in page.split("</header>")[0]
    assert "Limited use" in reporting_files(_on(context, "uni"))["availability.md"]
    assert "Limited use" not in render_report(_on(context, "h_optimus_0"))


def test_the_teacher_of_a_distilled_encoder_counts() -> None:
    study = _with("pretrained") | {"pretrain": {"method": "distil", "teacher": "uni2_h"}}
    assert "uni2_h" in licence_notice(encoders_used(study))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("uni_v1", "uni"), ("MahmoodLab/UNI", "uni"), ("hf-hub:MahmoodLab/uni", "uni"), ("uni@abc", "uni"),
     ("UNI2-h", "uni2_h"), ("conch_v1", "conch"), ("virchow2", "virchow2"), ("hoptimus0", "h_optimus_0"),
     ("phikon-v2", "phikon_v2"), ("prov-gigapath", "gigapath"), ("somebody_s", "somebody_s")],
)  # fmt: skip
def test_names_of_other_tools_are_known(theirs: str, ours: str) -> None:
    assert registered_name(theirs) == ours


def test_precomputed_features_are_judged_by_what_their_files_say() -> None:
    study = {"cohort": {"slides": "slides.csv"}, "features": {"precomputed": "features", "layout": "trident"}}
    assert "uni_v1 (CC-BY-NC-ND-4.0" in licence_notice(encoders_used(study, ["uni_v1"]))
    assert [use.licence for use in encoders_used(study, ["somebody_s"])] == [UNKNOWN]
    assert encoders_used(study) == []
