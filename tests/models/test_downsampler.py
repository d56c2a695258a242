"""The downsampler: counts, what a token is made of, and that inference is tile by tile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from histostudy.models.batch import BagBatch
from histostudy.models.downsampler import Downsampler
from histostudy.models.front import build_front
from histostudy.models.io import load_model, save_model
from histostudy.models.model import MILModel

LENGTHS = (37, 8, 9, 1, 100)
TOKENS = (10, 8, 3, 1, 25)  # 8 and 1 are at most 2 x 4 tiles


def bags(*lengths: int, dim: int = 6, seed: int = 0) -> BagBatch:
    generator = torch.Generator().manual_seed(seed)
    packed = BagBatch.pack([torch.randn(n, dim, generator=generator) for n in lengths])
    number = torch.arange(len(packed.features))
    return replace(packed, coords=number[:, None].expand(-1, 2).contiguous())


def layer(channels: str = "pick", dim: int = 6, **settings: object) -> Downsampler:
    torch.manual_seed(0)
    return Downsampler(dim, **({"ratio": 4, "min_tiles": 2, "channels": channels} | settings))


def test_large_bags_are_grouped_in_training_alone() -> None:
    for channels in ("pick", "subset"):
        front, batch = layer(channels), bags(*LENGTHS)
        out = front.train()(batch)
        assert out.lengths.tolist() == list(TOKENS)
        assert out.features.shape == (sum(TOKENS), 6) and torch.isfinite(out.features).all()
        assert torch.equal(torch.bucketize(out.coords[:, 0].contiguous(), batch.offsets[1:], right=True), out.segments)
        small = out.features[10:18], out.features[21:22]
        still = front.eval()(batch)
        assert still.lengths.tolist() == list(LENGTHS) and torch.equal(still.coords, batch.coords)
        # small bags are the same in both modes, in their order
        for one, rows in zip(small, (slice(37, 45), slice(54, 55)), strict=True):
            assert torch.allclose(one, still.features[rows], atol=1e-6)


def test_inference_is_tile_by_tile_and_draws_nothing() -> None:
    front, batch = layer().eval(), bags(*LENGTHS)
    before = torch.get_rng_state()
    out = front(batch).features
    assert torch.equal(before, torch.get_rng_state())
    order = torch.cat([torch.randperm(37), torch.arange(37, 155)])
    assert torch.allclose(front(batch.with_features(batch.features[order])).features, out[order], atol=1e-6)
    tiles = batch.features[:37]
    weights = front.attention(tiles).softmax(0)
    expected = front.out(torch.nn.functional.gelu(front.embed(tiles + weights * tiles)))
    assert torch.allclose(out[:37], expected, atol=1e-6)


def test_every_tile_is_in_one_group_of_its_bag() -> None:
    front, batch = layer(), bags(*LENGTHS)
    members, offsets = front.groups(batch)
    assert offsets.diff().tolist() == list(TOKENS)
    used = members[members >= 0]
    assert torch.equal(used.sort().values, torch.arange(155))
    for row in members:
        assert len(batch.segments[row[row >= 0]].unique()) == 1
    assert not torch.equal(members, front.groups(batch)[0])  # shuffled anew


def test_scales_are_not_mixed() -> None:
    batch = bags(30, 20)
    scales = torch.tensor([0.5, 1.0, 2.0]).repeat(17)[:50]
    front = layer()
    members, _ = front.groups(replace(batch, scales=scales))
    for row in members:
        assert len(scales[row[row >= 0]].unique()) == 1
    out = front.train()(replace(batch, scales=scales))
    counts = [[-(-int((scales[a:b] == s).sum()) // 4) for s in (0.5, 1.0, 2.0)] for a, b in ((0, 30), (30, 50))]
    assert out.lengths.tolist() == [sum(c) for c in counts]
    assert [int((out.scales == s).sum()) for s in (0.5, 1.0, 2.0)] == [sum(c) for c in zip(*counts, strict=True)]


def test_a_picked_token_is_on_average_the_mean_of_its_tiles() -> None:
    front = layer()
    embedded = torch.randn(7, 6)
    members = torch.tensor([[3, 1, 0, 6], [2, 5, -1, -1], [4, -1, -1, -1]])
    many = torch.stack([front.joined(embedded, members) for _ in range(4000)])
    means = torch.stack([embedded[row[row >= 0]].mean(0) for row in members])
    assert torch.allclose(many.mean(0), means, atol=0.1)
    for token, row in enumerate(members):  # and each channel is one of its tiles' channel
        assert (many[:100, token, None] == embedded[row[row >= 0]]).any(1).all()


def test_a_published_subset_is_sorted_and_shared_by_the_tokens() -> None:
    front = layer("subset", ratio=2)
    # the number of the place in the row of all channels, channel by channel
    place = torch.arange(12.0).reshape(6, 2).T
    embedded = torch.cat([place, place + 100])
    members = torch.tensor([[0, 1], [2, 3], [0, -1]])
    torch.manual_seed(3)
    out = front.joined(embedded, members)
    assert (out[0].diff() > 0).all() and torch.equal(out[1], out[0] + 100)
    assert torch.equal(out[2], embedded[0])  # one tile alone is that tile


def test_a_short_group_is_filled_with_zeros_before_the_embedding() -> None:
    front = layer("subset", ratio=3)
    pad = torch.nn.functional.gelu(front.embed.bias).detach()
    embedded = torch.full((2, 6), 7.0)
    with torch.no_grad():
        out = torch.stack([front.joined(embedded, torch.tensor([[0, 1, -1]]))[0] for _ in range(200)])
    assert set(out.unique().tolist()) == {7.0, *pad.tolist()}


@pytest.mark.parametrize("channels", ["pick", "subset"])
def test_gradients_reach_all_layers_and_do_not_depend_on_batch_mates(channels: str) -> None:
    front, batch = layer(channels).train(), bags(40, 50)
    batch.features.requires_grad_()
    out = front(batch)
    out.features[: out.lengths[0]].square().sum().backward()
    assert batch.features.grad[:40].any() and not batch.features.grad[40:].any()
    assert all(p.grad is not None and p.grad.any() for p in front.parameters())


def test_saved_and_loaded_with_the_model(tmp_path: Path) -> None:
    head = {"kind": "classification", "classes": ["a", "b"]}
    front = {"downsampler": {"ratio": 3, "min_tiles": 2, "channels": "subset", "attention": 5}}
    torch.manual_seed(0)
    model = MILModel(6, "abmil", {}, head, front=front).eval()
    save_model(tmp_path / "m.safetensors", model)
    loaded, config = load_model(tmp_path / "m.safetensors")
    assert config["front"] == front and isinstance(loaded.front[0], Downsampler) and loaded.front[0].ratio == 3
    assert torch.equal(model(bags(*LENGTHS))[0], loaded(bags(*LENGTHS))[0])
    assert len(build_front(6, {})) == 0
