"""The command line on one slide, and what it says of a slide or a machine that will not do."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
from studies import ROOT, histostudy


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One drawn slide of a simulated cohort."""
    folder = tmp_path_factory.mktemp("drawn")
    done = histostudy("simulate", "-o", folder, "--patients", "12")
    assert done.returncode == 0, done.stderr
    return sorted((folder / "slides").glob("*.tiff"))[0]


def test_tissue_tiles_and_features_of_one_slide(slide: Path, tmp_path: Path) -> None:
    mask, tiles, features = tmp_path / "mask.geojson", tmp_path / "tiles.h5", tmp_path / "features.h5"
    assert histostudy("tissue", slide, "-o", mask).returncode == 0
    assert {f["geometry"]["type"] for f in json.loads(mask.read_text())["features"]} <= {"Polygon", "MultiPolygon"}
    assert histostudy("tiles", slide, "--mpp", "0.5", "--size", "224", "-o", tiles).returncode == 0
    assert histostudy("embed", slide, "--encoder", "builtin", "-o", features).returncode == 0
    with h5py.File(tiles) as laid, h5py.File(features) as encoded:
        assert len(laid["coords"]) == len(encoded["features"]) > 20
        assert (laid["coords"][:] == encoded["coords"][:]).all()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tissue", "nowhere.svs", "-o", "x.geojson"], "nowhere.svs: no such slide"),
        (["tiles"], "no slide and no --study"),
        (["slides", "--study", "nowhere.yaml", "--shard", "0/1"], "nowhere.yaml: no such study file"),
        (["slides", "--study", "nowhere.yaml", "--shard", "3"], "--shard '3' is not I/N"),
        (["simulate", "-o", "x", "--patients", "3"], "patients"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str], says: str, tmp_path: Path) -> None:
    done = histostudy(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert list(tmp_path.iterdir()) == []


def test_tiles_finer_than_the_slide_are_refused(slide: Path, tmp_path: Path) -> None:
    done = histostudy("tiles", slide, "--mpp", "0.1", "-o", tmp_path / "tiles.h5")
    assert done.returncode == 2
    assert "coarser_than_tiles" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_passes_the_default_study() -> None:
    done = histostudy("doctor", ROOT / "config/config.yaml", cwd=ROOT)
    assert "study 'simulated', 4 tasks, 3 models" in done.stdout
    assert "FIX  packages" not in done.stdout
