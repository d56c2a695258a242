"""GNN-ViTCap: DEC against loops and planted clusters, redundancy, the graph, and shares that do not count."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.aggregators import mixing
from models.aggregators.mixing import auroc, random_bags, trained, witnessed
from torch import Tensor
from torch.nn.functional import cosine_similarity

from histostudy.errors import ModelError
from histostudy.models.aggregators.gnn_vitcap import (
    GnnViTCap,
    clustering_loss,
    neighbour_graph,
    soft_assignment,
    target_shares,
)
from histostudy.models.batch import BagBatch
from histostudy.models.io import load_model, save_model
from histostudy.models.model import MILModel
from histostudy.models.registry import build_aggregator

SMALL = {"hidden": 16, "latent": 4, "clusters": 5, "neighbours": 2}
KINDS = [("attention", "learned"), ("attention", "centre"), ("member", "learned"), ("member", "centre")]


def build(dim: int = 6, **options: object) -> GnnViTCap:
    torch.manual_seed(0)
    model = build_aggregator("gnn_vitcap", dim, {**SMALL, **options})
    assert isinstance(model, GnnViTCap)
    return model


def test_shares_targets_and_loss_equal_slow_loops() -> None:
    points, centres = random_bags(20, 4)
    q = torch.tensor([[1 / (1 + float((z - m).square().sum())) for m in centres] for z in points]).double()
    q = torch.stack([row / row.sum() for row in q])
    p = torch.tensor([[float(q[i, j] ** 2 / q[:, j].sum()) for j in range(4)] for i in range(20)]).double()
    p = torch.stack([row / row.sum() for row in p])
    kl = sum(float(p[i, j] * (p[i, j] / q[i, j]).log()) for i in range(20) for j in range(4)) / 20
    shares = soft_assignment(points, centres)
    torch.testing.assert_close(shares, q, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(target_shares(shares), p, atol=1e-7, rtol=1e-6)
    assert float(clustering_loss(target_shares(shares), shares)) == pytest.approx(kl, rel=1e-5)
    torch.testing.assert_close(target_shares(shares).sum(1), torch.ones(20).double())


def planted(seed: int = 0, count: int = 800, nuisance: int = 28) -> tuple[Tensor, Tensor]:
    """Four clusters in four dimensions among dimensions that say nothing."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(count) % 4
    tiles = torch.randn(count, 4 + nuisance, generator=generator)
    tiles[:, :4] += 5 * torch.eye(4)[kind]
    return tiles, kind


@pytest.mark.parametrize(("nuisance", "seed"), [(4, 0), (4, 1), (28, 0), (28, 1)])
def test_dec_finds_planted_clusters_better_than_k_means(nuisance: int, seed: int) -> None:
    """Among 28 dimensions that say nothing it is better than k-means, but does not get all (about 0.3 to 0.5)."""
    from sklearn.metrics import adjusted_rand_score

    tiles, kind = planted(seed, nuisance=nuisance)
    rand, sure = [], []
    for steps in (0, 200):
        model = build(tiles.shape[1], clusters=4, hidden=64, latent=8, steps=steps)
        model.prepare(lambda most: tiles[:most], seed)
        with torch.no_grad():
            shares = model.eval().shares(model.embed(tiles))
        rand.append(adjusted_rand_score(kind.numpy(), shares.argmax(1).numpy()))
        sure.append(float(shares.amax(1).mean()))
    assert rand[1] >= rand[0] + 0.1
    assert sure[1] > sure[0]
    if nuisance == 4:
        assert rand[1] > 0.95


def test_kl_falls_along_the_steps_to_a_fixed_target() -> None:
    tiles, _ = planted()
    model = build(32, clusters=4, steps=0)
    model.prepare(lambda most: tiles[:most], 0)
    model.eval()
    with torch.no_grad():
        target = target_shares(model.shares(model.embed(tiles)))
    losses = []
    for steps in (1, 20, 100):
        again = build(32, clusters=4, steps=steps, refresh=1000)
        again.prepare(lambda most: tiles[:most], 0)
        with torch.no_grad():
            losses.append(float(clustering_loss(target, again.eval().shares(again.embed(tiles)))))
    assert losses[0] > losses[1] > losses[2] >= 0


def test_clusters_are_those_of_the_seed_and_do_not_touch_the_global_generator() -> None:
    tiles, _ = planted()
    models = [build(32, steps=5) for _ in range(3)]
    before = torch.get_rng_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        model.prepare(lambda most: tiles[:most], seed)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(models[0].centres, models[1].centres)
    assert not torch.equal(models[0].centres, models[2].centres)
    assert models[0].training


def test_too_few_tiles_are_one_line_and_equal_ones_do_no_harm() -> None:
    with pytest.raises(ModelError, match="3 training tiles for 5 clusters"):
        build().prepare(lambda most: torch.randn(3, 6), 0)
    model = build(steps=3)
    model.prepare(lambda most: torch.ones(40, 6), 0)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize(("representative", "query"), KINDS)
