"""Aggregators, one file each; importing this package registers them all."""

from __future__ import annotations

from histostudy.models.aggregators import (
    abmil,
    he2rna,
    hist2rna,
    max,
    mean,
    moe_pkt,
    otsurv,
    panther,
    sequoia,
    token_merging,
)

__all__ = ["abmil", "he2rna", "hist2rna", "max", "mean", "moe_pkt", "otsurv", "panther", "sequoia", "token_merging"]
