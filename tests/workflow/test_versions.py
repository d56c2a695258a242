"""A study under git and DVC: brought back elsewhere it holds, and what changed runs again, that and no more."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkouts import DATA, NAME, STUDY, Checkout, Job, new_checkout, study
from studies import ROOT, Snakemake

pytestmark = pytest.mark.workflow

COHORT = Path("results/cohorts") / NAME
FEATURES = COHORT / "features/1um_112px/builtin"
HOME = Path("results/studies") / NAME
#: What DVC keeps: stages, and the note of the data.
KEPT = (f"study@{NAME}", f"features@{NAME}", f"{DATA}.dvc")
SHARDS = ("0", "1", "2", "3")
#: What follows from the runs of any model.
AFTER_RUNS: set[Job] = {
    ("all",), ("evaluate", "stroma"), ("overview",), ("summary",), ("figures",), ("report",),
}  # fmt: skip
TRAINED: set[Job] = {("train", "stroma", model) for model in ("prior", "mean", "abmil")}
#: What follows from the features of any slide.
AFTER_FEATURES = AFTER_RUNS | TRAINED | {("index",), ("bags",), ("cohort",), ("split",)}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, str]:
    """A finished study, committed and pushed; and the row of a slide that its table lacks."""
    folder = tmp_path_factory.mktemp("versions")
    checkout, row = new_checkout(folder / "origin")
    checkout.run("dvc", "remote", "add", "--default", "storage", str(folder / "storage"))
    checkout.run("dvc", "repro", f"study@{NAME}")
    checkout.run("git", "add", ".")
    checkout.run("git", "commit", "--quiet", "--all", "--message", "its results")
    checkout.run("dvc", "push", "--quiet", *KEPT)
    return checkout, row


@pytest.fixture(scope="module")
def origin(drawn: tuple[Checkout, str]) -> Checkout:
    return drawn[0]


@pytest.fixture(scope="module")
def clone(origin: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Another path, with what git and DVC's remote bring."""
    there = origin.clone(tmp_path_factory.mktemp("elsewhere") / "a longer path" / "clone")
    there.run("dvc", "pull", "--quiet", *KEPT)
    return there


def _holds(there: Checkout) -> None:
    """Nothing is left to do, and DVC finds every file as it is in the lock."""
    assert there.jobs() == set()
    status = json.loads(there.run("dvc", "status", "--json", *KEPT))
    assert status == {}
    assert there.run("git", "status", "--porcelain", "--", "dvc.lock", "results/summary").strip() == ""


def test_a_clone_and_a_pull_leave_nothing_to_do(origin: Checkout, clone: Checkout) -> None:
    _holds(clone)
    assert clone.hashes() == origin.hashes()


def test_slides_may_lie_elsewhere_or_nowhere(clone: Checkout) -> None:
    slides, moved, table = clone.folder / DATA / "slides", clone.folder / "moved", DATA / "slides.csv"
    slides.rename(moved)
    try:
        said = clone.run("snakemake", "--cores", "2", "--configfile", str(STUDY), "--dry-run")
        assert "12 of 12 slide files are not here" in said and "Nothing to be done" in said
        with clone.edited(STUDY, study(lr=0.002)):  # which the features are enough for
            assert clone.jobs() == AFTER_RUNS | {("train", "stroma", "abmil")}
        with clone.edited(table, re.sub(r"\bslides/", "../../moved/", clone.read(table))):
            # the table is another file, but its slides are the same
            assert not {job[0] for job in clone.jobs()} & {"slides", "tissue", "tiles", "embed"}
    finally:
        moved.rename(slides)
    _holds(clone)


def test_another_learning_rate_trains_its_model_and_no_other(clone: Checkout) -> None:
    with clone.edited(STUDY, study(lr=0.002)):
        assert clone.jobs() == AFTER_RUNS | {("train", "stroma", "abmil")}


def test_one_more_slide_touches_one_shard(clone: Checkout, drawn: tuple[Checkout, str]) -> None:
    table = DATA / "slides.csv"
    with clone.edited(table, clone.read(table) + drawn[1]):
        jobs = clone.jobs()
    shards = {job[1] for job in jobs if job[0] in ("slides", "tissue", "tiles", "embed")}
    assert len(shards) == 1 < len(SHARDS)
    (shard,) = shards
    once = {(stage, shard) for stage in ("slides", "tissue", "tiles", "embed")}
    assert jobs == once | {("slides_table",)} | AFTER_FEATURES


