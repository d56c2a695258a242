"""A limited licence stands on the first page, whatever the tool that named the encoder; a free one does not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from histostudy.encoders.known import ENCODERS
from histostudy.report.context import ReportContext
from histostudy.report.licences import UNKNOWN, encoders_used, licence_notice, licensed, registered_name
from histostudy.report.page import render_report
from histostudy.report.reporting import reporting_files


def _with(encoder: str) -> dict[str, object]:
    return {"cohort": {"slides": "slides.csv"}, "features": {"encoder": encoder}}


def _on(context: ReportContext, encoder: str) -> ReportContext:
    return dataclasses.replace(context, study={**context.study, "features": {"encoder": encoder}})


@pytest.mark.parametrize(
    "encoder", ["uni", "conch", "virchow2", "h0_mini", "phikon", "lunit_vits8", "kaiko_vits16", "virchow2?cls"]
)
def test_a_non_commercial_encoder_is_told_with_its_licence(encoder: str) -> None:
    notice = licence_notice(encoders_used(_with(encoder)))
    assert encoder in notice and ENCODERS[encoder.split("?")[0]].licence in notice and "non-commercial" in notice


@pytest.mark.parametrize("encoder", ["builtin", "h_optimus_0", "virchow", "resnet50", "midnight"])
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
     ("virchow2?cls", "virchow2"),
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


@pytest.mark.parametrize("size", ["vits8", "vits16", "vitb8", "vitb16", "vitl14"])
def test_every_kaiko_encoder_is_non_commercial(size: str) -> None:
    assert "Kaiko non-commercial" in licence_notice(encoders_used(_with(f"kaiko_{size}")))


def test_the_teacher_of_an_encoder_made_before_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"teacher": {"encoder": "uni"}}))
    before = {"cohort": {"slides": "s.csv"}, "features": {"encoder": "pretrained", "checkpoint": str(tmp_path)}}
    assert "uni (CC-BY-NC-ND-4.0" in licence_notice(encoders_used(before))
    chained = _with("pretrained") | {"pretrain": {"method": "distil", "teacher_checkpoint": str(tmp_path)}}
    assert "uni (CC-BY-NC-ND-4.0" in licence_notice(encoders_used(chained))
    unknown = before | {"features": {"encoder": "pretrained", "checkpoint": str(tmp_path / "absent")}}
    assert "licence not known here" in licence_notice(encoders_used(unknown))


def test_precomputed_features_without_a_named_encoder_have_a_row_and_a_notice(context: ReportContext) -> None:
    study = {**context.study, "cohort": {"name": "c", "slides": "s.csv"}, "features": {"precomputed": "features"}}
    files = reporting_files(dataclasses.replace(context, study=study, asked="16 of 120 files read"))
    row = next(line for line in files["availability.md"].splitlines() if line.startswith("| not named by the files"))
    assert "not known here | ask its makers" in row and "16 of 120 files read" in row
    assert "Limited use" in files["availability.md"] and "the features were made elsewhere" in files["availability.md"]
    item = next(line for line in files["tripod_ai.md"].splitlines() if line.startswith("| 22 "))
    assert "not named by the files (licence not known here)" in item


@pytest.mark.parametrize("method", ["grandqc", "hest", "atlaspatch"])
def test_tissue_networks_of_others_have_a_row(context: ReportContext, method: str) -> None:
    study = {**context.study, "tissue": {**context.study["tissue"], "method": method}}
    text = reporting_files(dataclasses.replace(context, study=study))["availability.md"]
    assert f"| tissue method {method} | outlined the tissue | not recorded here | ask its makers |" in text
    assert not [use for use in licensed(context.study) if "tissue" in use.name]


@pytest.mark.parametrize("encoder", ["gigapath", "dinov3_s", "pluto_4s", "conch_v15", "musk"])
def test_conditions_and_unknown_licences_are_told(encoder: str) -> None:
    assert encoder in licence_notice(encoders_used(_with(encoder)))
