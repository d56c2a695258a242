"""The tissue network learns: losses by their formulas, a planted task, and a training that goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from histostudy.tissue.learn import HEADS, build, dice_loss, divergence, fit, loss_of, tensors_of
from histostudy.tissue.picture import Picture, offsets_of
from histostudy.tissue_keys import TrainTissue
from histostudy.training.determinism import deterministic

TINY = {"channels": [6, 8, 12], "factors": [2, 2], "decoder": [6, 8], "patch": 1, "batch_size": 2}


def blob(rng: np.random.Generator, size: int = 48) -> Picture:
    """A dark disc (tissue), a green bar (pen)."""
    y, x = np.mgrid[:size, :size]
    centre = rng.uniform(12, size - 12, 2)
    tissue = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 81
    pen = (x > size - 7) & ~tissue
    rgb = np.full((size, size, 3), 235, np.uint8)
    rgb[tissue], rgb[pen] = (150, 80, 140), (40, 160, 90)
    return Picture(rgb, tissue, pen, tissue.astype(np.int32))


def batches(step: int) -> list[Picture]:
    rng = np.random.default_rng((7, step))
    return [blob(rng) for _ in range(2)]


def test_dice_by_its_formula() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(3, 4, 5)), (rng.random((3, 4, 5)) < 0.4).astype(float)
    p = 1 / (1 + np.exp(-logits))
    slow = np.mean([1 - (2 * (a * b).sum() + 2) / (a.sum() + b.sum() + 2) for a, b in zip(p, target, strict=True)])
    assert dice_loss(torch.tensor(logits), torch.tensor(target)).item() == pytest.approx(slow)
    nothing = torch.zeros(1, 4, 4)
    assert dice_loss(nothing - 50, nothing).item() == pytest.approx(0, abs=1e-6)


def test_the_divergence_of_true_offsets_is_two() -> None:
    labels = np.ones((12, 15), np.int32)
    offset = torch.from_numpy(offsets_of(labels))[None].double()
    torch.testing.assert_close(divergence(offset), torch.full((1, 10, 13), 2.0, dtype=torch.float64))


def test_the_truth_has_no_loss_and_offsets_off_tissue_do_not_count() -> None:
    image, target = tensors_of(batches(0), 32.0)
    assert image.shape == (2, 3, 48, 48) and float(image.max()) <= 1
    found = {name: (target[name] * 200 - 100)[:, None] for name in ("tissue", "pen")}
    found["offset"] = target["offset"] + 9.0 * (1 - target["tissue"][:, None])
    assert sum(float(part) for part in loss_of(found, target).values()) < 1e-3
    found["offset"] = target["offset"] + 1.0
    assert float(loss_of(found, target)["offset"]) == pytest.approx(float(target["tissue"].mean()), rel=1e-3)


def test_it_learns_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings = TrainTissue(steps=60, lr=1e-2, checkpoint_every=20, **TINY)

    def train(folder: Path, stop_at: int | None = None) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
        folder.mkdir(exist_ok=True)

        def some(step: int) -> list[Picture]:
            if step == stop_at:
                raise KeyboardInterrupt
            return batches(step)

        with deterministic(3):
            network = build(settings, 3)
            history = fit(network, some, settings, folder, "a")
        return network.state_dict(), history

    whole, history = train(tmp_path / "whole")
    assert history[-1]["tissue"] < 0.5 * history[0]["tissue"] and history[-1]["pen"] < 0.5 * history[0]["pen"]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop_at=45)
    resumed, again = train(tmp_path / "cut")
    assert again == history
    for name, value in whole.items():
        torch.testing.assert_close(value, resumed[name], rtol=0, atol=0)
    # a checkpoint of other settings is not gone on from
    with deterministic(3):
        network = build(settings, 3)
        short = fit(network, batches, settings.model_copy(update={"steps": 2}), tmp_path / "whole", "b")
    assert len(short) == 1


def test_heads_of_the_network() -> None:
    assert build(TrainTissue(**TINY), 0).config["heads"] == HEADS
