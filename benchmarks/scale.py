"""What a large cohort costs: planning it, running it from slides to report, and finding nothing to do.

    python benchmarks/scale.py plan [--slides 20000] [--single 2000]
    python benchmarks/scale.py run [--slides 2000] [--cores 2] [--folder DIR]

`plan` is `snakemake -n` of a cohort of so many empty slide files with one encoder and five models, in shards of 64: the
first plan, which checks every slide file and every model, and the second, which finds all that checked. `--single` of
them are planned with one slide a shard too, which says what sharding saves.

`run` draws so many tiny slides (one a patient, two tiles each way) and takes them through tissue, tiles, features
(`builtin`), two models and the report; then asks for the same again, which does nothing. Seconds are the clock's and
the processor's (of Snakemake and all its jobs), which other work on the machine disturbs less. Memory has two numbers:
the peak of the Snakemake process, and of the largest process among it, its check of the models and its jobs. Plain
models are checked without torch; with options or a recipe the first plan imports it, once (about 690 MB with CUDA's
libraries), as training does.

Measured on two cores: 20,000 slides are planned in 10 s and 273 MB, then in 9 s. 2,000 tiny slides took 439 s of
processors (14 minutes of a busy machine) in 143 jobs and left 22,700 files of 970 MB, almost all of them the slides'
own. The largest process was the figures', 6.4 GB for every thumbnail at once; run again with only those that are shown
it was 0.9 GB and the files the same. Asked again, 2.4 s and 200 MB. With 200 slides it was 0.2 s of processors a slide
too, over 50 s that do not depend on their number.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import yaml

ROOT = Path(__file__).resolve().parents[1]
SHARD_SIZE = 64
#: What planning twenty thousand slides and a run of two thousand with nothing to do may take.
PLAN_S, PLAN_MB, IDLE_S = 15.0, 300.0, 5.0


@dataclass(frozen=True)
class Cost:
    """What one call of Snakemake took.

    Attributes
    ----------
    seconds, cpu_s : float
        By the clock; of all processors, jobs included.
    own_mb, largest_mb : float
        Peak of the Snakemake process; of the largest of it and its jobs.
    jobs : int
        Jobs that were planned.
    """

    seconds: float
    cpu_s: float
    own_mb: float
    largest_mb: float
    jobs: int

    def __str__(self) -> str:
        return (
            f"{self.jobs} jobs, {self.seconds:.1f} s ({self.cpu_s:.1f} s of processors), "
            f"Snakemake {self.own_mb:.0f} MB, largest process {self.largest_mb:.0f} MB"
        )


def snakemake(folder: Path, study: Path, *options: str, cores: int = 2) -> Cost:
    """Run Snakemake in a folder.

    Raises
    ------
    SystemExit
        With its output, if it fails.
    """
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
        "--cores", str(cores), "--configfile", str(study), *options,
    ]  # fmt: skip
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8") as said:
        start = perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        peaks = [0]
        watch = threading.Thread(target=_watch, args=(process.pid, peaks), daemon=True)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - start
        watch.join()
        said.seek(0)
        text = said.read()
    if status:
        raise SystemExit(text)
    jobs = re.search(r"^total +(\d+)", text, re.MULTILINE)
    cpu_s = usage.ru_utime + usage.ru_stime
    return Cost(seconds, cpu_s, peaks[0] / 1024, usage.ru_maxrss / 1024, int(jobs[1]) if jobs else 0)


def _watch(pid: int, peaks: list[int]) -> None:
    """Keep the peak memory (kB) of a process until it ends."""
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return
        found = re.search(r"^VmHWM:\s+(\d+)", status, re.MULTILINE)
        if found is None:  # it has ended and waits to be asked how
            return
        peaks[0] = int(found[1])
        threading.Event().wait(0.05)


def empty_slides(folder: Path, slides: int, shard_size: int = SHARD_SIZE) -> Path:
    """A study of empty slide files: planning opens none of them."""
    (folder / "slides").mkdir(parents=True)
    lines, patients = ["slide_id,patient_id,path"], ["patient_id,label"]
    for i in range(slides):
        (folder / "slides" / f"s{i}.svs").touch()
        lines.append(f"s{i},p{i},slides/s{i}.svs")
        patients.append(f"p{i},{'ab'[i % 2]}")
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")
    (folder / "patients.csv").write_text("\n".join(patients) + "\n")
    study = {
        "study": "planning",
        "cohort": {"name": "many", "slides": "slides.csv", "patients": "patients.csv", "shard_size": shard_size},
        "tasks": [{"name": "label", "kind": "classification", "target": "label"}],
        "models": {f"m{i}": {"aggregator": "abmil" if i else "mean"} for i in range(5)},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


def tiny_slides(folder: Path, slides: int) -> Path:
    """A study of drawn slides of two tiles each way, the cheapest encoder, and two models."""
    folder.mkdir(parents=True, exist_ok=True)
    training = {"epochs": 5}
    study = {
        "study": "tiny",
        "seed": 1,
        "cohort": {
            "name": "tiny",
            "simulate": {"patients": slides, "slides_extra": 0, "size_px": [1000, 1200]},
            "shard_size": SHARD_SIZE,
        },
        "tiles": {"mpp": 1.0, "size": 224, "min_tissue": 0.3},
        "splits": {"folds": 3},
        "tasks": [{"name": "subtype", "kind": "classification", "target": "subtype"}],
        "models": {name: {"aggregator": name, "training": training} for name in ("mean", "abmil")},
        "compare": {"reference": "mean", "resamples": 200},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return file


def contents(folder: Path) -> tuple[int, float]:
    """Files below a folder, and their size in MB."""
    sizes = [os.lstat(os.path.join(top, name)).st_size for top, _, names in os.walk(folder) for name in names]
    return len(sizes), sum(sizes) / 1e6


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """An empty folder that is removed again; `folder` itself where one is given."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)


