"""The loop of pretraining and distillation: tiles in, an encoder's folder out.

To distil any function of tiles into a small network, from a folder of images::

    from pathlib import Path
    from histostudy.pretrain_keys import Pretrain
    from histostudy.encoders.pretraining.data import ImageFolder
    from histostudy.encoders.pretraining.loop import pretrain
    from histostudy.encoders.pretraining.teachers import Teacher

    settings = Pretrain(method="distil", teacher="mobilenet", network="resnet18", images=Path("tiles"),
                        epochs=20, batch_size=64, lr=1e-3, views={"scale": (0.8, 1.0), "local": 0})
    teacher = Teacher(encode, {"encoder": "mobilenet", "weights_sha256": "..."})
    # encode: uint8 (B, H, W, 3) -> float32 (B, D)
    made = pretrain(settings, ImageFolder(settings.images), Path("out"), seed=0, mpp=0.5, teacher=teacher)

`student` may be any `Student` (see `histostudy.encoders.pretraining.students`) instead of a name. The folder gets
`weights.safetensors`, `config.json`, `card.md`, `history.csv`, with DINO and iBOT `heads.safetensors`, and a checkpoint
from which an interrupted training goes on to the same bytes.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from histostudy.codeversion import code_version
from histostudy.encoders.pretraining import parallel
from histostudy.encoders.pretraining.data import Epochs, Normalise, TileSource
from histostudy.encoders.pretraining.methods import Batch, HeadDistillation, Method, build_method
from histostudy.encoders.pretraining.monitor import collapse, neighbours_of_own, spread
from histostudy.encoders.pretraining.release import release
from histostudy.encoders.pretraining.schedules import momentum_at, peak_lr, schedule
from histostudy.encoders.pretraining.state import digest_of_weights, load_state, save_state
from histostudy.encoders.pretraining.students import Student, build_student
from histostudy.encoders.pretraining.teachers import HeadTeacher, Teacher
from histostudy.encoders.pretraining.trial import crop_sides
from histostudy.encoders.pretraining.views import IDENTITY, block_masks, cut, draw_view
from histostudy.errors import EncoderError
from histostudy.files import digest_of
from histostudy.log import progress
from histostudy.seeds import derive_seed

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.pretrain_keys import Pretrain

logger = logging.getLogger(__name__)

STATE = ".state.safetensors"


@dataclass(frozen=True)
class Pretrained:
    """An encoder that was made.

    Attributes
    ----------
    folder : Path
        Holds `weights.safetensors` and what goes with it.
    sha256 : str
        Of the weights: the encoder's identity.
    history : DataFrame
        One row an epoch.
    collapsed : str
        What collapsed at the end, in words; empty where nothing did.
    """

    folder: Path
    sha256: str
    history: pd.DataFrame
    collapsed: str


def pretrain(
    settings: Pretrain,
    source: TileSource,
    out: Path,
    *,
    seed: int = 0,
    mpp: float | None = None,
    teacher: Teacher | HeadTeacher | None = None,
    student: Student | None = None,
    normalise: Normalise | None = None,
    stain: dict[str, Any] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    about: dict[str, Any] | None = None,
    stop_after: int | None = None,
) -> Pretrained:
    """Train an encoder on tiles, without labels.

    Parameters
    ----------
    settings : histostudy.pretrain_keys.Pretrain
        The study's `pretrain` keys.
    source : TileSource
        `ImageFolder` or `SlideTiles`.
    out : Path
        Folder of the encoder.
    seed : int
        Of weights, draws and order.
    mpp : float, optional
        Scale of the source's tiles, um per pixel; checked when the encoder is used.
    teacher : Teacher or HeadTeacher, optional
        Of a distillation: with a `HeadTeacher` on its prototypes, else on its vectors.
    student : Student, optional
        Instead of the network that the settings name.
    normalise : callable, optional
        Takes a tile and the name of its slide, returns the tile with normalised stains.
    stain : dict, optional
        Identity of `normalise`; without it a training with `normalise` is not resumed.
    device : str
        ``cpu`` or ``cuda``; on CUDA under bfloat16 autocast.
    threads : int, optional
        CPU threads of torch, instead of `settings.threads`.
    about : dict, optional
        What the card is to say of the data beside its counts.
    stop_after : int, optional
        Stop at this step, leaving the checkpoint: what an interruption does.

    Raises
    ------
    EncoderError
        If the network, the teacher or the tiles do not fit, or the loss stops being finite.
    """
    if threads is not None:
        settings = settings.model_copy(update={"threads": threads})
    with parallel.processes(device) as own_device, _deterministic(seed, settings.threads):
        run = _Run(settings, source, Path(out), seed, own_device, teacher, student, normalise, stain)
        run.fit(stop_after)
        return run.finish(mpp, about or {})


@contextmanager
def _deterministic(seed: int, threads: int) -> Iterator[None]:
    """Seeded weights, a fixed number of threads, deterministic kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(derive_seed(seed, "pretrain"))
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


