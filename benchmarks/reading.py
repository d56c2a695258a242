"""Tiles a second of our reader beside openslide-python `read_region` and bare libjpeg-turbo, one core, one run.

    python benchmarks/reading.py [SLIDE] [--rounds 9]

The default slide is HER2ST-C2 of the shared data ($HISTOSTUDY_SHARED, or ../shared/data). All ways take turns, each
slide opened anew, and the best of the rounds counts, by the time of the core (what else runs on the machine counts
less). Bare libjpeg-turbo is `simplejpeg` on the bytes of the stored tiles under the same tiles, all in memory, each
decoded over the one before: no reading, no assembling, no scaling. Fast is libjpeg's scaled decode (other pixels);
two threads are timed by the clock, and say something only where two cores are free. The ratios end the output as
`<what>: 4.2 times openslide, 0.85 of bare libjpeg-turbo`; then come the features of the built-in encoder that the
fast scale gives, beside those of a full decode.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import openslide  # noqa: E402
import simplejpeg  # noqa: E402

from histostudy.slides.native_backend import NativeSlide  # noqa: E402
from histostudy.slides.reader import open_slide  # noqa: E402
from histostudy.slides.scatter import cached  # noqa: E402

#: What is read: its name, the side of a tile, and level-0 pixels a pixel.
KINDS = (
    ("tiles of 256 px on the stored grid", 256, 1.0),
    ("tiles of 224 px across the stored grid", 224, 1.0),
    ("tiles of 224 px at half scale", 224, 2.0),
)


def default_slide() -> Path:
    """HER2ST-C2 in the shared data."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("HISTOSTUDY_SHARED", beside)) / "slides" / "her2st" / "HER2ST-C2.svs"


def lattice(path: Path, side: int, mpp: float) -> np.ndarray:
    """Corners of all whole tiles, row by row."""
    with openslide.OpenSlide(path) as slide:
        width, height = slide.dimensions
    n = round(side * mpp)
    return np.array([(x, y) for y in range(0, height - n + 1, n) for x in range(0, width - n + 1, n)])


def ours(path: Path, corners: np.ndarray, side: int, mpp: float, **options: Any) -> Iterator[np.ndarray]:
    """Tiles by our reader, at their exact scale."""
    with open_slide(path, mpp=1.0) as slide:
        yield from slide.read_tiles(corners, side, mpp, **options)


def theirs(path: Path, corners: np.ndarray, side: int, mpp: float) -> Iterator[np.ndarray]:
    """Tiles as users read them: `read_region` of level 0 to RGB, area-averaged where the scale asks for it.

    The slide's level 0 counts as mpp 1, so `mpp` is the number of level-0 pixels a pixel.
    """
    n = round(side * mpp)
    with openslide.OpenSlide(path) as slide:
        for x, y in corners.tolist():
            tile = np.asarray(slide.read_region((x, y), 0, (n, n)).convert("RGB"))
            yield tile if n == side else cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA)


def bare(streams: list[bytes], buffer: np.ndarray) -> Iterator[None]:
    """Decode stored tiles and do nothing with them."""
    for stream in streams:
        yield simplejpeg.decode_jpeg(stream, buffer=buffer)