OUTCOMES: set[Job] = AFTER_RUNS | TRAINED | {("bags",), ("cohort",), ("split",)}
CODE = {
    "models/aggregators/abmil.py": AFTER_RUNS | {("train", "stroma", "abmil")},
    # how outcomes are read says nothing of tiles
    "cohort/outcomes.py": OUTCOMES,
    # nobody's here: drawn and told of it may be, trained it is not
    "models/aggregators/clam.py": {("all",), ("figures",), ("report",)},
    # the table of slides is joined by the code that joins the features
    "encoders/builtin.py": {("embed", shard) for shard in SHARDS} | AFTER_FEATURES | {("slides_table",)},
    "figures/regression_scatter.py": {("all",), ("figures",), ("report",)},
}


@pytest.mark.parametrize("file", CODE)
def test_a_changed_line_of_code_runs_what_it_touches(file: str, clone: Checkout) -> None:
    path = Path("src/histostudy") / file
    source = clone.read(path)
    with clone.edited(path, source + "\nCHANGED = True\n"):
        assert clone.jobs() == CODE[file]
    docstring = re.sub(r'\A"""', '"""Reworded: ', source)
    assert docstring != source
    with clone.edited(path, docstring + "\n# a comment\n"):
        assert clone.jobs() == set()


@pytest.mark.parametrize("kind", [FEATURES / "*.h5", COHORT / "slides/thumbnails/*.jpg"], ids=["features", "thumbnail"])
def test_a_tampered_file_behind_an_index_is_noticed_and_healed(kind: Path, clone: Checkout) -> None:
    file = sorted(clone.folder.glob(str(kind)))[0]
    before = file.read_bytes()
    file.unlink()  # it may be a link into DVC's cache
    file.write_bytes(before[:-8] + b"tampered")
    try:
        status = clone.run("dvc", "status", f"features@{NAME}", f"study@{NAME}")
        assert re.search(rf"modified:\s+{COHORT}", status)
        said = clone.run("snakemake", "--cores", "2", "--configfile", str(STUDY), "--dry-run", code=2)
        assert f"error: {file.relative_to(clone.folder)}" in said
    finally:
        clone.run("dvc", "checkout", "--force", "--quiet", f"features@{NAME}")
    assert file.read_bytes() == before
    _holds(clone)


