"""The generator of HistAug: from features of a tile and what is done to its image to the features of the result.

Boutaj et al., "Controllable latent space augmentation for digital pathology", ICCV 2025 (arXiv 2508.14588). The
features, split into chunks, look by cross-attention at tokens that say what each transform does and when; chunks meet
in the last layer alone. Trained here on pairs of the training patients of a run, by `train_generator`.

Where ours deviates: features are standardised inside, so that the loss weighs columns of any scale alike; chunks are
lifted to a width of their own (in the paper they have D / K); widths are smaller than the published ones (K = 8 chunks
of 128, 12 blocks of 8 heads, 75,000 steps of 32 at rate 5e-4); pairs are drawn once rather than anew in each epoch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, mse_loss

from histostudy.errors import ModelError
from histostudy.models.registry import is_count, is_number, is_positive, is_share, require

if TYPE_CHECKING:
    from histostudy.features.pairs import Pairs

logger = logging.getLogger(__name__)

#: Tiles that go through the generator at a time when no gradient is kept.
TILES_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class GeneratorSettings:
    """Structure and training of a `Generator`.

    chunks : K; width : of a chunk's token and of the condition tokens; blocks, heads, ratio : cross-attention blocks,
    their heads, and the width of their MLP over `width`; steps, batch_size, lr, weight_decay : of AdamW, at a constant
    rate; held_out : share of the patients on whom the generator is checked and not trained.
    """

    chunks: int = 8
    width: int = 32
    blocks: int = 3
    heads: int = 4
    ratio: int = 4
    steps: int = 500
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 1e-5
    held_out: float = 0.2

    def __post_init__(self) -> None:
        for name in ("chunks", "width", "blocks", "heads", "ratio", "steps", "batch_size"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(self.width % self.heads == 0, "width is a multiple of heads")
        require(self.width % 2 == 0, "width is even")
        require(is_positive(self.lr), "lr is a number above 0")
        require(is_number(self.weight_decay) and self.weight_decay >= 0, "weight_decay is a number from 0")
        require(is_share(self.held_out), "held_out is from 0 up to 1")


class Conditions(nn.Module):
    """A token for each transform: what it does, plus when.

    Parameters
    ----------
    codes : sequence of int
        (C,) number of codes of each transform; 0 for a continuous one.
    width : int
        Of a token.
    reach : float
        Largest size of a continuous value; a value that reaches it is seen as 0.5, whatever the intensity.
    """

    def __init__(self, codes: Sequence[int], width: int, reach: float) -> None:
        super().__init__()
        self.codes, self.unit = tuple(codes), 2 * reach if reach > 0 else 1.0
        self.what = nn.ModuleList(
            nn.Embedding(n, width)
            if n
            else nn.Sequential(nn.Linear(1, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for n in self.codes
        )
        self.when = nn.Embedding(len(self.codes), width)

    def forward(self, values: Tensor, positions: Tensor) -> Tensor:
        """(G, C) values and positions to (G, C, width)."""
        tokens = [
            token(values[:, column].long()) if n else token(values[:, column, None] / self.unit)
            for column, (n, token) in enumerate(zip(self.codes, self.what, strict=True))
        ]
        return torch.stack(tokens, 1) + self.when(positions)


class Block(nn.Module):
    """x += CrossAttention(LN(x), LN(z)); x += MLP(LN(x))."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_x, self.norm_z, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.query_norm, self.key_norm = nn.LayerNorm(width // heads), nn.LayerNorm(width // heads)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def forward(self, x: Tensor, z: Tensor, groups: Tensor | None) -> Tensor:
        """(N, K, width) chunks and (G, C, width) conditions; `groups` (N,) says whose is whose, None: one each."""
        query = self._heads(self.query(self.norm_x(x)))
        key, value = self.key_value(self.norm_z(z)).chunk(2, dim=-1)
        key, value = self.key_norm(self._heads(key)), self._heads(value)
        if groups is not None:
            key, value = key[groups], value[groups]
        scores = self.query_norm(query) @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        x = x + self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm(x))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Generator(nn.Module):
    """G(f, {c_k, p_k}).

    Parameters
    ----------
    dim : int
        Width D of the features; they are padded with zeros to a multiple of the chunks.
    codes, reach
        See `Conditions`.
    settings : GeneratorSettings
        Its structure.
    """

    mean: Tensor
    scale: Tensor
    place: Tensor

    def __init__(self, dim: int, codes: Sequence[int], reach: float, settings: GeneratorSettings) -> None:
        super().__init__()
        self.dim, self.chunks = dim, settings.chunks
        self.padding = -dim % self.chunks
        width = settings.width
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("place", sinusoids(self.chunks, width))
        self.lift = nn.Linear((dim + self.padding) // self.chunks, width)
        self.conditions = Conditions(codes, width, reach)
        self.blocks = nn.ModuleList(Block(width, settings.heads, settings.ratio) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(self.chunks * width, dim)

    def standardised(self, features: Tensor) -> Tensor:
        """(N, D) by the moments of the pairs it learnt from."""
        return (features - self.mean) / self.scale

    def changed(self, standard: Tensor, values: Tensor, positions: Tensor, groups: Tensor | None = None) -> Tensor:
        """(N, D) standardised features of tiles to those of the changed tiles."""
        x = nn.functional.pad(standard, (0, self.padding)).unflatten(1, (self.chunks, -1))
        x = self.lift(x) + self.place
        z = self.conditions(values, positions)
        for block in self.blocks:
            x = block(x, z, groups)
        return self.out(self.norm(x).flatten(1))

    @torch.no_grad()
    def forward(self, features: Tensor, values: Tensor, positions: Tensor, groups: Tensor | None = None) -> Tensor:
        """Features of changed tiles; some `TILES_AT_ONCE` at a time, without gradient.

        Parameters
        ----------
        features : Tensor
            (N, D) of the tiles, as the encoder gave them.
        values, positions : Tensor
            (G, C) what is done.
        groups : Tensor, optional
            (N,) which row of it is done to each tile; None: each its own (G = N).

        Returns
        -------
        Tensor
            (N, D), on the scale of the encoder.
        """
        own = torch.arange(len(features), device=features.device) if groups is None else groups
        changed = [
            self.changed(self.standardised(some), values, positions, theirs)
            for some, theirs in zip(features.split(TILES_AT_ONCE), own.split(TILES_AT_ONCE), strict=True)
        ]
        return torch.cat(changed) * self.scale + self.mean


def sinusoids(count: int, width: int) -> Tensor:
    """(count, width) fixed positions: sines, then cosines (Vaswani et al., NeurIPS 2017)."""
    rates = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
    angles = torch.arange(count)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


@dataclass(frozen=True)
class Cosines:
    """Mean cosines of standardised features, over pairs that the generator did not learn from; NaN without any.

    original : of the tile's and its changed version's; what doing nothing reaches.
    generated : of the generated and the changed version's.
    wrong : the same, told the changes of another pair: well below `generated`, or what it is told is not used. It falls
        back to `original` where changes have no effect in common, and stays above it where they have (blur, erosion).
    identity : of the tile's, and those generated when told that nothing is done.
    """

    original: float = math.nan
    generated: float = math.nan
    wrong: float = math.nan
    identity: float = math.nan


@torch.no_grad()
def check_generator(generator: Generator, pairs: Pairs, seed: int) -> Cosines:
    """The three checks of a generator: it beats doing nothing, it needs the right changes, identity is kept."""
    if not len(pairs):
        return Cosines()
    device = generator.mean.device
    features, augmented, values, positions = tensors_of(pairs, device)
    # a shift in a drawn order: nobody keeps its own
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    other = other.to(device)
    source, target = generator.standardised(features), generator.standardised(augmented)

    def of(told: Tensor, when: Tensor) -> Tensor:
        return generator.standardised(generator(features, told, when))

    def cosine(one: Tensor, two: Tensor) -> float:
        return float(cosine_similarity(one, two).mean())

    return Cosines(
        cosine(source, target),
        cosine(of(values, positions), target),
        cosine(of(values[other], positions[other]), target),
        cosine(of(torch.zeros_like(values), positions), source),
    )


def train_generator(
    pairs: Pairs, settings: GeneratorSettings, seed: int, device: str | torch.device = "cpu"
) -> tuple[Generator, Cosines]:
    """Train a generator on pairs, and check it on those of patients held out.

    The loss is MSE(G(F(x), c), F(T_c x)) + MSE(G(F(x), identity), F(x)), of standardised features.

    Parameters
    ----------
    pairs : Pairs
        Of training patients alone.
    settings : GeneratorSettings
        Structure and training.
    seed : int
        Of the weights, the patients held out, and the order; torch's global state is left as it was.
    device : str or torch.device
        Where it trains and ends.

    Returns
    -------
    Generator
        In evaluation mode, without gradients.
    Cosines
        Of the held-out patients.

    Raises
    ------
    ModelError
        If the loss stops being finite.
    """
    learnt, held = held_out(pairs, settings.held_out, seed)
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        generator = Generator(pairs.features.shape[1], pairs.codes, pairs.reach, settings).to(device)
    features, augmented, values, positions = tensors_of(learnt, device)
    generator.mean.copy_(features.double().mean(0))
    spread = features.double().std(0, unbiased=False)
    generator.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))
    source, target = generator.standardised(features), generator.standardised(augmented)
    nothing = torch.zeros_like(values)
    optimiser = torch.optim.AdamW(
        generator.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
    )
    loss = torch.zeros(())
    for rows in _batches(len(learnt), settings, seed):
        # both halves of the loss in one pass: two of a small batch take nearly twice as long
        some, told = source[rows].repeat(2, 1), torch.cat([values[rows], nothing[rows]])
        got = generator.changed(some, told, positions[rows].repeat(2, 1))
        loss = 2 * mse_loss(got, torch.cat([target[rows], source[rows]]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    if not math.isfinite(loss.item()):
        raise ModelError("the loss of the recipe histaug's generator is not finite", todo="lower its lr")
    generator.eval().requires_grad_(False)
    return generator, check_generator(generator, held, seed)


def _batches(count: int, settings: GeneratorSettings, seed: int) -> Iterator[Tensor]:
    """Rows of each step: passes over all pairs in drawn orders."""
    draw = torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for rows in torch.randperm(count, generator=draw).split(settings.batch_size):
            if done == settings.steps:
                return
            done += 1
            yield rows


def held_out(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Pairs to learn from, and those of a share of the patients, drawn; somebody is always left to learn from."""
    patients = np.unique(pairs.patients)
    count = min(len(patients) - 1, max(1, round(share * len(patients)))) if share else 0
    chosen = np.random.default_rng(seed).permutation(patients)[:count]
    mask = np.isin(pairs.patients, chosen)
    return pairs.take(~mask), pairs.take(mask)


def tensors_of(pairs: Pairs, device: str | torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, augmented features, values and positions."""
    arrays = (pairs.features, pairs.augmented, pairs.values, pairs.positions)
    one, two, values, positions = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays)
    return one.float(), two.float(), values.float(), positions.long()


def columns_of(cosines: Cosines) -> dict[str, float]:
    """The cosines as columns of a history."""
    return {f"histaug_{name}": value for name, value in asdict(cosines).items()}
