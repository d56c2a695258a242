"""MHIM: a student learns from bags without the tiles that its slow teacher finds easiest (ICCV 2023; IJCV 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from histostudy.errors import ModelError
from histostudy.models.attention import AttentionAggregator, Pooled
from histostudy.models.batch import BagBatch, segment_sum
from histostudy.models.layers import full_precision
from histostudy.models.model import MILModel
from histostudy.models.registry import Aggregator, is_count, is_number, is_positive, is_share, require
from histostudy.training.recipes.base import RECIPES, Recipe, Run, Step
from histostudy.training.recipes.masking import high_mask, never_empty, random_mask, share_down, share_up, voted_mask
from histostudy.training.recipes.recycling import Recycle

#: What a setting is that a study leaves open, by version: the authors' commands (version 1: CAMELYON16 with ABMIL).
DEFAULTS: dict[int, dict[str, object]] = {
    1: {"score": "attention", "high": 0.01, "drop": 0.5, "random": 0.5, "low": 0.0, "decay": True,
        "keep_fraction": 1.0, "merge_tokens": 0, "alpha": 0.1, "momentum": 0.9999},
    2: {"score": "class", "high": 0.03, "drop": 1.0, "random": 0.0, "low": 0.0, "decay": False,
        "keep_fraction": 0.8, "merge_tokens": 5, "alpha": 0.5, "momentum": 0.9997},
}  # fmt: skip
#: Heads whose outputs are classes or time intervals, between which a class-aware score decides.
CLASS_KINDS = ("classification", "survival_nll")


@dataclass(frozen=True)
class MHIMSettings:
    """Settings of `MHIM`; those that are None take the value of the version's published command (`DEFAULTS`).

    version : 2 (IJCV 2025) or 1 (ICCV 2023), which only chooses the defaults; warmup : epochs of plain training that
    teacher and student start from (the authors start from a fully trained model); 0: from the initial weights.

    score : of a tile, the teacher's ``attention``, or ``class``: the largest class probability of the tile's own
    contribution; high : share of tiles masked for their high score; drop : they are this part, drawn, of the highest
    tiles (1: just the highest); random, low : shares masked at random, and for their low score; decay : `high` falls
    to 0 by a cosine; keep_fraction : of the tiles not masked, kept as they are; the rest is merged or left out;
    merge_tokens : tokens k into which that rest is merged (0: left out).

    alpha : weight of the consistency loss; teacher_temperature, student_temperature : its tau_T and tau_S; momentum :
    of the teacher; momentum_cosine : it rises to 1 over the training by a cosine; teacher_dropout : the teacher works
    in training mode, as published; merge_momentum : of the global queries; merge_heads, merge_width, merge_dropout :
    of the recycling attention (merge_width: of all heads together, 512 in the paper).

    Both momenta are a patient, as published with one patient a step: a step of B patients moves by m to the power B.
    """

    version: int = 2
    warmup: int = 20
    score: str | None = None
    high: float | None = None
    drop: float | None = None
    random: float | None = None
    low: float | None = None
    decay: bool | None = None
    keep_fraction: float | None = None
    merge_tokens: int | None = None
    alpha: float | None = None
    teacher_temperature: float = 0.1
    student_temperature: float = 1.0
    momentum: float | None = None
    momentum_cosine: bool = False
    teacher_dropout: bool = False
    merge_momentum: float = 0.9999
    merge_heads: int = 8
    merge_width: int = 128
    merge_dropout: float = 0.1

    def __post_init__(self) -> None:
        require(is_count(self.version) and self.version in DEFAULTS, "version is 1 or 2")
        for name, value in DEFAULTS[self.version].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        require(self.score in ("attention", "class"), "score is attention or class")
        for name in ("warmup", "merge_tokens"):
            require(_is_whole(getattr(self, name)), f"{name} is a whole number from 0")
        for name in ("merge_heads", "merge_width"):
            require(is_count(getattr(self, name)), f"{name} is a whole number from 1")
        require(self.merge_width % self.merge_heads == 0, "merge_width is a multiple of merge_heads")
        for name in ("high", "random", "low", "merge_dropout", "momentum", "merge_momentum"):
            require(is_share(getattr(self, name)), f"{name} is from 0 up to 1")
        for name in ("drop", "keep_fraction"):
            value = getattr(self, name)
            require(is_positive(value) and value <= 1, f"{name} is above 0 and at most 1")
        whole: Any = self  # no field is None any more
        require(whole.high <= whole.drop, "high is at most drop: more cannot be drawn than there are highest tiles")
        require(is_number(whole.alpha) and whole.alpha >= 0, "alpha is a number from 0")
        for name in ("teacher_temperature", "student_temperature"):
            require(is_positive(getattr(self, name)), f"{name} is a number above 0")
        for name in ("decay", "momentum_cosine", "teacher_dropout"):
            require(isinstance(getattr(self, name), bool), f"{name} is true or false")


def _is_whole(value: object) -> bool:
    return is_count(value) or (isinstance(value, int) and not isinstance(value, bool) and value == 0)


@dataclass(frozen=True)
class Masked:
    """What becomes of each tile, (T,) bool each; exactly one of them is true.

    kept : seen by the student; masked : hidden; rest : neither, to be merged or left out.
    """

    kept: Tensor
    masked: Tensor
    rest: Tensor


@RECIPES.register("mhim")
class MHIM(Recipe):
    """Masked hard instance mining (Tang et al., ICCV 2023, version 1; Tang et al., IJCV 2025, version 2).

    A teacher, the exponential moving average of the model, looks at all tiles of a bag. The student does not see what
    the teacher finds easy, and learns from the tiles that are left; the loss gets alpha times
    -sum_d softmax(z_T / tau_T)_d log softmax(z_S / tau_S)_d of the two bag vectors, the teacher's without gradient.
    In inference the student sees the whole bag: nothing of this is left.

    The masked tiles of a bag are the union of random ones, ceil(N `random`), those of lowest score, ceil(N `low`), and
    of highest, ceil(N `high`); of several maps each votes. Of the L others, floor(L `keep_fraction`) at random are
    kept; what remains is merged into k tokens (`Recycle`) that join them. A bag always keeps a tile.

    Where ours deviates: the teacher works without dropout unless asked; it starts from `warmup` epochs of this run
    rather than from a finished model, and so does the student with all its weights; `high` above `drop`, where the
    published code masks at random, is refused; class-aware scores need a head of several outputs. Of an aggregator
    with several layers of attention, the scores are those of the maps that it returns. A fair control is the plain
    model trained for the epochs of both together.

    The history gets `mhim_consistency`, the mean consistency loss, and `mhim_kept`, the share of tiles kept.
    """

    Settings = MHIMSettings
    needs_attention = True
    #: Before other recipes of tokens: the teacher must see the same tiles as the student.
    order = 40
    #: The model's aggregator and the linear map of its head, as the teacher has them.
    teacher: AttentionAggregator
    teacher_head: nn.Module

    def __init__(self, settings: MHIMSettings) -> None:
        super().__init__(settings)
        self._forget()

    def _forget(self) -> None:
        self._consistency, self._patients, self._kept, self._tiles = 0.0, 0, 0, 0

    def check(self, aggregator: Aggregator, kind: str) -> None:
        """Refuse an aggregator without tokens, and class-aware scores where nothing gives them."""
        super().check(aggregator, kind)
        assert isinstance(aggregator, AttentionAggregator)
        name = type(aggregator).__name__
        if aggregator.places and self.settings.merge_tokens:
            what = f"recipe mhim: recycled tokens lie nowhere, and {name} asks where tiles lie"
            raise ModelError(what, todo="set `merge_tokens: 0`")
        if aggregator.evaluates_otherwise and self.settings.alpha:
            what = f"recipe mhim: the vectors of {name} are others in training than in its teacher"
            raise ModelError(what, todo="set the option `prediction: bag`")
        if self.settings.score != "class":
            return
        if kind not in CLASS_KINDS:
            raise ModelError(f"recipe mhim: class-aware scores are not for {kind}", todo="set `score: attention`")
        if type(aggregator).contributions is AttentionAggregator.contributions:  # type: ignore[attr-defined]
            raise self._no_contributions(aggregator)

    def _no_contributions(self, aggregator: nn.Module) -> ModelError:
        what = f"recipe mhim: {type(aggregator).__name__} says not what each tile contributes, so has no class scores"
        return ModelError(what, todo="set `score: attention`")

    def begin(self, run: Run) -> None:
        """Train plainly for `warmup` epochs; then the teacher is a copy.

        Raises
        ------
        ModelError
            If class-aware scores are asked for and the head has one output.
        """
        settings, aggregator = self.settings, run.network.aggregator
        if settings.alpha and aggregator.dim_out == 1:
            raise ModelError("recipe mhim: vectors of one number have no shares to agree on", todo="set `alpha: 0`")
        if settings.score == "class" and run.network.head.linear.out_features < 2:
            raise ModelError("recipe mhim: class-aware scores need two outputs", todo="set `score: attention`")
        if settings.warmup:
            run.fit(settings.warmup)
        twin = twin_of(run.network)
        assert isinstance(aggregator, AttentionAggregator)
        assert isinstance(twin.aggregator, AttentionAggregator)
        self.teacher, self.teacher_head = twin.aggregator, twin.head.linear
        self.teacher.requires_grad_(False).train(settings.teacher_dropout)
        self.teacher_head.requires_grad_(False)
        self.extra = None
        if settings.merge_tokens and settings.keep_fraction < 1:
            self.extra = Recycle(
                aggregator.width, settings.merge_tokens, settings.merge_heads, settings.merge_width,
                settings.merge_dropout, settings.merge_momentum,
            )  # fmt: skip

    def tokens(self, step: Step) -> None:
        """Ask the teacher, and leave the student the tiles that are not masked, with what the rest is merged to."""
        tokens = step.tokens
        if tokens is None or len(tokens.features) != len(step.batch.features):
            raise ModelError("recipe mhim: another recipe changed the tokens before it", todo="leave one of them out")
        scores = self.ask(step)
        parts = self.mask(scores, tokens, step.moment.progress, step.generator)
        self._kept += int(parts.kept.sum())
        self._tiles += len(parts.kept)
        kept = tokens if bool(parts.kept.all()) else tokens.select(parts.kept)
        if self.extra is not None:
            # a bag of which nothing remains merges the tile it keeps
            alone = (segment_sum(parts.rest.long(), tokens) == 0)[tokens.segments]
            kept = kept.with_tokens(self.extra(tokens.select(parts.rest | (alone & parts.kept))))
        step.tokens = kept

    @torch.no_grad()
    def ask(self, step: Step) -> Tensor:
        """Let the teacher look at all tiles: its vectors are kept for the loss, the (T, K) scores returned."""
        teacher, batch = self.teacher, step.batch
        teacher.moment = step.moment
        tokens = batch.with_features(teacher.embed(batch.features))
        pooled: Pooled = teacher.pool(tokens)
        self.target = full_precision(pooled.vectors)
        if self.settings.score == "attention":
            return full_precision(pooled.maps)
        contributions = teacher.contributions(tokens, pooled)
        if contributions is None:
            raise self._no_contributions(teacher)
        # a bias common to all classes would cancel; vectors that are predictions need no weights
        weight = getattr(self.teacher_head, "weight", None)
        logits = contributions if weight is None else contributions.to(weight.dtype) @ weight.T
        return full_precision(logits).softmax(1).amax(1, keepdim=True)

    def mask(self, scores: Tensor, tokens: BagBatch, progress: float, generator: torch.Generator) -> Masked:
        """What becomes of each tile, by its (T, K) scores; nothing is drawn for a part that is switched off."""
        settings, lengths = self.settings, tokens.lengths
        high = settings.high * ((1 + math.cos(math.pi * progress)) / 2 if settings.decay else 1.0)
        highest = masked = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        if high:
            highest = masked = high_mask(scores, high, settings.drop, tokens, generator)
        if settings.low:
            masked = masked | voted_mask(-scores, share_up(lengths, settings.low), tokens, generator)
        if settings.random:
            masked = masked | random_mask(share_up(lengths, settings.random), tokens, generator)
        open_ = never_empty(~masked, highest, tokens, generator)
        if settings.keep_fraction == 1:
            return Masked(open_, ~open_, torch.zeros_like(open_))
        left = tokens.select(open_)
        counts = share_down(left.lengths, settings.keep_fraction).clamp(min=1)
        kept = torch.zeros_like(open_)
        kept[open_] = random_mask(counts, left, generator)
        return Masked(kept, ~open_, open_ & ~kept)

    def vectors(self, step: Step) -> None:
        """Take the consistency loss of the student's vectors."""
        settings, vectors = self.settings, step.vectors
        assert vectors is not None
        target = (self.target / settings.teacher_temperature).softmax(1)
        student = (full_precision(vectors) / settings.student_temperature).log_softmax(1)
        self.consistency = -(target * student).sum(1).mean()
        self._consistency += float(self.consistency.detach()) * len(vectors)
        self._patients += len(vectors)

    def penalty(self, step: Step) -> Tensor | None:
        """alpha times the consistency loss."""
        return self.settings.alpha * self.consistency if self.settings.alpha else None

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """The teacher follows: theta_T <- m^B theta_T + (1 - m^B) theta_S."""
        momentum = self.settings.momentum
        if self.settings.momentum_cosine:
            momentum = 1 - (1 - momentum) * (1 + math.cos(math.pi * step.moment.progress)) / 2
        share = 1 - momentum ** len(step.rows)
        pairs = ((self.teacher, step.network.aggregator), (self.teacher_head, step.network.head.linear))
        for slow, live in pairs:
            for one, other in zip(slow.parameters(), live.parameters(), strict=True):
                one.lerp_(other, share)

    def log(self) -> Mapping[str, float]:
        """Consistency loss and share of tiles kept of the epoch."""
        row = {
            "mhim_consistency": self._consistency / self._patients if self._patients else math.nan,
            "mhim_kept": self._kept / self._tiles if self._tiles else math.nan,
        }
        self._forget()
        return row


def twin_of(network: MILModel) -> MILModel:
    """A model like `network` with the same weights and buffers, on its device, without what its last forward left."""
    with torch.random.fork_rng():
        twin = MILModel.from_config(network.config)
    state = network.state_dict()
    for name, buffer in list(twin.named_buffers()):
        if state[name].shape != buffer.shape:  # fitted before the first step
            owner, _, own = name.rpartition(".")
            setattr(twin.get_submodule(owner), own, torch.empty_like(state[name]))
    twin.load_state_dict(state)
    return twin.to(network.mean.device)
