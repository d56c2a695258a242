"""hist2RNA: the published convolutions are an MLP; planted genes are found, and only those."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.aggregators.genedata import correlations, planted_genes, train
from torch import nn

from histostudy.errors import ModelError
from histostudy.models.batch import BagBatch
from histostudy.models.registry import build_aggregator


def test_the_published_convolutions_on_a_sequence_of_one_are_this_mlp() -> None:
    torch.manual_seed(0)
    ours = build_aggregator("hist2rna", 7, {"widths": [5, 6, 6]}).eval()
    published = nn.Sequential(
        nn.Conv1d(7, 5, 5, padding=2), nn.ReLU(), nn.Conv1d(5, 6, 1), nn.ReLU(), nn.Conv1d(6, 6, 1), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(),
    )  # fmt: skip
    linears = [layer for layer in ours.modules() if isinstance(layer, nn.Linear)]
    convolutions = [layer for layer in published if isinstance(layer, nn.Conv1d)]
    with torch.no_grad():
        for linear, convolution in zip(linears, convolutions, strict=True):
            linear.weight.copy_(convolution.weight[:, :, convolution.kernel_size[0] // 2])
            linear.bias.copy_(convolution.bias)
        bags = [torch.randn(n, 7) for n in (1, 4, 9)]
        vectors, attention = ours(BagBatch.pack(bags))
        expected = published(torch.stack([bag.mean(0) for bag in bags])[:, :, None])
        assert vectors.numpy() == pytest.approx(expected.numpy(), abs=1e-6)
        assert vectors.abs().sum() > 0
        # the taps beside the centre see padding alone
        for tap in (0, 1, 3, 4):
            convolutions[0].weight[:, :, tap] = torch.randn(5, 7)
        again = published(torch.stack([bag.mean(0) for bag in bags])[:, :, None])
    assert torch.equal(again, expected)
    assert attention.tolist() == pytest.approx([1.0] + [1 / 4] * 4 + [1 / 9] * 9)


def test_linked_genes_are_found_and_no_others() -> None:
    data = planted_genes(0)
    model = train(data, "hist2rna", {}, range(140), epochs=8, lr=1e-3)
    r = correlations(data, model, range(140, 200))
    assert r[data.linked].min() > 0.5
    assert abs(r[~data.linked].mean()) < 0.1


def test_the_constant_prediction_looks_good_within_a_patient_and_is_nothing_across() -> None:
    """The coefficient within patients, the paper's .82, is that of gene levels (notes on its measure)."""
    data = planted_genes(1)
    constant = data.y[:140].mean(0).numpy()
    within = [np.corrcoef(constant, patient)[0, 1] for patient in data.y[140:].numpy()]
    assert np.mean(within) > 0.9


def test_unlinked_genes_stay_at_chance() -> None:
    data = planted_genes(2, share=0.0)
    r = correlations(data, train(data, "hist2rna", {}, range(140), epochs=8, lr=1e-3), range(140, 200))
    assert abs(r.mean()) < 0.1


@pytest.mark.parametrize("options", [{"widths": []}, {"widths": [0]}, {"widths": 5}, {"dropout": 1}])
def test_wrong_options(options: dict) -> None:
    with pytest.raises(ModelError, match="wrong option"):
        build_aggregator("hist2rna", 4, options)
