"""Tiles a second of an encoder by how it runs, on one core: torch, channels-last, bfloat16, compiled, ONNX Runtime.

    python benchmarks/runtime.py [--tiles 32] [--rounds 5] [--no-compile] [--out runtime.csv]

Random weights (what a network computes does not change how fast), 224 px tiles, from uint8 to vectors, in batches of
16. Ways are timed in turns, the fastest round of each counts, and time is CPU time of the process, so that other
people's work on the machine disturbs little; a GPU is timed by the clock instead (`--device cuda`). `difference` is the
largest one to float32 torch, as a share of the largest number.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # after the number of threads
import pandas as pd

NETWORKS = {"resnet18": {"in_chans": 3}, "vit_tiny_patch16_224": {"img_size": 224}}
BATCH = 16


def saved(folder: Path, architecture: str, options: dict[str, Any]) -> None:
    """A network of random weights as a folder of the hub."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": architecture, "model_args": options, "pretrained_cfg": {"input_size": [3, 224, 224]}}
    (folder / "config.json").write_text(json.dumps(config))


def ways(folder: Path, device: str, compiled: bool) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Each way to run the encoder of a folder, the reference first."""
    from histostudy.encoders.registry import load_encoder
    from histostudy.study import Features

    def load(**keys: Any) -> Any:
        given = Features(encoder="timm:a/b", checkpoint=folder, batch_size=BATCH, **keys)
        return load_encoder(given, 0.5, device)

    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "torch float32, NCHW": _planes(load(precision="float32")),
        "torch float32": load(precision="float32").encode,
        "torch bfloat16": load(precision="bfloat16").encode,
    }
    if device != "cpu":
        found["torch float16"] = load(precision="float16").encode
    if compiled:
        found["torch.compile"] = load(compile=True).encode
    if device == "cpu":
        found["ONNX Runtime"] = load(runtime="onnx").encode
    return found


def _planes(encoder: Any) -> Callable[[np.ndarray], np.ndarray]:
    """What tiles and weights in the usual order of torch would take."""
    import torch

    encoder.module.to(memory_format=torch.contiguous_format)
    prepared = encoder._prepare
    encoder._prepare = lambda pixels: prepared(pixels).contiguous()
    return encoder.encode


def measure(architecture: str, tiles: np.ndarray, rounds: int, device: str, compiled: bool) -> pd.DataFrame:
    """One row a way."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch
        folder = Path(scratch) / architecture
        saved(folder, architecture, NETWORKS[architecture])
        rows: dict[str, dict[str, Any]] = {}
        reference: np.ndarray | None = None
        runs = ways(folder, device, compiled)
        for name, encode in runs.items():
            vectors = np.concatenate([encode(tiles[i : i + BATCH]) for i in range(0, len(tiles), BATCH)])
            reference = vectors if reference is None else reference
            apart = float(np.abs(vectors - reference).max() / np.abs(reference).max())
            rows[name] = {"network": architecture, "way": name, "seconds": np.inf, "difference": apart}
        for _ in range(rounds):
            for name, encode in runs.items():
                start = clock()
                for i in range(0, len(tiles), BATCH):
                    encode(tiles[i : i + BATCH])
                rows[name]["seconds"] = min(rows[name]["seconds"], clock() - start)
    table = pd.DataFrame(rows.values())
    table["tiles_per_s"] = len(tiles) / table["seconds"]
    table["ratio"] = table["tiles_per_s"] / table["tiles_per_s"].iloc[0]
    return table.drop(columns="seconds")


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-compile", action="store_true", help="compiling takes a minute a network")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    tiles = np.random.default_rng(0).integers(0, 256, (given.tiles, 224, 224, 3), np.uint8)
    tables = [measure(name, tiles, given.rounds, given.device, not given.no_compile) for name in NETWORKS]
    table = pd.concat(tables, ignore_index=True)
    print(table.round({"tiles_per_s": 1, "ratio": 2}).to_string(index=False, float_format=lambda v: f"{v:.3g}"))
    if given.out is not None:
        table.to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
