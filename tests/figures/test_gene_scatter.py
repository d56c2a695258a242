"""Predicted against measured genes of one model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histostudy.figures.gene_scatter import gene_scatter


def _table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = []
    for model, noise in (("mean", 1.0), ("abmil", 0.5)):
        for g in range(7):
            truth = rng.normal(6, 1, 80)
            said = truth + noise * rng.normal(size=80)
            part = pd.DataFrame({"model": model, "gene": f"G{g}", "unit_id": np.arange(80), "truth": truth})
            parts.append(part.assign(prediction=said, fold=np.arange(80) % 4))
    return pd.concat(parts, ignore_index=True)


def test_draws_the_best_model_six_genes_and_says_r_and_n() -> None:
    table = _table()
    fig = gene_scatter(table)
    assert fig.get_suptitle() == "abmil" and len(fig.axes) == 6
    first = table[(table["model"] == "abmil") & (table["gene"] == "G0")]
    r = np.corrcoef(first["truth"], first["prediction"])[0, 1]
    assert fig.axes[0].get_title(loc="left") == f"G0 (n = 80)\nr {r:.2f}"
    np.testing.assert_allclose(fig.axes[0].collections[0].get_offsets(), first[["truth", "prediction"]])
    assert "log2(1 + expression)" in fig.get_supxlabel() and "predicted" in fig.get_supylabel()
    assert fig.axes[0].get_xlim() == fig.axes[0].get_ylim()


def test_the_interval_and_the_unit_are_told() -> None:
    table = _table().assign(estimate=lambda t: np.where(t["model"] == "mean", -0.31, -0.4), low=-0.5, high=0.1)
    fig = gene_scatter(table, unit="z")
    assert fig.get_suptitle() == "mean" and fig.get_supxlabel() == "measured, z"
    assert fig.axes[2].get_title(loc="left").endswith("r \u22120.31 [\u22120.50, 0.10]")
    assert "No gene" in gene_scatter(pd.DataFrame()).texts[0].get_text()


def test_a_constant_prediction_has_no_r() -> None:
    table = _table()
    table.loc[table["model"] == "mean", "prediction"] = 5.0
    assert gene_scatter(table).get_suptitle() == "abmil"
    alone = table[table["model"] == "mean"]
    assert gene_scatter(alone).axes[0].get_title(loc="left").endswith("undefined")
