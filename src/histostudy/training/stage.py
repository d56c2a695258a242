"""All runs of one model on one task: folds in one process, kept where nothing they depend on changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histostudy.codeversion import code_version
from histostudy.errors import ModelError
from histostudy.files import digest_of, sha256, write_table
from histostudy.log import progress
from histostudy.model_kinds import aggregators_of
from histostudy.seeds import derive_seed
from histostudy.study import CONTROLS
from histostudy.tasks import EVALUATED_ONLY
from histostudy.training.runfolder import EPOCHS, FILES, digest_of_arrays, forget, kept, write_record

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.cohort.foreign import ForeignPredictions
    from histostudy.cohort.modalities import ModalityTable
    from histostudy.cohort.outcomes import Outcome
    from histostudy.features.bags import Bags
    from histostudy.features.pairs import PairReader
    from histostudy.study import Study
    from histostudy.training.guard import TestPart
    from histostudy.training.loop import RunResult
    from histostudy.training.modalities import RunModality

logger = logging.getLogger(__name__)


def train_model(
    study: Study,
    task: str,
    model: str,
    bags: Bags | None,
    outcome: Outcome,
    splits: pd.DataFrame,
    out_dir: str | Path,
    *,
    threads: int = 1,
    modalities: Mapping[str, ModalityTable] | None = None,
    sources: Mapping[str, Path] | None = None,
    pairs: PairReader | None = None,
) -> pd.DataFrame:
    """Train one model on one task over all repeats and folds.

    A run's folder ``r<repeat>f<fold>`` holds `weights.safetensors`, `predictions.parquet`, `history.csv` and
    `run.json` (identity, checksums, counts). A run whose identity (settings, code, seed, patients and their
    outcomes, features) and checksums still hold is kept.

    Parameters
    ----------
    study : Study
        For the seed and the model's settings.
    task, model : str
        Names; the model may be ``prior`` or ``clinical``.
    bags : Bags or None
        Features of all patients; None for a model that looks at no tiles (see `looks_at_tiles`).
    outcome : Outcome
        Of the task.
    splits : DataFrame
        `repeat`, `fold`, `patient_id`, `part` (train, val, test). Patients without the outcome or without
        features take no part, and are counted in `run.json`.
    out_dir : path
        ``runs/<task>/<model>``.
    threads : int
        CPU threads of torch; results are byte-identical for one number of them.
    modalities : mapping of str to ModalityTable, optional
        The study's tables; those that the model names are used.
    sources : mapping of str to Path, optional
        Folders with the runs of the source model on the other tasks, by task.
    pairs : PairReader, optional
        Pairs of all patients, for a recipe that learns from them; a run reads those of its training part alone.

    Returns
    -------
    DataFrame
        One row a run: `repeat`, `fold`, `status` (``trained`` or ``kept``), `identity`, `sha256` (of the
        predictions), `seconds`, `parameters`, `epochs`, `best_epoch`, `n_train`, `n_val`, `n_test`,
        `without_features`.

    Raises
    ------
    ModelError
        If the model has an unknown option, or a part of a fold is empty.
    """
    import pandas as pd

    if looks_at_tiles(study, model) and bags is None:
        raise ModelError(f"model {model} needs features", todo="give the study slides")
    tables = {} if model in CONTROLS else {m: (modalities or {})[m] for m in study.models[model].modalities}
    context = _context(study, task, model, bags, outcome, threads, tables)
    trainer = _Trainer(study, task, model, bags, outcome, threads, tables, sources or {}, pairs)
    if pairs is not None:
        context["pairs"] = pairs.digest
    runs = []
    tested = splits[(splits["part"] == "test") & splits["patient_id"].isin(set(outcome.patient_ids))]
    if tested.empty:
        raise ModelError(f"task {task}: no patient with the outcome is in a test part", todo="check the folds")
    # a fold that tests nobody of this task is no run of it
    runs_of_task = set(zip(tested["repeat"], tested["fold"], strict=True))
    groups = [(run, rows) for run, rows in splits.groupby(["repeat", "fold"], sort=True) if run in runs_of_task]
    forget(Path(out_dir), {f"r{repeat}f{fold}" for (repeat, fold), _ in groups})
    for (repeat, fold), rows in progress(groups, f"{task} {model}", total=len(groups)):
        parts = {part: sorted(rows.loc[rows["part"] == part, "patient_id"]) for part in ("train", "val", "test")}
        folder = Path(out_dir) / f"r{repeat}f{fold}"
        about = {**context, "repeat": int(repeat), "fold": int(fold), "parts": parts}
        about["sources"] = [sha256(file) for file in trainer.source_files(int(repeat), int(fold))]
        identity = digest_of(about)
        run = kept(folder, identity)
        if run is None:
            run = trainer.run(int(repeat), int(fold), parts, folder, identity)
        runs.append(run)
    return pd.DataFrame(runs)


def looks_at_tiles(study: Study, model: str) -> bool:
    """Whether a model of a study needs the features of the slides."""
    if model in CONTROLS or study.models[model].aggregator is None:
        return False
    from histostudy.models.registry import aggregator_kind

    return aggregator_kind(str(study.models[model].aggregator)).uses_tiles


def seen_by(aggregator: str, bags: Bags) -> Bags:
    """The bags as an aggregator sees them: with the tiles' parents at coarser scales where it tells scales apart."""
    from histostudy.features.scales import of_all_scales
    from histostudy.models.registry import aggregator_kind

    return of_all_scales(bags) if aggregator_kind(aggregator).scales else bags


