"""The network of the shipped encoder, to be distilled; started from its teacher's own channels where they are given."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from histostudy.encoders.mobilenet import MobileNet
from histostudy.encoders.pretraining.students import Student
from histostudy.encoders.reduce import reduce
from histostudy.encoders.small import TOKEN, SmallNet

#: Weights that were taken from a teacher move this much slower than what is new; at the full rate 38 of 576
#: channels died within 600 steps.
PACE = 0.1


class _Slow(nn.Module):
    """A weight as its start plus `PACE` times what is learned, so that Adam moves it at `PACE` times its rate."""

    start: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start.detach().clone())

    def forward(self, learned: Tensor) -> Tensor:
        return self.start + PACE * learned

    def right_inverse(self, weight: Tensor) -> Tensor:
        return (weight - self.start) / PACE


class SmallStudent(Student):
    """`SmallNet` with random weights, until `start_from` a teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SmallNet()
        for layer in self.network.layers:
            torch.nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
        self.dim = TOKEN
        self.config = {"network": "small_cnn", "options": {}}

    def start_from(self, teacher: MobileNet, images: Tensor, generator: torch.Generator) -> None:
        """Take the teacher's channels (`histostudy.encoders.reduce`), and standardise the tokens of some images.

        Parameters
        ----------
        teacher : MobileNet
        images : Tensor, (B, 3, H, W)
            Normalised.
        generator : torch.Generator
            Draws places of the maps.
        """
        reduce(teacher, self.network, images, generator)
        self.standardise(images)
        for layer in self.network.layers:
            for name in ("weight", "bias"):
                parametrize.register_parametrization(layer, name, _Slow(getattr(layer, name)))

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Centre the vectors of some images (B, 3, H, W) and give each column unit variance."""
        self.network.centre.zero_()
        self.network.spread.fill_(1)
        vectors = self.network(images).double()
        self.network.centre.copy_(vectors.mean(dim=0))
        spread = vectors.std(dim=0)
        self.network.spread.copy_(spread + 0.05 * spread.mean())  # a column that hardly moves is not blown up

    def forward_tokens(self, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean (B, dim) of the tokens of places, and these (B, P, dim); what is shipped gives more (`SmallNet`)."""
        tokens = self.network.tokens(images)
        return tokens.mean(dim=1), tokens

    def weights(self) -> dict[str, Tensor]:
        """What is released."""
        found = {"centre": self.network.centre, "spread": self.network.spread}
        for number, layer in enumerate(self.network.layers):
            found |= {f"layers.{number}.weight": layer.weight, f"layers.{number}.bias": layer.bias}  # type: ignore[dict-item]
        return {name: value.detach().cpu().contiguous() for name, value in found.items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load what `weights` gave."""
        for layer in self.network.layers:
            for name in ("weight", "bias"):
                if parametrize.is_parametrized(layer, name):
                    parametrize.remove_parametrizations(layer, name)
        self.network.load_state_dict({name: value.float() for name, value in weights.items()})
