"""A tiny study of sites with their own stain: normalised features, the stain of each slide, the audit, all in one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from studies import Snakemake, committed_study

pytestmark = pytest.mark.workflow


def test_a_study_is_normalised_and_audited_whole(snakemake: Snakemake, tmp_path: Path) -> None:
    cohort = {"name": "sites", "simulate": {
        "patients": 12, "slides_extra": 0, "sites": 3, "pen_share": 0, "size_px": [2000, 2400],
    }}  # fmt: skip
    study = committed_study(
        "stain_audit", tmp_path, cohort=cohort, tiles={"mpp": 1.0, "size": 96}, compare={"resamples": 200}
    )
    snakemake(study, tmp_path)
    home = tmp_path / "results/studies/stain_audit"
    index = pd.read_parquet(tmp_path / "results/cohorts/sites/features/1um_96px/builtin-macenko/index.parquet")
    assert (index["stain_fallback"] == "").all() and len(index) == 12
    slides = pd.read_csv(home / "tables/stain_slides.csv")
    assert len(slides) == 12 and slides["between_deg"].between(10, 60).all()
    audit = pd.read_csv(home / "tables/stain_audit.csv")
    assert set(audit["method"]) == {"none", "macenko", "reinhard", "vahadane"} and (audit["fallbacks"] == 0).all()
    assert set(audit.loc[audit["in_use"], "method"]) == {"macenko"}
    site = audit[audit["measure"] == "site_knn"].set_index("method")["estimate"]
    share = audit[audit["measure"] == "slide_variance"].set_index("method")["estimate"]
    assert site["macenko"] < site["none"] and share["macenko"] < share["none"]
    page = (home / "report.html").read_text()
    assert '<section id="stain">' in page and "Stain was audited" in page and "Macenko" in page
    assert (home / "figures/stain_audit.svg").is_file()
