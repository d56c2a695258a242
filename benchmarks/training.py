"""Training ABMIL: seconds an epoch, peak memory and AUC beside torchmil's ABMIL on the same bags.

    python benchmarks/training.py [--cores 1] [--epochs 10] [--seeds 3] [--only lung|unequal|large]

torchmil comes in a folder of its own, not in the environment of the package:

    pip install --no-deps --target FOLDER torchmil tensordict torchmetrics einops lightning-utilities \
        pyvers cloudpickle orjson importlib_metadata zipp
    PYTHONPATH=FOLDER python benchmarks/training.py

Without it only our rows are printed. The bags are the HIPT regions of TCGA-LUAD and TCGA-LUSC in the shared data
($HISTOSTUDY_SHARED, or ../shared/data), LUAD v LUSC; where they are not there, simulated ones of the same shape.
The network is the same everywhere (linear 128, ReLU, dropout 0.25, gated attention 64, linear), and so are AdamW, its
rate, its cosine schedule and the number of epochs; torchmil's bags are standardised before its clock starts, ours while
it runs. Each row is trained in a process of its own; the seeds' seconds are their median, their AUC of the held-out
fifth is their mean, the peak of memory is above what the process held with all bags touched.

Bound: bags of 100,000 tiles of 1024 train, one at a time, in at most `BOUND` bytes for each byte of the largest bag,
above the bags themselves. The script fails where that is broken.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histostudy.features.bags import Bags

BOUND = 4.0
LR, WEIGHT_DECAY, HIDDEN, ATTENTION, DROPOUT = 1e-3, 1e-4, 128, 64, 0.25
ROWS = {
    "ours": "histostudy, batches of 32", "ours_one": "histostudy, one at a time",
    "torchmil_one": "torchmil, one at a time", "torchmil": "torchmil, padded by 32",
}  # fmt: skip


def lung() -> tuple[dict[str, Any], list[int]]:
    """Bags of the patients of two lung cancers, and which of the two each has."""
    import numpy as np

    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HISTOSTUDY_SHARED", beside)) / "tcga" / "hipt_bags"
    if not folder.is_dir():
        say("no HIPT bags: simulated ones")
        rng = np.random.default_rng(0)
        y = np.arange(930) % 2
        sizes = np.maximum(1, rng.gamma(4, 11, len(y))).astype(int)
        bags = {f"p{i:04d}": rng.normal(size=(n, 192)) for i, n in enumerate(sizes)}
        for i, bag in enumerate(bags.values()):
            bag[: len(bag) // 3, :8] += y[i] * 0.35
        return bags, y.tolist()
    import h5py

    slides: dict[str, list[Any]] = {}
    kinds: dict[str, int] = {}
    for kind, cohort in enumerate(("LUAD", "LUSC")):
        with h5py.File(folder / f"TCGA-{cohort}.h5") as file:
            features, offset, names = file["features"][:], file["offset"][:], file["slide_id"][:]
        for i, name in enumerate(names):
            patient = name.decode()[:12]
            slides.setdefault(patient, []).append(features[offset[i] : offset[i + 1]])
            kinds[patient] = kind
    return {p: np.concatenate(parts) for p, parts in sorted(slides.items())}, [kinds[p] for p in sorted(slides)]


def unequal() -> tuple[dict[str, Any], list[int]]:
    """Bags of 1 to 20,000 tiles, their logarithms evenly spread."""
    import numpy as np

    rng = np.random.default_rng(0)
    sizes = np.geomspace(1, 20_000, 80).astype(int)[rng.permutation(80)]
    return {f"p{i:03d}": rng.normal(size=(n, 192)) + i % 2 for i, n in enumerate(sizes)}, [i % 2 for i in range(80)]


def large() -> tuple[dict[str, Any], list[int]]:
    """Five bags of 100,000 tiles of 1024."""
    import numpy as np

    rng = np.random.default_rng(0)
    sizes = dict.fromkeys(range(5), 100_000)
    return {f"p{i}": rng.random((n, 1024), np.float32) + i % 2 for i, n in sizes.items()}, [i % 2 for i in range(5)]


DATA: dict[str, Callable[[], tuple[dict[str, Any], list[int]]]] = {"lung": lung, "unequal": unequal, "large": large}


def packed(made: dict[str, Any]) -> Bags:
    """Bags of arrays by patient."""
    import numpy as np

    from histostudy.features.bags import Bags

    sizes = [len(bag) for bag in made.values()]
    return Bags(
        np.concatenate(list(made.values())).astype(np.float32), np.cumsum([0, *sizes]), list(made),
        np.full((sum(sizes), 2), -1), np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), list(made), {},
        "unknown", dict.fromkeys(made),
    )  # fmt: skip


def write(what: str, folder: Path) -> None:
    """Write the bags and labels of a comparison."""
    from histostudy.features.bagfile import write_bags

    made, y = DATA[what]()
    write_bags(packed(made), folder)
    (folder / "labels.json").write_text(json.dumps(y))


def train(row: str, folder: Path, epochs: int, seed: int) -> dict[str, float]:
    """Train one row once: seconds an epoch, peak memory in MB, AUC of the fifth that is held out."""
    import numpy as np
    import torch
    from sklearn.metrics import roc_auc_score

    from histostudy.features.bagfile import open_bags

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run, batch = ours if row.startswith("ours") else theirs, 1 if row.endswith("_one") else 32
    rng = np.random.default_rng(0)
    few = packed({f"p{i:02d}": rng.normal(size=(5, 8)) for i in range(20)})
    run(few, np.arange(20) % 2, np.arange(20) < 4, 1, seed, batch)  # what is imported and set up once
    bags, y = open_bags(folder), np.array(json.loads((folder / "labels.json").read_text()))
    held = rng.permutation(len(y)) < len(y) // 5
    float(sum(bags.bag(patient).sum() for patient in bags.patient_ids))  # every page is there
    before = peak_from_here()
    seconds, scores = run(bags, y, held, epochs, seed, batch)
    largest = int(np.diff(bags.offsets).max()) * bags.features.shape[1] * 4
    return {
        "seconds": seconds / epochs, "mb": (memory("VmHWM") - before) / 1e3, "largest_mb": largest / 1e6,
        "auc": float(roc_auc_score(y[held], scores)) if len(set(y[held])) > 1 else math.nan,
    }  # fmt: skip


def ours(bags: Bags, y: Any, held: Any, epochs: int, seed: int, batch: int) -> tuple[float, Any]:
    """A run as a study trains it, standardisation and the prediction of the held-out part in its seconds."""
    import numpy as np
    import pandas as pd

    from histostudy.cohort.outcomes import Outcome
    from histostudy.studyfile import parse_study
    from histostudy.training.guard import TestPart
    from histostudy.training.loop import train_run
    from histostudy.training.tilestore import TileStore

    training = {"epochs": epochs, "batch_size": batch, "lr": LR, "weight_decay": WEIGHT_DECAY, "epoch": "last"}
    options = {"hidden": HIDDEN, "attention": ATTENTION, "dropout": DROPOUT}
    study = parse_study({
        "study": "benchmark", "cohort": {"name": "benchmark", "simulate": {}},
        "tasks": [{"name": "t", "kind": "classification", "target": "y"}],
        "models": {"m": {"aggregator": "abmil", "options": options, "training": training | {"device": "cpu"}}},
    })  # fmt: skip
    ids = np.array(bags.patient_ids, dtype=object)
    outcome = Outcome(study.tasks[0], ids, y.astype(float), pd.DataFrame(index=pd.Index(ids)), classes=["a", "b"])
    start = time.perf_counter()
    store, test = TileStore.of(bags), TestPart(outcome, ids[held].tolist())
    result = train_run(study.models["m"], store, outcome, ids[~held].tolist(), [], test, seed=seed)
    return time.perf_counter() - start, result.predictions["prob_b"]


def theirs(bags: Bags, y: Any, held: Any, epochs: int, seed: int, batch: int) -> tuple[float, Any]:
    """torchmil's ABMIL and collate function in the plainest loop, with the prediction of the held-out part."""
    import numpy as np
    import torch
    from torch import nn
    from torchmil.data import collate_fn
    from torchmil.models import ABMIL

    tiles = np.concatenate([bags.bag(p) for p, out in zip(bags.patient_ids, held, strict=True) if not out])
    mean, spread = torch.from_numpy(tiles.mean(0)), torch.from_numpy(tiles.std(0))
    del tiles
    made = [
        {"X": (torch.from_numpy(np.array(bags.bag(p))) - mean) / spread, "Y": torch.tensor(float(label))}
        for p, label in zip(bags.patient_ids, y, strict=True)
    ]
    torch.manual_seed(seed)
    embed = nn.Sequential(nn.Linear(bags.dim, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT))
    model = ABMIL(in_shape=(bags.dim,), att_dim=ATTENTION, gated=True, feat_ext=embed)
    peak_from_here()
    start = time.perf_counter()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)

    def loader(chosen: Any, shuffle: bool) -> torch.utils.data.DataLoader:
        some: Any = [made[i] for i in np.flatnonzero(chosen)]
        return torch.utils.data.DataLoader(some, batch_size=batch, shuffle=shuffle, collate_fn=collate_fn)

    fit = loader(~held, shuffle=True)
    for _ in range(epochs):
        model.train()
        for step in fit:
            optimiser.zero_grad()
            _, losses = model.compute_loss(step["Y"], step["X"], step["mask"])
            sum(losses.values()).backward()
            optimiser.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        scores = torch.cat([model(step["X"], step["mask"]) for step in loader(held, shuffle=False)])
    return time.perf_counter() - start, scores.numpy()


