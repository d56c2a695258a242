"""One way from a slide to features, timed in a process of its own; `benchmarks/preprocess.py` runs it.

    python benchmarks/preprocess_way.py WAY ENCODER SLIDE WEIGHTS CORES [PATH]

It imports nothing of histostudy but the network, unless WAY is histostudy, so that it runs where only the other tool is
installed.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

SIZE, BATCH = 224, 32
Encode = Callable[[np.ndarray], np.ndarray]
# what the other tool's environment lacks (torch, OpenCV) is that of ours, and the network's code is ours for all
sys.path.extend(sys.argv[6:])
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))


#: When the last way knew its tiles.
FOUND = [0.0]


def found() -> None:
    """Note that the tiles are known."""
    FOUND[0] = time.perf_counter()


def colour(batch: np.ndarray) -> np.ndarray:
    """Mean colour of each tile (B, 3)."""
    import cv2

    return np.array([cv2.mean(tile)[:3] for tile in batch], np.float32) / 255


def network(weights: Path, cores: int) -> Any:
    """MobileNetV1 with the shared weights: (B, 3, H, W) in -1 to 1 to (B, 1024)."""
    import torch

    from histostudy.encoders.mobilenet import MobileNet

    torch.set_num_threads(cores)
    net = MobileNet()
    net.load_state_dict({k: v.float() for k, v in torch.load(weights, map_location="cpu", weights_only=True).items()})
    return net.eval().to(memory_format=torch.channels_last)


def mobilenet(weights: Path, cores: int) -> Encode:
    """Vectors (B, 1024) of tiles."""
    import torch

    net = network(weights, cores)

    def encode(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(batch).permute(0, 3, 1, 2).float().sub_(128).div_(128)
            return net(x).numpy()

    return encode


def in_batches(tiles: Iterable[np.ndarray], encode: Encode) -> int:
    """Encode tiles one after the other; how many there were."""
    done, waiting = 0, []
    for tile in tiles:
        waiting.append(tile)
        if len(waiting) == BATCH:
            encode(np.stack(waiting))
            done, waiting = done + BATCH, []
    if waiting:
        encode(np.stack(waiting))
    return done + len(waiting)


def histostudy(slide: Path, encode: Encode, cores: int) -> Callable[[], tuple[int, float]]:
    """The stages of a study; threads read ahead."""
    import pandas as pd

    from histostudy.features.embed import Reader, embed_tiles
    from histostudy.slides.reader import open_slide
    from histostudy.slides.stage import inspect_slides
    from histostudy.study import Features, Tiles, Tissue
    from histostudy.tiles.stage import tile_slides
    from histostudy.tiles.store import read_tiles
    from histostudy.tissue.stage import segment_slides

    class Given:
        def __init__(self) -> None:
            self.dim, self.encode = encode(np.zeros((1, SIZE, SIZE, 3), np.uint8)).shape[1], encode

    def work() -> tuple[int, float]:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch)
            rows = pd.DataFrame([{"slide_id": "s", "patient_id": "p", "path": str(slide)}])
            slides = inspect_slides(rows, out / "slides")
            tissue = segment_slides(slides, Tissue(), out / "tissue")
            tiles, features = Tiles(mpp=float(slides.mpp[0]), size=SIZE), Features(batch_size=BATCH)
            tile_slides(slides, tissue, out / "tissue", tiles, out / "tiles")
            found()
            with open_slide(slide) as opened:
                source = Reader(opened, workers=cores)
                coords = read_tiles(out / "tiles/s.h5").coords
                return embed_tiles(source, coords, out / "s.h5", Given(), tiles, features, {}), float(SIZE)  # type: ignore[arg-type]

    return work


def histostudy_slide(slide: Path, encode: Encode, cores: int) -> Callable[[], tuple[int, float]]:
    """What those stages do with one slide, by their functions: opened once, and no index, record or checksum kept."""
    from histostudy.features.embed import Reader, embed_tiles
    from histostudy.files import write_text
    from histostudy.slides.reader import open_slide
    from histostudy.study import Features, Tiles, Tissue
    from histostudy.tiles.lattice import Lattice
    from histostudy.tiles.stage import lay_tiles
    from histostudy.tissue.stage import compact, segment_slide

    class Given:
        def __init__(self) -> None:
            self.dim, self.encode = encode(np.zeros((1, SIZE, SIZE, 3), np.uint8)).shape[1], encode

    def work() -> tuple[int, float]:
        with tempfile.TemporaryDirectory() as scratch, open_slide(slide) as opened:
            out = Path(scratch)
            write_text(out / "s.geojson", compact(segment_slide(opened, Tissue())[0]))
            tiles, features = Tiles(mpp=opened.mpp, size=SIZE), Features(batch_size=BATCH)
            lattice = Lattice(opened.width_px0, opened.height_px0, opened.mpp, opened.mpp, SIZE)
            coords = lay_tiles("s", lattice, out / "s.geojson", min_tissue=tiles.min_tissue).coords
            found()
            source = Reader(opened, workers=cores)
            return embed_tiles(source, coords, out / "s.h5", Given(), tiles, features, {}), float(SIZE)  # type: ignore[arg-type]

    return work


def openslide(slide: Path, encode: Encode, cores: int) -> Callable[[], tuple[int, float]]:
    """CLAM's tissue (Otsu on the blurred saturation of a thumbnail), then `read_region` and PIL, tile by tile."""
    import cv2
    import openslide as library

    def work() -> tuple[int, float]:
        with library.OpenSlide(slide) as opened:
            level = opened.get_best_level_for_downsample(16)
            shrink = opened.level_downsamples[level]
            small = np.asarray(opened.read_region((0, 0), level, opened.level_dimensions[level]).convert("RGB"))
            saturation = cv2.medianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2HSV)[..., 1], 7)
            mask = cv2.threshold(saturation, 0, 255, cv2.THRESH_OTSU)[1] > 0
            width, height = opened.dimensions
            corners = [
                (x, y)
                for y in range(0, height - SIZE + 1, SIZE)
                for x in range(0, width - SIZE + 1, SIZE)
                if mask[int(y / shrink) : int((y + SIZE) / shrink), int(x / shrink) : int((x + SIZE) / shrink)].mean()
                >= 0.5
            ]
            found()
            read = (np.asarray(opened.read_region(at, 0, (SIZE, SIZE)).convert("RGB")) for at in corners)
            return in_batches(read, encode), float(SIZE)

    return work


