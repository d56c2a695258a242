"""Which tiles a step takes, whatever the buffer, the processes and the number of steps before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from textures import Drawn

from histostudy.encoders.pretraining.data import Epochs, ImageFolder
from histostudy.errors import EncoderError


def _source(n: int = 23, groups: int = 3) -> Drawn:
    tiles = np.zeros((n, 4, 4, 3), np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
    return Drawn(tiles, [f"g{i % groups}" for i in range(n)])


def _seen(epochs: Epochs, steps: range) -> list[list[int]]:
    return [[int(tile[0, 0, 0]) for tile in epochs.tiles(step)] for step in steps]


def test_an_epoch_takes_every_tile_once_in_another_order_than_the_next() -> None:
    epochs = Epochs(_source(24), 6, None, seed=0)
    first, second = (sum(_seen(epochs, range(k, k + 4)), []) for k in (0, 4))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second


def test_the_buffer_and_where_one_starts_change_nothing() -> None:
    whole = _seen(Epochs(_source(), 4, 5, seed=1), range(9))
    small = Epochs(_source(), 4, 5, seed=1, buffer=8)
    assert _seen(small, range(9)) == whole
    assert _seen(Epochs(_source(), 4, 5, seed=1, buffer=4), range(5, 9)) == whole[5:]
    assert max(len(numbers) for numbers in small.source.reads) <= 8


def test_processes_share_a_batch() -> None:
    whole = _seen(Epochs(_source(), 6, None, seed=1), range(5))
    parts = [_seen(Epochs(_source(), 6, None, seed=1, part=(rank, 3), buffer=6), range(5)) for rank in range(3)]
    assert [sum(step, []) for step in zip(*parts, strict=True)] == whole


def test_no_group_gives_more_than_its_share() -> None:
    source = Drawn(np.zeros((20, 4, 4, 3), np.uint8), ["big"] * 17 + ["small"] * 3)
    epochs = Epochs(source, 4, 5, seed=0)
    assert epochs.steps == 2
    drawn = np.concatenate([epochs.order(k) for k in range(20)])
    assert ((drawn < 17).sum() / 20) <= 5
    assert len(set(drawn)) == 20  # anew every epoch


def test_a_normaliser_sees_the_tile_and_its_slide() -> None:
    def normalise(tile: np.ndarray, slide: str) -> np.ndarray:
        return tile + int(slide[1:]) * 100

    seen = _seen(Epochs(_source(6, 2), 6, None, seed=0, normalise=normalise), range(1))
    assert sorted(seen[0]) == [0, 2, 4, 101, 103, 105]


def test_a_folder_of_images_is_read_in_order(tmp_path: Path) -> None:
    import cv2

    for folder, value in (("b", 10), ("a", 200)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "1.png"), np.full((8, 8, 3), (0, 0, value), np.uint8))
    source = ImageFolder(tmp_path)
    assert list(source.groups) == ["a", "b"] and source.tile_px == 8
    assert [tile[0, 0].tolist() for tile in source.read([0, 1])] == [[200, 0, 0], [10, 0, 0]]
    before = source.digest
    cv2.imwrite(str(tmp_path / "b" / "2.png"), np.zeros((8, 8, 3), np.uint8))
    assert ImageFolder(tmp_path).digest != before
    (tmp_path / "b" / "2.png").write_bytes(b"nothing")
    with pytest.raises(EncoderError, match=r"2\.png: cannot be read as an image"):
        list(ImageFolder(tmp_path).read([2]))


def test_too_little_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="6 tiles are less than a batch of 8; lower pretrain.batch_size"):
        Epochs(_source(6), 8, None, seed=0)
    with pytest.raises(EncoderError, match="no image in it"):
        ImageFolder(tmp_path)
