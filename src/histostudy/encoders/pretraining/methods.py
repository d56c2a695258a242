"""What a step does: DINO and iBOT with a moving teacher, distillation on a teacher's heads or on its tokens.

Each method is a module with the student it trains (`trained`), the weights it will release (`released`) and a
`forward` from a batch of views to a loss.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from histostudy.encoders.pretraining.losses import (
    FeatureMatch,
    Head,
    Targets,
    dino_loss,
    koleo,
    mask_weights,
    patch_loss,
)
from histostudy.encoders.pretraining.students import Student
from histostudy.encoders.pretraining.teachers import HeadTeacher, Teacher, to_grid
from histostudy.encoders.pretraining.views import recolour
from histostudy.errors import EncoderError

if TYPE_CHECKING:
    from histostudy.pretrain_keys import Pretrain


@dataclass
class Batch:
    """Views of a step's tiles.

    Attributes
    ----------
    crops : list of Tensor of uint8, (B, size, size, 3)
        One a view, the global ones first.
    views : list of Tensor of float32, (B, 16)
        What was drawn; see `histostudy.encoders.pretraining.views.COLUMNS`.
    masks : Tensor of bool, (globals * B, P), or None
        Of the global crops, crop by crop.
    """

    crops: list[Tensor]
    views: list[Tensor]
    masks: Tensor | None = None


class Method(nn.Module):
    """A method; see the module.

    Attributes
    ----------
    global_views, local_views : int
        Crops a tile that it asks for.
    """

    global_views = 2
    local_views = 0
    student: Student
    average: Student

    def __init__(self, settings: Pretrain, student: Student) -> None:
        super().__init__()
        self.settings, self.student = settings, student
        #: A moving average of the student: DINO's teacher, and what is released.
        self.average = copy.deepcopy(student).requires_grad_(False)
        mean, std = settings.views.mean, settings.views.std
        self.register_buffer("_mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, batch: Batch, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and what to log of a batch, after the share `done` of the training."""
        raise NotImplementedError

    def pixels(self, batch: Batch, view: int) -> Tensor:
        """Recoloured crops of a view, 0 to 1, (B, 3, size, size)."""
        return recolour(batch.crops[view], batch.views[view])

    def images(self, batch: Batch, view: int) -> Tensor:
        """Normalised crops of a view, (B, 3, size, size)."""
        return self.normal(self.pixels(batch, view))

    def normal(self, pixels: Tensor) -> Tensor:
        """Pixels of 0 to 1 as the network takes them."""
        return (pixels - self._mean) / self._std  # type: ignore[operator]

    def trained(self) -> list[nn.Parameter]:
        """Parameters that the optimiser moves."""
        return [p for p in self.parameters() if p.requires_grad]

    def prototypes(self) -> list[nn.Parameter]:
        """Those that stay for the first epochs."""
        return []

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Modules and their moving averages."""
        return [(self.student, self.average)]

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the averages to what was trained; counts and moments of a batch norm are copied."""
        for module, average in self.pairs():
            for mine, its in zip(module.parameters(), average.parameters(), strict=True):
                its.lerp_(mine, 1 - momentum)
            for own, kept in zip(module.buffers(), average.buffers(), strict=True):
                kept.copy_(own)

    def heads(self) -> dict[str, Tensor]:
        """Tensors of the heads that go with what is released, by name; empty where there are none."""
        return {}

    def judge(self, tokens: Tensor) -> dict[str, float]:
        """What the method knows of a collapse, from class tokens of what is released."""
        return {}


