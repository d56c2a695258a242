"""Measured and predicted maps of a gene: true sizes, one scale, n and r."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histostudy.errors import StudyError
from histostudy.figures.spatial_gene import ranks, spatial_gene


def _table() -> pd.DataFrame:
    x, y = (a.ravel() * 400 for a in np.meshgrid(np.arange(8), np.arange(6)))
    parts = []
    for slide in ("S1", "S2"):
        for gene in ("ERBB2", "ESR1"):
            truth = np.random.default_rng(len(parts)).normal(size=48)
            for model, share in (("abmil", 0.9), ("prior", 0.0)):
                part = pd.DataFrame({"model": model, "slide_id": slide, "x_px0": x, "y_px0": y, "gene": gene})
                parts.append(part.assign(truth=truth, prediction=share * truth))
    return pd.concat(parts, ignore_index=True)


def test_discs_lie_where_the_spots_are_and_share_one_scale() -> None:
    table = _table()
    fig = spatial_gene(table, slide_mpp=0.5)
    part = table.query("slide_id == 'S1' and gene == 'ERBB2' and model == 'abmil'")
    titles = [ax.get_title(loc="left") for ax in fig.axes[:3]]
    assert titles == ["measured\nn = 48 spots", "abmil\nr = 1.00", "prior\nr = undefined"]
    assert fig.get_suptitle() == "ERBB2, S1"
    for ax in fig.axes[:2]:
        discs = ax.collections[0]
        np.testing.assert_allclose(discs.get_offsets(), part[["x_px0", "y_px0"]] * 0.5)
        assert discs.get_clim() == (0, 1)
        np.testing.assert_allclose(discs.get_array(), ranks(part["truth"].to_numpy()))
        np.testing.assert_allclose(discs.get_widths(), 0.85 * 200)
        bottom, top = ax.get_ylim()
        assert bottom > top  # y goes down, as on the slide
    assert np.unique(fig.axes[2].collections[0].get_array()).tolist() == [0.5]


def test_the_scale_bar_is_as_long_as_it_says() -> None:
    fig = spatial_gene(_table(), slide_mpp=0.5)
    line = fig.axes[0].lines[0].get_xdata()
    assert fig.axes[0].texts[0].get_text() == "500 \N{MICRO SIGN}m" and line[1] - line[0] == pytest.approx(500)
    assert fig.axes[0].collections[0].get_widths()[0] == pytest.approx(0.85 * 200)
    fig = spatial_gene(_table(), slide_mpp=5)
    assert fig.axes[0].texts[0].get_text() == "5 mm"


def test_ranks_share_ties_and_keep_holes() -> None:
    np.testing.assert_allclose(ranks(np.array([3.0, 1.0, 1.0, 9.0])), [0.625, 0.25, 0.25, 0.875])
    assert np.isnan(ranks(np.array([1.0, np.nan]))[1])


def test_bad_input_is_refused() -> None:
    with pytest.raises(StudyError, match="um per px"):
        spatial_gene(_table(), slide_mpp=float("nan"))
    assert "No spots" in spatial_gene(pd.DataFrame(), slide_mpp=0.5).texts[0].get_text()