@pytest.fixture
def bucket() -> Iterator[dict[str, str]]:
    """An S3 bucket `studies` on this machine; yields the environment of who may use it."""
    moto = pytest.importorskip("moto.server", reason="moto, flask and flask-cors serve S3 here")
    pytest.importorskip("dvc_s3", reason="the extra `s3` brings DVC's S3 remote")
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    key = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    session = boto3.Session(key["AWS_ACCESS_KEY_ID"], key["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
    session.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="studies")
    yield key | {"NO_PROXY": host, "no_proxy": host, "ENDPOINT": f"http://{host}:{port}"}
    server.stop()


def test_the_same_from_an_s3_remote(origin: Checkout, bucket: dict[str, str], tmp_path: Path) -> None:
    there = origin.clone(tmp_path / "clone")
    for checkout in (origin, there):
        checkout.environment |= bucket
        checkout.run("dvc", "remote", "add", "--local", "s3", "s3://studies/storage")
        checkout.run("dvc", "remote", "modify", "--local", "s3", "endpointurl", bucket["ENDPOINT"])
    origin.run("dvc", "push", "--quiet", "--remote", "s3", *KEPT)
    there.run("dvc", "pull", "--quiet", "--remote", "s3", *KEPT)
    _holds(there)
    assert there.hashes() == origin.hashes()


@pytest.fixture
def own(origin: Checkout, tmp_path: Path) -> Checkout:
    """A clone to spoil, finished."""
    there = origin.clone(tmp_path / "own")
    there.run("dvc", "pull", "--quiet", *KEPT)
    return there


@pytest.mark.slow
def test_made_again_from_nothing_the_lock_is_the_same(own: Checkout, origin: Checkout) -> None:
    shutil.rmtree(own.folder / "results")
    own.run("dvc", "repro", "--force", f"study@{NAME}")
    assert own.read("dvc.lock") == origin.read("dvc.lock")
    assert own.hashes() == origin.hashes()
    _holds(own)


@pytest.mark.slow
def test_the_default_study_made_again_from_nothing(own: Checkout) -> None:
    from histostudy.provenance.pipeline import pipeline_text

    shutil.copy(ROOT / "config/config.yaml", own.folder / "config/config.yaml")
    (own.folder / "dvc.yaml").write_text(pipeline_text(own.folder))
    own.run("dvc", "repro", "study@simulated")
    lock, made = own.read("dvc.lock"), own.hashes()
    for folder in ("results/cohorts/simulated", "results/studies/simulated", ".snakemake"):
        shutil.rmtree(own.folder / folder)
    own.run("dvc", "repro", "--force", "study@simulated")
    assert own.hashes() == made
    assert own.read("dvc.lock") == lock


@pytest.mark.slow
def test_versions_from_the_first_to_the_second_and_back(own: Checkout) -> None:
    summary = f"results/summary/{NAME}.json"
    own.run("histostudy", "release", NAME, "v1")
    metrics = {"v1": own.read(summary)}
    own.folder.joinpath(STUDY).write_text(study(lr=0.02))
    own.run("git", "commit", "--quiet", "--all", "--message", "another learning rate")
    own.run("dvc", "repro", f"study@{NAME}")
    own.run("histostudy", "release", NAME, "v2")
    metrics["v2"] = own.read(summary)
    assert metrics["v1"] != metrics["v2"]
    for version in ("v1", "v2", "v1"):
        own.run("histostudy", "restore", NAME, version)
        assert own.read(summary) == metrics[version]
        _holds(own)


def _killed(there: Checkout, jobs: int, delay: float) -> None:
    """Run the study and kill it, all its processes at once, some seconds after so many jobs have ended."""
    begun = time.time()
    command = ["snakemake", "--cores", "2", "--configfile", str(STUDY)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, cwd=there.folder, env=there.environment, start_new_session=True, **quiet)  # type: ignore[call-overload]
    ended = 0
    while ended < jobs and run.poll() is None and time.time() < begun + 600:
        time.sleep(0.05)
        records = [p for p in (there.folder / ".snakemake/metadata").rglob("*") if p.is_file()]
        ended = sum(p.stat().st_mtime >= begun for p in records)
    time.sleep(delay)
    assert run.poll() is None, "the run ended before it was killed"
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    there.make("--unlock")


@pytest.mark.slow
def test_a_run_that_was_killed_thrice_ends_as_one_that_was_not(own: Checkout, origin: Checkout) -> None:
    shutil.rmtree(own.folder / "results")
    own.run("git", "checkout", "--quiet", "--", ".")
    drawn = random.Random(11)
    for _ in range(3):
        _killed(own, drawn.randint(2, 7), drawn.uniform(0, 2))
    own.make()
    assert own.hashes() == origin.hashes()
    _holds(own)


def test_what_a_killed_job_took_away_is_made_again(clone: Checkout) -> None:
    for file, job in (
        (HOME / "runs/stroma/abmil/runs.parquet", ("train", "stroma", "abmil")),
        (FEATURES / "shard-1.parquet", ("embed", "1")),
        (HOME / "tables/stroma_curves.json", ("evaluate", "stroma")),
    ):
        path = clone.folder / file
        away = path.rename(path.with_suffix(".away"))
        assert job in clone.jobs()
        away.rename(path)
    assert clone.jobs() == set()


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [0, 1, 2])
def test_what_a_killed_run_of_other_settings_left_is_not_taken(jobs: int, own: Checkout, origin: Checkout) -> None:
    delay = random.Random(jobs).uniform(3, 6) if jobs == 0 else 0.5
    with own.edited(STUDY, study(lr=0.02)):
        _killed(own, jobs, delay)
    assert own.hashes() != origin.hashes()
    own.make()
    assert own.hashes() == origin.hashes()
    _holds(own)


@pytest.mark.parametrize("name", ["stain_audit", "pretrain_example", "segment_example", "tile_types_example"])
def test_the_stage_of_features_makes_all_of_the_cohort(name: str, snakemake: Snakemake, tmp_path: Path) -> None:
    made = []
    for target in ("features", "all"):
        said = snakemake(
            ROOT / "config/studies" / f"{name}.yaml", tmp_path, "--dry-run", "--quiet", "host", "--", target
        )
        outputs = {file for line in re.findall(r"^    output: (.*)$", said.stdout, re.M) for file in line.split(", ")}
        made.append({file for file in outputs if file.startswith("results/cohorts/")})
    # what the study's own stage wrote there would be in no version of the cohort
    assert made[0] == made[1] != set()
