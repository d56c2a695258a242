"""All runs of one model on one task of labelled tiles, kept where nothing they depend on changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.codeversion import code_version
from histostudy.errors import ModelError
from histostudy.files import digest_of, sha256, write_table
from histostudy.log import progress
from histostudy.seeds import derive_seed
from histostudy.training.controls import prior_run
from histostudy.training.determinism import deterministic, pick_device
from histostudy.training.guard import TestPart
from histostudy.training.runfolder import FILES, SHOTS, digest_of_arrays, forget, kept, write_record
from histostudy.training.tile_classification import networks, probes
from histostudy.training.tile_classification.embed import LabelledTiles
from histostudy.training.tile_classification.table import Scale

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from histostudy.cohort.outcomes import Outcome
    from histostudy.study import Model, Study

OPTIONS: dict[str, type] = {
    "linear_probe": probes.LinearProbeOptions, "knn": probes.KnnOptions, "prototypes": probes.PrototypesOptions,
    "finetune": networks.FinetuneOptions, "dct_histotransformer": networks.ScratchOptions,
}  # fmt: skip


@dataclass
class _Fitted:
    """What a model says of the test tiles, and what it is."""

    probabilities: np.ndarray
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    shots: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    #: vectors and classes that retrieval looks for the test tiles in, and their own vectors
    gallery: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    parameters: int = 0


def options_of(classifier: str, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Options of a classifier, checked, and those that are its architecture's.

    Raises
    ------
    ModelError
        For an option that it does not know, or a value that cannot be.
    """
    kind = OPTIONS[classifier]
    known = {one.name for one in fields(kind)}
    mine = {name: value for name, value in given.items() if name in known}
    rest = {name: value for name, value in given.items() if name not in known}
    if classifier == "dct_histotransformer":
        from histostudy.models.tilenets import build_tilenet

        build_tilenet(classifier, 2, rest)
    elif rest:
        raise ModelError(f"{classifier}: unknown option {min(rest)!r}", todo=f"known: {', '.join(sorted(known))}")
    return kind(**mine), rest