def measure_plan(slides: int, single: int) -> None:
    """Plan a cohort twice, and some of it with one slide a shard."""
    with scratch(None) as folder:
        study = empty_slides(folder, slides)
        first = snakemake(folder, study, "--dry-run", "--quiet", "rules")
        print(f"{slides} slides in shards of {SHARD_SIZE}, first plan: {first}")
        second = snakemake(folder, study, "--dry-run", "--quiet", "rules")
        print(f"{slides} slides in shards of {SHARD_SIZE}, second plan: {second}")
    in_time, in_memory = PLAN_S / first.seconds, PLAN_MB / first.largest_mb
    print(f"goal {PLAN_S:.0f} s: {in_time:.1f} times; {PLAN_MB:.0f} MB: {in_memory:.1f} times")
    if single:
        with scratch(None) as folder:
            alone = snakemake(folder, empty_slides(folder, single, 1), "--dry-run", "--quiet", "rules")
        print(f"{single} slides, one a shard: {alone}")
        ratio = alone.cpu_s / single / (first.cpu_s / slides)
        print(f"processor time a slide, one a shard against shards of {SHARD_SIZE}: {ratio:.1f} times")


def measure_run(slides: int, cores: int, folder: Path | None) -> None:
    """Run tiny slides end to end, then again with nothing to do."""
    with scratch(folder) as home:
        study = tiny_slides(home, slides)
        whole = snakemake(home, study, "--quiet", "rules", cores=cores)
        print(
            f"{slides} tiny slides to the report: {whole}, {1000 * whole.cpu_s / slides:.0f} ms of processors a slide"
        )
        for name in ("results/cohorts", "results/studies", ".snakemake", "logs"):
            files, megabytes = contents(home / name)
            print(f"  {name}: {files} files, {megabytes:.0f} MB")
        for options in ([], ["--dry-run"]):
            idle = snakemake(home, study, *options, cores=cores)
            assert idle.jobs == 0, "a finished study has jobs to do"
            print(f"the same again {' '.join(options)}: {idle}; goal {IDLE_S:.0f} s: {IDLE_S / idle.seconds:.1f} times")
        # as after `dvc pull` into a clone: the results and their records, nothing else
        shutil.rmtree(home / ".snakemake")
        pulled = snakemake(home, study, "--dry-run", cores=cores)
        assert pulled.jobs == 0, "results that travelled with their records have jobs to do"
        print(f"the same with its records restored: {pulled}")


def main() -> None:
    """Measure what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    plan = parts.add_parser("plan", help="snakemake -n")
    plan.add_argument("--slides", type=int, default=20_000)
    plan.add_argument("--single", type=int, default=0, help="plan so many with one slide a shard too")
    run = parts.add_parser("run", help="tiny slides end to end, and again")
    run.add_argument("--slides", type=int, default=2_000)
    run.add_argument("--cores", type=int, default=2)
    run.add_argument("--folder", type=Path, help="where the scratch folder is made")
    args = parser.parse_args()
    if args.part == "plan":
        measure_plan(args.slides, args.single)
    else:
        measure_run(args.slides, args.cores, args.folder)


if __name__ == "__main__":
    main()
