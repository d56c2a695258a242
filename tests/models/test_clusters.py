"""Clusters of one bag: a local optimum, found whatever the order, remembered by the bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histostudy.models.batch import BagBatch
from histostudy.models.clusters import ClusterCache, cluster_labels, cluster_means, spread_over_tiles


def test_planted_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 8, (7, 10))
    truth = rng.integers(0, 7, 400)
    labels = cluster_labels(torch.from_numpy(centres[truth] + rng.normal(size=(400, 10))).float(), 7).numpy()
    pairs = set(zip(truth.tolist(), labels.tolist(), strict=True))
    assert len(pairs) == 7


def test_the_end_of_the_iterations_is_a_fixed_point_of_lloyd() -> None:
    points = torch.from_numpy(np.random.default_rng(1).normal(size=(300, 4))).float()
    labels = cluster_labels(points, 9, iterations=500)
    centres = torch.stack([points[labels == k].mean(0) for k in range(9)])
    assert torch.equal(torch.cdist(points, centres).argmin(1), labels)


def test_ten_iterations_are_about_as_good_as_scikit_learn() -> None:
    from sklearn.cluster import KMeans

    points = np.random.default_rng(2).normal(size=(500, 6)).astype("float32")
    labels = cluster_labels(torch.from_numpy(points), 20).numpy()
    ours = sum(((points[labels == k] - points[labels == k].mean(0)) ** 2).sum() for k in range(20))
    assert ours < 1.1 * KMeans(20, n_init=1, random_state=0).fit(points).inertia_


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 60), clusters=st.integers(1, 20), seed=st.integers(0, 99), repeats=st.integers(1, 3))
def test_any_order_gives_the_same_clusters_without_gaps(count: int, clusters: int, seed: int, repeats: int) -> None:
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(np.repeat(rng.normal(size=(count, 3)), repeats, axis=0)).float()
    labels = cluster_labels(points, clusters)
    shuffle = torch.from_numpy(rng.permutation(len(points)))
    again = cluster_labels(points[shuffle], clusters)
    if repeats == 1 or len(points) > clusters:
        assert torch.equal(again, labels[shuffle])
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
    assert labels.max() < clusters


def test_identical_points_are_one_cluster() -> None:
    assert cluster_labels(torch.ones(20, 3), 5).tolist() == [0] * 20


def test_the_cache_answers_as_the_search_does_and_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ClusterCache(4, most=100)
    bags = [torch.randn(30, 3) for _ in range(10)]
    batch = BagBatch.pack(bags)
    for _ in range(2):
        for bag, labels in zip(bags, cache.labels(batch.features, batch.offsets.tolist()), strict=True):
            assert torch.equal(labels, cluster_labels(bag, 4))
    assert len(cache._labels) <= 100 // 30
    assert cache._size == sum(map(len, cache._labels.values()))
    # the same tiles in another order are another key, or the labels would be of the wrong tiles
    turned = bags[-1].clone()
    turned[1:-1] = turned[1:-1].flip(0)
    assert torch.equal(cache.labels(turned, [0, 30])[0], cluster_labels(turned, 4))


def test_means_and_shares_of_packed_bags() -> None:
    batch = BagBatch.pack([torch.tensor([[1.0], [3.0], [10.0]]), torch.tensor([[7.0]])])
    tokens, place = cluster_means(batch, [torch.tensor([1, 1, 0]), torch.tensor([0])])
    assert tokens.features.flatten().tolist() == [10, 2, 7]
    assert tokens.offsets.tolist() == [0, 2, 3]
    assert spread_over_tiles(torch.tensor([0.4, 0.6, 1.0]), place).tolist() == pytest.approx([0.3, 0.3, 0.4, 1.0])
