"""What the encoders that need no download are worth, and what they cost, on a CPU.

    python benchmarks/encoders.py [--data ../shared/data] [--resamples 500]

Expression under the spots of three HER2ST sections (one tumour): 224 px tiles around 551 spots, log1p of counts per
10,000, the 50 genes of largest variance in the training sections, ridge on standardised vectors, tested on the section
left out; mean Pearson r over genes and sections. The penalty is chosen on the training sections, each left out in turn,
for every encoder alike: a wide vector needs a strong one, and at a fixed one encoders would be compared by their width.
Intervals and differences resample blocks of 500 um, the same for all. Cost: process time a tile, one thread, batches of
16, the least of several runs in turn. Robustness: 224 px tiles at 0.5 um/px of MoNuSeg's 30 regions, each stain's
density changed by up to a fifth; median cosine (vectors standardised) to the same tile as it was, and the share whose
nearest is the same tile.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from histostudy.cohort.papers import build_her2st
from histostudy.encoders.augment import INTENSITY
from histostudy.encoders.registry import load_encoder
from histostudy.encoders.stains import RGB_OF_STAIN, STAIN_OF_RGB
from histostudy.study import Features

PX, GENES, BLOCK_UM, SPOT_MPP = 224, 50, 500.0, 0.69
PENALTIES = tuple(10 ** (k / 2) for k in range(12))
TEACHER = "weights/google_coral_mobilenet/mobilenet_v1_1.0_224_dequant_fp16.pt"
Encode = Callable[[np.ndarray], np.ndarray]


def say(line: str = "") -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def encoders(data: Path) -> dict[str, tuple[Encode, int]]:
    """Each encoder, and the width of its vectors."""

    def colour(batch: np.ndarray) -> np.ndarray:
        return batch.mean(axis=(1, 2), dtype=np.float32)

    found: dict[str, tuple[Encode, int]] = {"mean colour": (colour, 3)}
    named: dict[str, Path | None] = {"builtin": None, "builtin_cnn": None}
    if (data / TEACHER).is_file():
        named["mobilenet_v1"] = data / TEACHER
    for name, checkpoint in named.items():
        encoder = load_encoder(Features(encoder=name, checkpoint=checkpoint), SPOT_MPP)
        found[name] = encoder.encode, encoder.dim
    return found


def spots(data: Path) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Tiles, the table of their spots, and log expression of all genes."""
    import openslide

    with tempfile.TemporaryDirectory() as folder:
        build_her2st(data, folder)
        table = pd.read_csv(Path(folder) / "spots.csv")
        counts = pd.read_csv(Path(folder) / "spot_expression.csv.gz", index_col="spot_id").loc[table["spot_id"]]
    tiles = []
    for slide_id, part in table.groupby("slide_id", sort=False):
        with openslide.OpenSlide(data / "slides" / "her2st" / f"{slide_id}.svs") as slide:
            for x, y in np.rint(part[["x_px0", "y_px0"]].to_numpy() - PX / 2).astype(int).tolist():
                tiles.append(np.asarray(slide.read_region((x, y), 0, (PX, PX)).convert("RGB")))
    return np.stack(tiles), table, np.log1p(counts.to_numpy(float) / table["total"].to_numpy(float)[:, None] * 1e4)


