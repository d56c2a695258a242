"""Make the encoder that is shipped, `builtin_cnn`, from its teacher's weights and freely licensed pictures.

    python -m histostudy.verbs.builtin_cnn --source DATA --teacher WEIGHTS.pt --out FOLDER

DATA holds the pictures of `PICTURES`; the rest is drawn. Cuts tiles, distils the small network from its teacher layer
by layer (`histostudy.encoders.reduce`), goes on by gradient as the `pretrain` section of
`config/studies/train_builtin_cnn.yaml` says, and writes `FOLDER/builtin_cnn.safetensors`, in half precision.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from histostudy.codeversion import code_version
from histostudy.encoders.mobilenet import DEPTHS, MEAN, STD, MobileNet
from histostudy.encoders.pretraining.data import ImageFolder
from histostudy.encoders.pretraining.loop import pretrain
from histostudy.encoders.pretraining.small_student import SmallStudent
from histostudy.encoders.pretraining.teachers import Teacher
from histostudy.encoders.pretraining.views import cut, draw_view, recolour
from histostudy.errors import ConfigError, EncoderError, StudyError
from histostudy.files import atomic, digest_of, read_json, sha256, write_json
from histostudy.log import setup
from histostudy.pretrain_keys import Pretrain, Views
from histostudy.seeds import derive_seed
from histostudy.studyfile import load_study

logger = logging.getLogger("histostudy.verbs.builtin_cnn")  # also when it is the program

SEED = 0
TILE_PX, TILES = 384, 2400
#: Pictures, the share of the tiles that each group gives, and the scale taken for theirs (um/px; some state none).
PICTURES: dict[str, tuple[float, float]] = {
    "slides/edge_cases/CMU-1-Small-Region.svs": (0.12, 0.5),  # CC0
    "slides/edge_cases/CropBreastSlide.tiff": (0.15, 0.5),  # MIT
    "slides/edge_cases/TCGA-CR-7395-01A-01-TS1.svs": (0.18, 0.5),  # TCGA open access, in an Apache-2.0 repository
    "slides/regions/TCGA-06-0174-01Z-00-DX3.tiff": (0.06, 0.5),  # TCGA open access
    "slides/regions/TCGA-26-1442-01Z-00-DX1.tiff": (0.06, 0.5),  # TCGA open access
    "tiles/hist2rna/**/*.png": (0.13, 0.25),  # MIT, TCGA open access
    "qc/tiles/*.png": (0.03, 0.5),  # Apache-2.0
    "qc/t*.png": (0.05, 0.5),  # BSD-3-Clause-Clear, Apache-2.0
    "regions/skimage_ihc.png": (0.02, 0.5),  # CC0
}
DRAWN, DRAWN_SLIDES = 0.20, 12
#: Scale of the tiles, um/px, uniform in its logarithm.
MPP = (0.25, 1.0)
#: Colours of the tiles are changed once for teacher and student alike, so that there are many stains to learn from.
COLOURS = Views(scale=(1.0, 1.0), aspect=1.0, stain=0.25, colour=0.15, blur=0.25, blur_sigma=(0.4, 1.6))
START_TILES = 192
#: What the tiles were cut from; beside them.
CUT = "cut.json"


def cut_tiles(source: Path, out: Path, seed: int = SEED, most: int = TILES) -> None:
    """Cut the tiles to learn from: real ones from freely licensed pictures, and drawn ones.

    Parameters
    ----------
    source : Path
        Folder of the pictures.
    out : Path
        Gets a folder a picture, with PNG files of 384 px.
    seed : int
    most : int
        Tiles in all.

    Raises
    ------
    EncoderError
        If a picture is missing.
    """
    import cv2

    for name, share, mpp, pictures in _pictures(source, seed):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(derive_seed(seed, "tiles", name))
        for number in range(round(share * most)):
            tile = _tile(rng, pictures[int(rng.integers(len(pictures)))], mpp)
            cv2.imwrite(str(folder / f"{number:04d}.png"), tile[..., ::-1])
        logger.info("%s: %d tiles", name, round(share * most))


def kept_tiles(source: Path, out: Path, seed: int = SEED, most: int = TILES) -> Path:
    """`cut_tiles`, once for the same pictures, seed, number and code: whole or not at all.

    Returns `out`. A folder of tiles that were cut from something else is replaced, one that is none of ours refused.

    Raises
    ------
    EncoderError
        If a picture is missing, or `out` holds something else.
    """
    record = out / CUT
    pictures = {name: [[p.name, sha256(p)] for p in sorted(source.glob(name))] for name in PICTURES}
    wanted = {
        "pictures": digest_of(pictures),
        "seed": seed,
        "tiles": most,
        "code": code_version("histostudy.verbs.builtin_cnn"),
    }
    if record.is_file() and read_json(record) == wanted:
        return out
    if out.exists() and not record.is_file():
        raise EncoderError("holds no record of how it was cut", where=out, todo="remove it, or give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        made = Path(scratch) / out.name
        cut_tiles(source, made, seed, most)
        write_json(made / CUT, wanted)
        if out.exists():
            out.rename(Path(scratch) / "before")
        made.rename(out)
    return out


def _pictures(source: Path, seed: int) -> Iterator[tuple[str, float, float, list[np.ndarray]]]:
    from histostudy.simulate.plan import SlidePlan
    from histostudy.simulate.tissue_art import draw_slide

    for pattern, (share, mpp) in PICTURES.items():
        found = sorted(source.glob(pattern))
        if not found:
            raise EncoderError(f"no picture {pattern}", where=source, todo="give the folder that holds it as --source")
        yield pattern.split("*")[0].replace("/", "-").strip("-."), share, mpp, [_read(path) for path in found]
    rng = np.random.default_rng(derive_seed(seed, "drawn"))
    for number in range(DRAWN_SLIDES):
        mpp = (0.25, 0.5, 0.5, 1.0)[number % 4]
        u = rng.random(7).tolist()
        stain = tuple(rng.uniform((0.7, 0.7, -0.1, 0.8), (1.3, 1.3, 0.1, 1.2)).tolist())
        plan = SlidePlan(
            f"drawn_{number}", "drawn", "drawn", int(rng.integers(2**31)), 2400, 2400, mpp,
            0.1 + 0.5 * u[0], 0.1 + 0.7 * u[1], 0.3 * u[2], 0.15 * u[3], u[4], 0.6 + 0.9 * u[5], 0.3 * u[6],
            stain, False,  # type: ignore[arg-type]
        )  # fmt: skip
        yield f"drawn-{number:02d}", DRAWN / DRAWN_SLIDES, mpp, [draw_slide(plan)[0]]


def _read(path: Path) -> np.ndarray:
    """A picture, or level 0 of a small slide, as RGB."""
    from PIL import Image

    if path.suffix == ".png":
        return np.asarray(Image.open(path).convert("RGB"))
    import openslide

    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def _tile(rng: np.random.Generator, picture: np.ndarray, mpp: float) -> np.ndarray:
    """A tile at a drawn scale, with tissue where there is some to be found, its colours changed."""
    import cv2

    for _ in range(20):
        wanted = np.exp(rng.uniform(*np.log(MPP)))
        side = int(np.clip(round(TILE_PX * wanted / mpp), 128, min(picture.shape[:2])))
        top, left = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
        tile = picture[top : top + side, left : left + side]
        if (tile[::8, ::8].mean(axis=2) < 225).mean() > 0.15:
            break
    how = cv2.INTER_AREA if side > TILE_PX else cv2.INTER_CUBIC
    tile = cv2.resize(np.ascontiguousarray(tile), (TILE_PX, TILE_PX), interpolation=how)
    view = torch.from_numpy(draw_view(rng, COLOURS, (1.0, 1.0)))[None]
    changed = recolour(torch.from_numpy(tile)[None], view)[0].permute(1, 2, 0)
    return (changed * 255).round().byte().numpy()


class DepthTeacher(Teacher):
    """MobileNetV1 at three depths: moments of its maps as the vector, its map at stride 16 as the tokens of places.

    Parameters
    ----------
    network : MobileNet
    facts : dict
        As of `Teacher`.
    """

    def __init__(self, network: MobileNet, facts: dict[str, Any]) -> None:
        super().__init__(lambda tiles: self.tokens(torch.from_numpy(tiles))[0].numpy(), facts)
        self.network = network

    @torch.no_grad()
    def tokens(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vector (B, 2560) and tokens (B, P, 512) of uint8 (B, H, W, 3) crops."""
        fine, middle, last = (one.flatten(2) for one in self.network.maps(normalised(crops), DEPTHS))
        parts = [fine.mean(dim=2), fine.std(dim=2), middle.mean(dim=2), middle.std(dim=2), last.mean(dim=2)]
        return torch.cat(parts, dim=1), middle.transpose(1, 2)