class SelfDistillation(Method):
    """DINO, and iBOT where patches are masked: a student agrees with its own moving average over crops.

    Parameters
    ----------
    settings : histostudy.pretrain_keys.Pretrain
    student : Student

    Raises
    ------
    EncoderError
        If iBOT is asked of a network from which no patch can be hidden.
    """

    def __init__(self, settings: Pretrain, student: Student) -> None:
        super().__init__(settings, student)
        self.masked = settings.method == "ibot"
        if self.masked and not student.maskable:
            raise EncoderError(
                f"no patch can be hidden from {settings.network}", todo="take method: dino, or a vision transformer"
            )
        self.local_views = settings.views.local
        self.head, self.average_head, self.targets = self._new_head()
        if self.masked:
            self.patch_head, self.average_patch_head, self.patch_targets = self._new_head()

    def _new_head(self) -> tuple[Head, Head, Targets]:
        s = self.settings
        head = Head(self.student.dim, s.head_hidden, s.bottleneck, s.prototypes)
        average = copy.deepcopy(head).requires_grad_(False)
        return head, average, Targets(s.prototypes, s.targets, s.centre_momentum)

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Modules and their moving averages."""
        pairs: list[tuple[nn.Module, nn.Module]] = [(self.student, self.average), (self.head, self.average_head)]
        return pairs + ([(self.patch_head, self.average_patch_head)] if self.masked else [])

    def prototypes(self) -> list[nn.Parameter]:
        """Those that stay for the first epochs."""
        return [head.prototypes for head in (self.head, getattr(self, "patch_head", None)) if head is not None]

    def temperature(self, done: float) -> float:
        """Of the teacher: rises in a line, then stays."""
        low, high = self.settings.teacher_temperature
        share = self.settings.temperature_warm_up
        return high if done >= share else low + (high - low) * done / share

    def forward(self, batch: Batch, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts."""
        s, n = self.settings, len(batch.crops[0])
        whole = torch.cat([self.images(batch, view) for view in range(2)])
        with torch.no_grad():
            token, patches = self.average.forward_tokens(whole)
            heat = self.temperature(done)
            targets = self.targets(self.average_head(token), heat).split(n)
        own, own_patches = self.student.forward_tokens(whole, batch.masks)
        tokens = [own]
        if len(batch.crops) > 2:
            local = torch.cat([self.images(batch, view) for view in range(2, len(batch.crops))])
            tokens.append(self.student.forward_tokens(local)[0])
        logits = self.head(torch.cat(tokens)).split(n)
        dino = dino_loss(targets, logits, s.student_temperature)
        loss, log = dino, {"dino": dino}
        if batch.masks is not None and self.masked:
            weights = mask_weights(batch.masks)
            asked = self.patch_targets(self.average_patch_head(patches[batch.masks]), heat)
            ibot = patch_loss(asked, self.patch_head(own_patches[batch.masks]), weights, s.student_temperature)
            loss, log = loss + s.mask_weight * ibot, log | {"ibot": ibot}
        if s.koleo:
            spread = sum((koleo(part) for part in own.split(n)), own.new_zeros(())) / 2
            loss, log = loss + s.koleo * spread, log | {"koleo": spread}
        return loss, log

    def heads(self) -> dict[str, Tensor]:
        """The teacher's heads and centres."""
        found = {f"class.{k}": v for k, v in self.average_head.state_dict().items()}
        found["class.centre"] = self.targets.centre
        if self.masked:
            found |= {f"patch.{k}": v for k, v in self.average_patch_head.state_dict().items()}
            found["patch.centre"] = self.patch_targets.centre
        return {name: value.detach().cpu().contiguous() for name, value in found.items()}

    @torch.no_grad()
    def judge(self, tokens: Tensor) -> dict[str, float]:
        """Entropies of the targets, as shares of the largest: of each tile's, and of their mean.

        One prototype for all tiles: the entropy of the mean is near 0. All prototypes alike: that of each is near 1.
        """
        logits = self.average_head(tokens)
        given = torch.softmax((logits - self.targets.centre) / self.settings.teacher_temperature[1], dim=-1).double()
        most = float(torch.log(torch.tensor(float(logits.shape[1]))))

        def entropy(p: Tensor) -> Tensor:
            return -(p * p.clamp_min(1e-30).log()).sum(dim=-1)

        return {
            "entropy_each": float(entropy(given).mean()) / most,
            "entropy_mean": float(entropy(given.mean(dim=0))) / most,
        }


