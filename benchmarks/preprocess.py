"""Slide to features beside what a user would otherwise run: tiles and megapixels a second, and peak memory.

    python benchmarks/preprocess.py [SLIDE ...] [--python NAME=PYTHON ...] [--rounds 3] [--cores 2]

Tissue, tiles of 224 px at the slide's own scale, and features of each tile, on HER2ST-C2, C3 and C4 of the shared data
($HISTOSTUDY_SHARED, or ../shared/data), with a cheap encoder (the mean colour) and a real one (the MobileNetV1 of the
shared weights, in torch; `--encoders colour` for one of them). Each way runs in a process of its own, twice, of which
the second counts; all ways take turns, and the best of the rounds counts. Ways: `histostudy`, the stages of a study
with their checks, thumbnail, indexes and records; `histostudy_slide`, the same functions on a slide opened once,
without those; `openslide`, which is OpenSlide and PIL tile by tile, as CLAM and STAMP read; and `lazyslide`,
`tiatoolbox` and `hs2p`, where the Python that has it is named, such as

    python -m venv FOLDER && FOLDER/bin/pip install lazyslide
    python benchmarks/preprocess.py --python lazyslide=FOLDER/bin/python

A way that is not installed, or fails, is a line that says so. The registry's packages named `trident` and `stamp` are
other people's. Ways find tissue by their own defaults and so read other numbers of tiles: the rate is of level-0 pixels
in the tiles that a way embedded, over all of its seconds from the slide to the last vector, and over the seconds of
the cores, which other work on the machine changes less (a child process is not counted). Each ratio
ends the output as `<slide>, <encoder>, <way>: 4.2 times the best other (<way>) in megapixels, 0.80 of its memory`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

OURS = ("histostudy", "histostudy_slide")
WAYS = (*OURS, "openslide", "lazyslide", "tiatoolbox", "hs2p")
ENCODERS = ("colour", "mobilenet")


def shared() -> Path:
    """The shared data."""
    return Path(os.environ.get("HISTOSTUDY_SHARED", Path(__file__).resolve().parents[2] / "shared" / "data"))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run(python: str, way: str, encoder: str, slide: Path, cores: int) -> dict[str, float] | str:
    """What a way reports of itself, or the last line of its complaint."""
    env = os.environ | {name: str(cores) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    weights = shared() / "weights/google_coral_mobilenet/mobilenet_v1_1.0_224_dequant_fp16.pt"
    script = Path(__file__).with_name("preprocess_way.py")
    command = [python, str(script), way, encoder, str(slide), str(weights), str(cores)]
    command.append(sysconfig.get_path("platlib"))
    if hasattr(os, "sched_getaffinity"):
        allowed = sorted(os.sched_getaffinity(0))[:cores]
        command = ["taskset", "-c", ",".join(map(str, allowed)), *command]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        complaint = [line for line in done.stderr.splitlines() if line.strip()]
        return complaint[-1][:160] if complaint else f"ended with {done.returncode}"
    return json.loads(lines[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    her2st = [shared() / "slides/her2st" / f"HER2ST-{name}.svs" for name in ("C2", "C3", "C4")]
    parser.add_argument("slides", nargs="*", type=Path, default=her2st)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PYTHON", help="where a way is installed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS)
    options = parser.parse_args()
    pythons = dict.fromkeys(WAYS[:3], sys.executable) | dict(item.split("=", 1) for item in options.python)
    for way in WAYS:
        if way not in pythons:
            say(f"{way}: not run, name its Python with --python {way}=...")
    endings = []
    for slide in options.slides:
        if not slide.is_file():
            raise SystemExit(f"no slide at {slide}: name one, or set HISTOSTUDY_SHARED")
        for encoder in options.encoders:
            best: dict[str, dict[str, float]] = {}
            failed: dict[str, str] = {}
            for _ in range(options.rounds):
                for way in pythons:
                    if way in failed:
                        continue
                    got = run(pythons[way], way, encoder, slide, options.cores)
                    if isinstance(got, str):
                        failed[way] = got
                    else:
                        old = best.setdefault(way, got)
                        quicker = got if got["seconds"] < old["seconds"] else old
                        best[way] = quicker | {"cpu": min(got["cpu"], old["cpu"])}
            say(f"{slide.name}, {encoder}, {options.cores} cores, best of {options.rounds}")
            for way, r in best.items():
                after = r["megapixels"] / (r["seconds"] - r["finding"])
                say(
                    f"  {way:16} {r['tiles']:5.0f} tiles in {r['seconds']:6.2f} s: {r['tiles'] / r['seconds']:6.0f} "
                    f"tiles/s {r['megapixels'] / r['seconds']:6.1f} MP/s, {r['megapixels'] / r['cpu']:6.1f} a second "
                    f"of a core, peak memory {r['mb']:5.0f} MB; tissue and tiles {r['finding']:.2f} s, "
                    f"then {after:6.1f} MP/s"
                )
            for way, complaint in failed.items():
                say(f"  {way:16} failed: {complaint}")
            others = {way: r for way, r in best.items() if way not in OURS}
            rate = {way: r["megapixels"] / r["seconds"] for way, r in best.items()}
            work = {way: r["megapixels"] / r["cpu"] for way, r in best.items()}
            then = {way: r["megapixels"] / (r["seconds"] - r["finding"]) for way, r in best.items()}
            for way in best if others else ():
                if way in OURS:
                    top = max(others, key=rate.__getitem__)
                    endings.append(
                        f"{slide.stem}, {encoder}, {way}: {rate[way] / rate[top]:.1f} times the best other ({top}) "
                        f"in megapixels, {work[way] / max(work[o] for o in others):.1f} times the best by the "
                        f"core's time, {best[way]['mb'] / others[top]['mb']:.2f} of its memory; from tiles to "
                        f"vectors alone {then[way] / max(then[o] for o in others):.1f} times the best"
                    )
    for line in endings:
        say(line)


if __name__ == "__main__":
    main()
