"""CoMEL: what is protected stays as it was, and tiles are called right where they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training.continual.streams import Bags, Stream, keys_of, learner_of, matrices, stream

from histostudy.training.continual.comel import CoMELLearner
from histostudy.training.continual.owlora import adapted


def _planes(seed: int = 0, dim: int = 24) -> Stream:
    """Two tasks of few tiles: what the first puts into any layer spans few directions of it."""
    rng = np.random.default_rng(seed)
    bags = [rng.normal(size=(2, dim)) + 1.5 * (k % 2) for k in range(10)]
    bags += [rng.normal(size=(20, dim)) - 1.5 * (k % 2) for k in range(40)]
    return Stream(Bags.of(bags), np.arange(50) % 2, np.repeat([0, 1], [10, 40]), 2)


def _learned_two(orthogonality: str) -> tuple[float, float, CoMELLearner]:
    """How far outputs of the first task drift while the second is learned, and the largest ||A U|| in the steps."""
    data = _planes()
    keys = keys_of(method="comel", orthogonality=orthogonality, energy=1.0)
    learner = learner_of(data, keys, hidden=96, attention=48, groups=4, epochs=10)
    assert isinstance(learner, CoMELLearner)
    learner.learn(0, data.part(0, (0, 1, 2, 3, 4)), data.part(0, ()))
    rows, largest = data.part(0, (0, 1, 2, 3, 4)).rows, 0.0
    before = learner.predict(rows)[:, :2]
    if orthogonality == "inputs":  # 20 tiles leave room in the layers of 48 and 96
        assert all(0 < layer.used < 1 for layer in adapted(learner.network) if layer.basis.shape[0] > 40)
    plain = learner.after_step

    def watched() -> None:
        nonlocal largest
        plain()
        largest = max(largest, *(float((a.a @ a.basis).detach().norm()) for a in adapted(learner.network)))

    learner.after_step = watched  # type: ignore[method-assign]
    learner.learn(1, data.part(1, (0, 1, 2, 3, 4)), data.part(1, ()))
    return float((learner.predict(rows)[:, :2] - before).abs().max()), largest, learner


def test_outputs_of_an_old_task_do_not_drift() -> None:
    drift, largest, learner = _learned_two("inputs")
    assert largest <= 1e-6 and drift <= 1e-5
    part = _planes().part(1, (0, 1, 2, 3, 4))
    logits = learner.predict(part.rows)[:, 2:]
    assert float((logits.argmax(1) + 2 == part.y).double().mean()) > 0.9  # and the new one was learned


def test_they_do_with_orthogonal_rows() -> None:
    drift, largest, _ = _learned_two("rows")
    assert largest <= 1e-6 and drift > 0.05


def test_nothing_but_adapters_and_the_own_head_is_trained() -> None:
    data = stream(0, patients=10, tasks=2)
    learner = learner_of(data, keys_of(method="comel"), epochs=2)
    learner.learn(0, data.part(0, (0, 1, 2)), data.part(0, (3,)))
    held = {name: value.clone() for name, value in learner.network.state_dict().items()}
    learner.learned = 1
    learner.start(1, data.part(1, (0, 1, 2)))
    names = {name for name, p in learner.network.named_parameters() if p.requires_grad}
    assert all(name.startswith(("heads.1", "instances.1")) or name.endswith((".a", ".b")) for name in names)
    learner.fit(data.part(1, (0, 1, 2)), data.part(1, (3,)))
    after = learner.network.state_dict()
    assert all(torch.equal(after[name], held[name]) for name in held if name not in names)


def _sb2(seed: int, bags: int = 80) -> tuple[Stream, np.ndarray]:
    """The reference problem of section 1.4: one easy witness, the others hard, and a nuisance of each slide."""
    rng = np.random.default_rng(100 + seed)
    out, witnesses = [], []
    for i in range(bags):
        n = rng.integers(40, 81)
        x, mine = rng.normal(size=(n, 32)), np.zeros(n, bool)
        x[:, 4:] += 0.5 * rng.normal(size=28)
        if i % 2:
            at = rng.permutation(n)[: max(2, int(0.15 * n))]
            mine[at] = True
            x[at[0], 0] += 5
            x[at[1:], 1:4] += 1.3
        out.append(x)
        witnesses.append(mine)
    return Stream(Bags.of(out), np.arange(bags) % 2, np.zeros(bags, int), 1), np.concatenate(witnesses)


def test_pseudo_labels_are_right_where_they_are_given() -> None:
    """After three epochs of warm-up on 240 bags: 338 of 363 over three seeds, 0.93.

    On the 80 bags of section 1.4 it is 0.79 (126 of 160, bags one by one): after three epochs of them the classifier of
    bags is not there yet.
    """
    data, witness = _sb2(0, 240)
    learner = learner_of(data, keys_of(method="comel", negatives={"t0": "no"}, warm_up=3), epochs=4, attention=16)
    assert isinstance(learner, CoMELLearner)
    learner.training = learner.training.model_copy(update={"batch_size": 2, "lr": 3e-3, "schedule": "constant"})
    part = data.part(0, (0, 1, 2, 3, 4))
    learner.learn(0, part, data.part(0, ()))
    batch = learner.store.batch(part.rows)
    positive = (part.y > 0)[batch.segments]
    with torch.no_grad():
        labels = learner.prototypes.labels(learner.network(batch).tiles, positive).numpy()
    assert (labels[~positive.numpy()] == 0).all()
    assert (labels == 1).sum() >= 50 and witness[labels == 1].mean() >= 0.9
    assert witness[positive.numpy() & (labels == 0)].mean() < 0.05  # among pseudo-negatives; 0.15 among all


def test_before_both_prototypes_are_known_nothing_is_called_positive() -> None:
    data, _ = _sb2(0, 10)
    learner = learner_of(data, keys_of(method="comel", negatives={"t0": "no"}))
    assert isinstance(learner, CoMELLearner)
    batch = learner.store.batch([0, 1])
    with torch.no_grad():
        labels = learner.prototypes.labels(learner.network(batch).tiles, batch.segments == 1)
    assert set(labels[batch.segments == 0].tolist()) == {0} and set(labels[batch.segments == 1].tolist()) == {-1}


def test_a_task_without_a_negative_class_has_no_loss_of_tiles() -> None:
    data, _ = _sb2(0, 10)
    for negatives, trained in (({}, False), ({"t0": "no"}, True)):
        learner = learner_of(data, keys_of(method="comel", negatives=negatives, warm_up=0), epochs=2)
        assert isinstance(learner, CoMELLearner)
        before = learner.network.instances[0].weight.clone()
        learner.training = learner.training.model_copy(update={"weight_decay": 0.0})
        learner.learn(0, data.part(0, (0, 1, 2, 3, 4)), data.part(0, ()))
        assert torch.equal(before, learner.network.instances[0].weight) != trained


def test_where_inputs_fill_every_direction_nothing_is_forgotten_and_less_is_learned() -> None:
    """The price: noise in all directions is protected too, and no direction is left."""
    data = stream(0)
    known = matrices(data, learner := learner_of(data, keys_of(method="comel")))[0]
    assert abs(float(known[-1, 0] - known[0, 0])) <= 0.1
    assert learner.info()["directions_used_most"] == pytest.approx(1)