class _Run:
    """One training."""

    def __init__(
        self,
        settings: Pretrain,
        source: TileSource,
        out: Path,
        seed: int,
        device: str,
        teacher: Teacher | HeadTeacher | None,
        student: Student | None,
        normalise: Normalise | None,
        stain: dict[str, Any] | None,
    ) -> None:
        self.settings, self.source, self.out, self.seed = settings, source, out, seed
        self.device, self.teacher = torch.device(device), teacher
        self.stain, self._known = stain, normalise is None or stain is not None
        part = (parallel.rank(), parallel.world())
        per_group = settings.tiles_per_slide if source.slides else None
        if settings.batch_size % part[1]:
            raise EncoderError(f"a batch of {settings.batch_size} is no multiple of {part[1]} processes")
        self.epochs = Epochs(source, settings.batch_size, per_group, seed, settings.buffer, part, normalise)
        size = settings.views.size or source.tile_px
        self.student = student or build_student(settings.network, size, settings.options)
        self._given = None if student is None else digest_of_weights(student)
        self.size, self.local_size = crop_sides(settings, source.tile_px, self.student)
        self.watched, pixels = self.epochs.some(settings.monitor_tiles)
        self.sample = torch.from_numpy(np.stack([cut(tile, IDENTITY, self.size) for tile in pixels]))
        self.method: Method = build_method(settings, self.student, teacher, self.size, self.sample).to(self.device)
        self.optimiser = torch.optim.AdamW(_groups(self.method), lr=0.0, betas=(0.9, 0.999))
        self.total = self.epochs.steps * settings.epochs
        if settings.steps is not None:
            self.total = min(self.total, settings.steps)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(settings.workers) if settings.workers else None

    @property
    def identity(self) -> str:
        """Of all that decides the weights."""
        how = {"save_every", "workers", "buffer", "device", "processes", "name"}
        return digest_of(
            {
                "settings": self.settings.model_dump(
                    mode="json", exclude=how | {"images", "teacher_checkpoint", "stain"}
                ),
                "student": self.student.config,
                "given": self._given,
                "stain": self.stain if self._known else "not known",
                "teacher": None if self.teacher is None else self.teacher.facts,
                "tiles": self.source.digest,
                "seed": self.seed,
                "code": code_version("histostudy.encoders.pretraining.loop"),
            }
        )

    def fit(self, stop_after: int | None) -> None:
        """Take the steps that are left."""
        self._resume()
        last = self.total if stop_after is None else min(self.total, stop_after)
        coming = self._ahead(range(self.step, last))
        for step, batch in progress(coming, "pretraining", last - self.step):
            self._take(step, batch)
            self.step = step + 1
            whole_epoch = self.step % self.epochs.steps == 0 or self.step == self.total
            if whole_epoch:
                self._look()
            epoch = -(-self.step // self.epochs.steps)
            if self.step == last or (whole_epoch and epoch % self.settings.save_every == 0):
                self._save()
        if self._pool is not None:
            self._pool.shutdown()

    def finish(self, mpp: float | None, about: dict[str, Any]) -> Pretrained:
        """Write the encoder; only the first process does."""
        import pandas as pd

        if not self.history:
            self._look()
        history = pd.DataFrame(self.history)
        collapsed = collapse(self.history[-1]) if self.step == self.total and self.total else ""
        if collapsed:
            logger.warning("the encoder collapsed: %s", collapsed)
        digest = ""
        if parallel.rank() == 0:
            seen = None if mpp is None else mpp * self.source.tile_px / self.size  # a whole tile in `size` pixels
            digest = release(
                self.out, self.settings, self.method, history, self.size, seen, self.seed,
                about=self.source.about | about, collapsed=collapsed, steps=self.step,
                teacher=None if self.teacher is None else self.teacher.facts,
                on_heads=isinstance(self.method, HeadDistillation),
            )  # fmt: skip
        return Pretrained(self.out, digest, history, collapsed)

    def _take(self, step: int, batch: Batch) -> None:
        s, method = self.settings, self.method
        done = step / max(1, self.total)
        lr = schedule(step, self.total, peak_lr(s), s.lr_end, s.warm_up)
        decay = schedule(step, self.total, *s.weight_decay)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
            group["weight_decay"] = decay if group["decays"] else 0.0
        method.train()
        method.average.eval()
        if isinstance(method, HeadDistillation):
            method.teacher.eval()
        torch.manual_seed(derive_seed(self.seed, "step", step, parallel.rank()))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            loss, log = method(batch, done)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        trained = method.trained()
        parallel.share_gradients(trained)
        if step < s.freeze_prototypes * self.epochs.steps and s.epochs > s.freeze_prototypes:
            for prototypes in method.prototypes():
                prototypes.grad = None
        norm = torch.nn.utils.clip_grad_norm_(trained, s.clip)
        self.optimiser.step()
        _share_moments(method.student)
        method.follow(momentum_at(step, self.total, s))
        told = {"loss": loss, "gradient": norm} | log
        values = parallel.all_mean(torch.stack([v.detach().float() for v in told.values()])).tolist()
        if not all(map(math.isfinite, values)):
            raise EncoderError(f"the loss is not finite at step {step + 1}", todo="lower pretrain.lr")
        for name, value in zip(told, values, strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._sums["steps"] = self._sums.get("steps", 0.0) + 1
        self._sums["lr"] = lr

    def _look(self) -> None:
        """Close an epoch: mean losses, and what the watched tiles look like."""
        vectors = self.encode(self.sample)
        steps = max(1.0, self._sums.pop("steps", 0.0))
        lr = self._sums.pop("lr", 0.0)
        row: dict[str, float] = {"epoch": -(-self.step // self.epochs.steps), "step": self.step, "lr": lr}
        row |= {name: value / steps for name, value in self._sums.items()}
        groups = [self.source.groups[n] for n in self.watched]
        own, chance = neighbours_of_own(vectors.numpy(), groups)
        row |= {"spread": spread(vectors.numpy()), "neighbours_own": own, "neighbours_chance": chance}
        self.method.eval()
        row |= self.method.judge(vectors.to(self.device))
        self._sums = {}
        self.history.append(row)
        logger.info("pretraining: %s", ", ".join(f"{k} {v:.4g}" for k, v in row.items() if v == v))
        if self.step and (bad := collapse(row)):
            logger.warning("epoch %d: %s", row["epoch"], bad)

    @torch.no_grad()
    def encode(self, crops: Tensor) -> Tensor:
        """Class tokens (N, dim), on the CPU, of what would be released now."""
        self.method.average.eval()
        rows = []
        for part in crops.split(64):
            pixels = part.to(self.device).permute(0, 3, 1, 2).float() / 255
            rows.append(self.method.average.forward_tokens(self.method.normal(pixels))[0].float().cpu())
        return torch.cat(rows)

    def _ahead(self, steps: range) -> Iterator[tuple[int, Batch]]:
        """Batches of steps; with workers the next one is cut while this one is learned from."""
        if self._pool is None:
            for step in steps:
                yield step, self._send(*self._cut(step))
            return
        with ThreadPoolExecutor(1) as feeder:
            pending = feeder.submit(self._cut, steps[0]) if len(steps) else None
            for step in steps:
                assert pending is not None
                made = pending.result()
                pending = feeder.submit(self._cut, step + 1) if step + 1 < steps.stop else None
                yield step, self._send(*made)

    def _cut(self, step: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray | None]:
        """Views of this process's tiles of a step: crops, what was drawn, masks."""
        method, keys = self.method, self.settings.views
        tiles = self.epochs.tiles(step)
        first = parallel.rank() * len(tiles)
        kinds = [(self.size, keys.scale)] * method.global_views
        kinds += [(self.local_size, keys.local_scale)] * method.local_views

        def cut_one(place: int) -> list[tuple[np.ndarray, np.ndarray]]:
            rng = np.random.default_rng([self.seed, step, first + place])
            views = [draw_view(rng, keys, scale) for _, scale in kinds]
            return [(cut(tiles[place], view, size), view) for view, (size, _) in zip(views, kinds, strict=True)]

        places = range(len(tiles))
        made = list(self._pool.map(cut_one, places)) if self._pool else [cut_one(p) for p in places]
        crops = [np.stack([one[k][0] for one in made]) for k in range(len(kinds))]
        views = [np.stack([one[k][1] for one in made]) for k in range(len(kinds))]
        masks = None
        if self.settings.method == "ibot":
            side = self.size // self.student.patch
            rng = np.random.default_rng(derive_seed(self.seed, "masks", step))
            share, ratio = self.settings.mask_share, self.settings.mask_ratio
            # drawn for the whole batch, so that exactly the share of it is masked; each process takes its rows
            drawn = [block_masks(self.settings.batch_size, (side, side), rng, share, ratio) for _ in range(2)]
            masks = np.concatenate([one[first : first + len(tiles)] for one in drawn])
        return crops, views, masks

    def _send(self, crops: list[np.ndarray], views: list[np.ndarray], masks: np.ndarray | None) -> Batch:
        def there(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self.device, non_blocking=True)

        return Batch([there(c) for c in crops], [there(v) for v in views], None if masks is None else there(masks))

    def _resume(self) -> None:
        found = load_state(self.out / STATE, self.identity, self.method, self.optimiser) if self._known else None
        if found is None:
            return
        self.step, self.history, self._sums = found["step"], found["history"], found["sums"]
        logger.info("pretraining: goes on after step %d of %d", self.step, self.total)

    def _save(self) -> None:
        if parallel.rank() == 0:
            told = {"step": self.step, "history": self.history, "sums": self._sums}
            save_state(self.out / STATE, self.identity, self.method, self.optimiser, told)


def _groups(method: Method) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and tokens do not."""
    trained = method.trained()
    return [
        {"params": [p for p in trained if p.squeeze().ndim > 1], "decays": True},
        {"params": [p for p in trained if p.squeeze().ndim <= 1], "decays": False},
    ]


def _share_moments(module: torch.nn.Module) -> None:
    """One set of batch-norm moments over all processes."""
    if parallel.world() > 1:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(parallel.all_mean(buffer))
