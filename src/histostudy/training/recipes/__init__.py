"""Recipes: what is done beside the plain training of a model, one file each; importing this package registers them all.

A study names them under a model's `recipe` key. What a recipe may do is in `histostudy.training.recipes.base`.
"""

from __future__ import annotations

from histostudy.training.recipes import aem, averaging, ensemble, histaug, mhim, mixup, packmil, subsample

__all__ = ["aem", "averaging", "ensemble", "histaug", "mhim", "mixup", "packmil", "subsample"]