def test_the_same_tile_twice_counts_once(representative: str, query: str) -> None:
    model = build(representative=representative, query=query).double().eval()
    bags = random_bags(1, 9, 30)
    some = [torch.cat([bag, bag[: len(bag) // 2]]) for bag in bags]
    with torch.no_grad():
        vectors, maps = model(BagBatch.pack(bags))
        for times in (2, 3):
            again, spread = model(BagBatch.pack([bag.repeat(times, 1) for bag in bags]))
            torch.testing.assert_close(again, vectors, atol=1e-10, rtol=1e-10)
            first = spread.split([times * len(bag) for bag in bags])[2]
            torch.testing.assert_close(times * first[:30], maps[10:], atol=1e-10, rtol=1e-10)
        if representative == "member":
            torch.testing.assert_close(model(BagBatch.pack(some))[0], vectors, atol=1e-10, rtol=1e-10)


def slow_forward(model: GnnViTCap, bag: Tensor) -> tuple[Tensor, Tensor]:
    """One cluster, one pair of representatives at a time."""
    options = model.options
    h = model.embed(bag)
    z = model.project(h)
    nearest = torch.tensor([int((model.centres - point).norm(dim=1).argmin()) for point in z])
    used, weights, tokens = sorted(set(nearest.tolist())), torch.zeros(len(bag)).double(), []
    for j in used:
        held = torch.nonzero(nearest == j)[:, 0]
        query = model.centres[j] if model.query is None else model.query
        share = (z[held] @ query / options.latent**0.5).softmax(0)
        if options.representative == "member":
            share = (torch.arange(len(held)) == share.argmax()).double()
        weights[held] = share
        tokens.append((share[:, None] * h[held]).sum(0))
    k, x = len(used), torch.stack(tokens)
    near = torch.eye(k).double()
    for i in range(k):
        others = sorted((j for j in range(k) if j != i), key=lambda j: -float(cosine_similarity(x[i], x[j], dim=0)))
        for j in others[: options.neighbours]:
            near[i, j] = near[j, i] = 1
    degree = near.sum(1)
    for layer in model.layers:
        moved = [sum(near[i, j] / (degree[i] * degree[j]) ** 0.5 * (x[j] @ layer.weight.T) for j in range(k))
                 for i in range(k)]  # fmt: skip
        x = torch.stack(moved).relu()
    return x.mean(0), weights / k


@pytest.mark.parametrize(("representative", "query"), KINDS)
@pytest.mark.parametrize("count", [1, 2, 30])
def test_it_equals_a_slow_loop(count: int, representative: str, query: str) -> None:
    model = build(representative=representative, query=query).double().eval()
    (bag,) = random_bags(count)
    with torch.no_grad():
        vectors, maps = model(BagBatch.pack([bag]))
        expected, attention = slow_forward(model, bag)
    torch.testing.assert_close(vectors[0], expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(maps, attention, atol=1e-9, rtol=1e-9)


def test_the_graph_is_symmetric_and_leaves_out_what_is_not_there() -> None:
    tokens = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1], [0, 0, 1, 0, 0, 0]]) > 0
    graph = neighbour_graph(tokens, real, 2)
    torch.testing.assert_close(graph, graph.transpose(1, 2))
    assert not graph[~real].any()
    assert (graph.diagonal(dim1=1, dim2=2)[real] > 0).all()
    assert graph[2, 2, 2] == 1
    assert ((graph[0] > 0).sum(1) >= 3).all()


def test_the_penalty_is_gamma_times_the_loss_in_training_alone() -> None:
    batch = BagBatch.pack([bag.float() for bag in random_bags(9, 30)])
    model = build(gamma=0.5, dropout=0.0)
    model(batch)
    own = model.penalty({}, lambda v, p=None: v.sum())
    with torch.no_grad():
        shares = model.shares(model.embed(batch.features))
        assert float(own) == pytest.approx(0.5 * float(clustering_loss(target_shares(shares), shares)), rel=1e-5)
    own.backward()
    assert model.centres.grad.abs().sum() > 0
    assert build(gamma=0)(batch) is not None and build(gamma=0).penalty({}, lambda v, p=None: v.sum()) is None
    model.eval()(batch)
    assert model.penalty({}, lambda v, p=None: v.sum()) is None


@pytest.mark.parametrize("representative", ["attention", "member"])
def test_the_query_is_trained(representative: str) -> None:
    model = build(representative=representative)
    model(BagBatch.pack([bag.float() for bag in random_bags(20, 9)]))[0].square().sum().backward()
    assert model.query.grad.abs().sum() > 0


@pytest.mark.parametrize(("representative", "query"), KINDS)
def test_what_every_aggregator_must_hold_to(representative: str, query: str) -> None:
    options = {"representative": representative, "query": query}
    mixing.check_company_changes_nothing(build(**options))
    mixing.check_gradients_stay_in_their_bag(build(**options))
    mixing.check_tiny_bags(build(**options))
    mixing.check_half_precision(build(**options))
    mixing.check_evaluation_draws_nothing(build(**options))
    assert max(mixing.moved_by_permutation(build(**options))) < 1e-9


def test_clusters_are_stored_with_the_weights(tmp_path: Path) -> None:
    model = MILModel(6, "gnn_vitcap", SMALL | {"steps": 3}, {"kind": "classification", "classes": ["a", "b"]})
    tiles = random_bags(60)[0].float()
    model.aggregator.prepare(lambda most: tiles[:most], 0)
    save_model(tmp_path / "w.safetensors", model)
    batch = BagBatch.pack([tiles[:7], tiles[7:]])
    with torch.no_grad():
        assert torch.equal(model.eval()(batch)[0], load_model(tmp_path / "w.safetensors")[0](batch)[0])


def test_it_learns_which_bags_hold_witnesses_which_the_mean_hardly_sees() -> None:
    train, test = witnessed(0, 192), witnessed(1, 120)
    found = auroc(trained("gnn_vitcap", {"hidden": 32}, *train, epochs=20), *test)
    assert found > 0.8
    assert found > auroc(trained("mean", {}, *train, epochs=20), *test) + 0.05


def test_no_effect_is_not_found() -> None:
    bags, y = witnessed(0, 192, shift=0.0)
    test, truth = witnessed(1, 200, shift=0.0)
    assert auroc(trained("gnn_vitcap", {"hidden": 32}, bags, y, epochs=5), test, truth) == pytest.approx(0.5, abs=0.12)
