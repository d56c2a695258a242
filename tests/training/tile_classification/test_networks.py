"""Networks of pixels: what is trained, that textures are learned and shuffled ones are not, the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training.tiledata import KINDS, picture

from histostudy.errors import ModelError
from histostudy.study import Features, Training
from histostudy.training.determinism import deterministic
from histostudy.training.tile_classification.networks import (
    FineTuned,
    FinetuneOptions,
    FromScratch,
    PixelOptions,
    ScratchOptions,
    check_training,
    colours_of,
    fit_network,
    last_block,
    predict,
    shift_of,
)

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
CLASSES = len(KINDS)


@pytest.fixture(scope="module")
def tiles() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(90) % CLASSES
    return np.stack([picture(KINDS[k], 32, rng, rng.uniform(90, 200, 3)) for k in y]), y


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny random transformer as timm saves one."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 32, 32]}
    about = {"architecture": "vit_tiny_patch16_224", "model_args": TINY, "pretrained_cfg": config}
    (tmp_path / "config.json").write_text(json.dumps(about))
    return tmp_path


def scratch(tiles: np.ndarray, rows: np.ndarray, seed: int = 0) -> FromScratch:
    torch.manual_seed(seed)
    return FromScratch(
        "dct_histotransformer", {"widths": [16, 32], "heads": 2}, ScratchOptions(augment="none"), CLASSES,
        colours_of(tiles, rows, seed),
    )  # fmt: skip


def run(tiles: np.ndarray, y: np.ndarray, seed: int = 0) -> np.ndarray:
    rows = np.arange(60)
    with deterministic(seed):
        network = scratch(tiles, rows, seed)
        settings = Training(epochs=20, patience=20, lr=5e-3, batch_size=16)
        fit_network(
            network, tiles, (rows[:45], y[:45]), (rows[45:], y[45:60]), CLASSES, network.options, settings, seed, "cpu"
        )
        return predict(network, tiles, np.arange(60, 90), 16, "cpu")


def test_textures_are_learned_from_pixels_and_shuffled_ones_are_not(tiles: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, y = tiles
    logits = run(pixels, y)
    assert (logits.argmax(1) == y[60:]).mean() > 0.8
    np.testing.assert_array_equal(logits, run(pixels, y))
    shuffled = np.random.default_rng(0).permutation(y)
    assert (run(pixels, shuffled).argmax(1) == shuffled[60:]).mean() < 0.65


@pytest.mark.parametrize(("train", "tuned"), [("all", 32), ("last_block", 14), ("head", 0)])
def test_fine_tuning_moves_what_it_says(
    tiles: tuple[np.ndarray, np.ndarray], checkpoint: Path, train: str, tuned: int
) -> None:
    pixels, y = tiles
    options = FinetuneOptions(train=train, encoder_lr=1e-3, augment="light")
    features = Features(encoder="timm:some/model", checkpoint=checkpoint)
    with deterministic(0):
        network = FineTuned(features, 0.5, 32, options, CLASSES, (np.zeros(24), np.ones(24)), "cpu")
        before = {name: value.clone() for name, value in network.module.named_parameters()}
        history = fit_network(
            network, pixels, (np.arange(30), y[:30]), None, CLASSES, options, Training(epochs=2, batch_size=8), 0, "cpu"
        )
    moved = [name for name, value in network.module.named_parameters() if not torch.equal(value, before[name])]
    assert sum(p.requires_grad for p in network.module.parameters()) >= len(moved)
    assert (len(moved) == 0) == (tuned == 0) and network.head.weight.abs().sum() > 0
    if train == "last_block":
        assert all(name.startswith(("blocks.1.", "norm.")) for name in moved)
    if train == "all":
        assert any(name.startswith("blocks.0.") for name in moved)
    assert [row["best"] for row in history] == [False, True]  # without an inner part the last is kept


def test_untuned_the_network_is_its_encoder(tiles: tuple[np.ndarray, np.ndarray], checkpoint: Path) -> None:
    features = Features(encoder="timm:some/model", checkpoint=checkpoint)
    network = FineTuned(features, 0.5, 32, FinetuneOptions(), 2, (np.zeros(24), np.ones(24)), "cpu").eval()
    with torch.no_grad():
        network.head.weight.copy_(torch.eye(2, 24))
        network.head.bias.zero_()
        said = network(torch.from_numpy(tiles[0][:4])).numpy()
    np.testing.assert_allclose(said, network.encoder.encode(tiles[0][:4])[:, :2], atol=1e-5)


def test_the_last_block_of_nested_networks() -> None:
    import timm
    from torch import nn

    resnet = timm.create_model("resnet18", pretrained=False, num_classes=0)
    assert resnet.layer4[-1] in last_block(resnet)
    inner = nn.Module()
    inner.layer = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    outer = nn.Module()
    outer.embeddings, outer.encoder, outer.norm = nn.Linear(2, 2), inner, nn.LayerNorm(2)
    assert last_block(outer) == [inner.layer[1], outer.norm]


def test_an_encoder_without_weights_cannot_be_tuned() -> None:
    with pytest.raises(ModelError, match="no network"):
        FineTuned(Features(), 0.5, 32, FinetuneOptions(), 2, (np.zeros(3), np.ones(3)), "cpu")


def test_settings_without_a_meaning_are_refused() -> None:
    check_training(Training(epochs=3, lr=0.1, sampling="balanced"))
    for wrong in ({"max_tiles": 5}, {"trace": True}, {"l1": 0.1}):
        with pytest.raises(ModelError, match=next(iter(wrong))):
            check_training(Training(**wrong))
    for options in ({"augment": "wild"}, {"intensity": 2}):
        with pytest.raises(ModelError):
            PixelOptions(**options)


def test_balanced_drawing_is_undone_in_the_probabilities() -> None:
    y = np.array([0] * 9 + [1])
    shift = shift_of(y, 2, Training(sampling="balanced"))
    even = torch.from_numpy(np.zeros(2) + shift).softmax(0).numpy()
    np.testing.assert_allclose(even, [0.9, 0.1])
    assert (shift_of(y, 2, Training()) == 0).all()
