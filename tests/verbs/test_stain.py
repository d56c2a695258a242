"""Which keys say stain, what they refuse in one line, and which slides the audit looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histostudy.errors import ConfigError, StudyError
from histostudy.layout import Layout
from histostudy.plan import make_plan
from histostudy.study import Study
from histostudy.studyfile import parse_study
from histostudy.verbs.figures import planned_figures
from histostudy.verbs.stain import choose_slides


def study_of(simulate: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    return {"study": "s", "cohort": {"name": "c", "simulate": {"patients": 12} | (simulate or {})}} | sections


def parsed(**given: Any) -> Study:
    return parse_study(study_of(**given))


def test_unknown_methods_and_audits_are_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"features.stain.method: Input should be 'macenko', 'reinhard' or 'vahadane'"
    ):
        parsed(features={"stain": {"method": "macenk"}})
    with pytest.raises(ConfigError, match=r"features.stain.targett: unknown key, did you mean 'target'"):
        parsed(features={"stain": {"method": "macenko", "targett": "x"}})
    with pytest.raises(ConfigError, match="audit.0: Input should be 'stain'"):
        parsed(audit="colour")
    assert parsed(audit="stain").audit == parsed(audit=["stain"]).audit == ["stain"]


def test_features_without_pixels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text("slide_id,patient_id\na,p\n")
    cohort = {"name": "c", "slides": str(tmp_path / "slides.csv")}
    for key in ({"audit": "stain"}, {"features": {"precomputed": str(tmp_path), "stain": {"method": "macenko"}}}):
        with pytest.raises(ConfigError, match="precomputed features have no pixels: give slides and features.encoder"):
            parse_study({"study": "s", "cohort": cohort, "features": {"precomputed": str(tmp_path)}} | key)
    with pytest.raises(ConfigError, match="drawn features have no pixels"):
        parsed(simulate={"features": {}}, audit="stain")


def test_stain_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "ours.png")
    names = [
        Layout(parsed(features=f)).features.name
        for f in ({}, {"stain": {"method": "macenko"}}, {"stain": {"method": "vahadane", "target": "ours.png"}})
    ]
    assert names == ["builtin", "builtin-macenko", "builtin-vahadane-ours"]
    with pytest.raises(ConfigError, match=r"features.stain.target: gone.png does not exist"):
        parsed(features={"stain": {"method": "macenko", "target": "gone.png"}})


def test_the_audit_is_planned_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(study_of(audit="stain"), check=False)
    assert "stain_audit" in [figure.figure for figure in planned_figures(plan.study)]
    assert "stain_audit" not in [figure.figure for figure in planned_figures(parsed())]
    assert plan.layout.audit("audit").name == "stain_audit.csv" and len(plan.code("audit")) == len(plan.code("stain"))


def index_of(patients: int, slides: int, sites: int) -> pd.DataFrame:
    rows = [
        {"slide_id": f"p{p:02d}-{k}", "patient_id": f"p{p:02d}", "site": f"site{p % sites}", "n_tiles": 5 + p + k}
        for p in range(patients)
        for k in range(slides)
    ]
    return pd.DataFrame(rows)


def test_slides_are_one_a_patient_in_turn_from_every_site() -> None:
    chosen = choose_slides(index_of(60, 2, 4), seed=1, most=20)
    assert len(chosen) == 20 and chosen["patient_id"].is_unique and chosen["slide_id"].is_monotonic_increasing
    assert chosen["site"].value_counts().tolist() == [5, 5, 5, 5]
    pd.testing.assert_frame_equal(chosen, choose_slides(index_of(60, 2, 4).sample(frac=1, random_state=0), 1, 20))
    assert (chosen["n_tiles"] >= 6).all()
    with pytest.raises(StudyError, match="1 patients have a slide of 6 tiles or more"):
        choose_slides(index_of(2, 1, 1), seed=0)
