"""Which code made a result: a hash of the syntax trees that a stage imports.

Comments, docstrings and formatting are left out, so mending a comment re-runs nothing; a changed line of a
module re-runs the stages that import it, and no others.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from histostudy.files import read_json, write_json

ROOT = Path(__file__).resolve().parent
PACKAGE = __package__
#: Where parsed modules are kept, by the SHA-256 of their source: beside Snakemake's own records, in no result.
KEPT = Path(".snakemake") / "histostudy" / "code.json"
_USED: set[str] = set()
#: Imported everywhere and without effect on a result: what is said, not what is computed. The study's keys are
#: here because their values are in every identity anyway.
_KEYS = (
    "log", "errors", "layout", "study", "studyfile", "tasks", "continual_keys", "simulate_keys", "model_kinds",
    "stain_keys", "runtime_keys", "pretrain_keys", "tissue_keys", "scale_keys",
)  # fmt: skip
NEUTRAL = frozenset({PACKAGE, *(f"{PACKAGE}.{name}" for name in _KEYS)})
#: Packages that import all of their modules for the registry to know them; a model depends on its own.
AGGREGATORS = (f"{PACKAGE}.models.aggregators", f"{PACKAGE}.models.multimodal")
_REGISTERS = re.compile(r'^@AGGREGATORS\.register\("([^"]+)"\)$', re.MULTILINE)


def _module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split(".")[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate
    return None


def _strip_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            if ast.get_docstring(node, clean=False) is not None:
                node.body = body[1:] or [ast.Pass()]
    return tree


@cache
def _known() -> dict[str, list[Any]]:
    """What was kept of modules parsed before: SHA-256 of the source -> digest and imported names."""
    try:
        kept = read_json(KEPT)
        return dict(kept["modules"]) if kept["by"] == _reader() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@cache
def _reader() -> str:
    """Who parses: another Python writes another syntax tree, another version of this module another digest of it."""
    return hashlib.sha256(sys.version.encode() + Path(__file__).read_bytes()).hexdigest()


def keep() -> None:
    """Keep what was parsed in the working directory, so that the next plan there parses what has changed alone."""
    used = {key: _known()[key] for key in sorted(_USED)}
    kept = {"by": _reader(), "modules": used}
    try:
        same = read_json(KEPT) == kept
    except (OSError, ValueError):
        same = False
    if not same:
        write_json(KEPT, kept)


def _parse(source: bytes) -> list[Any]:
    """Digest of a module without its docstrings, and the names that it imports."""
    tree = ast.parse(source)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    dump = ast.dump(_strip_docstrings(tree))
    return [hashlib.sha256(dump.encode()).hexdigest(), sorted(n for n in found if n.split(".")[0] == PACKAGE)]


@cache
def _parsed(name: str) -> tuple[str, frozenset[str]]:
    """Digest of a module without its docstrings, and the modules of this package that it imports."""
    file = _module_file(name)
    if file is None:
        return "", frozenset()
    source = file.read_bytes()
    key = hashlib.sha256(source).hexdigest()
    if key not in _known():
        _known()[key] = _parse(source)
    _USED.add(key)
    digest, found = _known()[key]
    ours = {n for n in found if _module_file(n) is not None}
    # importing a.b.c runs a/__init__ and a.b/__init__ too
    for n in list(ours):
        parts = n.split(".")
        ours.update(".".join(parts[:k]) for k in range(2, len(parts)))
    return digest, frozenset(ours - {name})


@cache
def aggregator_modules() -> dict[str, str]:
    """Name of each aggregator -> the module that registers it, read from its decorators without importing torch."""
    found: dict[str, str] = {}
    for package in AGGREGATORS:
        for file in sorted(ROOT.joinpath(*package.split(".")[1:]).glob("*.py")):
            names = _REGISTERS.findall(file.read_text(encoding="utf-8"))
            found |= dict.fromkeys(names, f"{package}.{file.stem}")
    return found


@cache
def code_version(*modules: str, aggregators: frozenset[str] | None = None) -> str:
    """Hash (12 hex digits) of `modules` (``histostudy.tissue.stage``) and all that they import of the package.

    Parameters
    ----------
    *modules : str
        Where to begin.
    aggregators : frozenset of str, optional
        The aggregators that are used, by name: the modules of the others count only where one of these imports them.
        Default: all.

    Raises
    ------
    ValueError
        If a module does not exist.
    """
    seen: dict[str, str] = {}
    todo = list(modules)
    for name in modules:
        if _module_file(name) is None:
            raise ValueError(f"no module {name}")
    while todo:
        name = todo.pop()
        if name in seen or name in NEUTRAL:
            continue
        if aggregators is not None and name in AGGREGATORS:
            todo.extend(module for key, module in aggregator_modules().items() if key in aggregators)
            continue
        seen[name], imports = _parsed(name)
        todo.extend(imports)
    text = "\n".join(f"{name} {seen[name]}" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
