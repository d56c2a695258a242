"""Sampling, the guard over the test slides, and one run on two drawn slides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from histostudy.errors import ConfigError, ModelError
from histostudy.files import fingerprint
from histostudy.simulate.pyramid import write_pyramid
from histostudy.study import Model, Study, Training
from histostudy.tasks import Segmentation
from histostudy.tissue.geojson import polygons_of
from histostudy.training.guard import LeakError
from histostudy.training.segmentation.cases import Case, OpenSlides, View
from histostudy.training.segmentation.fitting import fit
from histostudy.training.segmentation.run import TestSlides, _with_truth, segmenter_run
from histostudy.training.segmentation.sampling import Sampler, augment
from histostudy.training.segmentation.segmenters import check_segmenter, patches
from histostudy.training.segmentation.stage import shuffled

SIDE, MPP = 512, 2.0
TASK = Segmentation(
    name="t", kind="segmentation", annotations=Path("x"), classes={"common": ["A"], "rare": ["B"]}, mpp=4.0
)


def _collection(path: Path, *masks: tuple[str, np.ndarray]) -> Path:
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [list(map(list, p.exterior.coords))]},
         "properties": {"classification": {"name": name}}}
        for name, mask in masks for p in polygons_of(mask)
    ]  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def _case(folder: Path, number: int) -> Case:
    """A slide with a wide violet band and one small dark square, on pale tissue."""
    rng = np.random.default_rng(number)
    rgb = np.full((SIDE, SIDE, 3), 245, np.uint8)
    cv2.circle(rgb, (256, 256), 240, (230, 170, 200), -1)
    tissue = rgb[..., 1] == 170
    common = tissue & (np.mgrid[:SIDE, :SIDE][0] % 200 < 90)
    rare = np.zeros_like(tissue)
    y, x = rng.integers(150, 330, 2)
    rare[y : y + 24, x : x + 24] = True
    rgb[common] = (150, 90, 170)
    rgb[rare] = (60, 40, 110)
    rgb = np.clip(rgb + rng.normal(0, 6, rgb.shape), 0, 255).astype(np.uint8)
    write_pyramid(folder / f"s{number}.tiff", rgb, MPP)
    drawn = _collection(folder / f"s{number}.drawn.geojson", ("A", common & ~rare), ("B", rare))
    path = folder / f"s{number}.tiff"
    return Case(f"s{number}", f"p{number}", str(path), MPP, SIDE, SIDE, fingerprint(path), str(number),
                _collection(folder / f"s{number}.geojson", ("Tissue", tissue)), drawn)  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("slides")
    return [_case(folder, number) for number in range(3)]


def test_classes_are_drawn_with_equal_chance_however_rare(cases: list[Case]) -> None:
    views = [View(case, TASK, TASK.mpp, truth=True) for case in cases]
    places = Sampler(views, 2).draw(np.random.default_rng(0), 600, 16)
    middles = [int(views[p.view].classes(p.x + 8, p.y + 8, (1, 1))[0, 0]) for p in places]
    assert {p.view for p in places} == {0, 1, 2}
    near = [np.isin(2, views[p.view].classes(p.x - 4, p.y - 4, (24, 24))) for p in places]
    assert 0.28 < np.mean(near) < 0.55  # a third by its class, some by chance; it is 0.3 % of the tissue
    assert 0.2 < np.mean(np.array(middles) == 0) < 0.6


def test_pixels_and_truth_of_a_patch_belong_together(cases: list[Case]) -> None:
    views = [View(case, TASK, TASK.mpp, truth=True) for case in cases]
    with OpenSlides() as slides:
        places = Sampler(views, 2).draw(np.random.default_rng(1), 20, 32)
        rgb, truth = patches(views, places, 32, slides, np.random.default_rng(2))
    dark = rgb[..., 1].astype(float)
    assert dark[truth == 2].mean() + 20 < dark[truth == 1].mean() < dark[truth == 0].mean() - 20
    off = View(cases[0], TASK, TASK.mpp, truth=True)
    with OpenSlides() as slides:
        corner = off.read(slides.of(cases[0]), [(-16, -16)], 32)[0]
    assert (corner[:16] == 255).all()


def test_augmentation_turns_both_alike() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, (12, 12)).astype(np.uint8)
    rgb = np.repeat((truth * 200)[..., None], 4, -1).astype(np.uint8)
    for _ in range(20):
        image, drawn = augment(rng, rgb, truth)
        assert (image[..., 3] == drawn * 200).all() and ((image[..., 0] > 60) == drawn.astype(bool)).all()


def test_the_truth_of_a_test_slide_comes_after_its_mask_and_once(cases: list[Case]) -> None:
    test = TestSlides(cases[:1], TASK)
    view = test.views()[0]
    with pytest.raises(ValueError, match="without annotations"):
        view.classes()
    mask = np.ones(view.shape, np.uint8)
    counted, truth = test.submit(view, mask)
    assert counted[0, 0] == (truth == 1).sum() and counted[1, 2] == (truth == 2).sum()
    with pytest.raises(LeakError):
        test.submit(view, mask)
    with pytest.raises(LeakError):
        test.submit(View(cases[1], TASK, TASK.mpp, truth=False), mask)


def test_a_slide_coarser_than_the_masks_is_one_clear_error(cases: list[Case]) -> None:
    with pytest.raises(ModelError, match="s0 has 2 um a pixel, coarser than the 1"):
        View(cases[0], TASK, 1.0, truth=True)


def test_in_a_null_nobody_keeps_his_own_outlines(cases: list[Case]) -> None:
    null = shuffled(cases, 1)
    assert all(a.annotations != b.annotations and a.path == b.path for a, b in zip(null, cases, strict=True))
    assert sorted(c.annotations for c in null) == sorted(c.annotations for c in cases)
    assert View(null[0], TASK, TASK.mpp, truth=True).classes().max() == 2
    several = [replace(case, slide_id=f"{case.slide_id}_{k}", annotations=Path(f"{case.patient_id}_{k}"))
               for case in cases for k in range(2)]  # fmt: skip
    for seed in range(5):
        given = [(c.patient_id, *c.annotations.name.split("_")) for c in shuffled(several, seed)]
        assert all(own != other for own, other, _ in given) and len(set(given)) == 6
    with pytest.raises(ModelError, match="one patient cannot be shuffled"):
        shuffled(several[:2], 0)


def test_slides_of_background_alone_are_learned_from_and_parts_without_a_class_are_empty(
    cases: list[Case], tmp_path: Path
) -> None:
    nothing = replace(cases[1], annotations=_collection(tmp_path / "none.geojson"))
    unlooked = replace(cases[2], annotations=_collection(tmp_path / "i.geojson", ("Ignore*", np.eye(SIDE) > 0)))
    assert [v.case.slide_id for v in _with_truth([cases[0], nothing], TASK)] == ["s0", "s1"]
    assert _with_truth([nothing], TASK) == []
    partly = TASK.model_copy(update={"unannotated": "ignore"})
    assert [v.case.slide_id for v in _with_truth([cases[0], nothing, unlooked], partly)] == ["s0"]
    parts = {"train": [cases[0], nothing], "val": [unlooked], "test": cases[2:]}
    run = segmenter_run(None, "prior", partly, parts, tmp_path, training=Training(), seed=0)
    assert (run.info["n_train"], run.info["n_val"], run.info["n_test"]) == (1, 0, 1)
    with pytest.raises(ModelError, match="nothing is drawn in the training part"):
        segmenter_run(None, "prior", TASK, parts | {"train": [nothing]}, tmp_path, training=Training(), seed=0)


@pytest.mark.parametrize("held", [0, 1])
def test_a_training_that_diverged_is_one_clear_error(held: int) -> None:
    network = torch.nn.Linear(2, 1)
    batch = (torch.ones(3, 2), torch.zeros(3, 1))
    with pytest.raises(ModelError, match="detection diverged.*lower training.lr"):
        fit(network, lambda x, y: (x - y).sum() * float("nan"), lambda rng: batch, [batch] * held,
            Training(epochs=2), steps=1, seed=0, stage="detection")  # fmt: skip


OPTIONS = {"patch_px": 64, "overlap_px": 16, "channels": [8, 16], "steps": 10, "inner_patches": 4}
H2G = OPTIONS | {"tile_px": 32, "tile_mpp": 4.0, "width": 0.35, "tile_batch": 8, "refine_mpp": 8.0}


@pytest.mark.parametrize("name", ["prior", "colour", "unet", "h2g"])
def test_a_run_gives_masks_counts_and_the_same_bytes_again(cases: list[Case], name: str, tmp_path: Path) -> None:
    training = Training(epochs=3, batch_size=4, lr=0.02)
    options = {"unet": OPTIONS, "h2g": H2G}.get(name, {})
    model = Model(segmenter=name, options=options, training=training) if options else None
    parts = {"train": cases[:1], "val": cases[1:2], "test": cases[2:]}
    runs = [segmenter_run(model, name, TASK, parts, tmp_path / str(k), training=training, seed=5) for k in (0, 1)]
    assert all((runs[0].tensors[key] == runs[1].tensors[key]).all() for key in runs[0].tensors)
    assert runs[0].predictions.equals(runs[1].predictions)
    table = runs[0].predictions.set_index("class")
    dice = 2 * table["tp"] / (2 * table["tp"] + table["fp"] + table["fn"])
    assert (table[["tp", "fp", "fn", "tn"]].sum(axis=1) == 256 * 256).all()
    for kind, suffix in (("outlines", "geojson"), ("overlays", "png")):
        assert (tmp_path / "0" / kind / f"s2.{suffix}").read_bytes() == (
            tmp_path / "1" / kind / f"s2.{suffix}"
        ).read_bytes()
    if name in ("colour", "unet"):
        assert dice["common"] > 0.85  # colour tells these classes apart
    if name == "prior":
        assert table.loc["common", "fn"] < 0.02 * table.loc["common", "tp"] and dice["rare"] == 0


def test_unknown_options_and_models_of_the_wrong_kind_are_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="patch_pixels.*known: patch_px"):
        check_segmenter("unet", {"patch_pixels": 3})
    with pytest.raises(ConfigError, match="unknown segmenter 'unett'"):
        check_segmenter("unett", {})
    base = {"study": "s", "cohort": {"name": "c", "slides": "s.csv", "patients": "p.csv"}}
    pixels = {"name": "t", "kind": "segmentation", "annotations": "x", "classes": {"a": ["A"]}}
    label = {"name": "l", "kind": "classification", "target": "y"}
    for tasks, models, words in (
        ([label], {"u": {"segmenter": "unet"}}, "no task is one"),
        ([pixels], {"m": {"aggregator": "abmil"}}, "learns tasks of kind"),
        ([pixels], {"u": {"segmenter": "unet", "recipe": {"aem": {}}}}, "options and training only"),
        ([pixels | {"adjust": ["age"]}], {}, "covariates"),
    ):
        with pytest.raises(ValueError, match=words):
            Study.model_validate(base | {"tasks": tasks, "models": models})
    both = Study.model_validate(
        base | {"tasks": [label, pixels], "models": {"m": {"aggregator": "abmil"}, "u": {"segmenter": "unet"}}}
    )
    assert both.model_names("l") == ["prior", "mean", "m"] and both.model_names("t") == ["prior", "colour", "u"]
    alone = Study.model_validate(base | {"tasks": [pixels], "models": {"u": {"segmenter": "unet"}}})
    audited = Study.model_validate(base | {"tasks": [pixels], "models": {"u": {"segmenter": "unet"}}, "audit": "stain"})
    assert list(audited.models) == ["u"] and audited.uses_bags
    assert list(alone.models) == ["u"] and not alone.uses_bags and both.uses_bags and both.reference_of("t") == "u"
