"""Mixup of bag vectors (mixup: Zhang et al., ICLR 2018; of hidden layers: Verma et al., ICML 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from histostudy.errors import ModelError
from histostudy.models.registry import is_positive, require
from histostudy.training.recipes.base import RECIPES, Recipe, Run, Step


@dataclass(frozen=True)
class MixupSettings:
    """Settings of `Mixup`: `alpha`, both parameters of the Beta distribution; the smaller, the less is mixed."""

    alpha: float = 0.4

    def __post_init__(self) -> None:
        require(is_positive(self.alpha), "alpha is a number above 0")


@RECIPES.register("mixup")
class Mixup(Recipe):
    """The loss of lambda z_i + (1 - lambda) z_j, with lambda ~ Beta(alpha, alpha) drawn once a step.

    It is lambda L(., y_i) + (1 - lambda) L(., y_j), j being the patient after i in the batch, which is in random order
    (after the last comes the first; a batch of one is not mixed). With cross-entropy and squared errors this is, up to
    a constant, the loss against mixed outcomes; in survival it spares us mixing a time and a censoring. Cox's and the
    ranking loss are no means over patients, so a mixed patient has no loss there: refused.

    The vectors themselves stay: they are mixed inside the main loss alone. Penalties, of aggregators and of other
    recipes, look at one patient each, so the loss of any other vectors is not mixed and has its own patient's outcome.
    The `train_loss` of the history is the mixed one.
    """

    Settings = MixupSettings
    #: After all that changes vectors or their loss.
    order = 90

    needs_mean_loss = True

    def begin(self, run: Run) -> None:
        """Look at the batch.

        Raises
        ------
        ModelError
            If a step sees one patient.
        """
        if run.settings.batch_size == 1:
            raise ModelError("recipe mixup: a batch of one patient has nobody to mix with", todo="raise batch_size")

    def vectors(self, step: Step) -> None:
        """Replace the loss of these vectors."""
        vectors, plain = step.vectors, step.loss
        assert vectors is not None
        if len(vectors) < 2:
            return
        seed = int(torch.randint(2**62, (), generator=step.generator))
        share = float(np.random.default_rng(seed).beta(self.settings.alpha, self.settings.alpha))
        partners = torch.arange(len(vectors), device=vectors.device).roll(-1)

        def loss(asked: Tensor, patients: Tensor | None = None) -> Tensor:
            if asked is not vectors or patients is not None:
                return plain(asked) if patients is None else plain(asked, patients)
            mixed = share * asked + (1 - share) * asked[partners]
            return share * plain(mixed) + (1 - share) * plain(mixed, partners)

        step.loss = loss