def path(x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> list[np.ndarray]:
    """Ridge predictions at each of `PENALTIES`, columns standardised by the training part."""
    mean, std = x.mean(0), x.std(0) + 1e-8
    x, x_test = (x - mean) / std, (x_test - mean) / std
    u, s, v = np.linalg.svd(x, full_matrices=False)
    scores, low = u.T @ (y - y.mean(0)), x_test @ v.T
    return [low @ ((s / (s * s + penalty))[:, None] * scores) for penalty in PENALTIES]


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over columns that vary of Pearson's r."""
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((a * a).sum(0) * (b * b).sum(0))
    return float(((a * b).sum(0)[scale > 0] / scale[scale > 0]).mean())


def predict(x: np.ndarray, log: np.ndarray, section: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each section: predictions learned from the others, and the measured values."""
    found = {}
    for test in np.unique(section):
        train = section != test
        genes = np.argsort(-log[train].var(0), kind="stable")[:GENES]
        inner = np.zeros(len(PENALTIES))
        for held in np.unique(section[train]):
            fit, check = train & (section != held), section == held
            inner += [pearson(p, log[check][:, genes]) for p in path(x[fit], log[fit][:, genes], x[check])]
        best = int(np.argmax(inner))
        found[str(test)] = path(x[train], log[train][:, genes], x[~train])[best], log[~train][:, genes]
    return found


def resampled(
    found: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], blocks: dict[str, np.ndarray], times: int
) -> dict[str, np.ndarray]:
    """Mean r over sections of each encoder, on the same draws of blocks for all."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(times):
        drawn = {}
        for section, block in blocks.items():
            ids = np.unique(block)
            drawn[section] = np.concatenate([np.flatnonzero(block == b) for b in rng.choice(ids, len(ids))])
        for name, by_section in found.items():
            rows[name].append(float(np.mean([pearson(p[drawn[s]], t[drawn[s]]) for s, (p, t) in by_section.items()])))
    return {name: np.array(values) for name, values in rows.items()}


def costs(encode: dict[str, Encode], tiles: np.ndarray, runs: int = 25) -> dict[str, float]:
    """Process time a tile, ms; the encoders in turn, so that a busy machine slows all alike."""
    taken: dict[str, list[float]] = {name: [] for name in encode}
    for _ in range(runs + 1):
        for name, one in encode.items():
            start = time.process_time()
            one(tiles)
            taken[name].append(time.process_time() - start)
    return {name: min(times[1:]) / len(tiles) * 1e3 for name, times in taken.items()}


def restained(tiles: np.ndarray, rng: np.random.Generator, strength: float = INTENSITY) -> np.ndarray:
    """Tiles with each stain's density times 1 +- strength."""
    times = 1 + rng.uniform(-strength, strength, (len(tiles), 3))
    density = -np.log(np.maximum(tiles, 1) / 255)
    changed = np.einsum("nhwi,ij,nj,jk->nhwk", density, STAIN_OF_RGB, times, RGB_OF_STAIN, optimize=True)
    return np.rint(255 * np.exp(-np.maximum(changed, 0))).astype(np.uint8)


def regions(data: Path, most: int = 4) -> np.ndarray:
    """Tiles of 224 px at 0.5 um/px of MoNuSeg's regions."""
    import openslide

    tiles = []
    for file in sorted((data / "slides" / "monuseg").glob("*.tiff")):
        with openslide.OpenSlide(file) as slide:
            for x, y in [(0, 0), (552, 0), (0, 552), (552, 552)][:most]:
                tile = np.asarray(slide.read_region((x, y), 0, (2 * PX, 2 * PX)).convert("RGB"), np.float32)
                tiles.append(np.rint(tile.reshape(PX, 2, PX, 2, 3).mean((1, 3))).astype(np.uint8))
    return np.stack(tiles)


def robustness(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Median cosine of a tile's two vectors, and the share whose nearest is itself."""
    mean, std = before.mean(0), before.std(0) + 1e-8
    a, b = ((x - mean) / std for x in (before.astype(float), after.astype(float)))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    similar = b @ a.T
    return float(np.median(np.diag(similar))), float((similar.argmax(1) == np.arange(len(a))).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--resamples", type=int, default=500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tiles, table, log = spots(given.data)
    section = table["slide_id"].to_numpy(str)
    side = BLOCK_UM / SPOT_MPP
    places = (table["x_px0"] // side).astype(int).astype(str) + "/" + (table["y_px0"] // side).astype(int).astype(str)
    blocks = {s: places[section == s].to_numpy() for s in np.unique(section)}
    others = regions(given.data) if (given.data / "slides" / "monuseg").is_dir() else None
    rng = np.random.default_rng(0)
    changed = None if others is None else restained(others, rng)
    found, facts = {}, {}
    known = encoders(given.data)
    taken = costs({name: encode for name, (encode, _) in known.items()}, tiles[:16])
    for name, (encode, dim) in known.items():
        vectors = np.concatenate([encode(part) for part in np.array_split(tiles, 35)])
        found[name] = predict(vectors.astype(float), log, section)
        steady = (float("nan"),) * 2
        if others is not None and changed is not None:
            steady = robustness(encode(others), encode(changed))
        facts[name] = dim, taken[name], *steady
    draws = resampled(found, blocks, given.resamples)
    say(f"{len(tiles)} spots, {len(blocks)} sections")
    say("| encoder | numbers | mean r of 50 genes | builtin_cnn - it | ms a tile | cosine, restained | found |")
    say("|---|---|---|---|---|---|---|")
    for name, (dim, ms, cosine, first) in facts.items():
        r = float(np.mean([pearson(*pair) for pair in found[name].values()]))
        low, high = np.quantile(draws[name], (0.025, 0.975))
        versus = "-"
        if name != "builtin_cnn":
            ours = float(np.mean([pearson(*pair) for pair in found["builtin_cnn"].values()])) - r
            least, most = np.quantile(draws["builtin_cnn"] - draws[name], (0.025, 0.975))
            versus = f"{ours:+.3f} ({least:+.3f} to {most:+.3f})"
        interval = f"{r:.3f} ({low:.3f} to {high:.3f})"
        say(f"| {name} | {dim} | {interval} | {versus} | {ms:.2f} | {cosine:.3f} | {first:.2f} |")


if __name__ == "__main__":
    main()
