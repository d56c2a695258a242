"""What is learned: more than nothing, from a teacher nearly all of it, and best of the stain it is used on.

The toys of the notes (23.3, 22): drawn textures, tiny transformers, seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textures import Drawn, probe, textures

from histostudy.encoders.pretraining.loop import Pretrained, pretrain
from histostudy.encoders.pretraining.teachers import HeadTeacher, teacher_of
from histostudy.encoders.registry import load_encoder
from histostudy.pretrain_keys import Pretrain
from histostudy.study import Features

WIDE = {"width": 48, "depth": 2, "heads": 3, "patch": 8}
HALF = {"width": 24, "depth": 2, "heads": 3, "patch": 8}
KEYS: dict[str, Any] = {
    "network": "vit_tiny", "options": WIDE, "batch_size": 32, "prototypes": 64, "head_hidden": 64, "bottleneck": 32,
    "lr": 2e-3, "momentum": 0.98, "weight_decay": (0.04, 0.04), "targets": "sinkhorn", "koleo": 0.1,
    "views": {"local": 2, "local_size": 16, "blur": 0.0, "scale": (0.5, 1.0)},
}  # fmt: skip


def _vectors(made: Pretrained | Path, tiles: np.ndarray) -> np.ndarray:
    folder = made if isinstance(made, Path) else made.folder
    return load_encoder(Features(encoder="pretrained", checkpoint=folder), 0.5).encode(tiles)


def _accuracy(made: Pretrained | Path, stain: str = "he") -> float:
    (x, y), (tested, truth) = textures(480, seed=1, stain=stain), textures(600, seed=2, stain=stain)
    return probe(_vectors(made, x), y, _vectors(made, tested), truth)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """An encoder by DINO."""
    out = tmp_path_factory.mktemp("teacher")
    return pretrain(Pretrain(epochs=12, **KEYS), Drawn(textures(480, seed=1)[0]), out)


def test_training_finds_the_textures_and_no_training_does_not(teacher: Pretrained, tmp_path: Path) -> None:
    untrained = pretrain(Pretrain(epochs=0, **KEYS), Drawn(textures(480, seed=1)[0]), tmp_path)
    assert _accuracy(teacher) > _accuracy(untrained) + 0.12
    assert not teacher.collapsed


def test_a_student_of_half_the_width_keeps_what_its_teacher_knows(teacher: Pretrained, tmp_path: Path) -> None:
    keys = KEYS | {"options": HALF, "momentum": 0.95, "lr": 6e-3, "teacher_temperature": (0.02, 0.02)}
    settings = Pretrain(method="distil", teacher_checkpoint=teacher.folder, epochs=16, **keys)
    student = pretrain(settings, Drawn(textures(480, seed=1)[0]), tmp_path, teacher=HeadTeacher(teacher.folder))
    assert _accuracy(student) > _accuracy(teacher) - 0.03
    agreement = student.history["agreement"].to_numpy()
    assert agreement[-1] > 5 * agreement[0] and agreement[-1] > 0.08  # chance: 1 / 64


def test_vectors_and_tokens_can_stand_in_for_heads(teacher: Pretrained, tmp_path: Path) -> None:
    encoder = teacher_of(load_encoder(Features(encoder="timm:vit_tiny_patch16_224?cls",
                                               checkpoint=teacher.folder / "weights.safetensors"), 0.5))  # fmt: skip
    keys = KEYS | {"options": HALF, "momentum": 0.95, "lr": 4e-3}
    settings = Pretrain(method="distil", teacher="timm", epochs=16, **keys)
    student = pretrain(settings, Drawn(textures(480, seed=1)[0]), tmp_path, teacher=encoder)
    assert {"cosine", "patch_cosine"} <= set(student.history)
    assert student.history["cosine"].iloc[-1] < 0.5 * student.history["cosine"].iloc[0]
    assert _accuracy(student) > _accuracy(teacher) - 0.03


def test_an_encoder_of_the_stain_at_hand_is_no_worse_than_one_of_another(teacher: Pretrained, tmp_path: Path) -> None:
    dab = pretrain(Pretrain(epochs=12, **KEYS), Drawn(textures(480, seed=1, stain="dab")[0]), tmp_path)
    assert _accuracy(dab, "dab") > _accuracy(teacher, "dab") - 0.02
