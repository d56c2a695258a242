"""Tissue to tiles: one HDF5 file a slide and a shard's index. No pixel is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.codeversion import code_version
from histostudy.cohort.spots import read_spots
from histostudy.errors import BadSlideError
from histostudy.files import digest_of
from histostudy.scale_keys import scale_settings
from histostudy.stages import as_written, run_shard
from histostudy.tiles.coarser import coarser_tiles
from histostudy.tiles.lattice import Lattice
from histostudy.tiles.spots import lay_spots
from histostudy.tiles.store import TileSet, write_tiles
from histostudy.tissue.geojson import rasterise, read_geojson

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.study import Tiles

COLUMNS = [
    "slide_id", "status", "reason", "detail", "n_tiles", "mpp_requested", "mpp_effective", "size_px0", "file",
    "sha256", "identity",
]  # fmt: skip


def lay_tiles(slide_id: str, lattice: Lattice, tissue: Path, *, min_tissue: float, identity: str = "") -> TileSet:
    """The tiles of a slide with enough tissue.

    Parameters
    ----------
    slide_id : str
    lattice : Lattice
    tissue : Path
        GeoJSON of the tissue stage, or as edited in QuPath.
    min_tissue : float
        Smallest share of tissue, 0 to 1; 0 keeps every tile of the lattice.
    identity : str
        Digest of what the tiles depend on.

    Raises
    ------
    BadSlideError
        ``no_tiles``.
    """
    if len(lattice) == 0:
        raise BadSlideError(
            "no_tiles",
            f"{lattice.width_px0} x {lattice.height_px0} px is less than a tile of {lattice.size_px0:.1f} px",
        )
    mask = rasterise(read_geojson(tissue), lattice.mask_shape, lattice.mask_downsample)
    fraction = lattice.tissue_fraction(mask)
    keep = fraction >= min_tissue - 1e-6
    if not keep.any():
        most = float(fraction.max())
        raise BadSlideError("no_tiles", f"no tile has {min_tissue:.0%} tissue; the most is {most:.0%}")
    attrs = {**lattice.facts(), "slide_id": slide_id, "min_tissue": min_tissue, "identity": identity}
    return TileSet(lattice.coords[keep], lattice.grid[keep], fraction[keep], attrs)


def tile_slides(
    slides_index: pd.DataFrame, tissue_index: pd.DataFrame, tissue_dir: Path, tiles: Tiles, out_dir: Path
) -> pd.DataFrame:
    """Lay tiles on every slide of a shard whose tissue was found.

    Parameters
    ----------
    slides_index, tissue_index : DataFrame
        Indexes of the slides and tissue stages; slides whose status is ``ok`` in both are taken.
    tissue_dir : Path
        Holds the files that `tissue_index` names.
    tiles : Tiles
        The study's `tiles` keys.
    out_dir : Path
        Takes ``<slide>.h5``.

    Returns
    -------
    DataFrame
        One row a slide with the columns of `COLUMNS`; a slide that failed before has none.
    """
    import pandas as pd

    facts = slides_index.loc[slides_index["status"] == "ok", ["slide_id", "mpp", "width_px0", "height_px0"]]
    found = tissue_index[tissue_index["status"] == "ok"] if len(tissue_index) else tissue_index
    found = found.reindex(columns=["slide_id", "file", "sha256"])
    rows = facts.merge(
        found.rename(columns={"file": "tissue_file", "sha256": "tissue_sha256"}),
        on="slide_id",
        validate="one_to_one",
    )
    settings = scale_settings(tiles.model_dump(mode="json", exclude={"label", "spots"}))
    code = code_version("histostudy.tiles.stage")
    spots = None if tiles.spots is None else read_spots(tiles.spots)

    def identity_of(row: Mapping[str, Any]) -> dict[str, Any]:
        slide = [int(row["width_px0"]), int(row["height_px0"]), float(row["mpp"])]
        places = [] if spots is None else spots.loc[spots["slide_id"] == row["slide_id"]].to_numpy().tolist()
        return {"tissue": row["tissue_sha256"], "slide": slide, "tiles": settings, "spots": places, "code": code}

    def work(row: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        slide_id = str(row["slide_id"])
        lattice = Lattice(
            int(row["width_px0"]), int(row["height_px0"]), float(row["mpp"]),
            tiles.mpp, tiles.size, tiles.overlap, tiles.tolerance,
        )  # fmt: skip
        identity = digest_of(identity_of(row))
        if spots is not None:
            laid = lay_spots(slide_id, lattice, spots, identity=identity)
        else:
            outline = as_written(tissue_dir / row["tissue_file"], row["tissue_sha256"])
            laid = lay_tiles(slide_id, lattice, outline, min_tissue=tiles.min_tissue, identity=identity)
            laid = replace(laid, coarser=coarser_tiles(lattice, laid.grid, tiles.scales))
        name = f"{slide_id}.h5"
        write_tiles(out_dir / name, laid)
        stats = {
            "n_tiles": len(laid),
            "mpp_requested": lattice.mpp,
            "mpp_effective": lattice.mpp_effective,
            "size_px0": lattice.size_px0,
        }
        return name, stats

    index = run_shard(rows, work, out_dir=out_dir, identity_of=identity_of, what="tiles")
    index = index.reindex(columns=COLUMNS)
    index["n_tiles"] = pd.to_numeric(index["n_tiles"]).fillna(0).astype("int64")
    index["mpp_requested"] = float(tiles.mpp)
    for column in ("mpp_effective", "size_px0"):
        index[column] = index[column].astype(float)
    return index
