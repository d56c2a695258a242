"""Tiles a second of our reader beside openslide-python `read_region`, same tiles, one core, one run.

    python benchmarks/reading.py [SLIDE]

The default slide is HER2ST-C2 of the shared data ($HISTOSTUDY_SHARED, or ../shared/data). The two ways take
turns, each slide opened anew, and the best of the rounds counts. Each ratio ends the output as
`<what>: 4.2 times`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import openslide  # noqa: E402

from histostudy.slides.reader import open_slide  # noqa: E402

ROUNDS = 5
Read = Callable[[Path, np.ndarray, int, float], Iterator[np.ndarray]]


def default_slide() -> Path:
    """HER2ST-C2 in the shared data."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("HISTOSTUDY_SHARED", beside)) / "slides" / "her2st" / "HER2ST-C2.svs"


def ours(path: Path, corners: np.ndarray, side: int, mpp: float) -> Iterator[np.ndarray]:
    """Tiles by our reader, at their exact scale."""
    with open_slide(path, mpp=1.0) as slide:
        yield from slide.read_tiles(corners, side, mpp)


def theirs(path: Path, corners: np.ndarray, side: int, mpp: float) -> Iterator[np.ndarray]:
    """Tiles as users read them: `read_region` of level 0 to RGB, area-averaged where the scale asks for it.

    The slide's level 0 counts as mpp 1, so `mpp` is the number of level-0 pixels a pixel.
    """
    n = round(side * mpp)
    with openslide.OpenSlide(path) as slide:
        for x, y in corners.tolist():
            tile = np.asarray(slide.read_region((x, y), 0, (n, n)).convert("RGB"))
            yield tile if n == side else cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA)


def timed(read: Read, path: Path, corners: np.ndarray, side: int, mpp: float) -> float:
    """Seconds to open the slide and read every tile, each let go before the next but one."""
    start = time.perf_counter()
    for _ in read(path, corners, side, mpp):
        pass
    return time.perf_counter() - start


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def compare(path: Path, what: str, side: int, mpp: float) -> str:
    """Time both ways on all tiles of the slide; the ratio as a line."""
    with openslide.OpenSlide(path) as slide:
        width, height = slide.dimensions
    n = round(side * mpp)
    xs, ys = range(0, width - n + 1, n), range(0, height - n + 1, n)
    corners = np.array([(x, y) for y in ys for x in xs])
    worst, total, values = 0, 0, 0
    for a, b in zip(ours(path, corners, side, mpp), theirs(path, corners, side, mpp), strict=True):
        difference = np.abs(a.astype(np.int16) - b)
        worst, total, values = max(worst, int(difference.max())), total + int(difference.sum()), values + a.size
    us, them = [], []
    for _ in range(ROUNDS):
        us.append(timed(ours, path, corners, side, mpp))
        them.append(timed(theirs, path, corners, side, mpp))
    pixels = len(corners) * n * n / 1e6
    say(f"{what}: {len(corners)} tiles of {side} px")
    for name, seconds in (("histostudy", min(us)), ("openslide-python", min(them))):
        say(f"  {name:17} {len(corners) / seconds:7.0f} tiles/s {pixels / seconds:6.0f} level-0 MP/s")
    same = "pixels identical" if worst == 0 else f"mean {total / values:.4f}, at most {worst} grey levels"
    say(f"  difference: {same}")
    return f"{what}: {min(them) / min(us):.1f} times"


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else default_slide()
    if not path.is_file():
        raise SystemExit(f"no slide at {path}: name one, or set HISTOSTUDY_SHARED")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    say(f"{path.name}, one core, best of {ROUNDS}")
    ratios = [
        compare(path, "tiles of 256 px on the stored grid", 256, 1.0),
        compare(path, "tiles of 224 px across the stored grid", 224, 1.0),
        compare(path, "tiles of 224 px at half scale", 224, 2.0),
    ]
    for line in ratios:
        say(line)


if __name__ == "__main__":
    main()