def lazyslide(slide: Path, encode: Encode, cores: int) -> Callable[[], tuple[int, float]]:
    """Its own tissue, tiles and data loader, the encoder as its model."""
    import lazyslide as zs
    import torch
    from wsidata import open_wsi

    class Given(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            tiles = x.permute(0, 2, 3, 1) if x.shape[1] == 3 else x
            return torch.from_numpy(encode(tiles.contiguous().numpy()))

    def work() -> tuple[int, float]:
        wsi = open_wsi(str(slide), store=None)
        zs.pp.find_tissues(wsi)
        zs.pp.tile_tissues(wsi, SIZE, mpp=wsi.properties.mpp)
        found()
        plain = torch.as_tensor
        zs.tl.feature_extraction(
            wsi, model=Given(), model_name="given", transform=lambda tile: plain(np.ascontiguousarray(tile)),
            batch_size=BATCH, num_workers=0, device="cpu", pbar=False,
        )  # fmt: skip
        return len(wsi.shapes["tiles"]), float(SIZE)

    return work


def tiatoolbox(slide: Path, encode: Encode, cores: int) -> Callable[[], tuple[int, float]]:
    """Its tissue mask and its sliding window of patches."""
    from tiatoolbox.tools.patchextraction import get_patch_extractor
    from tiatoolbox.wsicore.wsireader import WSIReader

    def work() -> tuple[int, float]:
        reader = WSIReader.open(str(slide))
        mask = reader.tissue_mask(resolution=8.0, units="mpp")
        patches = get_patch_extractor(
            "slidingwindow", input_img=reader, input_mask=mask, patch_size=(SIZE, SIZE), stride=(SIZE, SIZE),
            resolution=0, units="level", min_mask_ratio=0.5, within_bound=True,
        )  # fmt: skip
        found()
        return in_batches(patches, encode), float(SIZE)

    return work


def hs2p(slide: Path, encode: Encode, cores: int) -> Callable[[], tuple[int, float]]:
    """Its tissue and tiling, and its reader of tiles."""
    import openslide as library
    from hs2p import SegmentationConfig, SlideSpec, TilingConfig, tile_slide
    from hs2p.wsi.streaming.stream import iter_tile_arrays_from_result

    with library.OpenSlide(slide) as opened:
        mpp = float(opened.properties[library.PROPERTY_NAME_MPP_X])

    def work() -> tuple[int, float]:
        result = tile_slide(
            SlideSpec(sample_id="s", image_path=slide),
            tiling=TilingConfig(
                backend="openslide", mask_backend="openslide", requested_spacing_um=mpp, requested_tile_size_px=SIZE,
                tolerance=0.07, overlap=0.0,
            ),
            segmentation=SegmentationConfig(method="hsv", downsample=16),
        )  # fmt: skip
        found()
        tiles = (np.ascontiguousarray(tile[..., :3]) for tile in iter_tile_arrays_from_result(result=result))
        return in_batches(tiles, encode), float(SIZE)

    return work


def main() -> None:
    way, kind, slide, weights, cores = sys.argv[1:6]
    import cv2

    cv2.setNumThreads(int(cores))
    encode = colour if kind == "colour" else mobilenet(Path(weights), int(cores))
    work = globals()[way](Path(slide), encode, int(cores))
    encode(np.zeros((BATCH, SIZE, SIZE, 3), np.uint8))
    work()  # imports, and the slide into the cache of the disk
    start, before = time.perf_counter(), time.process_time()
    tiles, side = work()
    seconds, cpu = time.perf_counter() - start, time.process_time() - before
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e3
    sys.stdout.write(
        json.dumps(
            {
                "seconds": seconds,
                "cpu": cpu,
                "finding": FOUND[0] - start,
                "tiles": tiles,
                "megapixels": tiles * side**2 / 1e6,
                "mb": peak,
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
