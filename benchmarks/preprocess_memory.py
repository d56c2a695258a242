"""Slide to tiles to builtin features: megapixels a second on one core, and memory against the slide's size.

    python benchmarks/preprocess_memory.py [--side 6144]

Draws a tiled JPEG slide with a pyramid, and one of four times its area. Each goes through slides, tissue and tiles
in one process and through features in another, so that each peak of memory is its own. Rates of the features are
given by the core's time too, which other work on the machine does not change.

Bound of the features stage: a slide may cost, over a smaller one, three bands of stored tiles in the reader (256 px
times the width each), 64 bytes a tile of coordinates, and 10 MB of the allocator's doing. It is nothing to the
pixels: the script prints both. Tissue works on the whole slide at 8 um/px, and so grows with 1/256 of the pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MPP, TILE = 0.5, 224


def draw(path: Path, side: int) -> None:
    """Write an H&E-like slide of `side` x `side` px, band by band."""
    import cv2
    import numpy as np
    import tifffile

    rng = np.random.default_rng(0)
    block = np.full((1024, 1024, 3), (222, 158, 192), np.uint8)
    for x, y in rng.uniform(0, 1024, (2500, 2)):
        axes = (int(rng.integers(5, 9)), int(rng.integers(4, 7)))
        cv2.ellipse(block, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, (98, 62, 142), -1, cv2.LINE_AA)
    block = np.clip(block + rng.normal(0, 6, block.shape), 0, 255).astype(np.uint8)

    def stored(width: int, shrink: int) -> Iterator[np.ndarray]:
        image = cv2.resize(block, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
        n = len(image)
        for y in range(0, width, 256):
            for x in range(0, width, 256):
                tile = image[y % n : y % n + 256, x % n : x % n + 256]
                margin = y < width // 16 or x < width // 16  # a glass margin
                yield np.full((256, 256, 3), 243, np.uint8) if margin else np.resize(tile, (256, 256, 3))

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, shrink in enumerate((1, 4)):
            width = side // shrink
            writer.write(
                stored(width, shrink), shape=(width, width, 3), dtype="uint8", tile=(256, 256), photometric="ycbcr",
                compression="jpeg", compressionargs={"level": 85}, subfiletype=int(level > 0),
                resolution=(1e4 / MPP / shrink,) * 2, resolutionunit="CENTIMETER",
            )  # fmt: skip


def peak_mb() -> float:
    """Highest memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def prepare(path: Path, out: Path) -> dict[str, float]:
    """Slides, tissue and tiles of one slide: seconds of each, its pixels, and the peak of memory."""
    import pandas as pd

    from histostudy.files import write_table
    from histostudy.slides.stage import inspect_slides
    from histostudy.study import Tiles, Tissue
    from histostudy.tiles.stage import tile_slides
    from histostudy.tissue.stage import segment_slides

    clock = [time.perf_counter()]
    rows = pd.DataFrame([{"slide_id": "s", "patient_id": "p", "path": str(path)}])
    slides = inspect_slides(rows, out / "slides")
    clock.append(time.perf_counter())
    tissue = segment_slides(slides, Tissue(), out / "tissue")
    clock.append(time.perf_counter())
    tiled = tile_slides(slides, tissue, out / "tissue", Tiles(mpp=MPP, size=TILE), out / "tiles")
    clock.append(time.perf_counter())
    if not (tiled.status == "ok").all() or not len(tiled):
        raise SystemExit(f"the slide failed:\n{slides}\n{tissue}\n{tiled}")
    write_table(out / "slides.parquet", slides)
    write_table(out / "tiles.parquet", tiled)
    return {
        "slides": clock[1] - clock[0],
        "tissue": clock[2] - clock[1],
        "tiles": clock[3] - clock[2],
        "megapixels": float(slides.width_px0[0]) * float(slides.height_px0[0]) / 1e6,
        "mb": peak_mb(),
    }


def embed(out: Path) -> dict[str, float]:
    """Features of the slide that `prepare` left in `out`: seconds, seconds of the core, peak of memory."""
    import pandas as pd

    from histostudy.features.stage import embed_slides
    from histostudy.study import Features, Tiles

    slides, tiled = pd.read_parquet(out / "slides.parquet"), pd.read_parquet(out / "tiles.parquet")
    wall, cpu = time.perf_counter(), time.process_time()
    features, tiles = Features(encoder="builtin"), Tiles(mpp=MPP, size=TILE)
    index = embed_slides(slides, tiled, out / "tiles", features, tiles, out / "features")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"features": wall, "cpu": cpu, "n_tiles": int(index.n_tiles.sum()), "mb_features": peak_mb()}


def alone(*arguments: str) -> dict[str, float]:
    """Run a step of this script in a process of its own, on one core."""
    env = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", core, sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, env=os.environ | env, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=6144)
    parser.add_argument("--prepare", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--embed", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare or options.embed:
        result = prepare(*options.prepare) if options.prepare else embed(options.embed)
        sys.stdout.write(json.dumps(result) + "\n")
        return

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for side in (options.side, 2 * options.side):
            path, out = Path(folder) / f"{side}.tiff", Path(folder) / str(side)
            draw(path, side)
            r = alone("--prepare", str(path), str(out)) | alone("--embed", str(out))
            found.append(r)
            used = r["n_tiles"] * TILE**2 / 1e6
            total = sum(r[k] for k in ("slides", "tissue", "tiles", "features"))
            say(
                f"{side} x {side} px, {r['n_tiles']} tiles: slides {r['slides']:.2f} s, tissue {r['tissue']:.2f} s, "
                f"tiles {r['tiles']:.2f} s, features {r['features']:.2f} s, {r['megapixels'] / total:.1f} MP/s in all"
            )
            say(
                f"  features: {r['cpu']:.2f} s of the core, {r['n_tiles'] / r['cpu']:.0f} tiles/s, "
                f"{used / r['cpu']:.1f} MP/s; peak memory {r['mb_features']:.0f} MB, "
                f"of the stages before {r['mb']:.0f} MB"
            )
    small, large = found
    pixels = 3 * (large["megapixels"] - small["megapixels"])
    bound = 3 * 256 * options.side * 3 / 1e6 + 64 * (large["n_tiles"] - small["n_tiles"]) / 1e6 + 10
    grown = large["mb_features"] - small["mb_features"]
    say(f"features: peak memory grew by {grown:.0f} MB, pixels by {pixels:.0f} MB; bound {bound:.0f} MB")
    say(f"pixels of the larger slide: {large['megapixels'] / small['megapixels']:.2f} times")
    say(f"peak memory before features of the larger slide: {large['mb'] / small['mb']:.2f} times")
    say(f"peak memory of features of the larger slide: {large['mb_features'] / small['mb_features']:.2f} times")
    if grown > bound:
        raise SystemExit("the bound on memory is broken")


if __name__ == "__main__":
    main()
