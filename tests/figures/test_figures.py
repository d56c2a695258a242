"""Every figure draws, keeps its words apart, and is written the same bytes twice."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import result_tables
import samples

from histostudy.figures import FIGURES
from histostudy.figures.attention_map import rank_raster
from histostudy.figures.contact_sheet import shown_of
from histostudy.figures.feature_pca import pca_table
from histostudy.figures.style import OKABE_ITO, appearance, save_figure, shorten, spread, with_interval


@pytest.fixture(scope="module")
def drawn() -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return samples.all_figures()


def test_specs_need_no_matplotlib() -> None:
    code = "import sys, histostudy.figures as f; assert len(f.FIGURES) >= 14; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_specs_are_complete() -> None:
    for name in FIGURES:
        spec = FIGURES[name].spec
        assert spec.name == name and spec.table
        assert spec.category in {"cohort", "results", "interpretation"}
        assert len(spec.caption) > 30 and spec.caption.endswith(".")


def test_every_figure_is_drawn(drawn: dict) -> None:
    assert set(FIGURES) <= set(drawn)


#: Drawn from what the evaluation really writes; every other figure's words have a test of their own.
EVALUATED = (
    "roc", "calibration", "kaplan_meier", "metrics_forest", "comparison_forest", "genes", "cohort_flow", "subtypes",
    "subtype_survival", "within_patient", "km_pooled", "td_auc", "brier", "decision_curve", "folds",
)  # fmt: skip


@pytest.mark.parametrize("name", EVALUATED)
def test_words_do_not_overlap(drawn: dict, name: str) -> None:
    result_tables.assert_words_apart(drawn[name])


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    km = samples.survival().curves["km"]
    inputs = {
        "kaplan_meier": {"table": km},
        "attention_map": samples.attention(),
        "feature_pca": {"table": samples.pca()},
    }
    for name, given in inputs.items():
        first = save_figure(FIGURES[name].draw(**given), tmp_path / "a" / name)
        second = save_figure(FIGURES[name].draw(**given), tmp_path / "b" / name)
        assert [f.suffix for f in first] == [".svg", ".pdf", ".png"]
        for one, two in zip(first, second, strict=True):
            assert one.read_bytes() == two.read_bytes(), one.name
        assert sorted(p.name for p in (tmp_path / "a").glob(f"*{name}*")) == sorted(f.name for f in first)


def test_a_dotted_stem_keeps_its_name(drawn: dict, tmp_path: Path) -> None:
    files = save_figure(drawn["roc"], tmp_path / "roc.v1.2")
    assert [f.name for f in files] == ["roc.v1.2.svg", "roc.v1.2.pdf", "roc.v1.2.png"]


def test_nothing_to_draw_says_so() -> None:
    for name in ("roc", "pr", "calibration", "kaplan_meier", "comparison_forest"):
        fig = FIGURES[name].draw(pd.DataFrame())
        assert "No " in fig.texts[0].get_text()


def test_attention_lands_on_its_tile() -> None:
    table = pd.DataFrame({"x_px0": [0, 100], "y_px0": [0, 200], "attention": [0.1, 0.9]})
    heat = rank_raster(table, (30, 20), 0.1, 100.0)
    assert heat[5, 5] == 0.25 and heat[25, 15] == 0.75
    assert np.isnan(heat[5, 15]) and np.isfinite(heat).sum() == 200


def test_a_sheet_shows_those_left_out_first_and_needs_no_other_images() -> None:
    table = pd.DataFrame({"slide_id": [f"s{i}" for i in range(100)], "status": "ok"})
    table.loc[[70, 90], "status"] = "failed"
    assert shown_of(table)["slide_id"].tolist() == ["s70", "s90", *(f"s{i}" for i in range(46))]
    assert shown_of(table, 1)["slide_id"].tolist() == ["s70"]


def test_pca_agrees_with_scikit_learn() -> None:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    x = np.random.default_rng(0).normal(size=(30, 6)) @ np.random.default_rng(1).normal(size=(6, 6))
    x = np.column_stack([x, np.ones(30)])  # a constant feature
    table = pca_table(x, pd.DataFrame({"site": ["a"] * 30}))
    fit = PCA(2).fit(StandardScaler().fit_transform(x[:, :6]))
    theirs = fit.transform(StandardScaler().fit_transform(x[:, :6]))
    np.testing.assert_allclose(np.abs(table[["pc1", "pc2"]]), np.abs(theirs), atol=1e-8)
    assert table["share1"].iloc[0] == pytest.approx(fit.explained_variance_ratio_[0])


def test_words_and_colours() -> None:
    assert with_interval(-0.1, -0.2, 0.05) == "\u22120.10 [\u22120.20, 0.05]"
    assert with_interval(float("nan"), 0, 1) == "undefined"
    assert len(shorten("a" * 50)) == 22 and shorten("abc") == "abc"
    looks = appearance(["prior", "a", "b"])
    assert looks["a"]["color"] == OKABE_ITO[0] and looks["prior"]["color"] != looks["a"]["color"]
    many = appearance([f"m{i}" for i in range(20)])
    assert len({(v["color"], str(v["linestyle"])) for v in many.values()}) == 20


def test_n_counts_patients_unless_told_spots() -> None:
    scored, called = samples.expression(), samples.called_subtypes().curves["within"]
    tables = {"genes": scored.curves["genes"], "within_patient": called, "metrics_forest": scored.metrics,
              "comparison_forest": scored.comparison}  # fmt: skip
    for name, table in tables.items():
        assert "patients" in result_tables.words(FIGURES[name].draw(table)), name
        told = result_tables.words(FIGURES[name].draw(table, noun="spots"))
        assert "spots" in told and "patients" not in told, name


def test_a_range_of_numbers() -> None:
    assert spread(pd.Series([240, 240])) == "240" and spread(pd.Series([236, np.nan, 240])) == "236\N{EN DASH}240"
    assert spread(pd.Series([np.nan])) == "unknown"
