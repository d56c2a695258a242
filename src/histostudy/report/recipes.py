"""What each recipe is, in a phrase, and where it was published: for the methods of a report.

A mapping rather than an attribute of the classes, so that a report needs no torch. A test asks for every registered
name.
"""

from __future__ import annotations

RECIPES: dict[str, str] = {
    "aem": "AEM, attention kept from narrowing by its entropy (Zhang et al., MICCAI 2025)",
    "mhim": "MHIM-MIL, a student trained without the tiles that an averaged teacher finds easy (Tang et al., ICCV "
    "2023; version 2, IJCV 2025)",
    "packmil": "PackMIL, a residual branch over packs of the tiles left out (arXiv 2509.20923, 2025)",
    "histaug": "HistAug, features augmented by a generator trained on the training patients (Boutaj et al., ICCV 2025)",
    "subsample": "a drawn share of each bag's tiles a step",
    "instance_dropout": "tiles dropped at random a step",
    "mixup": "mixup of bag vectors and of their losses (Zhang et al., ICLR 2018)",
    "ema": "an exponential moving average of the weights",
    "swa": "stochastic weight averaging (Izmailov et al., UAI 2018)",
    "ensemble": "an ensemble of networks, each with another inner part",
}


def recipe_phrase(name: str) -> str:
    """What a recipe is; one that nobody described keeps its name."""
    return RECIPES.get(name, f"recipe {name}")
