"""The planted bags that tests and benchmarks of recipes share: what they say of themselves holds."""

from __future__ import annotations

import numpy as np
import pytest
from training.recipes.recipedata import planted


@pytest.mark.parametrize(("name", "sizes", "share", "easy", "hard"), [("sb1", (60, 140), 0.1, 3.0, 1.0),
                                                                       ("sb2", (40, 80), 0.15, 5.0, 1.3)])  # fmt: skip
@pytest.mark.parametrize("hard_only", [False, True])
def test_bags_hold_what_they_say(
    name: str, sizes: tuple[int, int], share: float, easy: float, hard: float, hard_only: bool
) -> None:
    bags, labels = getattr(planted, name)(3, 400, hard_only=hard_only)
    assert labels.tolist() == [0, 1] * 200
    assert all(x.dtype == np.float32 and x.shape == (len(w), 32) and w.dtype == bool for x, w in bags)
    lengths = [len(w) for _, w in bags]
    assert (min(lengths), max(lengths)) == sizes
    for (_, witness), label in zip(bags, labels, strict=True):
        assert witness.sum() == (max(2, int(share * len(witness))) if label else 0)
    tiles, witness = (np.concatenate(part) for part in zip(*bags, strict=True))
    background, told = tiles[~witness].astype(float), tiles[witness].astype(float)
    assert background.mean(0) == pytest.approx(0, abs=0.15)
    assert background.std(0) == pytest.approx(np.r_[[1.0] * 4, [np.sqrt(1.25)] * 28], abs=0.06)
    easy_share = 0 if hard_only else 200 / witness.sum()
    assert told.mean(0)[:4] == pytest.approx([easy * easy_share] + [hard * (1 - easy_share)] * 3, abs=0.12)
    assert np.abs(told.mean(0)[4:]).max() < 0.2
    first = np.array([w.argmax() / len(w) for _, w in bags if w.any()])
    assert first.max() > 0.3, "witnesses lie anywhere in the bag"


def test_a_seed_gives_the_same_bags() -> None:
    (one, _), (again, _), (other, _) = planted.sb2(1, 4), planted.sb2(1, 4), planted.sb2(2, 4)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0][0], other[0][0])