class _Trainer:
    """What the folds of a model share: the tiles in memory, the days S(t) is reported at."""

    def __init__(
        self, study: Study, task: str, model: str, bags: Bags | None, outcome: Outcome, threads: int,
        tables: Mapping[str, ModalityTable], sources: Mapping[str, Path], pairs: PairReader | None = None,
    ) -> None:  # fmt: skip
        from histostudy.cohort.foreign import ForeignPredictions
        from histostudy.models.survival import day_grid
        from histostudy.training.determinism import pick_device
        from histostudy.training.tilestore import TileStore

        self.study, self.task, self.model, self.outcome, self.threads = study, task, model, outcome, threads
        self.tables, self.sources, self.pairs = tables, sources, pairs
        self.store: TileStore | None = None
        self.foreign: ForeignPredictions | None = None
        if model not in CONTROLS:
            spec = study.models[model]
            if spec.predictions is not None:
                self.foreign = ForeignPredictions(spec.predictions, outcome)
            elif bags is not None:
                self.store = TileStore.of(seen_by(str(spec.aggregator), bags), pick_device(spec.training.device))
            else:
                self.store = TileStore.without_tiles(outcome.patient_ids.tolist(), pick_device(spec.training.device))
        self.days: Sequence[int] = ()
        if outcome.time is not None:
            # the length of the grid is that of the study's follow-up; nothing is fitted to it
            self.days = day_grid(float(outcome.time.max()), outcome.task.horizons).tolist()  # type: ignore[union-attr]

    def run(self, repeat: int, fold: int, parts: dict[str, list[str]], folder: Path, identity: str) -> dict[str, Any]:
        """Train, write the run's folder, return its row."""
        start = time.perf_counter()
        has_outcome = set(self.outcome.patient_ids)
        usable = has_outcome if self.store is None else has_outcome & set(self.store.patient_ids)
        used = {part: [p for p in ids if p in usable] for part, ids in parts.items()}
        for part in ("train", "test"):
            if not used[part]:
                raise ModelError(
                    f"task {self.task}: no patient in the {part} part of repeat {repeat} fold {fold}",
                    todo="use fewer folds, or check that the outcome and the features cover the splits",
                )
        result = self._result(used, repeat, fold)
        place = {"repeat": repeat, "fold": fold}
        labels = {**place, "task": self.task, "model": self.model}
        for position, (name, value) in enumerate(labels.items(), start=1):
            result.predictions.insert(position, name, value)
        from histostudy.models.io import save_tensors

        save_tensors(folder / FILES[0], result.tensors, {**result.config, "extra": labels})
        write_table(folder / FILES[1], result.predictions)
        write_table(folder / FILES[2], result.history)
        (folder / EPOCHS).unlink(missing_ok=True)
        names = [*FILES]
        if result.epochs is not None:
            write_table(folder / EPOCHS, result.epochs.assign(**place, model=self.model))
            names.append(EPOCHS)
        run = {
            **place, "status": "trained", "identity": identity, "sha256": sha256(folder / FILES[1]),
            "seconds": round(time.perf_counter() - start, 3), **result.info,
            "without_features": sum(p in has_outcome for ids in parts.values() for p in ids)
            - sum(map(len, used.values())),
        }  # fmt: skip
        write_record(folder, run, names)
        return run

    def source_files(self, repeat: int, fold: int) -> list[Path]:
        """Weights of the source model on the other tasks, of the same fold: nobody tested here trained them."""
        return [runs / f"r{repeat}f{fold}" / FILES[0] for _, runs in sorted(self.sources.items())]

    def _modalities(self, patient_ids: Sequence[str], train_rows: Sequence[int]) -> dict[str, RunModality]:
        from histostudy.training.modalities import fit_modality

        settings = self.study.modalities
        return {n: fit_modality(t, settings[n], patient_ids, train_rows) for n, t in self.tables.items()}

    def _result(self, parts: dict[str, list[str]], repeat: int, fold: int) -> RunResult:
        from histostudy.training.guard import TestPart

        seed = derive_seed(self.study.seed, self.task, self.model, repeat, fold)
        test = TestPart(self.outcome, parts["test"])
        if self.foreign is not None:
            return _foreign_run(self.foreign, repeat, fold, test)
        if self.store is None:
            from histostudy.training.controls import clinical_run, prior_run

            fit = sorted(parts["train"] + parts["val"])
            if self.model == "prior":
                return prior_run(self.outcome, fit, test, days=self.days)
            return clinical_run(self.outcome, fit, test, seed=seed, days=self.days)
        from histostudy.models.io import load_model
        from histostudy.training.loop import train_run
        from histostudy.training.pairs import GuardedPairs

        pairs = None if self.pairs is None else GuardedPairs(self.pairs, parts["test"], self.outcome.patient_of)

        return train_run(
            self.study.models[self.model], self.store, self.outcome, parts["train"], parts["val"], test,
            seed=seed, days=self.days, threads=self.threads, modalities=self._modalities if self.tables else None,
            sources=[load_model(file)[0] for file in self.source_files(repeat, fold)],
            pairs=pairs,
        )  # fmt: skip


