"""Aggregators, one file each; importing this package registers them all."""

from __future__ import annotations

from histostudy.models.aggregators import abmil, max, mean

__all__ = ["abmil", "max", "mean"]
