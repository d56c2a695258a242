"""Tissue methods against real truth, beside plain Otsu and a published U-Net.

    python benchmarks/tissue.py [--data ../shared/data] [--drawn 100]

Otsu, the classical method, the network that ships (`unet`) and, where onnxruntime can be imported, the U-Net of
SuperFastTissueSegmentor (MIT; 500 x 500 px of the whole picture, threshold 0.6), as it is and after white-balancing.

Spots: HER2ST sections C2 to C4; coverage is the share of spots under tissue that lie in the mask, leakage the share
of the mask further than 150 um from any spot, iou that of the mask and all within 150 um of a spot. Pen and coverslip:
HistoQC's pictures with masks; removed is the share of the marked pixels that is not in the tissue mask, kept the share
of the section that stays (of what plain Otsu finds more than 0.2 mm off the marks), pen_iou that of the pen mask
(which takes a rim around the ink on purpose). Seconds: one slide at 8 um a pixel, clean-up included; our Otsu looks for
pen in any case, so the ratio is to the bare median filter and threshold, timed beside it. Fields: pictures that are
all tissue (MoNuSeg) or have none. Drawn: thumbnails of histostudy.simulate.thumbnails that no network learned from, by
another seed; the network has seen their like, the others have not. Count: how far the number of sections is off, by
the gaps between them or by predicted centres.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import pandas as pd

from histostudy.study import Tissue
from histostudy.tissue.mask import clean, sections
from histostudy.tissue.registry import segment
from histostudy.tissue.stage import segment_image

MPP, PICTURE_MPP = 8.0, 16.0
#: Each method runs so often, and its best time counts: others may use the machine.
ROUNDS = 5
Method = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]


def ours(tissue: Tissue) -> Method:
    return lambda rgb, mpp: segment_image(rgb, mpp, tissue)


METHODS: dict[str, Method] = {
    "otsu, plain": ours(Tissue(method="otsu", options={"exclude_pen": False})),
    "otsu": ours(Tissue(method="otsu")),
    "classical": ours(Tissue(method="classical")),
    "unet": ours(Tissue(method="unet")),
}


def add_superfast(data: Path) -> None:
    """The U-Net of shared data, if it can be run here."""
    file = data / "weights/superfast_tissue_unet/best_unet.onnx"
    try:
        import onnxruntime
    except ImportError:
        say("onnxruntime cannot be imported: superfast is left out")
        return
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def superfast(rgb: np.ndarray, mpp: float, balance: bool) -> tuple[np.ndarray, np.ndarray]:
        small = cv2.resize(rgb, (500, 500), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        if balance:
            small = np.minimum(small / np.percentile(small, 95, axis=(0, 1)), 1)
        (found,) = session.run(None, {"input": small[None].astype(np.float32)})
        share = cv2.resize(found[0, ..., 0], rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        default = Tissue()
        mask = clean(share > 0.6, mpp, min_area_um2=default.min_area_um2, min_hole_um2=default.min_hole_um2)
        return mask, np.zeros(mask.shape, bool)

    METHODS["superfast"] = lambda rgb, mpp: superfast(rgb, mpp, False)
    METHODS["superfast, balanced"] = lambda rgb, mpp: superfast(rgb, mpp, True)


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
        near = distance_um <= 150
        for method, segmenter in METHODS.items():
            segmenter(rgb[:64, :64], MPP)  # weights are read once
            seconds = np.inf
            for _ in range(ROUNDS):
                start = time.perf_counter()
                mask, _ = segmenter(rgb, MPP)
                seconds = min(seconds, time.perf_counter() - start)
            leak = (mask & ~near).sum() / max(1, mask.sum())
            rows.append((section, method, mask[y, x].mean(), leak, iou(mask, near), seconds))
    return pd.DataFrame(rows, columns=["slide", "method", "coverage", "leakage", "iou", "seconds"])


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union; 1 where both are empty."""
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def fields(data: Path) -> pd.DataFrame:
    """Share of the pixels called tissue where all is, and where none is."""
    rows = []
    full = [thumbnail(path, MPP) for path in sorted((data / "slides/monuseg").glob("*.tiff"))]
    rng = np.random.default_rng(0)
    bare = [np.clip(level + rng.normal(0, 1.5, (300, 300, 3)), 0, 255).astype(np.uint8) for level in (255, 244, 205)]
    for method, segmenter in METHODS.items():
        shares = [[segmenter(rgb, MPP)[0].mean() for rgb in kind] for kind in (full, bare)]
        rows.append((method, np.mean(shares[0]), np.min(shares[0]), np.max(shares[1])))
    return pd.DataFrame(rows, columns=["method", "all_tissue", "all_tissue_least", "bare_glass_most"])


