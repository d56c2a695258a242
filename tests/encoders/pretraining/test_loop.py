"""The loop: the same bytes again, after an interruption, with workers; what it leaves; when it collapses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from textures import Drawn, textures

from histostudy.encoders.pretraining.loop import Pretrained, pretrain
from histostudy.encoders.pretraining.monitor import collapse, neighbours_of_own, spread
from histostudy.encoders.pretraining.schedules import momentum_at, peak_lr, schedule
from histostudy.encoders.pretraining.students import build_student
from histostudy.encoders.pretraining.teachers import HeadTeacher, Teacher
from histostudy.encoders.registry import encoder_identity, load_encoder
from histostudy.errors import EncoderError
from histostudy.files import sha256
from histostudy.pretrain_keys import Pretrain
from histostudy.study import Features

TINY: dict[str, Any] = {
    "network": "vit_tiny", "options": {"width": 16, "depth": 1, "heads": 2, "patch": 8}, "epochs": 3, "batch_size": 8,
    "prototypes": 16, "head_hidden": 16, "bottleneck": 8, "lr": 1e-3, "monitor_tiles": 12, "targets": "sinkhorn",
    "views": {"local": 1, "local_size": 16},
}  # fmt: skip
METHODS = ("dino", "ibot", "distil")


def _mean_colour(batch: np.ndarray) -> np.ndarray:
    return batch.reshape(len(batch), -1, 3).mean(axis=1).astype(np.float32)


def _make(out: Path, method: str = "dino", stop_after: int | None = None, seed: int = 0, **keys: Any) -> Pretrained:
    teacher = Teacher(_mean_colour, {"encoder": "colour", "weights_sha256": "0"}) if method == "distil" else None
    if teacher is not None:
        keys["teacher"] = "colour"
    source = Drawn(textures(24)[0], [f"s{i % 3}" for i in range(24)])
    settings = Pretrain(method=method, **{**TINY, **keys})
    return pretrain(settings, source, out, seed=seed, mpp=0.5, teacher=teacher, stop_after=stop_after)


def _bytes(made: Pretrained) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in made.folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_training_goes_on_to_the_same_bytes(tmp_path: Path, method: str) -> None:
    whole = _make(tmp_path / "whole", method, options=TINY["options"] | {"drop_path": 0.2})
    for stop in (2, 5):  # within an epoch
        _make(tmp_path / "parts", method, stop_after=stop, options=TINY["options"] | {"drop_path": 0.2})
    parts = _make(tmp_path / "parts", method, options=TINY["options"] | {"drop_path": 0.2})
    assert _bytes(parts) == _bytes(whole)
    # a finished training is not repeated
    again = _make(tmp_path / "parts", method, options=TINY["options"] | {"drop_path": 0.2})
    assert _bytes(again) == _bytes(whole)


def test_workers_and_buffers_give_the_same_bytes_and_seeds_others(tmp_path: Path) -> None:
    made = [
        _make(tmp_path / "a", "ibot"), _make(tmp_path / "b", "ibot", workers=2, buffer=8),
        _make(tmp_path / "c", "ibot", seed=1),
    ]  # fmt: skip
    digests = [one.sha256 for one in made]
    assert digests[0] == digests[1] != digests[2]
    assert made[0].history.equals(made[1].history)


def test_another_training_does_not_go_on_from_this_ones_checkpoint(tmp_path: Path) -> None:
    fresh = _make(tmp_path / "fresh", lr=2e-3)
    _make(tmp_path / "used")
    assert _make(tmp_path / "used", lr=2e-3).sha256 == fresh.sha256
    (tmp_path / "used" / ".state.safetensors").write_bytes(b"cut short")
    assert _make(tmp_path / "used", lr=2e-3).sha256 == fresh.sha256


@pytest.mark.parametrize("method", METHODS)
def test_what_it_leaves_is_an_encoder(tmp_path: Path, method: str) -> None:
    made = _make(tmp_path, method, variant="cls+mean")
    assert made.sha256 == sha256(tmp_path / "weights.safetensors")
    features = Features(encoder="pretrained", checkpoint=tmp_path)
    encoder = load_encoder(features, 0.5, tile_px=32)
    assert encoder.dim == 32
    assert encoder.identity["weights_sha256"] == made.sha256
    assert encoder.identity == encoder_identity(features, 0.5, tile_px=32)
    tiles = textures(5, seed=3)[0]
    assert encoder.encode(tiles).shape == (5, 32)
    np.testing.assert_allclose(encoder.encode(tiles)[:2], encoder.encode(tiles[:2]), atol=1e-5)
    # it is a timm model too
    timms = Features(encoder="timm:vit_tiny_patch16_224?cls+mean", checkpoint=tmp_path / "weights.safetensors")
    np.testing.assert_allclose(load_encoder(timms, 0.5).encode(tiles), encoder.encode(tiles), atol=1e-5)
    with pytest.raises(EncoderError, match=r"trained at 0\.5 um/px and would see 1"):
        load_encoder(features, 1.0, tile_px=32)
    card = (tmp_path / "card.md").read_text()
    assert made.sha256 in card and "s0" not in card
    assert ("were not there" in card) == (method == "distil")
    assert list(made.history["epoch"]) == [1, 2, 3]


def test_no_encoder_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no encoder made here in .*; run `histostudy pretrain`"):
        load_encoder(Features(encoder="pretrained", checkpoint=tmp_path), 0.5)


def test_distilling_on_heads_says_so_and_wants_the_same_patches(tmp_path: Path) -> None:
    _make(tmp_path / "teacher", "ibot")
    source = Drawn(textures(24)[0])
    settings = Pretrain(method="distil", teacher_checkpoint=tmp_path / "teacher", **TINY)
    made = pretrain(settings, source, tmp_path / "student", teacher=HeadTeacher(tmp_path / "teacher"))
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["method"] == "heads" and config["teacher"]["weights_sha256"] == sha256(
        tmp_path / "teacher" / "weights.safetensors"
    )
    assert {"dino", "ibot", "agreement"} <= set(made.history)
    other = settings.model_copy(update={"options": TINY["options"] | {"patch": 16}})
    with pytest.raises(EncoderError, match="the student's patches are 16 px wide, the teacher's 8"):
        pretrain(other, source, tmp_path / "other", teacher=HeadTeacher(tmp_path / "teacher"))
    with pytest.raises(EncoderError, match=r"no heads.safetensors in it; take match: features"):
        HeadTeacher(tmp_path / "student")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no patch can be hidden from mobilenet_small"):
        _make(tmp_path, "ibot", network="mobilenet_small", options={})
    with pytest.raises(EncoderError, match="a crop of 20 px is not whole patches of 8 px"):
        _make(tmp_path, views={"size": 32, "local_size": 20})


def test_a_loss_that_is_not_finite_stops_it(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="not finite at step 1; lower pretrain.lr"):
        teacher = Teacher(lambda batch: np.full((len(batch), 3), np.inf, np.float32), {"encoder": "broken"})
        pretrain(Pretrain(method="distil", teacher="broken", **TINY), Drawn(textures(24)[0]), tmp_path, teacher=teacher)


def test_a_collapse_is_seen_and_said(tmp_path: Path) -> None:
    # centring against itself without sharpening: the targets are even, and everything goes to one point
    made = _make(
        tmp_path, targets="centre", teacher_temperature=(1.0, 1.0), epochs=25, lr=1e-2, momentum=0.5, warm_up=0.0,
        freeze_prototypes=0, weight_decay=(0.0, 0.0),
    )  # fmt: skip
    assert made.collapsed
    assert "It collapsed" in (tmp_path / "card.md").read_text()


def test_the_monitors_tell_a_collapse_from_none() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 8))
    assert spread(vectors) == pytest.approx(1, abs=0.05)
    assert spread(vectors * 0.01 + 1) < 0.1
    groups = [str(i % 3) for i in range(60)]
    own, chance = neighbours_of_own(vectors, groups)
    assert chance == pytest.approx(19 / 59) and abs(own - chance) < 0.12
    by_group = vectors + 20 * np.eye(8)[[int(g) for g in groups]]
    assert neighbours_of_own(by_group, groups)[0] == 1.0
    assert collapse({"spread": 0.5, "entropy_mean": 0.9, "entropy_each": 0.5}) == ""
    assert "alike" in collapse({"spread": 0.01})
    assert "one prototype" in collapse({"spread": 0.5, "entropy_mean": 0.01, "entropy_each": 0.01})
    assert "all prototypes alike" in collapse({"spread": 0.5, "entropy_mean": 1.0, "entropy_each": 0.999})


def test_what_is_released_is_the_moving_average(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    still = _make(tmp_path / "still", momentum=1.0)  # the teacher never moves
    untrained = _make(tmp_path / "untrained", epochs=0)
    assert still.sha256 == untrained.sha256
    assert "not trained at all" in (tmp_path / "untrained" / "card.md").read_text()
    moved = load_file(_make(tmp_path / "moved", momentum=0.5).folder / "weights.safetensors")
    start = load_file(untrained.folder / "weights.safetensors")
    assert any(not torch.equal(moved[name], start[name]) for name in start)


def test_schedules() -> None:
    assert [schedule(k, 10, 1.0, 0.0, 0.2) for k in (0, 1)] == [0.5, 1.0]
    assert schedule(2, 10, 1.0, 0.0, 0.2) == 1.0
    assert schedule(6, 10, 1.0, 0.0, 0.2) == pytest.approx(0.5)
    assert schedule(5, 10, 0.04, 0.4) == pytest.approx(0.22)
    assert peak_lr(Pretrain(batch_size=256)) == 5e-4
    distil = Pretrain(method="distil", teacher="uni", batch_size=256)
    assert peak_lr(distil) == 5e-4 and momentum_at(9, 10, distil) == 0.99
    assert momentum_at(0, 10, Pretrain()) == 0.996 and 0.999 < momentum_at(9, 10, Pretrain()) <= 1


def test_the_scale_is_that_of_the_crops(tmp_path: Path) -> None:
    made = _make(tmp_path, views={"size": 16, "local": 0})  # tiles of 32 px at 0.5
    assert json.loads((made.folder / "config.json").read_text())["mpp"] == 1.0
    features = Features(encoder="pretrained", checkpoint=tmp_path)
    assert load_encoder(features, 0.5, tile_px=32).encode(textures(2)[0]).shape == (2, 16)


def test_what_is_not_known_by_name_is_not_resumed(tmp_path: Path) -> None:
    source, settings = Drawn(textures(24)[0], [f"s{i % 3}" for i in range(24)]), Pretrain(**TINY)

    def made(out: str, shift: int, stain: dict[str, Any] | None) -> str:
        return pretrain(
            settings, source, tmp_path / out, normalise=lambda tile, _: tile + np.uint8(shift), stain=stain
        ).sha256  # fmt: skip

    first, second = made("used", 0, None), made("used", 90, None)
    assert first != second == made("fresh", 90, {"target": "a"})
    assert made("fresh", 0, {"target": "b"}) == first  # another target: anew
    assert made("fresh", 90, {"target": "b"}) == first  # the same one: kept
    weights = [build_student("vit_tiny", 32, TINY["options"]) for _ in "ab"]
    given = [pretrain(settings, source, tmp_path / "given", student=one).sha256 for one in weights]
    assert given[0] != given[1]


def test_an_encoder_of_normalised_stains_wants_them(tmp_path: Path) -> None:
    stain, target = {"method": "macenko"}, tmp_path / "target.png"
    _make(tmp_path / "a", stain=stain)
    with pytest.raises(EncoderError, match="made on tiles with normalised stains .macenko.; set features.stain"):
        load_encoder(Features(encoder="pretrained", checkpoint=tmp_path / "a"), 0.5)
    assert load_encoder(Features(encoder="pretrained", checkpoint=tmp_path / "a", stain=stain), 0.5).dim == 16
    target.write_bytes(b"one")
    _make(tmp_path / "b", stain=stain | {"target": target})
    features = Features(encoder="pretrained", checkpoint=tmp_path / "b", stain=stain | {"target": target})
    assert load_encoder(features, 0.5).dim == 16
    target.write_bytes(b"another")
    with pytest.raises(EncoderError, match="target target.png"):
        load_encoder(features, 0.5)