def normalised(crops: Tensor) -> Tensor:
    """Uint8 (B, H, W, 3) crops as the networks take them, (B, 3, H, W)."""
    return ((crops.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def load_teacher(file: Path) -> DepthTeacher:
    """The teacher of its folded weights, ``layers.<i>.weight`` and ``layers.<i>.bias``."""
    from histostudy.encoders.checkpoint import Weights, read_state

    digest = sha256(file)
    network = MobileNet(depths=True)
    state = read_state(Weights((file,), {}, {}, digest, None))
    network.load_state_dict({name: value.float() for name, value in state.items()})
    network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return DepthTeacher(network, {"encoder": "mobilenet_v1_depths", "weights_sha256": digest})


def some_crops(source: ImageFolder, size: int, most: int = START_TILES, seed: int = SEED) -> Tensor:
    """Crops, uint8 (most, size, size, 3), of tiles spread over the folder."""
    numbers = np.linspace(0, len(source.paths) - 1, most).astype(int).tolist()
    rng = np.random.default_rng(derive_seed(seed, "start"))
    views = Views(aspect=1.0)
    return torch.stack([
        torch.from_numpy(cut(tile, draw_view(rng, views, (0.2, 1.0)), size))
        for tile in source.read(numbers)
    ])  # fmt: skip


def make(tiles: Path, teacher_file: Path, out: Path, settings: Pretrain, seed: int = SEED) -> str:
    """Start, distil and write; returns the SHA-256 of the file.

    Parameters
    ----------
    tiles : Path
        What `cut_tiles` wrote.
    teacher_file : Path
    out : Path
        Gets `builtin_cnn.safetensors`, and `distilled/` with the history and a checkpoint to resume from.
    settings : histostudy.pretrain_keys.Pretrain
    seed : int
    """
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(settings.threads)
    source, teacher, student = ImageFolder(tiles), load_teacher(teacher_file), SmallStudent()
    size = settings.views.size or TILE_PX
    crops = some_crops(source, size, seed=seed)
    student.start_from(teacher.network, normalised(crops), torch.Generator().manual_seed(seed))
    made = pretrain(
        settings, source, out / "distilled", seed=seed, teacher=teacher, student=student, about={"folder": tiles.name}
    )  # fmt: skip
    student.load_weights(load_file(made.folder / "weights.safetensors"))
    student.standardise(normalised(crops))
    file = out / "builtin_cnn.safetensors"
    with atomic(file) as temporary:
        save_file({name: value.half() for name, value in student.weights().items()}, temporary)
    return sha256(file)


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--teacher", type=Path, required=True, help="folded weights of MobileNetV1")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--study", type=Path, default=Path("config/studies/train_builtin_cnn.yaml"))
    parser.add_argument("--epochs", type=int, help="of distillation by gradient, instead of the study's")
    given = parser.parse_args()
    setup()
    try:
        study = load_study(given.study)
        if study.pretrain is None:
            raise ConfigError("the study has no pretrain section", where=given.study, todo="add it")
        if not given.teacher.is_file():
            raise EncoderError("no such file", where=given.teacher, todo="give the teacher's weights as --teacher")
        load_teacher(given.teacher)
        epochs = study.pretrain.epochs if given.epochs is None else given.epochs
        settings = study.pretrain.model_copy(update={"epochs": epochs})
        tiles = kept_tiles(given.source, given.out / "tiles", study.seed)
        logger.info("SHA-256 %s", make(tiles, given.teacher, given.out, settings, study.seed))
    except StudyError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
