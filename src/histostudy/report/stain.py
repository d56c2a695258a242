"""Stain in words and as a table: how it was normalised, and what the audit found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import pandas as pd

from histostudy.report.numbers import listed

Spec = Mapping[str, Any]
METHODS = {
    "macenko": "Macenko's method (ISBI 2009)",
    "reinhard": "Reinhard's method (IEEE CG&A 2001)",
    "vahadane": "Vahadane's method (IEEE TMI 2016)",
}
MEASURES = {
    "slide_knn": "slide told \N{DOWNWARDS ARROW}", "site_knn": "site told \N{DOWNWARDS ARROW}",
    "slide_variance": "between slides \N{DOWNWARDS ARROW}", "cosine": "cosine", "cosine_other": "cosine, other tiles",
    "top10_scanner": "top-10, scanner", "top10_stain": "top-10, stain", "top10_both": "top-10, both",
}  # fmt: skip


def stain_sentence(study: Spec) -> str:
    """How the tiles were normalised; empty where they were not."""
    stain = (study.get("features") or {}).get("stain")
    if not stain:
        return ""
    to = (
        f"the stain of {PurePath(str(stain['target'])).name}"
        if stain.get("target")
        else "published constants, so that nothing was fitted to the cohort"
    )
    return (
        f" Before that their stain was normalised by {METHODS[str(stain['method'])]}, fitted to up to 64 tiles of each "
        f"slide, to {to}; a slide with too little tissue for a fit kept its colours."
    )


def audit_paragraph(study: Spec) -> str:
    """What the audit of stain did and cannot say; empty without one."""
    if "stain" not in (study.get("audit") or []):
        return ""
    builtin = (study.get("features") or {}).get("encoder") == "builtin"
    units = "; statistics, having units, were standardised by the unchanged tiles" if builtin else ""
    return (
        "Stain was audited on up to 200 tiles of up to 20 slides, one a patient and in turn from every site, encoded "
        "as they are and after Macenko's, Reinhard's and Vahadane's normalisation fitted to these tiles of each slide. "
        "Slide identity is the share of tiles whose slide is that of most of their 5 nearest neighbours among all "
        "other tiles (Euclidean, columns standardised; chance: one over the slides), site identity the same with "
        "neighbours of other patients alone (chance: sites shuffled over patients). Up to 100 of the tiles were also "
        "shown in 9 versions, 3 stainings through 3 scanners, made by turning and scaling the densities of both stains "
        f"and by colour mixing, gamma, blur and JPEG compression{units}. For each pair of versions the cosine of the "
        "same tiles was taken, and the share of tiles whose counterpart is among the 10 nearest of all tiles of both "
        "versions, itself excluded, mean of both directions; medians over pairs, as for PLISM. Simulated change is not "
        "a slide stained and scanned again, its size was chosen and not measured, and retrieval falls with the number "
        "of tiles: compare within this table, not with published ones."
    )


def audit_rows(table: pd.DataFrame) -> pd.DataFrame:
    """`evaluation.stain_audit.audit_table` with a row each method, every number with its interval, chance first."""
    rows = []
    measures = [m for m in MEASURES if (table["measure"] == m).any()]
    first = table.drop_duplicates("measure").set_index("measure")["chance"]
    rows.append({"stain": "chance"} | {MEASURES[m]: f"{first[m]:.3f}" if pd.notna(first[m]) else "" for m in measures})
    for method, mine in table.groupby("method", sort=False):
        of = mine.set_index("measure")
        row: dict[str, Any] = {"stain": f"{method} (in use)" if bool(of["in_use"].iloc[0]) else str(method)}
        for measure in measures:
            one = of.loc[measure]
            text = f"{one['estimate']:.3f} [{one['low']:.3f}, {one['high']:.3f}]".replace("-", "\N{MINUS SIGN}")
            row[MEASURES[measure]] = text + (" !" if one["warning"] == "collapsed" else "")
        rows.append(row)
    return pd.DataFrame(rows)


def audit_warning(table: pd.DataFrame) -> str:
    """One sentence on spaces whose cosine must not be trusted, and on slides without a fit; empty where none."""
    text = []
    warned = table.loc[table["warning"] == "collapsed", "method"].astype(str).tolist()
    if warned:
        text.append(
            f"A cosine marked ! ({listed(warned)}) is no evidence of robustness: other tiles are almost as alike, or "
            "the same tile is not found again. Read the retrieval."
        )
    failed = table.drop_duplicates("method").query("fallbacks > 0")
    if len(failed):
        kept = listed([f"{row.method} {row.fallbacks}" for row in failed.itertuples()])
        text.append(f"Slides that kept their own stain, as no fit could be had: {kept}.")
    return " ".join(text)
