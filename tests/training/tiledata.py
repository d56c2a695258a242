"""Small labelled images on disk: tiles of stripes, dots or nothing, in the colour of their patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from histostudy.tasks import TileClassification

KINDS = ("dots", "plain", "stripes")


def picture(kind: str, side: int, rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """A texture: its mean colour says nothing of its kind."""
    y, x = np.mgrid[:side, :side] + rng.integers(0, 8, 2)[:, None, None]
    wave = {"stripes": np.sin(x * np.pi / 4), "dots": np.sin(x * np.pi / 4) * np.sin(y * np.pi / 4), "plain": 0 * x}
    image = base + 40 * wave[kind][..., None] + rng.normal(0, 4, (side, side, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def write_tiles(folder: Path, patients: int = 9, each: int = 2, side: int = 32, seed: int = 0) -> TileClassification:
    """Images, tiles.csv and patients.csv; the task of the table."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for p in range(patients):
        base = rng.uniform(90, 200, 3)
        for kind in KINDS:
            for k in range(each):
                name = f"p{p}-{kind}-{k}"
                Image.fromarray(picture(kind, side, rng, base)).save(folder / "images" / f"{name}.png")
                rows.append({"tile_id": name, "patient_id": f"p{p}", "path": f"images/{name}.png", "label": kind})
    pd.DataFrame(rows).to_csv(folder / "tiles.csv", index=False)
    ids = [f"p{p}" for p in range(patients)]
    pd.DataFrame({"patient_id": ids, "site": ["a", "b", "c"] * (patients // 3)}).to_csv(
        folder / "patients.csv", index=False
    )
    return TileClassification(name="texture", kind="tile_classification", table=folder / "tiles.csv", mpp=1.0)