def _foreign_run(foreign: ForeignPredictions, repeat: int, fold: int, test: TestPart) -> RunResult:
    """The predictions of a run's test patients that a file holds: nothing is trained."""
    import pandas as pd

    from histostudy.training.controls import untrained_result

    ids = list(test.patient_ids)
    columns = {"patient_id": ids} | foreign.values(repeat, fold, ids)
    return untrained_result(test.submit(pd.DataFrame(columns)), {}, {"control": "predictions made elsewhere"}, 0)


def _context(
    study: Study, task: str, model: str, bags: Bags | None, outcome: Outcome, threads: int,
    tables: Mapping[str, ModalityTable],
) -> dict[str, Any]:  # fmt: skip
    """All that every run of a model depends on, but its patients and sources."""
    control = model in CONTROLS
    context: dict[str, Any] = {
        "code": code_version(__name__, aggregators=aggregators_of(study.models, model)),
        "seed": study.seed,
        "task": outcome.task.model_dump(mode="json", exclude=EVALUATED_ONLY | {"table"}),
        "model": model if control else [model, study.models[model].model_dump(mode="json")],
        "outcome": digest_of_arrays(outcome.patient_ids, outcome.y, outcome.time, outcome.event, outcome.classes,
                           outcome.genes),
    }  # fmt: skip
    if not control and study.models[model].aggregator is not None:
        from histostudy.training.determinism import pick_device

        context["machine"] = [pick_device(study.models[model].training.device), threads]
    if not control and bags is not None:
        coords = None if bags.positions == "unknown" else bags.coords
        context["features"] = bags.digest or digest_of_arrays(bags.patient_ids, bags.offsets, bags.features, coords)
        if bags.digest is None and bags.coarser is not None:
            parents = bags.coarser
            context["parents"] = digest_of_arrays(parents.offsets, parents.features, parents.coords, parents.scales)
    if not control:
        spec = study.models[model]
        context["predictions"] = None if spec.predictions is None else sha256(spec.predictions)
        context["modalities"] = {
            name: [study.modalities[name].model_dump(mode="json", exclude={"table", "groups"}), table.groups,
                   digest_of_arrays(table.columns, table.patient_ids, table.values)]
            for name, table in tables.items()
        }  # fmt: skip
    if model == "clinical":
        adjust = outcome.adjust
        context["adjust"] = digest_of_arrays(adjust.index, *(adjust[c].astype(str) for c in adjust))
    return context
