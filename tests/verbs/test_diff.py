"""Two versions of a small study on one page: read from git and DVC, the checkout untouched."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from releases import make_checkout, run, study_text

from histostudy.errors import ConfigError
from histostudy.verbs.diff import compare_versions
from histostudy.verbs.release import ReleaseError, release

SNAKEFILE = """
from pathlib import Path
from histostudy.hashcache import HashCache
from histostudy.provenance import records

S, CACHE = config["study"], HashCache()
FILES = {
    Path("results/cohorts/c/provenance.jsonl"): ["results/cohorts/c/"],
    Path(f"results/studies/{S}/provenance.jsonl"): [f"results/studies/{S}/", f"results/summary/{S}."],
}
if workflow.is_main_process:
    for file in FILES:
        records.restore(file, CACHE)
STUDY = [f"results/studies/{S}/{x}" for x in
    ("cohort_flow.json", "figures/risk_roc.svg", "figures/risk_same.svg", "figures/risk_lone.svg", "figures/map.png")]
SUMMARY = [f"results/summary/{S}.{x}" for x in ("json", "csv")]

rule all:
    default_target: True
    input: STUDY, SUMMARY

rule features:
    input: "results/cohorts/c/slides.parquet"

rule embed:
    output: "results/cohorts/c/slides.parquet"
    params: seed=config.get("seed", 0)
    shell: "python workflow/make.py cohort {params.seed} {output}"

rule study:
    input: "results/cohorts/c/slides.parquet"
    output: STUDY, SUMMARY
    params: seed=config.get("seed", 0)
    shell: "python workflow/make.py study {params.seed} {output}"

onsuccess:
    for file, prefixes in FILES.items():
        records.save(file, prefixes, CACHE)
"""
SCRIPT = """
import json, sys
import numpy as np
import pandas as pd
from PIL import Image

what, seed, *out = sys.argv[1:]
seed = int(seed)
if what == "cohort":
    rows = [{"slide_id": f"S{i}", "status": "ok", "fingerprint": f"{i}"} for i in range(4 + (seed > 0))]
    rows[0]["fingerprint"] = f"changed {seed}"
    pd.DataFrame(rows).to_parquet(out[0], index=False)
    sys.exit()
flow, roc, same, lone, image, nested, table = out
slides = 4 + (seed > 0)
step = {"step": "tables <i>", "slides": slides, "patients": 4, "excluded": []}
json.dump({"steps": [step], "tasks": {}}, open(flow, "w"))
svg = '<svg xmlns="http://www.w3.org/2000/svg"><text>{}</text></svg>'
open(roc, "w").write(svg.format(f"roc {seed}"))
open(same, "w").write(svg.format("same"))
open(lone, "w").write(svg.format("lone"))
Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)).save(image)
high = 0.2 if seed else 0.0
rows = [
    ("risk", "m", "auroc", 0.6 + high, 0.55 + high, 0.65 + high, 40, 20),
    ("risk", "m", "brier", 0.2 - high / 4, 0.16 - high / 4, 0.3 - high / 4, 40, 20),
    ("risk", "prior", "auroc", 0.5, 0.5, 0.5, 40, 20),
]
columns = ["task", "model", "metric", "estimate", "low", "high", "n", "events"]
pd.DataFrame(rows, columns=columns).to_csv(table, index=False)
json.dump({}, open(nested, "w"))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with two released versions of its study `s`, which differ in seed, slides, metrics and figures."""
    folder = make_checkout(tmp_path_factory.mktemp("diff") / "checkout", SNAKEFILE, SCRIPT)
    run(folder, "dvc", "remote", "add", "--default", "storage", str(folder.parent / "storage"))
    run(folder, "git", "commit", "--quiet", "-am", "remote")
    for version, seed in (("v1", 0), ("v2", 7)):
        (folder / "config/studies/s.yaml").write_text(study_text("s", seed=seed, tasks=TASKS))
        if seed:
            (folder / "workflow/Snakefile").write_text("# one line\n")
        run(folder, "git", "commit", "--quiet", "-am", f"<b>seed</b> {seed}")
        run(folder, "dvc", "repro", "study@s")
        release("s", version, folder)
    return folder


TASKS = [{"name": "risk", "kind": "classification", "target": "risk"}]


def _text(page: str) -> str:
    """What a reader reads: no tags, one space between words."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def _state(folder: Path) -> tuple[str, str, str, list[tuple[str, bytes]]]:
    results = [(str(p), p.read_bytes()) for p in sorted((folder / "results").rglob("*")) if p.is_file()]
    head = run(folder, "git", "rev-parse", "HEAD")
    return head, run(folder, "git", "status", "--porcelain"), run(folder, "dvc", "status", "--json", "study@s"), results


