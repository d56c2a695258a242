"""Pairs of features, of a tile and of its changed versions: what the recipe `histaug` learns from.

One HDF5 file a slide: ``/features`` (n, D) float32 of the drawn tiles, ``/augmented`` (n, m, D) of m versions of each,
``/values`` and ``/positions`` (n, m, 13) what was done to each (see `histostudy.encoders.augment`), ``/coords`` (n, 2)
level-0 pixels; root attribute ``identity``, JSON. They are made by `histostudy.features.pairing`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from histostudy.encoders.augment import CODES, INTENSITY, REACH
from histostudy.errors import FeatureError
from histostudy.features.store import check_finite
from histostudy.files import atomic, digest_of
from histostudy.stages import as_written

if TYPE_CHECKING:
    import pandas as pd

#: The recipe that asks for pairs.
RECIPE = "histaug"
NAMES = ("features", "augmented", "values", "positions", "coords")


@dataclass(frozen=True)
class PairSettings:
    """How pairs are drawn.

    intensity : share of the published ranges of the continuous transforms; tiles : drawn a slide; versions : of each.
    """

    intensity: float = INTENSITY
    tiles: int = 16
    versions: int = 4

    @classmethod
    def of(cls, recipes: Mapping[str, Mapping[str, Any]]) -> PairSettings | None:
        """What the recipes of a model ask for, or None."""
        if RECIPE not in recipes:
            return None
        given = recipes[RECIPE] or {}
        known = [field.name for field in fields(PairSettings)]
        return PairSettings(**{name: given[name] for name in known if name in given})

    @property
    def name(self) -> str:
        """Name of the folder of these pairs."""
        return f"i{self.intensity:g}_t{self.tiles}_v{self.versions}"

    def folder(self, features: Path) -> Path:
        """Folder of the pairs, within that of the features."""
        return features / "pairs" / self.name


@dataclass(frozen=True)
class Pairs:
    """Pairs of several patients.

    Attributes
    ----------
    features : ndarray of float32, (N, D)
        Of the tile of each pair.
    augmented : ndarray of float32, (N, D)
        Of its changed version.
    values : ndarray of float32, (N, C)
    positions : ndarray of int64, (N, C)
        What was done, of C transforms.
    patients : ndarray of str, (N,)
        Whose tile it is.
    codes : tuple of int
        (C,) number of codes of each transform; 0 for a continuous one.
    reach : float
        Largest size of a continuous value.
    """

    features: np.ndarray
    augmented: np.ndarray
    values: np.ndarray
    positions: np.ndarray
    patients: np.ndarray
    codes: tuple[int, ...] = CODES
    reach: float = REACH * INTENSITY

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray) -> Self:
        """The pairs at `rows`: places, or a mask."""
        names = ("features", "augmented", "values", "positions", "patients")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def write_pairs(path: Path, arrays: Mapping[str, np.ndarray], identity: Mapping[str, Any]) -> None:
    """Write the pairs of a slide, atomically; the same pairs give the same bytes.

    Raises
    ------
    FeatureError
        If a vector is not finite.
    """
    import h5py

    for name in ("features", "augmented"):
        check_finite(arrays[name].reshape(-1, arrays[name].shape[-1]), path)
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        for name in NAMES:
            file.create_dataset(name, data=arrays[name], track_times=False)
        file.attrs["identity"] = json.dumps(identity, sort_keys=True)


def read_pairs(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the pairs of a slide, and their identity.

    Raises
    ------
    FeatureError
        If the file holds none.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return {name: np.asarray(file[name][:]) for name in NAMES}, json.loads(file.attrs["identity"])
    except (OSError, KeyError) as bad:
        reason = str(bad).splitlines()[0][:100]
        raise FeatureError(f"holds no pairs ({reason})", where=path, todo="delete it, and run again") from bad


class PairReader:
    """The pairs of a cohort, read for those patients alone that are asked for.

    Parameters
    ----------
    folder : Path
        Where the files lie.
    index : DataFrame
        `slide_id`, `patient_id`, `file` and `sha256` of each slide that has pairs.
    settings : PairSettings
        How they were drawn.
    """

    def __init__(self, folder: Path, index: pd.DataFrame, settings: PairSettings) -> None:
        self.folder, self.settings = Path(folder), settings
        rows = index.sort_values("slide_id")[["slide_id", "patient_id", "file", "sha256"]]
        self._slides: dict[str, list[tuple[str, str]]] = {}
        for row in rows.astype(str).to_dict("records"):
            self._slides.setdefault(row["patient_id"], []).append((row["file"], row["sha256"]))
        #: Of all pairs, and whose they are.
        self.digest = digest_of(rows.astype(str).to_numpy().tolist())

    def __call__(self, patient_ids: Sequence[str]) -> Pairs:
        """The pairs of patients, in the order given; no file of another patient is opened.

        Raises
        ------
        FeatureError
            If none of them has pairs, or a file is not as it was written.
        """
        parts: list[dict[str, np.ndarray]] = []
        for patient in patient_ids:
            for name, digest in self._slides.get(patient, []):
                read, _ = read_pairs(as_written(self.folder / name, digest))
                n, versions, _ = read["augmented"].shape
                each = {key: read[key].reshape(n * versions, -1) for key in ("augmented", "values", "positions")}
                each["features"] = np.repeat(read["features"], versions, axis=0)
                each["patients"] = np.full(n * versions, patient)
                parts.append(each)
        if not parts:
            raise FeatureError("no training patient has pairs", where=self.folder, todo="run the rule `pairs` again")
        whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        return Pairs(
            whole["features"], whole["augmented"], whole["values"], whole["positions"].astype(np.int64),
            whole["patients"], reach=REACH * self.settings.intensity,
        )  # fmt: skip
