"""Probes against scikit-learn and slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histostudy.errors import ModelError
from histostudy.training.tile_classification import probes
from histostudy.training.tile_classification.probes import KnnOptions, LinearProbeOptions, PrototypesOptions, Space


def blobs(n: int, classes: int, dim: int = 6, apart: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim)) * apart
    y = rng.integers(classes, size=n)
    return (centres[y] + rng.normal(size=(n, dim))).astype(np.float32), y


def test_the_linear_probe_is_scikit_learns_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    (x, y), (queries, _) = blobs(90, 3), blobs(40, 3, seed=1)
    x[:, 5] = 2.0  # a constant column
    probe, path = probes.fit_probe(x, y, 3, None, np.zeros(90, int), penalty=0.1)
    z = (x - x.mean(0)) / np.where(x.std(0) > 1e-6, x.std(0), 1)
    oracle = LogisticRegression(C=1 / (0.1 * len(x)), tol=1e-10, max_iter=5000).fit(z, y)
    said = oracle.predict_proba((queries - x.mean(0)) / np.where(x.std(0) > 1e-6, x.std(0), 1))
    np.testing.assert_allclose(probe.probabilities(queries), said, atol=2e-4)
    assert [row["best"] for row in path] == [True] and path[0]["penalty"] == 0.1


def test_the_inner_part_chooses_the_penalty_and_noise_is_shrunk_away() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 50)), rng.integers(2, size=60)
    inner = rng.normal(size=(60, 50)), rng.integers(2, size=60)
    probe, path = probes.fit_probe(x, y, 2, inner, np.arange(60))
    best = min(path, key=lambda row: row["val_loss"])
    assert best["best"] and best["penalty"] >= 0.3  # nothing to learn: a strong one
    weak, _ = probes.fit_probe(x, y, 2, inner, np.arange(60), penalty=1e-4)
    apart = [np.abs(one.probabilities(inner[0]) - 0.5).mean() for one in (probe, weak)]
    assert apart[0] < 0.5 * apart[1], apart
    (x, y), inner = blobs(200, 3), blobs(100, 3, seed=5)
    assert next(row for row in probes.fit_probe(x, y, 3, inner, np.arange(200))[1] if row["best"])["penalty"] < 0.1


def test_without_an_inner_part_groups_of_patients_choose() -> None:
    x, y = blobs(120, 3)
    probe, path = probes.fit_probe(x, y, 3, None, np.arange(120) // 10)
    assert len(path) == 1 and path[0]["penalty"] in probes.PENALTIES
    assert (probe.probabilities(x).argmax(1) == y).mean() > 0.9
    with pytest.raises(ModelError, match="one patient"):
        probes.fit_probe(x, y, 3, None, np.zeros(120, int))


def test_a_class_without_a_training_tile_is_not_called() -> None:
    x, y = blobs(80, 3)
    kept = y != 1
    probe, _ = probes.fit_probe(x[kept], y[kept], 3, None, np.arange(kept.sum()), penalty=0.01)
    assert (probe.probabilities(x).argmax(1) != 1).all()
    means = probes.prototypes(Space.of(x)(x), np.where(y == 1, 0, y), 3)
    assert np.isnan(means[1]).all()
    said = probes.softmax_of_distances(probes.squared_distances(x[:5], means), 0.1)
    assert (said[:, 1] == 0).all() and np.allclose(said.sum(1), 1)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("normalise", [True, False])
def test_votes_are_those_of_scikit_learns_neighbours(distance: str, normalise: bool) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    (x, y), (queries, _) = blobs(70, 4, apart=0.5), blobs(30, 4, apart=0.5, seed=2)
    said = probes.knn_probabilities(x, y, queries, 4, KnnOptions(k=7, distance=distance, normalise=normalise))
    space = Space.of(x)
    a, b = (space(x), space(queries)) if normalise else (x, queries)
    oracle = KNeighborsClassifier(7, metric=distance, algorithm="brute").fit(a, y)
    np.testing.assert_allclose(said, oracle.predict_proba(b), atol=1e-12)


def test_fewer_tiles_than_neighbours_all_vote_and_similar_ones_weigh_more() -> None:
    x, y = blobs(5, 2)
    said = probes.knn_probabilities(x, y, x[:1], 2, KnnOptions(k=20))
    np.testing.assert_allclose(said[0], np.bincount(y, minlength=2) / 5)
    weighed = probes.knn_probabilities(x, y, x[:1], 2, KnnOptions(k=20, weights="similarity"))
    assert weighed[0, y[0]] > said[0, y[0]]


def test_prototypes_are_those_of_a_slow_loop() -> None:
    (x, y), (queries, _) = blobs(40, 3), blobs(10, 3, seed=4)
    space = Space.of(x)
    means = probes.prototypes(space(x), y, 3)
    found = probes.squared_distances(space(queries), means)
    centre = [sum(float(row[j]) for row in x) / 40 for j in range(6)]

    def scaled(row: np.ndarray) -> list[float]:
        moved = [float(v) - c for v, c in zip(row, centre, strict=True)]
        length = sum(v * v for v in moved) ** 0.5
        return [v / length for v in moved]

    for k in range(3):
        members = [scaled(row) for row, label in zip(x, y, strict=True) if label == k]
        mean = [sum(row[j] for row in members) / len(members) for j in range(6)]
        for i, query in enumerate(queries):
            apart = sum((a - b) ** 2 for a, b in zip(scaled(query), mean, strict=True))
            assert abs(found[i, k] - apart) < 1e-6


def test_few_shots_draw_from_each_class_and_stop_where_a_class_has_no_more() -> None:
    (x, y), (queries, truth) = blobs(60, 3, apart=0.7), blobs(60, 3, apart=0.7, seed=7)
    least = int(np.bincount(y).min())
    options = PrototypesOptions(shots=[1, 4, least, least + 1], draws=8)
    called = probes.few_shots(x, y, queries, 3, options, seed=5)
    assert {shots for shots, _ in called} == {1, 4, least} and len(called) == 24
    accuracy = {s: np.mean([(c == truth).mean() for (n, _), c in called.items() if n == s]) for s in (1, 4)}
    assert accuracy[4] > accuracy[1] > 1 / 3
    again = probes.few_shots(x, y, queries, 3, options, seed=5)
    assert all((called[key] == again[key]).all() for key in called)
    other = probes.few_shots(x, y, queries, 3, options, seed=6)
    assert any((called[key] != other[key]).any() for key in called)


def test_retrieval_is_that_of_a_slow_loop() -> None:
    (x, y), (queries, truth) = blobs(30, 3, apart=0.7), blobs(8, 4, apart=0.7, seed=9)
    found = probes.retrieval(x, y, queries, truth)
    space = Space.of(x)
    a, b = space(x), space(queries)
    for i, query in enumerate(b):
        order = sorted(range(30), key=lambda j: (-float(query @ a[j]), j))
        hits = [y[j] == truth[i] for j in order]
        for rank in (1, 3, 5):
            assert found[f"retrieval_acc@{rank}"][i] == float(any(hits[:rank]))
        precisions = [sum(hits[: k + 1]) / (k + 1) for k in range(30) if hits[k]]
        expected = sum(precisions) / len(precisions) if precisions else 0.0
        assert abs(found["retrieval_map"][i] - expected) < 1e-12
    assert (truth == 3).any() and (found["retrieval_map"][truth == 3] == 0).all()


def test_shuffled_classes_are_at_chance_over_many_shuffles() -> None:
    x, y = blobs(120, 3, apart=3)
    owner = np.arange(120) // 6
    right: dict[str, list[float]] = {"probe": [], "knn": [], "prototypes": []}
    for seed in range(12):
        shuffled = np.random.default_rng(seed).permutation(y)
        train, test = owner % 3 != seed % 3, owner % 3 == seed % 3
        truth = shuffled[test]
        probe, _ = probes.fit_probe(x[train], shuffled[train], 3, None, owner[train], penalty=1e-3)
        right["probe"].append((probe.probabilities(x[test]).argmax(1) == truth).mean())
        said = probes.knn_probabilities(x[train], shuffled[train], x[test], 3, KnnOptions())
        right["knn"].append((said.argmax(1) == truth).mean())
        space = Space.of(x[train])
        means = probes.prototypes(space(x[train]), shuffled[train], 3)
        right["prototypes"].append((probes.squared_distances(space(x[test]), means).argmin(1) == truth).mean())
    for name, values in right.items():
        assert abs(np.mean(values) - 1 / 3) < 0.07, (name, np.mean(values))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(LinearProbeOptions, {"penalty": 0}), (KnnOptions, {"k": 0}), (KnnOptions, {"distance": "city"}),
     (PrototypesOptions, {"shots": [4, 2]}), (PrototypesOptions, {"shots": []}), (PrototypesOptions, {"draws": 0})],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(kind: type, options: dict) -> None:
    with pytest.raises(ModelError):
        kind(**options)


def test_the_solution_does_not_depend_on_the_order_of_the_tiles() -> None:
    x, y = blobs(60, 3)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).numpy()
    one, _ = probes.fit_probe(x, y, 3, None, np.arange(60), penalty=0.01)
    two, _ = probes.fit_probe(x[order], y[order], 3, None, np.arange(60), penalty=0.01)
    np.testing.assert_allclose(one.probabilities(x), two.probabilities(x), atol=1e-5)