def test_two_versions_on_one_page_and_the_checkout_untouched(checkout: Path, tmp_path: Path) -> None:
    dirty = checkout / "config/config.yaml"
    kept = dirty.read_text()
    dirty.write_text(kept + "# not committed\n")
    before = _state(checkout)
    page = compare_versions("s", "v1", "v2", checkout, tmp_path / "page.html")
    again = compare_versions("s", "v1", "v2", checkout, tmp_path / "again.html")
    assert _state(checkout) == before
    dirty.write_text(kept)
    assert page.read_bytes() == again.read_bytes()
    html = page.read_text()
    text = _text(html)
    assert "seed 0 7" in text  # the parameter
    assert "1 slide only in v2 S4" in text
    assert "1 slide another file or status S0" in text
    assert "tables &lt;i&gt;: slides 4 5 +1" in text
    assert "m AUROC 0.600 0.550 to 0.650 0.800 0.750 to 0.850 +0.200 intervals apart" in text
    assert "m Brier score&nbsp;&darr; 0.200 0.160 to 0.300 0.150 0.110 to 0.250 \N{MINUS SIGN}0.050 outside the" in text
    assert "1 metric is the same in both" in text
    assert "n 40, events 20 in both" in text
    # side by side what differs, by name what does not
    assert re.findall(r"<h4>(.*?)</h4>", html) == ["risk: roc"]
    assert html.count("data:image/svg+xml;base64,") == 2
    assert "3 figures are the same in both, byte for byte map, risk: lone and risk: same" in text
    assert "workflow/Snakefile 1 0" in text
    assert "&lt;b&gt;seed&lt;/b&gt; 7" in html
    assert "<b>" not in html
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", html)


def test_the_workspace_is_a_version_too(checkout: Path, tmp_path: Path) -> None:
    lone = checkout / "results/studies/s/figures/risk_lone.svg"
    data = lone.read_bytes()
    lone.unlink()
    try:
        text = _text(compare_versions("s", "workspace", "v1", checkout, tmp_path / "p.html").read_text())
    finally:
        lone.write_bytes(data)
    assert "seed 7 0" in text
    assert "m AUROC 0.800 0.750 to 0.850 0.600 0.550 to 0.650 \N{MINUS SIGN}0.200" in text
    assert "risk: lone workspace : there is no such figure v1" in text
    assert "workflow/Snakefile 0 1" in text


def test_what_cannot_be_compared_is_said(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no version v3 of s; known: v1, v2"):
        compare_versions("s", "v1", "v3", checkout, tmp_path / "page.html")
    with pytest.raises(ConfigError, match="both versions are the workspace"):
        compare_versions("s", "workspace", "workspace", checkout, tmp_path / "page.html")
    # from the remote where the cache has nothing, and one clear line where that has nothing either
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(checkout), str(clone))
    compare_versions("s", "v1", "v2", clone, tmp_path / "cloned.html")
    assert not (clone / "results/studies").exists() or not list((clone / "results/studies").rglob("*.svg"))
    shutil.rmtree(clone / ".dvc/cache", ignore_errors=True)
    run(clone, "dvc", "remote", "modify", "--local", "storage", "url", str(tmp_path / "nothing"))
    with pytest.raises(ReleaseError, match="neither DVC's cache nor the remote"):
        compare_versions("s", "v1", "v2", clone, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
