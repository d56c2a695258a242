"""Tissue methods against real truth, beside plain Otsu.

    python benchmarks/tissue.py [--data ../shared/data]

Spots: HER2ST sections C2 to C4; coverage is the share of spots under tissue that lie in the mask, leakage the share
of the mask further than 150 um from any spot. Pen and coverslip: HistoQC's pictures with masks; removed is the share
of the marked pixels that is not in the tissue mask, kept the share of the section that stays (of what plain Otsu
finds more than 0.2 mm off the marks), pen_iou that of the pen mask (which takes a rim around the ink on purpose).
Seconds: one slide at 8 um a pixel, clean-up included; our Otsu looks for pen in any case, so the ratio is to the
bare median filter and threshold, timed beside it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import pandas as pd

from histostudy.study import Tissue
from histostudy.tissue.stage import segment_image

MPP, PICTURE_MPP = 8.0, 16.0
METHODS = {
    "otsu, plain": Tissue(method="otsu", options={"exclude_pen": False}),
    "otsu": Tissue(method="otsu"),
    "classical": Tissue(method="classical"),
}


def say(line: str = "") -> None:
    sys.stdout.write(line + "\n")


def thumbnail(path: Path, mpp: float) -> np.ndarray:
    """The slide at `mpp` by openslide-python."""
    import openslide

    with openslide.OpenSlide(path) as slide:
        own = float(slide.properties["openslide.mpp-x"])
        level = slide.get_best_level_for_downsample(max(1.0, mpp / own))
        rgb = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"))
        size = tuple(round(side * own / mpp) for side in slide.dimensions)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def picture(path: Path) -> np.ndarray:
    from PIL import Image

    image = Image.open(path)
    return np.asarray(image if image.mode == "1" else image.convert("RGB"))


def spots(data: Path) -> pd.DataFrame:
    """Coverage, leakage and seconds, one row a section and method."""
    rows = []
    for section in ("C2", "C3", "C4"):
        rgb = thumbnail(data / f"slides/her2st/HER2ST-{section}.svs", MPP)
        table = pd.read_csv(data / f"her2st/spots/{section}_selection.tsv", sep="\t")
        x, y = (table[["pixel_x", "pixel_y"]].to_numpy() * 0.69 / MPP).astype(int).T
        far = np.ones(rgb.shape[:2], np.uint8)
        far[y, x] = 0
        distance_um = cv2.distanceTransform(far, cv2.DIST_L2, 5) * MPP
        for method, tissue in METHODS.items():
            start = time.perf_counter()
            mask, _ = segment_image(rgb, MPP, tissue)
            seconds = time.perf_counter() - start
            leak = (mask & (distance_um > 150)).sum() / mask.sum()
            rows.append((section, method, mask[y, x].mean(), leak, seconds))
    return pd.DataFrame(rows, columns=["slide", "method", "coverage", "leakage", "seconds"])


def bare_seconds(data: Path) -> float:
    """Seconds of median filter, saturation and Otsu's threshold alone, on section C2."""
    rgb = thumbnail(data / "slides/her2st/HER2ST-C2.svs", MPP)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        saturation = cv2.cvtColor(cv2.medianBlur(rgb, 7), cv2.COLOR_RGB2HSV)[..., 1]
        cv2.threshold(np.ascontiguousarray(saturation), 0, 255, cv2.THRESH_OTSU)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def marks(data: Path) -> pd.DataFrame:
    """Share of pen and coverslip edge removed and of tissue kept, IoU of the pen mask."""
    rows = []
    for name in ("pen_red", "coverslip_edge"):
        rgb, truth = picture(data / f"qc/{name}.png"), picture(data / f"qc/{name}_mask.png")
        near = cv2.dilate(truth.astype(np.uint8), np.ones((25, 25))).astype(bool)
        section = segment_image(rgb, PICTURE_MPP, METHODS["otsu, plain"])[0] & ~near
        for method, tissue in METHODS.items():
            mask, pen = segment_image(rgb, PICTURE_MPP, tissue)
            found = (pen & truth).sum() / (pen | truth).sum()
            rows.append((name, method, 1 - mask[truth].mean(), mask[section].mean(), found))
    return pd.DataFrame(rows, columns=["picture", "method", "removed", "tissue_kept", "pen_iou"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HISTOSTUDY_SHARED", beside)))
    data = parser.parse_args().data
    cv2.setNumThreads(1)
    on_spots, on_marks = spots(data), marks(data)
    for table in (on_spots, on_marks):
        say(table.to_string(index=False, float_format="%.3f"))
        say()
    means = on_spots.groupby("method", sort=False)[["coverage", "leakage", "seconds"]].mean()
    say(means.to_string(float_format="%.3f"))
    say()
    missed = 1 - means["coverage"]
    plain, ours = "otsu, plain", "classical"
    say(f"spots missed, plain Otsu over classical: {missed[plain] / max(missed[ours], 1e-4):.1f} times")
    say(f"leakage, plain Otsu over classical: {means['leakage'][plain] / max(means['leakage'][ours], 1e-4):.1f} times")
    left = 1 - on_marks.groupby("method")["removed"].mean()
    say(f"marks left in the tissue, plain Otsu over classical: {left[plain] / max(left[ours], 1e-4):.1f} times")
    say(f"seconds a slide, classical over a bare Otsu: {means['seconds'][ours] / bare_seconds(data):.1f} times")


if __name__ == "__main__":
    main()
