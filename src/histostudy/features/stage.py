"""Features of a shard of slides: computed by an encoder, or found in another tool's folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.codeversion import code_version
from histostudy.encoders.registry import encoder_identity, load_encoder
from histostudy.errors import BadSlideError, FeatureError
from histostudy.features.embed import Reader, coords_attributes, embed_tiles
from histostudy.features.layouts import detect, open_precomputed, read_header, read_slide
from histostudy.features.staining import NormalisedSource, load_normaliser, stain_identity
from histostudy.files import sha256
from histostudy.stages import run_shard, slides_with_tiles

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.encoders.base import Encoder
    from histostudy.encoders.stain.normaliser import Normaliser
    from histostudy.features.embed import TileSource
    from histostudy.study import Features, Tiles

logger = logging.getLogger(__name__)

COLUMNS = ["slide_id", "status", "reason", "detail", "n_tiles", "dim", "file", "sha256", "identity"]


class _Work:
    """Embeds one slide at a time; the encoder is loaded for the first that needs it.

    Memory: one batch of tiles and vectors, the coordinates of the slide's tiles (28 bytes a tile), and what the
    reader holds; nothing grows with the pixels of a slide.
    """

    def __init__(
        self, features: Features, tiles: Tiles, tiles_dir: Path, out_dir: Path, device: str, workers: int = 0
    ) -> None:
        self.features, self.tiles, self.tiles_dir, self.out_dir = features, tiles, Path(tiles_dir), Path(out_dir)
        self.device, self.workers = device, workers

    @cached_property
    def encoder(self) -> Encoder:
        return load_encoder(self.features, self.tiles.mpp, self.device, self.tiles.size)

    @cached_property
    def coarser(self) -> dict[float, Encoder]:
        """The encoder at each coarser scale.

        Raises
        ------
        EncoderError
            If it is not one that the encoder works at.
        """
        return {mpp: load_encoder(self.features, mpp, self.device, self.tiles.size) for mpp in self.tiles.scales}

    @cached_property
    def normaliser(self) -> Normaliser | None:
        """What takes the stain off, if the study asks for it."""
        return None if self.features.stain is None else load_normaliser(self.features.stain, self.tiles)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """Identity that all slides share."""
        stain = {} if self.normaliser is None else {"stain": stain_identity(self.normaliser, self.device)}
        return encoder_identity(self.features, self.tiles.mpp, self.device, self.tiles.size) | {
            "mpp_requested": self.tiles.mpp,
            "tile_px": self.tiles.size,
            "overlap_px": self.tiles.overlap,
            **stain,
            **self._scaling,
        }

    @property
    def _scaling(self) -> dict[str, Any]:
        """What further scales, and a JPEG scaled by its decoder, add to the identity."""
        fast = {"jpeg_scale": "fast"} if self.tiles.jpeg_scale == "fast" else {}
        made = {f"{m:g}": encoder_identity(self.features, m, self.device, self.tiles.size) for m in self.tiles.scales}
        return fast | ({"scales": made} if made else {})

    def __call__(self, row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        from histostudy.slides.reader import open_indexed
        from histostudy.tiles.store import read_tiles

        name = f"{row['slide_id']}.h5"
        tiled = self.tiles_dir / row["tiles_file"]
        identity = {**self.shared, "mpp_slide": float(row["mpp"]), "tiles": row["tiles_identity"]}
        laid = read_tiles(tiled)
        coords = laid.coords
        with open_indexed(row) as slide:
            source: TileSource = Reader(slide, self.workers, self.tiles.jpeg_scale == "fast")
            stain = {}
            if self.normaliser is not None:
                source = NormalisedSource(source, self.normaliser, coords, self.tiles, self.device)
                stain = {"stain_fallback": source.fit.fallback}
                if source.fit.fallback:
                    logger.warning(
                        "%s: its stain cannot be fitted (%s), its tiles keep their colours",
                        row["slide_id"],
                        source.fit.fallback.replace("_", " "),
                    )
            done = embed_tiles(
                source,
                coords,
                self.out_dir / name,
                self.encoder,
                self.tiles,
                self.features,
                identity,
                coords_attrs=coords_attributes(tiled),
                coarser=[(one, self.coarser[one.mpp]) for one in laid.coarser],
            )
        return name, {"n_tiles": done, "dim": self.encoder.dim} | stain


def embed_slides(
    slides_index: pd.DataFrame,
    tiles_index: pd.DataFrame,
    tiles_dir: Path,
    features: Features,
    tiles: Tiles,
    out_dir: Path,
    *,
    device: str = "cpu",
    workers: int = 0,
) -> pd.DataFrame:
    """Compute the features of the slides that have tiles.

    Parameters
    ----------
    slides_index : DataFrame
        `slide_id`, `path`, `mpp`, `fingerprint` of each slide.
    tiles_index : DataFrame
        `slide_id`, `status`, `file`, `sha256` of each slide's tiles.
    tiles_dir : Path
        Where the tile files lie.
    features, tiles : histostudy.study.Features, histostudy.study.Tiles
        The study's settings.
    out_dir : Path
        Gets ``<slide>.h5``.
    device : str
        ``cpu`` or ``cuda[:i]``.
    workers : int
        Threads that read ahead while the encoder works; they change no number.

    Returns
    -------
    DataFrame
        The columns of `COLUMNS`, a row a slide that has tiles; with `features.stain` also `stain_fallback`, why a
        slide kept its own stain (empty: it did not).

    Raises
    ------
    EncoderError
        If the encoder cannot be had.
    FeatureError
        If it gives NaN or infinities.
    """
    rows = slides_with_tiles(slides_index, tiles_index)
    work = _Work(features, tiles, tiles_dir, out_dir, device, workers)
    code = code_version("histostudy.features.embed", "histostudy.slides.reader", "histostudy.tiles.store")

    def identity_of(row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "slide": row["fingerprint"],
            "mpp": row["mpp"],
            "tiles": row["tiles_identity"],
            "encoder": work.shared,
            "code": code,
        }

    index = run_shard(rows, work, out_dir=Path(out_dir), identity_of=identity_of, what="features")
    if features.stain is None:
        return _columns(index, COLUMNS)
    if "stain_fallback" in index and (left := int(index["stain_fallback"].fillna("").ne("").sum())):
        logger.warning("%d of %d slides keep their own stain", left, len(index))
    return _columns(index, [*COLUMNS, "stain_fallback"])


def index_precomputed(slides: pd.DataFrame, features: Features) -> pd.DataFrame:
    """Find the features of each slide in another tool's folder.

    Parameters
    ----------
    slides : DataFrame
        With `slide_id`.
    features : histostudy.study.Features
        Uses `precomputed` and `layout`.

    Returns
    -------
    DataFrame
        The columns of `COLUMNS` and `path`, `layout`; a slide without a file is ``failed``, ``missing``.

    Raises
    ------
    FeatureError
        If the folder holds no features, those of several encoders, no slide of the table, vectors of different
        widths, or a number that is NaN or infinite.
    """
    import pandas as pd

    if features.precomputed is None:
        raise FeatureError("no folder of features is named", todo="set features.precomputed")
    found = open_precomputed(features.precomputed, features.layout)
    stems = _short(found)
    rows: list[dict[str, Any]] = []
    widths: dict[int, Path] = {}
    for slide_id in sorted(slides["slide_id"].astype(str)):
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"slide_id": slide_id, "n_tiles": 0, "dim": 0, "path": ""}
        path = found.get(slide_id) or stems.get(slide_id)
        try:
            if path is None:
                raise BadSlideError("missing", f"no feature file for it in {features.precomputed}")
            layout = detect(path) if features.layout == "auto" else features.layout
            header = read_header(path, layout)
            if not header.shape[0]:
                raise BadSlideError("no_tiles", f"{path.name} holds no vectors")
        except BadSlideError as bad:
            logger.warning("%s: %s", slide_id, bad)
            rows.append(row | {"status": "failed", "reason": bad.reason, "detail": bad.detail, "layout": ""})
            continue
        n, dim = header.shape
        if widths and dim not in widths:
            width, other = next(iter(widths.items()))
            raise FeatureError(
                f"features are {dim} wide, those of {other} {width}",
                where=path,
                todo="extract all slides of a study with one encoder",
            )
        widths.setdefault(dim, path)
        read_slide(path, layout)  # numbers that are none are found now, not by every model that trains on them
        digest = sha256(path)
        rows.append(
            row
            | {"status": "ok", "n_tiles": n, "dim": dim, "file": path.name, "sha256": digest, "identity": digest[:16]}
            | {"path": str(path), "layout": layout}
        )
    if not widths:
        raise FeatureError(
            f"none of the {len(rows)} slides of the table has a feature file",
            where=features.precomputed,
            todo=f"slide_id must be the file's name without suffix, such as {next(iter(found))}",
        )
    return _columns(pd.DataFrame(rows), [*COLUMNS, "path", "layout"])


def _short(found: Mapping[str, Path]) -> dict[str, Path]:
    """Files by the part of their name before the first dot, where it is one file's (TCGA: ``<barcode>.<uuid>``)."""
    groups: dict[str, list[Path]] = {}
    for stem, path in found.items():
        groups.setdefault(stem.split(".")[0], []).append(path)
    return {stem: paths[0] for stem, paths in groups.items() if len(paths) == 1}


def _columns(index: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    index = index.reindex(columns=columns)
    for column in ("n_tiles", "dim"):
        index[column] = pd.to_numeric(index[column]).fillna(0).astype("int64")
    return index
