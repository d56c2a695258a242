"""Slide to tiles to builtin features: megapixels a second on one core, and memory against the slide's size.

    python benchmarks/preprocess.py [--side 6144]

Draws a tiled JPEG slide with a pyramid, and one of four times its area; each goes through tissue, tiles and
features in a process of its own, so that the peak of its memory is its own. Rates of the features are given by the
core's time too, which other work on the machine does not change. The bound stated in
`histostudy.features.embed`: one batch of tiles plus 16 bytes a tile of coordinates, and one row of stored tiles
in the reader; the peak must grow by less than a twentieth of what the larger slide has more in pixels.
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

    def stored(width: int, shrink: int):
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


def measure(path: Path, out: Path) -> dict[str, float]:
    """Put one slide through the stages; seconds of each, pixels, and the peak of this process' memory."""
    import pandas as pd

    from histostudy.encoders.registry import load_encoder
    from histostudy.features.stage import embed_slides
    from histostudy.slides.stage import inspect_slides
    from histostudy.study import Features, Tiles, Tissue
    from histostudy.tiles.stage import tile_slides
    from histostudy.tissue.stage import segment_slides

    tiles = Tiles(mpp=MPP, size=TILE)
    features = Features(encoder="builtin")
    load_encoder(features, MPP)
    start = [time.perf_counter()]
    slides = inspect_slides(pd.DataFrame([{"slide_id": "s", "patient_id": "p", "path": str(path)}]), out / "slides")
    start.append(time.perf_counter())
    tissue = segment_slides(slides, Tissue(), out / "tissue", None)
    start.append(time.perf_counter())
    tiled = tile_slides(slides, tissue, out / "tissue", tiles, out / "tiles", None)
    start.append(time.perf_counter())
    cpu = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = embed_slides(slides, tiled, out / "tiles", features, tiles, out / "features")
    start.append(time.perf_counter())
    cpu = time.process_time() - cpu
    if not (index.status == "ok").all() or not len(index):
        raise SystemExit(f"the slide failed:\n{slides}\n{tissue}\n{tiled}\n{index}")
    seconds = dict(
        zip(
            ("slides", "tissue", "tiles", "features"),
            (b - a for a, b in zip(start, start[1:], strict=False)),
            strict=True,
        )
    )
    return seconds | {
        "cpu": cpu,
        "n_tiles": int(index.n_tiles.sum()),
        "megapixels": float(slides.width_px0[0]) * float(slides.height_px0[0]) / 1e6,
        "mb_before_features": before / 1e3,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def main() -> None:
    """Draw, measure each slide in its own process, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=6144)
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measure(*options.measure)) + "\n")
        return
    say = lambda line: sys.stdout.write(line + "\n")  # noqa: E731
    env = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
    core = {min(os.sched_getaffinity(0))}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for side in (options.side, 2 * options.side):
            path = Path(folder) / f"{side}.tiff"
            draw(path, side)
            done = subprocess.run(
                [sys.executable, __file__, "--measure", str(path), f"{folder}/{side}"],
                env=os.environ | env,
                preexec_fn=lambda: os.sched_setaffinity(0, core),
                stdout=subprocess.PIPE,
                check=True,
            )
            r = json.loads(done.stdout)
            found.append(r)
            used = r["n_tiles"] * TILE**2 / 1e6
            total = sum(r[k] for k in ("slides", "tissue", "tiles", "features"))
            say(
                f"{side} x {side} px: {r['n_tiles']} tiles; slides {r['slides']:.2f} s, tissue {r['tissue']:.2f} s, "
                f"tiles {r['tiles']:.2f} s, features {r['features']:.2f} s; "
                f"{r['megapixels'] / total:.1f} MP/s of slide in all; features used {r['cpu']:.2f} s of the core: "
                f"{r['n_tiles'] / r['cpu']:.0f} tiles/s, {used / r['cpu']:.1f} MP/s; "
                f"peak {r['mb']:.0f} MB ({r['mb_before_features']:.0f} before features)"
            )
    small, large = found
    grown = large["mb"] - small["mb"]
    bound = 3 * (large["megapixels"] - small["megapixels"]) / 20
    say(f"peak memory grew by {grown:.0f} MB; bound {bound:.0f} MB: {'held' if grown <= bound else 'BROKEN'}")
    say(f"pixels of the larger slide: {large['megapixels'] / small['megapixels']:.2f} times")
    say(f"peak memory of the larger slide: {large['mb'] / small['mb']:.2f} times")


if __name__ == "__main__":
    main()
