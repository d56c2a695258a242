"""The package reads in the order data flows: a folder imports those before it, never those after it."""

from __future__ import annotations

import ast
from pathlib import Path

import histostudy

ROOT = Path(histostudy.__file__).parent
ORDER = [
    "cohort", "slides", "tissue", "tiles", "encoders", "features", "splits", "models", "training", "evaluation",
    "figures", "report", "provenance", "simulate", "verbs",
]  # fmt: skip
#: Modules beside the folders that may know all of them.
TOP = {
    "cli.py", "cli_cohort.py", "cli_encoders.py", "cli_features.py", "cli_release.py", "cli_stain.py", "cli_tissue.py",
    "plan.py",
}  # fmt: skip


def _imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("histostudy."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found.update(a.name.split(".")[1] for a in node.names if a.name.startswith("histostudy."))
    return found


def test_imports_run_one_way() -> None:
    wrong = []
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).parts
        if len(parts) == 1:
            later = [] if file.name in TOP else ORDER
        else:
            later = ORDER[ORDER.index(parts[0]) + 1 :]
        wrong += [f"{'/'.join(parts)} imports {name}" for name in sorted(_imports(file) & set(later))]
    assert wrong == []


def test_no_module_is_too_long_to_read() -> None:
    long = {str(f.relative_to(ROOT)): n for f in ROOT.rglob("*.py") if (n := len(f.read_text().splitlines())) > 400}
    assert long == {}


def test_the_tree_names_no_machine() -> None:
    words = ["/home/", "/root/", "/tmp/", "file:///", "pypi.org", "files.pythonhosted"]
    found = []
    top = ROOT.parents[1]
    for folder in ("src", "workflow", "config", "envs", "benchmarks", "profiles"):
        for file in (top / folder).rglob("*"):
            if file.is_file() and file.suffix not in {".pyc", ".png", ".svg"}:
                text = file.read_text(errors="ignore")
                found += [f"{file.relative_to(top)}: {w}" for w in words if w in text]
    assert found == []
