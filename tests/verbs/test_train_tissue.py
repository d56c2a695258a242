"""A study that trains the tissue network: keys, plan, weights, card and table."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from histostudy.errors import ConfigError
from histostudy.files import sha256
from histostudy.plan import make_plan
from histostudy.studyfile import parse_study, read_study_file
from histostudy.tissue.network import load
from histostudy.tissue_keys import TrainTissue
from histostudy.verbs.train_tissue import FILES, crop, read_real, train_tissue

TINY = TrainTissue(
    steps=3, pictures=4, size_px=64, channels=[4, 6], factors=[2], decoder=[4], test=3, batch_size=2,
    checkpoint_every=2,
)  # fmt: skip


def test_weights_card_and_table(tmp_path: Path) -> None:
    measured = train_tissue(TINY, 0, tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(FILES)
    assert set(measured["what"]) == {"tissue_dice", "pen_dice", "count_error"}
    network, about = load(tmp_path / "a" / "unet.safetensors")
    assert set(network.config["heads"]) == {"tissue", "pen", "offset"} and about == {"offset_px": "32.0"}
    assert sha256(tmp_path / "a" / "unet.safetensors") in (tmp_path / "a" / "unet.md").read_text()
    train_tissue(TINY, 0, tmp_path / "b")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    train_tissue(TINY, 1, tmp_path / "c")
    assert sha256(tmp_path / "a" / "unet.safetensors") != sha256(tmp_path / "c" / "unet.safetensors")


def test_real_thumbnails(tmp_path: Path) -> None:
    rgb = np.full((50, 90, 3), 240, np.uint8)
    rgb[10:40, 20:60] = (200, 100, 150)
    for name, values in {
        "s": rgb[..., ::-1],
        "s_tissue": (rgb[..., 1] == 100) * np.uint8(255),
        "s_sections": (rgb[..., 1] == 100) * np.uint8(2),
    }.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), values)
    (picture,) = read_real(tmp_path)
    np.testing.assert_array_equal(picture.rgb, rgb)
    assert picture.tissue.sum() == 1200 and not picture.pen.any() and picture.labels.max() == 2
    part = crop(np.random.default_rng(0), picture, 64)
    assert part.rgb.shape == (64, 64, 3) and part.tissue.any()
    assert train_tissue(TINY.model_copy(update={"real": tmp_path, "real_share": 1.0}), 0, tmp_path / "out")["n"].max()
    cv2.imwrite(str(tmp_path / "s_pen.png"), np.zeros((5, 5), np.uint8))
    with pytest.raises(ConfigError, match="not the size"):
        read_real(tmp_path)
    (tmp_path / "s_pen.png").unlink()
    (tmp_path / "s.png").unlink()
    with pytest.raises(ConfigError, match="without its picture"):
        read_real(tmp_path)
    with pytest.raises(ConfigError, match="no <name>_tissue.png"):
        read_real(tmp_path / "out")


def test_the_keys_go_together() -> None:
    both = {"study": "t", "cohort": {"name": "c", "thumbnails": True}, "train_tissue": {"steps": 2}}
    study = parse_study(both)
    assert study.train_tissue is not None and not study.has_slides
    with pytest.raises(ConfigError, match="go together"):
        parse_study({**both, "train_tissue": None})
    with pytest.raises(ConfigError, match="go together"):
        parse_study({**both, "cohort": {"name": "c", "simulate": {}}})
    with pytest.raises(ConfigError, match="draws its own"):
        parse_study({**both, "cohort": {"name": "c", "thumbnails": True, "simulate": {}}})


def test_the_plan_of_the_study_that_ships(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "config/studies/train_tissue.yaml"
    plan = make_plan(read_study_file(file), file, tmp_path)
    assert [Path(name).name for name in plan.trained_tissue] == list(FILES)
    assert plan.bags == [] and plan.tissue_weights() == ""
