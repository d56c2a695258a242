"""Plan a cohort of ten thousand slides with one encoder and five models: seconds and memory of `snakemake -n`.

usage: python benchmarks/planning.py [SLIDES]

The same workflow with one slide a shard says what sharding saves.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 30.0


def make_study(folder: Path, slides: int, shard_size: int) -> Path:
    """A study of empty slide files: planning opens none of them."""
    (folder / "slides").mkdir()
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


def plan(slides: int, shard_size: int) -> tuple[float, float, int]:
    """Seconds, peak MB and jobs of a dry run."""
    with tempfile.TemporaryDirectory() as scratch:
        study = make_study(Path(scratch), slides, shard_size)
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", scratch,
            "--cores", "2", "--configfile", str(study), "--dry-run", "--quiet", "rules",
        ]  # fmt: skip
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stderr is not None
        out = process.stdout.read() + process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit(out)
        total = next(line for line in out.splitlines() if line.startswith("total"))
        return seconds, usage.ru_maxrss / 1024, int(total.split()[1])


def main() -> None:
    """Plan twice and print both."""
    slides = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    sharded = plan(slides, 64)
    print(f"{slides} slides, shards of 64: {sharded[2]} jobs, {sharded[0]:.1f} s, {sharded[1]:.0f} MB")
    few = max(slides // 10, 1)
    single = plan(few, 1)
    print(f"{few} slides, one a shard: {single[2]} jobs, {single[0]:.1f} s, {single[1]:.0f} MB")
    print(f"seconds a slide, one a shard against shards of 64: {single[0] / few / (sharded[0] / slides):.1f} times")
    print(f"planning {slides} slides within {LIMIT_S:.0f} s: {LIMIT_S / sharded[0]:.1f} times")


if __name__ == "__main__":
    main()
