"""All runs of one segmenter on one task, kept where nothing that they depend on changed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.codeversion import code_version
from histostudy.errors import ModelError
from histostudy.files import digest_of, read_json, sha256, write_json, write_table
from histostudy.log import progress
from histostudy.seeds import derive_seed
from histostudy.training.determinism import pick_device
from histostudy.training.runfolder import FILES, forget, kept, write_record
from histostudy.training.segmentation.run import segmenter_run

if TYPE_CHECKING:
    import pandas as pd

    from histostudy.study import Study
    from histostudy.tasks import Segmentation
    from histostudy.training.segmentation.cases import Case

#: Checksums of a run's outlines and overlays.
DRAWN = "drawn.json"


def train_segmenter(
    study: Study, task: Segmentation, model: str, cases: Sequence[Case], splits: pd.DataFrame, out_dir: str | Path,
    *, threads: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Train one model on a segmentation task over all repeats and folds.

    A run's folder ``r<repeat>f<fold>`` holds `weights.safetensors`, `predictions.parquet` (a row a test slide and
    class: tp, fp, fn, tn in pixels), `history.csv`, `run.json`, `outlines/` and `overlays/`.

    Parameters
    ----------
    study : Study
    task : Segmentation
    model : str
        The model may be ``prior`` or ``colour``.
    cases : sequence of Case
        The annotated slides.
    splits : DataFrame
        repeat, fold, patient_id, part.
    out_dir : path
        ``runs/<task>/<model>``.
    threads : int
        CPU threads of torch.

    Returns
    -------
    DataFrame
        One row a run, as `histostudy.training.stage.train_model` returns it, and its `threshold`.

    Raises
    ------
    ModelError
        If a part of a fold is empty, or a null has one patient only.
    """
    import pandas as pd

    out_dir, spec = Path(out_dir), study.models.get(model)
    cases = shuffled(cases, task.permute) if task.permute is not None else list(cases)
    mine = splits[splits["patient_id"].isin({case.patient_id for case in cases})]
    tested = mine[mine["part"] == "test"]
    if tested.empty:
        raise ModelError(f"task {task.name}: no annotated slide is in a test part", todo="check the folds")
    wanted = set(zip(tested["repeat"], tested["fold"], strict=True))
    groups = [(run, rows) for run, rows in mine.groupby(["repeat", "fold"], sort=True) if run in wanted]
    forget(out_dir, {f"r{repeat}f{fold}" for (repeat, fold), _ in groups})
    digests = {case.slide_id: _digest(case) for case in cases}
    training = spec.training if spec is not None else _defaults()
    context = {
        "code": code_version(__name__), "seed": study.seed,
        "task": task.model_dump(mode="json", exclude={"annotations"}),
        "model": [model, spec.model_dump(mode="json") if spec else None],
        "machine": [pick_device(training.device), threads], "checkpoint": _checkpoint(spec.options if spec else {}),
    }  # fmt: skip
    runs = []
    for (repeat, fold), rows in progress(groups, f"{task.name} {model}", total=len(groups)):
        part_of = dict(zip(rows["patient_id"], rows["part"], strict=True))
        parts: dict[str, list[Case]] = {part: [] for part in ("train", "val", "test")}
        for case in cases:
            if case.patient_id in part_of:
                parts[part_of[case.patient_id]].append(case)
        place = {"repeat": int(repeat), "fold": int(fold)}
        slides = {part: [digests[case.slide_id] for case in those] for part, those in parts.items()}
        identity = digest_of({**context, **place, "slides": slides})
        folder = out_dir / f"r{repeat}f{fold}"
        run = kept(folder, identity) if _drawn_as_written(folder) else None
        if run is None:
            shutil.rmtree(folder, ignore_errors=True)
            seed = derive_seed(study.seed, task.name, model, repeat, fold)
            result = segmenter_run(spec, model, task, parts, folder, training=training, seed=seed, threads=threads)
            run = _write(folder, result, place, {"task": task.name, "model": model}, identity)
        runs.append(run)
    return pd.DataFrame(runs)


def shuffled(cases: Sequence[Case], seed: int) -> list[Case]:
    """A null: each slide is given the annotations of another patient's, at the same shares of width and height.

    Patients stand in a cycle; the slides of one get, in turn, the annotations of the slides of the next.

    Raises
    ------
    ModelError
        With fewer than two patients.
    """
    slides: dict[str, list[Case]] = {}
    for case in cases:
        slides.setdefault(case.patient_id, []).append(case)
    if len(slides) < 2:
        raise ModelError("annotations of one patient cannot be shuffled", todo="annotate slides of two, or leave out "
                         "`permute`")  # fmt: skip
    patients = sorted(slides)
    order = [patients[k] for k in np.random.default_rng(derive_seed(seed, "annotations")).permutation(len(patients))]
    out = []
    for case in cases:
        others = slides[order[order.index(case.patient_id) - 1]]  # a cycle: nobody keeps his own
        other = others[slides[case.patient_id].index(case) % len(others)]
        size = (other.width_px0, other.height_px0)
        out.append(replace(case, annotations=other.annotations, drawn_for=size))
    return out


def _defaults() -> Any:
    from histostudy.study import Training

    return Training()


def _digest(case: Case) -> str:
    return digest_of([case.slide_id, case.patient_id, case.tissue_identity, case.mpp, sha256(case.annotations),
                      case.drawn_for])  # fmt: skip


def _checkpoint(options: Mapping[str, Any]) -> str | None:
    path = options.get("checkpoint")
    return sha256(path) if path else None


def _drawn_as_written(folder: Path) -> bool:
    record = folder / DRAWN
    if not record.is_file():
        return False
    return all((folder / name).is_file() and sha256(folder / name) == digest for name, digest in
               read_json(record).items())  # fmt: skip


def _write(folder: Path, result: Any, place: dict[str, int], labels: dict[str, str], identity: str) -> dict[str, Any]:
    from histostudy.models.io import save_tensors

    predictions = result.predictions
    for position, (name, value) in enumerate({**place, **labels}.items(), start=2):
        predictions.insert(position, name, value)
    save_tensors(folder / FILES[0], result.tensors, {"extra": {**place, **labels}, **result.info, "seconds": None})
    write_table(folder / FILES[1], predictions)
    write_table(folder / FILES[2], result.history)
    drawn = sorted(f for kind in ("outlines", "overlays") for f in (folder / kind).glob("*"))
    write_json(folder / DRAWN, {str(f.relative_to(folder)): sha256(f) for f in drawn})
    run = {**place, "status": "trained", "identity": identity, "sha256": sha256(folder / FILES[1]), **result.info}
    write_record(folder, run, FILES)
    return run