def memory(field: str) -> int:
    """VmRSS or VmHWM of this process, kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def peak_from_here() -> int:
    """Let the peak of memory start at what is held now; returns that."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def alone(cores: int, *arguments: str) -> dict[str, float]:
    """Run a step of this script in a process of its own, on some cores."""
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(cores))
    some = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
    done = subprocess.run(
        ["taskset", "-c", some, sys.executable, "-W", "ignore", __file__, *arguments],
        env=env, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def measured(rows: list[str], folder: Path, cores: int, epochs: int, seeds: int) -> dict[str, dict[str, float]]:
    """Train rows with several seeds, taking turns, and print a table."""
    found: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
    for seed in range(seeds):
        for row in rows:
            found[row].append(alone(cores, "--row", row, str(folder), str(epochs), str(seed)))
    table = {}
    for row, runs in found.items():
        middle = sorted(run["seconds"] for run in runs)[len(runs) // 2]
        auc = sum(run["auc"] for run in runs) / len(runs)
        table[row] = runs[0] | {"seconds": middle, "auc": auc, "mb": max(run["mb"] for run in runs)}
        say(f"  {ROWS[row]:26} {middle:8.3f} s an epoch  {table[row]['mb']:7.0f} MB  AUC {auc:.3f}")
    return table


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def compare(what: str, cores: int, epochs: int, seeds: int, folder: Path) -> list[str]:
    """One comparison: a table, and its ratios as lines."""
    from importlib.util import find_spec

    write(what, folder)
    rows = {"lung": list(ROWS), "unequal": ["ours", "torchmil"], "large": ["ours_one", "torchmil_one"]}[what]
    if find_spec("torchmil") is None:
        rows = [row for row in rows if row.startswith("ours")]
    n = len(json.loads((folder / "labels.json").read_text()))
    say(f"{what}: {n} bags, {cores} core(s), {epochs} epochs, {seeds} seed(s)")
    table = measured(rows, folder, cores, epochs, seeds)
    mine = table[rows[0]]
    ratios = [f"{what}, {ROWS[row]}: {table[row]['seconds'] / mine['seconds']:.1f} times" for row in rows[1:]]
    if what == "large":
        share = mine["mb"] / mine["largest_mb"]
        ratios.append(f"large, peak above the bags for each byte of the largest: {share:.2f} (bound {BOUND})")
        if share > BOUND:
            raise SystemExit(f"{ratios[-1]}: the bound on memory is broken")
    return ratios


def main() -> None:
    """Write bags, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=list(DATA))
    parser.add_argument("--row", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        row, folder, epochs, seed = options.row
        say(json.dumps(train(row, Path(folder), int(epochs), int(seed))))
        return
    ratios = []
    for what in [options.only] if options.only else DATA:
        with tempfile.TemporaryDirectory() as folder:
            epochs, seeds = (options.epochs, options.seeds) if what == "lung" else (2, 1)
            ratios += compare(what, options.cores, epochs, seeds, Path(folder))
    for line in ratios:
        say(line)


if __name__ == "__main__":
    main()
