"""PIBD: prototypical information bottlenecks and disentanglement of what is shared (Zhang et al., ICLR 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm, normalize, scaled_dot_product_attention, softplus

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch, Modality, segment_sum
from histostudy.models.layers import relu_layers
from histostudy.models.multimodal.encoders import GroupEncoder
from histostudy.models.multimodal.information import CLUBMean, kl_to_standard, mixture_moments, product_of_experts
from histostudy.models.registry import AGGREGATORS, Aggregator, Loss, is_count, is_number, is_share, require
from histostudy.models.survival import bin_of, nll_loss, time_bins

#: Similarities are divided by this before they share a patient out among the proxies.
TEMPERATURE = 0.1


@dataclass(frozen=True)
class PIBDOptions:
    """Options of `PIBD`, with the paper's values.

    hidden : width of all tokens (256); bins : intervals of time, two proxies each (4; for classification there must
    be no more than 2 `bins` classes); samples : drawn of a proxy in training (50); keep_tiles, keep_groups : share of
    tiles (.5 of 512) and of groups (.8) that stay; most_tiles : no more of a bag's tiles stay than this (256); heads,
    layers : of the transformer (4, 1); dropout : of it (.1) and of the encoders (.2); proxy, compress, decode,
    information : weights of the proxy loss (1), the KL (beta, .01), the proxies' own likelihood (alpha, .1) and the
    mutual information (.1).
    """

    hidden: int = 128
    bins: int = 4
    samples: int = 50
    keep_tiles: float = 0.5
    keep_groups: float = 0.8
    most_tiles: int = 256
    heads: int = 4
    layers: int = 1
    dropout: float = 0.1
    proxy: float = 1.0
    compress: float = 0.01
    decode: float = 0.1
    information: float = 0.1

    def __post_init__(self) -> None:
        for name in ("hidden", "bins", "samples", "most_tiles", "heads", "layers"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(self.hidden % self.heads == 0, "hidden is a multiple of heads")
        for name in ("keep_tiles", "keep_groups"):
            value = getattr(self, name)
            require(is_number(value) and 0 < value <= 1, f"{name} is above 0 and at most 1")
        require(is_share(self.dropout), "dropout is from 0 up to 1")
        for name in ("proxy", "compress", "decode", "information"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, f"{name} is a number from 0")


class Selected(NamedTuple):
    """What a bottleneck leaves of a modality.

    Attributes
    ----------
    affinity : Tensor
        (B, P) mean of the k largest similarities to each proxy.
    kept : Tensor
        (B, N) bool: the k instances of a patient that are nearest to any proxy.
    mean, variance : Tensor
        (B, hidden) of the patient's code: the proxies mixed by their affinity.
    samples : Tensor
        (P, S, hidden) of the proxies; one, the mean, in evaluation.
    """

    affinity: Tensor
    kept: Tensor
    mean: Tensor
    variance: Tensor
    samples: Tensor


def top_mask(scores: Tensor, mask: Tensor, count: Tensor) -> Tensor:
    """(B, N, ...) bool: the `count` (B,) largest of `scores` along N among `mask` (B, N); exactly that many."""
    more = (1,) * (scores.ndim - 2)
    scores = scores.detach().masked_fill(~mask.reshape(*mask.shape, *more), -torch.inf)
    order = scores.argsort(dim=1, descending=True, stable=True)
    first = torch.arange(scores.shape[1], device=scores.device) < count[:, None]
    return torch.zeros_like(order, dtype=torch.bool).scatter(
        1, order, first.reshape(*first.shape, *more).expand_as(order)
    )


class Bottleneck(nn.Module):
    """Prototypical information bottleneck of one modality: Gaussian proxies of the outcome.

    Parameters
    ----------
    proxies : int
        P.
    options : PIBDOptions
    """

    def __init__(self, proxies: int, options: PIBDOptions) -> None:
        super().__init__()
        self.samples = options.samples
        self.mean = nn.Parameter(torch.randn(proxies, options.hidden))
        self.spread = nn.Parameter(torch.zeros(proxies, options.hidden))

    @property
    def variance(self) -> Tensor:
        """(P, hidden), the square of sigma = softplus(spread)."""
        return softplus(self.spread).square() + 1e-6

    def forward(self, tokens: Tensor, mask: Tensor, count: Tensor, active: Tensor) -> Selected:
        """Compare tokens (B, N, hidden), `mask` the real ones, with the `active` (P,) proxies; keep `count` (B,)."""
        with torch.autocast(tokens.device.type, enabled=False):  # cosines and variances need float32
            return self._select(tokens.float(), mask, count, active)

    def _select(self, tokens: Tensor, mask: Tensor, count: Tensor, active: Tensor) -> Selected:
        mean, variance = self.mean.float(), self.variance.float()
        samples = mean[:, None]
        if self.training:
            noise = torch.randn(len(mean), self.samples, mean.shape[1], device=mean.device)
            samples = samples + variance.sqrt()[:, None] * noise
        near = normalize(tokens, dim=2) @ normalize(samples.mean(1), dim=1).T
        own = top_mask(near, mask, count)
        affinity = (near * own).sum(1) / count[:, None]
        nearest = near.detach().masked_fill(~active, -torch.inf).amax(2)
        shares = (affinity / TEMPERATURE).masked_fill(~active, -torch.inf).softmax(1)
        return Selected(affinity, top_mask(nearest, mask, count), *mixture_moments(shares, mean, variance), samples)


class Disentangler(nn.Module):
    """A transformer layer in which a modality's tokens see only one another and the joint token sees all.

    Pre-norm, one set of weights for all modalities, perceptron as wide as the tokens.

    Parameters
    ----------
    options : PIBDOptions
    """

    def __init__(self, options: PIBDOptions) -> None:
        super().__init__()
        width = options.hidden
        self.heads = options.heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, joint: Tensor, groups: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
        """Update the joint token (B, 1, D) and modalities (B, N_m, D) with masks (B, N_m) of what is there.

        Returns
        -------
        joint, groups : as they came in
        attention : Tensor
            (B, 1 + sum N_m) of the joint token, the mean over heads: to itself, then to each modality.
        """
        parts = [self._qkv(tokens) for tokens in (joint, *groups)]
        itself = masks[0].new_ones(len(joint), 1)
        updated = []
        for (query, key, value), tokens, mask in zip(parts[1:], groups, masks, strict=True):
            seen = scaled_dot_product_attention(query, key, value, mask[:, None, None])
            updated.append(self._finish(tokens, seen))
        query = parts[0][0].float()
        key, value = (torch.cat([part[k] for part in parts], 2) for k in (1, 2))
        scores = query @ key.float().transpose(2, 3) / math.sqrt(query.shape[-1])
        weights = scores.masked_fill(~torch.cat([itself, *masks], 1)[:, None, None], -torch.inf).softmax(3)
        joint = self._finish(joint, weights.to(value.dtype) @ value)
        return joint, updated, weights.mean((1, 2))

    def _qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three of (B, heads, N, D / heads)."""
        b, n, width = tokens.shape
        parts = self.project(self.before(tokens)).reshape(b, n, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        return query, key, value

    def _finish(self, tokens: Tensor, seen: Tensor) -> Tensor:
        tokens = tokens + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        return tokens + self.dropout(self.mlp(self.between(tokens)))


@AGGREGATORS.register("pibd")
class PIBD(Aggregator):
    """Slides and tables, each through a bottleneck of outcome proxies, set apart into own and shared vectors.

    A proxy is a Gaussian, one for each interval of time with and without the event (a class each, for
    classification). Tiles and groups of a table (genes of a pathway) are compared with the proxies by cosine; the k
    nearest to any stay. A product of experts joins the modalities' codes to one token, which a transformer layer
    updates from everything while tiles see tiles and groups see groups; means of the three go on side by side.
    `penalty` pulls a patient's instances to the proxy of his outcome, asks proxies to predict their own outcome
    and to be near N(0, 1), and punishes the information that modalities share beside the joint vector (see
    `CLUBMean`).

    Where it departs from the published code, our reading:

    - The published product of experts uses sigma where the variance belongs, as precision 1 / sigma and again as
      the spread of the joint code. Here precisions are 1 / sigma^2.
    - There, the code of a patient is that of his own outcome's proxy in training (the label reaches the prediction)
      and of a predicted proxy in evaluation. Here it is the mixture of proxies by affinity in both.
    - There, an instance may be kept several times through several proxies; here k different ones are kept.
    - There, one optimiser also moves the network to make the conditional's likelihood high; here that loss moves
      the conditional alone, and the bound moves the network alone. Vectors have a fixed scale before the bound,
      which would fall by shrinking them, and a bound below 0 counts as 0.
    - There, 8 random subsets of 512 patches, in evaluation too; here all tiles, of which `most_tiles` stay.
    - In evaluation nothing is drawn: means stand for samples.

    What falls is the bound under this estimator. On small planted problems it falls to nothing, yet other measures of
    dependence (distance correlation) of the modalities' vectors fall in some trainings only: do not read "apart" as
    "independent".

    A patient without a table: a learned token stands for it, its expert has no say in the product, and it adds
    nothing to the losses of that modality. The attention is that of the joint token over the tiles that stay.
    """

    Options = PIBDOptions
    multimodal = True
    edges: Tensor
    active: Tensor

    def __init__(self, dim_in: int, options: PIBDOptions, modalities: tuple[Modality, ...]) -> None:
        super().__init__(dim_in, options)
        width, count = options.hidden, 1 + len(modalities)
        self.dim_out = width
        proxies = 2 * options.bins
        two = relu_layers(dim_in, width, width, dropout=options.dropout)
        self.embed = nn.Sequential(*two, nn.Linear(width, width))
        self.groups = nn.ModuleList(GroupEncoder(m, width, 2, options.dropout) for m in modalities)
        self.names = [m.name for m in modalities]
        self.bottlenecks = nn.ModuleList(Bottleneck(proxies, options) for _ in range(count))
        self.say = nn.Parameter(torch.zeros(count))
        self.layers = nn.ModuleList(Disentangler(options) for _ in range(options.layers))
        self.decoder = nn.Linear(width, proxies)
        self.fuse = relu_layers((1 + count) * width, width, dropout=options.dropout)
        self.own = nn.ModuleList(CLUBMean(width, width, width) for _ in range(count * (count - 1) // 2))
        self.shared = CLUBMean(count * width, width, width)
        self.register_buffer("edges", torch.tensor([0.0] + [torch.inf] * options.bins))
        self.register_buffer("active", torch.ones(proxies, dtype=torch.bool))
        self.started = False
        self._last: tuple[list[Selected], list[Tensor], Tensor, Tensor] | None = None

    def start(self, targets: Mapping[str, Tensor]) -> None:
        """Give the proxies their meaning: intervals at quantiles of the training part's event times, or classes.

        Raises
        ------
        ModelError
            For regression, and where there are more classes than proxies.
        """
        proxies, bins = len(self.active), self.options.bins
        if "time" in targets:
            edges = torch.from_numpy(time_bins(targets["time"].cpu().numpy(), targets["event"].cpu().numpy(), bins))
            self.edges.fill_(torch.inf)
            self.edges[: len(edges)] = edges.to(self.edges)
            used = len(edges) - 1
            self.active.copy_((torch.arange(proxies) % bins < used).to(self.active))
        elif targets["y"].is_floating_point():
            raise ModelError(
                "pibd has proxies of classes or of times; numbers have none", todo="use another aggregator"
            )
        else:
            classes = int(targets["y"].max()) + 1
            if classes > proxies:
                raise ModelError(
                    f"pibd has {proxies} proxies for {classes} classes", todo=f"set `bins` to {math.ceil(classes / 2)}"
                )
            self.active.copy_((torch.arange(proxies) < classes).to(self.active))
        self.started = True

    def forward(self, batch: BagBatch) -> tuple[Tensor, Tensor]:
        """Select, join, disentangle."""
        vectors, joint, attention = self.vectors(batch)
        return self.fuse(torch.cat([*vectors, joint], 1)), attention

    def vectors(self, batch: BagBatch) -> tuple[list[Tensor], Tensor, Tensor]:
        """What each modality keeps for itself, what they share, (B, hidden) each, and the (T,) attention."""
        options = self.options
        tokens, masks, present = self._tokens(batch)
        counts = [(mask.sum(1) * share - 1e-4).ceil().long() for mask, share in zip(masks, self._shares(), strict=True)]
        counts[0] = counts[0].clamp(max=options.most_tiles)
        chosen: list[Selected] = [
            neck(*three, self.active) for neck, *three in zip(self.bottlenecks, tokens, masks, counts, strict=True)
        ]
        weights = (self.say.float().softmax(0)[:, None] * torch.stack(present)).float()
        mean, variance = product_of_experts(
            torch.stack([c.mean for c in chosen]), torch.stack([c.variance for c in chosen]), weights
        )
        if self.training:  # the mean of `samples` draws, in one
            mean = mean + (variance / options.samples).sqrt() * torch.randn_like(mean)
        kept = [gather(own, c.kept, int(k.max())) for own, c, k in zip(tokens, chosen, counts, strict=True)]
        joint, groups, seen = mean[:, None].to(tokens[0].dtype), [k[0] for k in kept], [k[1] for k in kept]
        for layer in self.layers:
            joint, groups, weights = layer(joint, groups, seen)
        vectors = [(g * m[..., None]).sum(1) / m.sum(1, keepdim=True) for g, m in zip(groups, seen, strict=True)]
        joint = joint[:, 0]
        self._last = (chosen, vectors, joint, torch.stack(present)) if self.training else None
        on_tiles = weights[:, 1 : 1 + seen[0].shape[1]].detach()
        return vectors, joint, scatter_attention(on_tiles, seen[0], chosen[0].kept, batch)

    def penalty(self, targets: Mapping[str, Tensor], loss: Loss) -> Tensor | None:
        """Proxy, bottleneck, information and likelihood losses of the last training batch.

        Raises
        ------
        ModelError
            If `start` was not called.
        """
        if self._last is None:
            return None
        if not self.started:
            raise ModelError("pibd was not told the training part's outcomes", todo="call `start` before training")
        chosen, vectors, joint, present = self._last
        self._last = None
        label = self._label(targets)
        total = joint.new_zeros((), dtype=torch.float32)
        for one, neck, there in zip(chosen, self.bottlenecks, present, strict=True):
            total = total + self.options.proxy * self._proxy_loss(one.affinity, label, there)
            total = total + self._bottleneck_loss(one.samples, neck, "time" in targets)
        return total + self._information(vectors, joint, present)

    def _tokens(self, batch: BagBatch) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Tokens (B, N_m, hidden), which of them are real (B, N_m), and (B,) whether the modality is there."""
        tiles, mask = batch.with_features(self.embed(batch.features)).padded()
        tokens, masks, present = [tiles], [mask], [mask[:, 0]]
        for name, encoder in zip(self.names, self.groups, strict=True):
            own = encoder(batch)
            tokens.append(own)
            masks.append(mask.new_ones(own.shape[:2]))
            present.append(batch.modalities[name].present)
        return tokens, masks, present

    def _shares(self) -> list[float]:
        return [self.options.keep_tiles] + [self.options.keep_groups] * len(self.names)

    def _label(self, targets: Mapping[str, Tensor]) -> Tensor:
        """(B,) the proxy of each patient: the class, or the interval, after it the intervals of the censored."""
        if "time" not in targets:
            return targets["y"]
        interval = bin_of(targets["time"].float(), self.edges)
        return interval + self.options.bins * (targets["event"] <= 0)

    def _proxy_loss(self, affinity: Tensor, label: Tensor, there: Tensor) -> Tensor:
        """Affinity to the other proxies less that to one's own, the mean over patients who have the modality."""
        own = affinity.gather(1, label[:, None])[:, 0]
        others = (affinity * self.active).sum(1) - own
        apart = others / (self.active.sum() - 1).clamp(min=1) - own
        return (apart * there).sum() / there.sum().clamp(min=1)

    def _bottleneck_loss(self, samples: Tensor, neck: nn.Module, survival: bool) -> Tensor:
        """How badly samples of the proxies predict their own outcome, and how far the proxies are from N(0, 1)."""
        assert isinstance(neck, Bottleneck)
        draws, bins = samples.shape[1], self.options.bins
        which = torch.arange(len(self.active), device=samples.device)[self.active].repeat_interleave(draws)
        logits = self.decoder(samples[self.active].flatten(0, 1)).float()
        if survival:
            decode = nll_loss(logits[:, :bins], which % bins, which < bins)
        else:
            decode = cross_entropy(logits.masked_fill(~self.active, -torch.inf), which)
        compress = kl_to_standard(neck.mean, neck.variance)[self.active].mean()
        return self.options.decode * decode + self.options.compress * compress

    def _information(self, vectors: list[Tensor], joint: Tensor, present: Tensor) -> Tensor:
        """CLUB of each pair of modalities and of all of them with the joint vector, and what trains the estimators."""
        unit = [layer_norm(v.float(), v.shape[1:]) for v in (*vectors, joint)]
        pairs = [(i, j) for i in range(len(vectors)) for j in range(i + 1, len(vectors))]
        terms = [(self.own[k], unit[i], unit[j], present[i] & present[j]) for k, (i, j) in enumerate(pairs)]
        terms.append((self.shared, torch.cat(unit[:-1], 1), unit[-1], present.all(0)))
        total = joint.new_zeros((), dtype=torch.float32)
        for estimator, x, y, both in terms:
            assert isinstance(estimator, CLUBMean)
            x, y = x[both], y[both]
            # no information is negative; below 0 the network would only be running away from the estimator
            bound = estimator.bound(x, y).clamp(min=0)
            total = total + self.options.information * bound + estimator.likelihood(x, y)
        return total


def gather(tokens: Tensor, kept: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The `kept` (B, N) of tokens (B, N, D) in their order, padded to (B, most, D), and the (B, most) mask."""
    place = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    mask = kept.gather(1, place)
    return tokens.gather(1, place[..., None].expand(-1, -1, tokens.shape[2])) * mask[..., None], mask


def scatter_attention(weights: Tensor, seen: Tensor, kept: Tensor, batch: BagBatch) -> Tensor:
    """Attention (B, k) over the kept tiles as (T,), summing to 1 over each bag."""
    attention = weights.new_zeros(len(batch.features))
    attention[kept[batch.segments, batch.place]] = weights[seen]
    return attention / segment_sum(attention, batch)[batch.segments]