class HeadDistillation(Method):
    """H0-mini's recipe: the student's new heads agree with the prototypes of a frozen teacher's own heads.

    Class tokens over crops that differ, as in DINO; all patch tokens of the same global crop, none masked, where the
    teacher has a head for them.

    Raises
    ------
    EncoderError
        If the two networks have other grids of patches.
    """

    def __init__(self, settings: Pretrain, student: Student, teacher: HeadTeacher, size: int) -> None:
        super().__init__(settings, student)
        self.local_views = settings.views.local
        self.teacher = teacher
        self.head = self._new_head(teacher.head)
        self.average_head = copy.deepcopy(self.head).requires_grad_(False)
        self.patch_head = None if teacher.patch_head is None else self._new_head(teacher.patch_head)
        if self.patch_head is not None and student.patch != teacher.student.patch:
            raise EncoderError(
                f"the student's patches are {student.patch} px wide, the teacher's {teacher.student.patch}",
                todo="give the student the teacher's by pretrain.options: {patch: ...}, or take match: features",
            )
        self.register_buffer("_teacher_mean", torch.tensor(teacher.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_teacher_std", torch.tensor(teacher.std).view(1, 3, 1, 1), persistent=False)

    def _new_head(self, like: Head) -> Head:
        s = self.settings
        return Head(self.student.dim, s.head_hidden, s.bottleneck, len(like.prototypes))

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Modules and their moving averages."""
        return [(self.student, self.average), (self.head, self.average_head)]

    def forward(self, batch: Batch, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss, its parts, and the share of tiles whose prototype is the teacher's."""
        s, n = self.settings, len(batch.crops[0])
        pixels = torch.cat([self.pixels(batch, view) for view in range(2)])
        seen = pixels if s.teacher_sees == "view" else torch.cat(batch.crops[:2]).permute(0, 3, 1, 2).float() / 255
        heat = s.teacher_temperature[1]
        with torch.no_grad():
            given, given_patches = self.teacher.logits((seen - self._teacher_mean) / self._teacher_std)  # type: ignore[operator]
            asked = self.teacher.targets(given, heat)
        own, patches = self.student.forward_tokens(self.normal(pixels))
        tokens = [own]
        if len(batch.crops) > 2:
            local = torch.cat([self.images(batch, view) for view in range(2, len(batch.crops))])
            tokens.append(self.student.forward_tokens(local)[0])
        logits = self.head(torch.cat(tokens)).split(n)
        dino = dino_loss(asked.split(n), logits, s.student_temperature)
        agree = (torch.cat(logits[:2]).argmax(dim=1) == asked.argmax(dim=1)).float().mean()
        loss, log = dino, {"dino": dino, "agreement": agree}
        balance = self.teacher.patch_targets
        if self.patch_head is not None and given_patches is not None and balance is not None:
            wanted = balance(given_patches.flatten(0, 1), heat)
            even = wanted.new_full((len(wanted),), 1 / len(wanted))
            ibot = patch_loss(wanted, self.patch_head(patches).flatten(0, 1), even, s.student_temperature)
            loss, log = loss + ibot, log | {"ibot": ibot}
        return loss, log


class FeatureDistillation(Method):
    """The stand-in where a teacher has no heads: its standardised vectors, and its patch tokens, by cosine and square.

    One view a tile. The student's class token (its mean patch, where it has none) goes through a linear projector.

    Parameters
    ----------
    settings : histostudy.pretrain_keys.Pretrain
    student : Student
    teacher : Teacher
    sample : Tensor of uint8, (N, H, W, 3)
        Tiles whose vectors give the moments.
    """

    global_views = 1

    def __init__(self, settings: Pretrain, student: Student, teacher: Teacher, sample: Tensor) -> None:
        super().__init__(settings, student)
        self.teacher = teacher
        parts = [teacher.tokens(part) for part in sample.split(64)]
        vectors = torch.cat([vector for vector, _ in parts])
        self.match = self._matcher(vectors)
        self.patch_match = None
        if settings.patches and parts[0][1] is not None:
            self.patch_match = self._matcher(torch.cat([p.flatten(0, 1) for _, p in parts if p is not None]))

    def _matcher(self, vectors: Tensor) -> FeatureMatch:
        match = FeatureMatch(self.student.dim, vectors.shape[1], self.settings.cosine, self.settings.mse)
        match.standardise_by(vectors.cpu())
        return match

    def forward(self, batch: Batch, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts."""
        pixels = self.pixels(batch, 0)
        seen = batch.crops[0]
        if self.settings.teacher_sees == "view":
            seen = (pixels * 255).round().byte().permute(0, 2, 3, 1).contiguous()
        asked, asked_patches = self.teacher.tokens(seen)
        token, patches = self.student.forward_tokens(self.normal(pixels))
        parts = self.match(token, asked)
        loss, log = parts["loss"], {"cosine": parts["cosine"], "mse": parts["mse"]}
        if self.patch_match is not None and asked_patches is not None:
            more = self.patch_match(patches, to_grid(asked_patches, patches.shape[1]))
            loss = loss + self.settings.patches * more["loss"]
            log |= {"patch_cosine": more["cosine"], "patch_mse": more["mse"]}
        return loss, log


def build_method(
    settings: Pretrain, student: Student, teacher: Teacher | HeadTeacher | None, size: int, sample: Any
) -> Method:
    """The method that the settings ask for.

    Parameters
    ----------
    settings : histostudy.pretrain_keys.Pretrain
    student : Student
    teacher : Teacher, HeadTeacher or None
        Of a distillation.
    size : int
        Side of a global crop, px.
    sample : Tensor of uint8, (N, H, W, 3)
        Some tiles.
    """
    if settings.method != "distil":
        return SelfDistillation(settings, student)
    if isinstance(teacher, HeadTeacher):
        return HeadDistillation(settings, student, teacher, size)
    if teacher is None:
        raise EncoderError("no teacher to distil", todo="give pretrain.teacher")
    return FeatureDistillation(settings, student, teacher, sample)