def stored_under(path: Path, corners: np.ndarray, side: int) -> tuple[list[bytes], tuple[int, ...]]:
    """Whole JPEG streams of the stored tiles under boxes of `side` level-0 px, and the shape of one."""
    with open_slide(path, mpp=1.0) as slide:
        if not isinstance(slide, NativeSlide):
            raise SystemExit(f"{path.name} is not a tiled JPEG TIFF: there is no bare decode to compare with")
        level = slide._levels[0]
        numbers = {
            row * level.columns + column
            for x, y in corners.tolist()
            for row in range(y // level.tile_h, (y + side - 1) // level.tile_h + 1)
            for column in range(x // level.tile_w, (x + side - 1) // level.tile_w + 1)
        }
        return [level.whole(data) for data in slide._stored(level, sorted(numbers))], (level.tile_h, level.tile_w, 3)


def timed(read: Callable[[], Iterator[object]], clock: Callable[[], float]) -> float:
    """Seconds to open the slide and read every tile, each let go before the next but one."""
    start = clock()
    for _ in read():
        pass
    return clock() - start


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def compare(path: Path, what: str, side: int, mpp: float, rounds: int, cores: set[int]) -> str:
    """Time all ways on all tiles of the slide; the ratios as a line."""
    corners = lattice(path, side, mpp)
    worst, total, values = 0, 0, 0
    for a, b in zip(ours(path, corners, side, mpp), theirs(path, corners, side, mpp), strict=True):
        difference = np.abs(a.astype(np.int16) - b)
        worst, total, values = max(worst, int(difference.max())), total + int(difference.sum()), values + a.size
    n = round(side * mpp)
    streams, shape = stored_under(path, corners, n)
    ways: dict[str, Callable[[], Iterator[object]]] = {
        "histostudy": partial(ours, path, corners, side, mpp),
        "openslide-python": partial(theirs, path, corners, side, mpp),
        "bare libjpeg-turbo": partial(bare, streams, cached(shape)),
    }
    if mpp >= 2:
        ways["histostudy, fast"] = partial(ours, path, corners, side, mpp, fast_scale=True)
    two = "histostudy, 2 threads"
    if len(cores) > 1:
        ways[two] = partial(ours, path, corners, side, mpp, workers=2)
    best = dict.fromkeys(ways, float("inf"))
    one = {max(cores)}
    for _ in range(rounds):
        for name, way in ways.items():
            if name == two:
                pin(cores)
            best[name] = min(best[name], timed(way, time.perf_counter if name == two else time.process_time))
            pin(one)
    pixels = len(corners) * n * n / 1e6
    say(f"{what}: {len(corners)} tiles of {side} px, {len(streams)} stored tiles")
    for name, seconds in best.items():
        say(f"  {name:22} {len(corners) / seconds:7.0f} tiles/s {pixels / seconds:6.0f} level-0 MP/s")
    same = "pixels identical" if worst == 0 else f"mean {total / values:.4f}, at most {worst} grey levels"
    say(f"  difference from openslide: {same}")
    us = best["histostudy"]
    line = f"{what}: {best['openslide-python'] / us:.1f} times openslide, {best['bare libjpeg-turbo'] / us:.2f} of bare"
    if mpp >= 2:
        fast = best["histostudy, fast"]
        line += f" libjpeg-turbo; fast {best['openslide-python'] / fast:.1f} times, {us / fast:.2f} times exact"
    else:
        line += " libjpeg-turbo"
    return line


def features(path: Path, mpp: float) -> str:
    """How far features of the fast scale lie from those of a full decode; tiles of 224 px with tissue at `mpp`."""
    from histostudy.encoders.builtin import Builtin

    with open_slide(path) as slide:
        n = round(224 * mpp / slide.mpp)
        corners = lattice(path, n, 1.0)
        exact = np.stack(list(slide.read_tiles(corners, 224, mpp)))
        stained = (exact.max(axis=3) - exact.min(axis=3).astype(np.int16) > 25).mean(axis=(1, 2)) > 0.5
        fast = np.stack(list(slide.read_tiles(corners[stained], 224, mpp, fast_scale=True)))
    encoder = Builtin(mpp)
    a, b = encoder.encode(exact[stained]).astype(np.float64), encoder.encode(fast).astype(np.float64)
    relative = np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)
    spread = a.std(axis=0) > 1e-9
    r = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.T[spread], b.T[spread], strict=True)]
    grey = np.abs(exact[stained].astype(np.int16) - fast).mean()
    return (
        f"fast scale at {mpp:g} um/px, {stained.sum()} tiles: pixels {grey:.2f} grey levels apart; built-in features "
        f"{np.median(relative):.2%} apart (median; 95%: {np.quantile(relative, 0.95):.2%}), correlation over tiles "
        f"{np.median(r):.4f} (median column; least {min(r):.4f})"
    )


def pin(cores: set[int]) -> None:
    """Run on these cores alone."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", nargs="?", type=Path, default=default_slide())
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    path = options.slide
    if not path.is_file():
        raise SystemExit(f"no slide at {path}: name one, or set HISTOSTUDY_SHARED")
    cores = set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else {0}
    pin({max(cores)})
    cv2.setNumThreads(1)
    say(f"{path.name}, one core, best of {options.rounds}")
    ratios = [compare(path, *kind, options.rounds, cores) for kind in KINDS]
    with open_slide(path) as slide:
        scales = [round(slide.mpp * k, 3) for k in (2.001, 2.9, 4.001)]
    for line in (*ratios, *(features(path, mpp) for mpp in scales)):
        say(line)


if __name__ == "__main__":
    main()