def drawn(n: int) -> pd.DataFrame:
    """IoU of tissue and pen, and the error of the count of sections, on drawn thumbnails at 8 um a pixel."""
    from histostudy.simulate.thumbnails import draw_thumbnail

    rows = []
    by_centres = Tissue(method="unet", options={"sections": True})
    for number in range(n):
        picture = draw_thumbnail(np.random.default_rng((20_260_101, number)), (512, 512), MPP)
        count = len(np.unique(picture.labels[picture.tissue]))
        for method, segmenter in METHODS.items():
            mask, pen = segmenter(picture.rgb, MPP)
            off = abs(sections(mask, MPP)[1] - count) if count else np.nan
            rows.append((method, iou(mask, picture.tissue), iou(pen, picture.pen), off))
        found = segment(picture.rgb, MPP, by_centres.method, by_centres.options).sections
        assert found is not None
        rows.append(("unet, centres", np.nan, np.nan, abs(int(found.max()) - count) if count else np.nan))
    table = pd.DataFrame(rows, columns=["method", "tissue_iou", "pen_iou", "count_error"])
    return table.groupby("method", sort=False).mean().reset_index()


def bare_seconds(data: Path) -> float:
    """Seconds of median filter, saturation and Otsu's threshold alone, on section C2."""
    rgb = thumbnail(data / "slides/her2st/HER2ST-C2.svs", MPP)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        saturation = cv2.cvtColor(cv2.medianBlur(rgb, 7), cv2.COLOR_RGB2HSV)[..., 1]
        cv2.threshold(np.ascontiguousarray(saturation), 0, 255, cv2.THRESH_OTSU)
        times.append(time.perf_counter() - start)
    return float(np.min(times))


def marks(data: Path) -> pd.DataFrame:
    """Share of pen and coverslip edge removed and of tissue kept, IoU of the pen mask."""
    rows = []
    for name in ("pen_red", "coverslip_edge"):
        rgb, truth = picture(data / f"qc/{name}.png"), picture(data / f"qc/{name}_mask.png")
        near = cv2.dilate(truth.astype(np.uint8), np.ones((25, 25))).astype(bool)
        section = METHODS["otsu, plain"](rgb, PICTURE_MPP)[0] & ~near
        for method, segmenter in METHODS.items():
            mask, pen = segmenter(rgb, PICTURE_MPP)
            rows.append((name, method, 1 - mask[truth].mean(), mask[section].mean(), iou(pen, truth)))
    return pd.DataFrame(rows, columns=["picture", "method", "removed", "tissue_kept", "pen_iou"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HISTOSTUDY_SHARED", beside)))
    parser.add_argument("--drawn", type=int, default=100, help="drawn thumbnails")
    given = parser.parse_args()
    data = given.data
    cv2.setNumThreads(1)
    add_superfast(data)
    on_spots, on_marks = spots(data), marks(data)
    for table in (on_spots, on_marks, fields(data), drawn(given.drawn)):
        say(table.to_string(index=False, float_format="%.3f"))
        say()
    means = on_spots.groupby("method", sort=False)[["coverage", "leakage", "iou", "seconds"]].mean()
    say(means.to_string(float_format="%.3f"))
    say()
    missed = 1 - means["coverage"]
    plain, mine = "otsu, plain", "classical"
    say(f"spots missed, plain Otsu over classical: {missed[plain] / max(missed[mine], 1e-4):.1f} times")
    say(f"leakage, plain Otsu over classical: {means['leakage'][plain] / max(means['leakage'][mine], 1e-4):.1f} times")
    left = 1 - on_marks.groupby("method")["removed"].mean()
    say(f"spots missed, plain Otsu over unet: {missed[plain] / max(missed['unet'], 1e-4):.1f} times")
    say(f"leakage, plain Otsu over unet: {means['leakage'][plain] / max(means['leakage']['unet'], 1e-4):.1f} times")
    say(f"marks left in the tissue, plain Otsu over classical: {left[plain] / max(left[mine], 1e-4):.1f} times")
    say(f"seconds a slide, classical over a bare Otsu: {means['seconds'][mine] / bare_seconds(data):.1f} times")


if __name__ == "__main__":
    main()
