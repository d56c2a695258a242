"""Where slides lie in feature space: by site, which should not matter, and by label, which should."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histostudy.figures import style
from histostudy.figures.registry import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Groups told apart by colour; the rest are "other".
MOST_GROUPS = 10
MARKERS = "os^Dv<>PX*"


@figure(
    "feature_pca",
    table="see feature_pca.pca_table",
    category="cohort",
    caption="First two principal components of the mean tile feature (standardised), coloured by site and by "
    "label. Groups of one site lying together mean that stain or scanner is in the features: then "
    "preserve sites in the splits.",
)
def feature_pca(table: pd.DataFrame) -> Figure:
    """Draw pc1, pc2, share1, share2 and each further column as a panel of groups (`site`, a label)."""
    groups = [c for c in table.columns if c not in ("id", "pc1", "pc2", "share1", "share2")]
    with style.style():
        fig, axes = style.panels(max(len(groups), 1), 3.4, 3.3, per_row=2, sharex=True, sharey=True)
        for ax, column in zip(axes, groups or [None], strict=True):
            if column is None:
                ax.scatter(table["pc1"], table["pc2"], s=14, color=style.OKABE_ITO[0], alpha=0.75, linewidth=0)
            else:
                values = table[column].astype("string").fillna("missing")
                sizes = values.value_counts()
                names = sorted(sizes.index[:MOST_GROUPS])
                tones = style.colours(names)
                rest = ~values.isin(names)
                if rest.any():
                    label = f"{len(sizes) - len(names)} other (n = {int(rest.sum())})"
                    ax.scatter(table.loc[rest, "pc1"], table.loc[rest, "pc2"], s=10, color=style.LIGHT, label=label)
                for k, name in enumerate(names):
                    part = table[(values == name).to_numpy(bool)]
                    label = f"{style.shorten(name, 18)} (n = {len(part)})"
                    ax.scatter(part["pc1"], part["pc2"], s=15, color=[tones[name]], alpha=0.8, linewidth=0,
                               marker=MARKERS[k % len(MARKERS)], label=label)  # fmt: skip
                ax.legend(
                    loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, handletextpad=0.1, columnspacing=0.8
                )
                ax.set_title(f"by {column}")
            ax.set_xlabel(f"component 1 ({table['share1'].iloc[0]:.0%} of the variance)")
            ax.set_ylabel(f"component 2 ({table['share2'].iloc[0]:.0%})")
            ax.tick_params(labelbottom=True, labelleft=True)
    return fig


def pca_table(features: np.ndarray, groups: pd.DataFrame, ids: list[str] | None = None) -> pd.DataFrame:
    """Table of the figure: first two components of standardised features.

    Parameters
    ----------
    features : ndarray, shape (n, dim)
        One row a slide or patient: the mean of its tiles. Constant columns are left out.
    groups : DataFrame, n rows
        Columns to colour by, such as site and a label.
    ids : list of str, optional
        Names of the rows.

    Returns
    -------
    DataFrame
        [id,] pc1, pc2, share1, share2 (share of the variance), and the groups. The sign of a component is fixed by
        making its largest loading positive.
    """
    x = np.asarray(features, float)
    spread = x.std(0)
    x = (x - x.mean(0))[:, spread > 0] / spread[spread > 0]
    scores, values, loadings = np.linalg.svd(x, full_matrices=False)
    pairs = np.zeros((len(x), 2))
    shares = [0.0, 0.0]
    for k in range(min(2, values.size)):
        sign = np.sign(loadings[k, np.abs(loadings[k]).argmax()])
        pairs[:, k] = sign * scores[:, k] * values[k]
        shares[k] = float(values[k] ** 2 / max((values**2).sum(), 1e-300))
    table = pd.DataFrame({"pc1": pairs[:, 0], "pc2": pairs[:, 1], "share1": shares[0], "share2": shares[1]})
    if ids is not None:
        table.insert(0, "id", ids)
    return pd.concat([table, groups.reset_index(drop=True)], axis=1)
