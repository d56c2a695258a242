"""The folder of a run, and the index of a model's runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from histostudy.errors import StudyError
from histostudy.training.runfolder import FILES, as_trained, kept, write_index, write_record


def test_the_index_is_the_same_of_runs_trained_now_and_of_kept_ones(tmp_path: Path) -> None:
    trained = []
    for fold in (0, 1):
        folder = tmp_path / f"r0f{fold}"
        folder.mkdir()
        for name in FILES:
            (folder / name).write_text(f"{name} {fold}")
        row = {"repeat": 0, "fold": fold, "identity": f"id{fold}", "epochs": 3, "best_epoch": None if fold else 2}
        write_record(folder, row | {"seconds": 1.5 + fold}, FILES)
        trained.append(row | {"seconds": 1.5 + fold, "status": "trained"})
    write_index(tmp_path, pd.DataFrame(trained), timings=False)
    first = (tmp_path / "runs.parquet").read_bytes()
    again = [kept(tmp_path / f"r0f{fold}", f"id{fold}") for fold in (0, 1)]
    assert all(again)
    for rows in (again, [trained[0], again[1]], [again[0], trained[1]]):
        write_index(tmp_path, pd.DataFrame(rows), timings=False)
        assert (tmp_path / "runs.parquet").read_bytes() == first


def test_weights_are_those_of_the_record(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text(name)
    write_record(tmp_path, {"repeat": 0}, FILES)
    weights = tmp_path / FILES[0]
    assert as_trained(tmp_path, FILES[0]) == weights
    weights.write_text("others")
    with pytest.raises(StudyError, match="weights.safetensors: is gone, or not as training wrote it; .*dvc checkout"):
        as_trained(tmp_path, FILES[0])
    (tmp_path / "run.json").unlink()
    with pytest.raises(StudyError, match="run.json: is gone"):
        as_trained(tmp_path, FILES[0])
