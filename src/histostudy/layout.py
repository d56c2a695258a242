"""Where things lie in the results tree, and which slide belongs to which shard."""

from __future__ import annotations

import hashlib
from pathlib import Path

from histostudy.errors import ConfigError
from histostudy.files import digest_of, read_json, write_json
from histostudy.runtime_keys import runtime_label
from histostudy.scale_keys import scale_settings
from histostudy.study import Study

RESULTS = Path("results")
#: Name of the file of records in a results folder.
PROVENANCE = "provenance.jsonl"


def shard_count(n_slides: int, shard_size: int) -> int:
    """Number of shards: the power of two that gives about `shard_size` slides a shard.

    A power of two changes seldom as a cohort grows, so that one more slide touches one shard.
    """
    shards = 1
    while shards * shard_size < n_slides:
        shards *= 2
    return shards


def shard_of(slide_id: str, shards: int) -> int:
    """Shard of a slide: a stable hash of its id, whatever other slides there are."""
    return int.from_bytes(hashlib.sha256(slide_id.encode()).digest()[:8], "big") % shards


class Layout:
    """Paths of a study's results.

    Parameters
    ----------
    study : Study
        The resolved study.
    root : Path
        The results folder.
    """

    def __init__(self, study: Study, root: Path = RESULTS) -> None:
        self.study = study
        self.root = root
        self.cohort = root / "cohorts" / study.cohort.name
        self.home = root / "studies" / study.study

    @property
    def provenance(self) -> dict[Path, list[str]]:
        """Files of the records of how results were made, with the beginnings of the paths of these results.

        The cohort's are shared with other studies; of the study's own the summary lies beside its folder.
        """
        own = [f"{self.home}/", f"{self.summary}."]
        return {self.cohort / PROVENANCE: [f"{self.cohort}/"], self.home / PROVENANCE: own}

    @property
    def summary(self) -> Path:
        """The metrics in one small file, for git: with the suffix ``.json``, and ``.csv``."""
        return self.root / "summary" / self.study.study

    @property
    def source(self) -> Path:
        """Folder of a simulated cohort's slides and tables."""
        return self.cohort / "simulated"

    @property
    def slides_csv(self) -> Path | None:
        """The slide table that the study reads; None for a study of tables alone."""
        return self.study.cohort.slides or (self.source / "slides.csv" if self.study.cohort.simulate else None)

    @property
    def patients_csv(self) -> Path | None:
        """The patient table that the study reads, if it has one."""
        return self.study.cohort.patients or (self.source / "patients.csv" if self.study.cohort.simulate else None)

    @property
    def slides(self) -> Path:
        """Folder of the slide shards' indexes and thumbnails."""
        return self.cohort / "slides"

    @property
    def slides_table(self) -> Path:
        """The validated slide table of the cohort."""
        return self.cohort / "slides.parquet"

    @property
    def tissue(self) -> Path:
        """Folder of the tissue outlines of this study's method."""
        return self.cohort / "tissue" / self.study.tissue.method

    @property
    def trained_tissue(self) -> Path:
        """Folder of the tissue network that the study trains."""
        return self.home / "tissue"

    @property
    def scale(self) -> str:
        """Name of the tile set: ``0.5um_224px``, with the label where there is one."""
        tiles = self.study.tiles
        coarser = "".join(f"+{mpp:g}um" for mpp in tiles.scales)
        return f"{tiles.mpp:g}um{coarser}_{tiles.size}px" + (f"_{tiles.label}" if tiles.label else "")

    @property
    def tiles(self) -> Path:
        """Folder of the tile coordinates."""
        return self.cohort / "tiles" / self.scale

    @property
    def features(self) -> Path:
        """Folder of the features, or of the index over another tool's files."""
        features = self.study.features
        if features.precomputed is not None:
            return self.cohort / "features" / "precomputed" / f"{features.precomputed.name}"
        name = str(features.encoder).replace("/", "--").replace(":", "-")
        if self.study.pretrain is not None and self.study.pretrain.name != name:
            name += f"-{self.study.pretrain.name}"
        if features.stain is not None:
            target = features.stain.target
            name += f"-{features.stain.method}" + (f"-{target.stem}" if target is not None else "")
        fast = "-fast" if self.study.tiles.jpeg_scale == "fast" else ""
        return self.cohort / "features" / self.scale / (name + runtime_label(features) + fast)

    @property
    def stain(self) -> Path:
        """Folder of what the stain of each slide is, at the scale of the tiles."""
        return self.cohort / "stain" / self.scale

    @property
    def encoder(self) -> Path:
        """Folder of the encoder that the study makes; of one that makes none, where it would lie."""
        name = "pretrained" if self.study.pretrain is None else self.study.pretrain.name
        return self.cohort / "encoders" / name

    @property
    def features_table(self) -> Path:
        """Index of the features of every slide of the study; of its tissue where no tile is embedded."""
        embedded = self.study.uses_bags or self.study.features.precomputed is not None
        return (self.features if embedded else self.tissue) / "index.parquet"

    @property
    def bags(self) -> Path:
        """Folder of the features of the study's patients, side by side."""
        return self.home / "bags"

    def shard(self, folder: Path, shard: int | str) -> Path:
        """Index of one shard in a stage's folder."""
        return folder / f"shard-{shard}.parquet"

    def labelled(self, task: str) -> Path:
        """Folder of the vectors, mean colours and pixels of a task's labelled tiles."""
        return self.home / "tiles" / task

    def runs(self, task: str, model: str) -> Path:
        """Folder of the runs of a model on a task."""
        return self.home / "runs" / task / model

    def predictions(self, task: str, model: str) -> Path:
        """Out-of-fold predictions of a model on a task."""
        return self.home / "predictions" / task / f"{model}.parquet"

    def sequence(self, table: str) -> Path:
        """Table of the tasks learned in sequence: ``metrics``, ``matrix``, ``course`` or ``comparison``."""
        return self.home / "tables" / f"sequence_{table}.csv"

    def transfer(self, model: str) -> Path:
        """Table of a model's runs on each survival task, tried on the others."""
        return self.home / "tables" / f"transfer_{model}.csv"

    def overview(self, table: str) -> Path:
        """All models over all tasks: `models`, or their `ranks`."""
        return self.home / "tables" / f"{table}.csv"

    def audit(self, table: str) -> Path:
        """Table of the audit of stain: `audit`, or `slides`, the stain of each."""
        return self.home / "tables" / f"stain_{table}.csv"

    @property
    def reporting(self) -> Path:
        """Folder of the reporting checklists, the texts for a paper and the references."""
        return self.home / "reporting"

    def curves(self, task: str) -> Path:
        """Tables behind the figures of a task: ROC and PR curves, calibration, Kaplan-Meier and others."""
        return self.home / "tables" / f"{task}_curves.json"

    def claim(self, *, write: bool = True) -> None:
        """Write down whose settings the cohort's shared folders hold; refuse another study's.

        Parameters
        ----------
        write : bool
            False: refuse only.

        Raises
        ------
        ConfigError
            If another study of the cohort made the same folder with other settings.
        """
        study = self.study
        if not study.has_slides:
            return
        # the batch is how, not what
        embedded = study.uses_bags or study.features.precomputed is not None
        cohort = study.cohort.model_dump(mode="json", include={"shard_size", "simulate"})
        shared = {self.cohort: cohort | ({"seed": study.seed} if study.cohort.simulate is not None else {})}
        if embedded:
            shared[self.features] = study.features.model_dump(mode="json", exclude={"batch_size"})
        if study.features.precomputed is None and (study.uses_tissue or study.pretrain is not None):
            shared[self.tissue] = study.tissue.model_dump(mode="json")
        if study.features.precomputed is None and embedded:
            tiles = scale_settings(study.tiles.model_dump(mode="json"))
            shared[self.tiles] = tiles | {"tissue": study.tissue.method}
        if study.pretrain is not None:
            shared[self.encoder] = study.pretrain.model_dump(mode="json") | {"seed": study.seed, "scale": self.scale}
        todo = []
        for folder, settings in shared.items():
            note, mine = folder / "made_for.json", {"settings": digest_of(settings), "study": study.study}
            theirs = read_json(note) if note.exists() else None
            if theirs and theirs["study"] != mine["study"] and theirs["settings"] != mine["settings"]:
                raise ConfigError(
                    f"{folder} was made by study {theirs['study']!r} of this cohort with other settings",
                    todo="give this study "
                    + ("another cohort.name" if folder == self.cohort else "a tiles.label or another cohort.name"),
                )
            if not theirs or theirs["settings"] != mine["settings"]:
                todo.append((note, mine))
        for note, mine in todo if write else []:
            write_json(note, mine)