def train_tiles(
    study: Study, task: str, model: str, tiles: LabelledTiles, scale: Scale, outcome: Outcome, splits: pd.DataFrame,
    out_dir: str | Path, *, threads: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Train one model on a task of labelled tiles over all repeats and folds.

    A run's folder ``r<repeat>f<fold>`` holds what that of any other model holds, a row of `predictions.parquet` being a
    tile (its id in `patient_id`); of prototypes also `few_shot.parquet`, the class called by each draw of each number
    of shots. A run whose identity and checksums still hold is kept.

    Parameters
    ----------
    study : Study
    task, model : str
        Names; the model may be ``prior`` or ``colour``.
    tiles : LabelledTiles
        Those that could be read; others take no part and are counted in `run.json`.
    scale : Scale
        They are seen at.
    outcome : Outcome
        See `histostudy.training.tile_classification.table.tile_outcome`.
    splits : DataFrame
        `repeat`, `fold`, `patient_id`, `part`: folds of patients.
    out_dir : path
        ``runs/<task>/<model>``.
    threads : int
        CPU threads of torch.

    Returns
    -------
    DataFrame
        One row a run, as `histostudy.training.stage.train_model` returns it; counts are of tiles.

    Raises
    ------
    ModelError
        If the model has an unknown option, or a part of a fold has no tile.
    """
    import pandas as pd

    spec = study.models.get(model)
    there = set(tiles.tile_ids)
    ids = [str(tile) for tile in outcome.patient_ids]
    of: dict[str, list[str]] = {}
    for tile in ids:
        of.setdefault(outcome.patient_of[tile], []).append(tile)
    tested = splits[(splits["part"] == "test") & splits["patient_id"].isin(set(of))]
    if tested.empty:
        raise ModelError(f"task {task}: no patient with tiles is in a test part", todo="check the folds")
    wanted = set(zip(tested["repeat"], tested["fold"], strict=True))
    groups = [(run, rows) for run, rows in splits.groupby(["repeat", "fold"], sort=True) if run in wanted]
    forget(Path(out_dir), {f"r{repeat}f{fold}" for (repeat, fold), _ in groups})
    device = pick_device(spec.training.device if spec is not None else "cpu")
    context = {
        "code": code_version(__name__), "seed": study.seed, "scale": asdict(scale),
        "task": study.task(task).model_dump(mode="json", exclude={"table"}),
        "model": [model, spec.model_dump(mode="json") if spec else None], "machine": [device, threads],
        "outcome": digest_of_arrays(ids, outcome.y, outcome.classes), "tiles": tiles.digest,
    }  # fmt: skip
    trainer = _Trainer(study, task, model, spec, tiles, scale, outcome, device)
    runs = []
    for (repeat, fold), rows in progress(groups, f"{task} {model}", total=len(groups)):
        parts = {
            part: sorted(
                tile for patient in rows.loc[rows["part"] == part, "patient_id"] for tile in of.get(patient, [])
            )
            for part in ("train", "val", "test")
        }
        place = {"repeat": int(repeat), "fold": int(fold)}
        identity = digest_of({**context, **place, "parts": parts})
        folder = Path(out_dir) / f"r{repeat}f{fold}"
        run = kept(folder, identity)
        if run is None:
            used = {part: [tile for tile in those if tile in there] for part, those in parts.items()}
            for part in ("train", "test"):
                if not used[part]:
                    what = f"task {task}: no tile in the {part} part of repeat {repeat} fold {fold}"
                    raise ModelError(what, todo="use fewer folds, or check that the tiles cover the splits")
            lost = sum(map(len, parts.values())) - sum(map(len, used.values()))
            seed = derive_seed(study.seed, task, model, repeat, fold)
            with deterministic(seed, threads):
                run = trainer.run(used, place, folder, seed, {"identity": identity, "without_features": lost})
        runs.append(run)
    return pd.DataFrame(runs)


@dataclass
class _Trainer:
    """What the folds of a model share."""

    study: Study
    task: str
    model: str
    spec: Model | None
    tiles: LabelledTiles
    scale: Scale
    outcome: Outcome
    device: str

    def run(
        self, parts: dict[str, list[str]], place: dict[str, int], folder: Path, seed: int, about: dict[str, Any]
    ) -> dict[str, Any]:
        """Train, write the run's folder, return its row."""
        import pandas as pd

        start = time.perf_counter()
        test = TestPart(self.outcome, parts["test"])
        last = self.spec is not None and self.spec.training.epoch == "last"
        if last:
            parts = {**parts, "train": sorted(parts["train"] + parts["val"]), "val": []}
        counts = {"n_train": len(parts["train"]), "n_val": len(parts["val"]), "n_test": len(parts["test"])}
        shots: dict[tuple[int, int], np.ndarray] = {}
        if self.model == "prior":
            result = prior_run(self.outcome, sorted(parts["train"] + parts["val"]), test)
            predictions, tensors, config, history = result.predictions, result.tensors, result.config, result.history
            info = result.info
        else:
            fitted = self._fit(parts, seed)
            shots = fitted.shots
            columns = {f"prob_{c}": fitted.probabilities[:, k] for k, c in enumerate(self.outcome.classes)}
            predictions = test.submit(pd.DataFrame({"patient_id": list(test.patient_ids)} | columns))
            if fitted.gallery is not None:  # what was found is judged once the predictions are in
                gallery, y, queries = fitted.gallery
                found = probes.retrieval(gallery, y, queries, test.targets["y"].numpy())
                predictions = predictions.assign(**found)
            tensors, config = fitted.tensors, fitted.config | {"classes": self.outcome.classes}
            history = pd.DataFrame(fitted.history or {"epoch": [], "train_loss": [], "val_loss": [], "best": []})
            chosen = history.loc[history["best"].astype(bool)] if len(history) else history
            best = int(chosen["epoch"].iloc[0]) if len(chosen) else 0
            info = {**counts, "parameters": fitted.parameters, "epochs": len(history), "best_epoch": best}
        labels = {**place, "task": self.task, "model": self.model}
        for position, (name, value) in enumerate(labels.items(), start=1):
            predictions.insert(position, name, value)
        return _write(folder, predictions, tensors, {**config, "extra": labels}, history, shots, list(test.patient_ids),
                      {**place, "status": "trained", **about, "seconds": start, **info})  # fmt: skip

    def _fit(self, parts: dict[str, list[str]], seed: int) -> _Fitted:
        """Fit the model to the training part and ask it about the test tiles."""
        if self.spec is None:
            return self._linear(self.tiles.colour, parts, probes.LinearProbeOptions(), gallery=True)
        classifier = str(self.spec.classifier)
        options, architecture = options_of(classifier, self.spec.options)
        if classifier == "linear_probe":
            return self._linear(self.tiles.vectors, parts, options)
        if classifier == "knn":
            return self._nearest(parts, options)
        if classifier == "prototypes":
            return self._prototypes(parts, options, seed)
        return self._network(classifier, parts, options, architecture, seed)

    def _places(self, tile_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Places among the tiles, and classes, of training or inner tiles."""
        return self.tiles.places(tile_ids), self.outcome.y[self.outcome.rows(list(tile_ids))].astype(np.int64)

    def _linear(
        self, x: np.ndarray, parts: dict[str, list[str]], options: probes.LinearProbeOptions, gallery: bool = False
    ) -> _Fitted:
        (train, y), (val, y_val) = self._places(parts["train"]), self._places(parts["val"])
        queries = x[self.tiles.places(parts["test"])]
        owners = [self.outcome.patient_of[tile] for tile in parts["train"]]
        groups = np.unique(owners, return_inverse=True)[1].astype(np.int64)
        probe, path = probes.fit_probe(
            x[train], y, len(self.outcome.classes), (x[val], y_val) if len(val) else None, groups, options.penalty,
            self.device,
        )  # fmt: skip
        history = [{"epoch": number, **row} for number, row in enumerate(path, start=1)]
        tensors = {"mean": probe.mean, "scale": probe.scale, "weight": probe.weight, "bias": probe.bias}
        whole = np.concatenate([train, val])
        found = (x[whole], np.concatenate([y, y_val]), queries) if gallery else None
        config = {"classifier": "linear_probe"} if self.spec is not None else {"control": "colour"}
        return _Fitted(probe.probabilities(queries), tensors, config, history, gallery=found,
                       parameters=probe.weight.numel() + probe.bias.numel())  # fmt: skip

    def _known(
        self, parts: dict[str, list[str]], standardise: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Vectors and classes of the training and the inner part, for what has nothing to choose; test vectors.

        Last the spread that both were divided by.
        """
        places, y = self._places(sorted(parts["train"] + parts["val"]))
        x, queries = self.tiles.vectors[places], self.tiles.vectors[self.tiles.places(parts["test"])]
        spread = probes.spread_of(x) if standardise else np.ones(x.shape[1])
        return x / spread, y, queries / spread, spread

    def _nearest(self, parts: dict[str, list[str]], options: probes.KnnOptions) -> _Fitted:
        import torch

        x, y, queries, spread = self._known(parts, options.standardise)
        said = probes.knn_probabilities(x, y, queries, len(self.outcome.classes), options)
        tensors = {"centre": torch.from_numpy(probes.Space.of(x).centre), "scale": torch.from_numpy(spread)}
        return _Fitted(said, tensors, {"classifier": "knn", **asdict(options)}, gallery=(x, y, queries))

    def _prototypes(self, parts: dict[str, list[str]], options: probes.PrototypesOptions, seed: int) -> _Fitted:
        import torch

        x, y, queries, spread = self._known(parts, options.standardise)
        classes, space = len(self.outcome.classes), probes.Space.of(x)
        means = probes.prototypes(space(x), y, classes)
        said = probes.softmax_of_distances(probes.squared_distances(space(queries), means), options.temperature)
        shots = probes.few_shots(x, y, queries, classes, options, derive_seed(seed, "shots"))
        tensors = {"centre": torch.from_numpy(space.centre), "prototypes": torch.from_numpy(means)}
        tensors["scale"] = torch.from_numpy(spread)
        config = {"classifier": "prototypes", "temperature": options.temperature}
        return _Fitted(said, tensors, config, shots=shots, parameters=int(np.isfinite(means).sum()))

    def _network(
        self, classifier: str, parts: dict[str, list[str]], options: Any, architecture: dict[str, Any], seed: int
    ) -> _Fitted:
        import torch

        assert self.spec is not None
        pixels, settings, classes = self.tiles.pixels, self.spec.training, len(self.outcome.classes)
        if pixels is None:
            raise ModelError(f"{classifier} learns from pixels, and none were kept", todo="run embed-tiles again")
        (train, y), (val, y_val) = self._places(parts["train"]), self._places(parts["val"])
        rows = self.tiles.rows
        network: networks.PixelNetwork
        if classifier == "finetune":
            vectors = self.tiles.vectors[train].astype(np.float64)
            spread = vectors.std(0)
            moments = vectors.mean(0), np.where(spread > 1e-6, spread, 1.0)
            network = networks.FineTuned(
                self.study.features, self.scale.mpp, pixels.shape[1], options, classes, moments, self.device
            )
        else:
            torch.manual_seed(seed)
            colours = networks.colours_of(pixels, rows[train], seed)
            network = networks.FromScratch(classifier, architecture, options, classes, colours)
        torch.manual_seed(seed)
        history = networks.fit_network(
            network, pixels, (rows[train], y), (rows[val], y_val) if len(val) else None, classes, options, settings,
            seed, self.device,
        )  # fmt: skip
        test = rows[self.tiles.places(parts["test"])]
        logits = networks.predict(network, pixels, test, settings.batch_size, self.device)
        said = torch.from_numpy(logits + networks.shift_of(y, classes, settings)).softmax(1).numpy()
        config = {"classifier": classifier, **asdict(options), "architecture": architecture}
        return _Fitted(said, dict(network.cpu().state_dict()), config, history,
                       parameters=sum(p.numel() for p in network.parameters()))  # fmt: skip


def _write(
    folder: Path, predictions: pd.DataFrame, tensors: dict[str, Tensor], config: dict[str, Any], history: pd.DataFrame,
    shots: Mapping[tuple[int, int], np.ndarray], tested: list[str], run: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write a run's files, and its record last."""
    import pandas as pd

    from histostudy.models.io import save_tensors

    save_tensors(folder / FILES[0], tensors, config)
    write_table(folder / FILES[1], predictions)
    write_table(folder / FILES[2], history)
    (folder / SHOTS).unlink(missing_ok=True)
    names = [*FILES]
    if shots:
        called = {f"s{number}_d{draw}": codes for (number, draw), codes in shots.items()}
        write_table(folder / SHOTS, pd.DataFrame({"patient_id": tested, **called}))
        names.append(SHOTS)
    run["sha256"] = sha256(folder / FILES[1])
    run["seconds"] = round(time.perf_counter() - run["seconds"], 3)
    write_record(folder, run, names)
    return run
