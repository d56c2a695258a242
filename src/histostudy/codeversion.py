"""Which code made a result: a hash of the syntax trees that a stage imports.

Comments, docstrings, formatting and what is imported for its types are left out, so mending a comment re-runs nothing;
a changed line of a module re-runs the stages that import it, and no others. The verbs' modules hold the work of several
stages: of them a stage depends on the functions that it calls (``histostudy.verbs.slides:tissue_shard``), not on their
neighbours.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from histostudy.errors import ConfigError
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
#: Of the modules of this package what is used counts, function by function.
VERBS = f"{PACKAGE}.verbs."
_REGISTERS = re.compile(r'^@AGGREGATORS\.register\("([^"]+)"\)$', re.MULTILINE)


def _module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.partition(":")[0].split(".")[1:])
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


def _parts(tree: ast.Module, name: str) -> ast.Module:
    """What of a module makes the function, class or constant `name`: itself, all that it uses, what runs anyway."""
    defined: dict[str, list[ast.stmt]] = {}
    kept: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                one = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], 0)
                defined.setdefault((alias.asname or alias.name).split(".")[0], []).append(one)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in ast.walk(node):
                if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
                    defined.setdefault(target.id, []).append(node)
        else:
            kept.append(node)
    if name not in defined:
        raise ValueError(f"no {name} in the module")
    todo = [name, *_names(kept)]
    seen: set[str] = set()
    while todo:
        if (used := todo.pop()) in defined and used not in seen:
            seen.add(used)
            todo.extend(_names(defined[used]))
    return ast.Module([node for used in sorted(seen) for node in defined[used]] + kept, [])


def _is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not node.orelse


def _names(nodes: Iterable[ast.stmt]) -> list[str]:
    """Every name in some statements."""
    return [inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)]


def _parse(source: bytes, part: str = "") -> list[Any]:
    """Digest of a module, or of a part of it, without docstrings, and the names that it imports."""
    tree = ast.parse(source)
    # what is imported for its types alone makes no result
    tree.body = [node for node in tree.body if not _is_for_types(node)]
    if part:
        tree = _parts(tree, part)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(VERBS):
            found.update(f"{node.module}:{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    dump = ast.dump(_strip_docstrings(tree))
    return [hashlib.sha256(dump.encode()).hexdigest(), sorted(n for n in found if n.split(".")[0] == PACKAGE)]


@cache
def _parsed(name: str) -> tuple[str, frozenset[str]]:
    """Digest of a module, or of a part of it, without docstrings, and the modules of this package that it imports."""
    file = _module_file(name)
    if file is None:
        return "", frozenset()
    source = file.read_bytes()
    part = name.partition(":")[2]
    key = hashlib.sha256(source).hexdigest() + f":{part}" * bool(part)
    if key not in _known():
        _known()[key] = _parse(source, part)
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


def closure(*modules: str, aggregators: frozenset[str] | None = None) -> dict[str, str]:
    """Digests of `modules` and of all that they import of the package, by name.

    Parameters
    ----------
    *modules : str
        Where to begin: ``histostudy.tissue.stage``, or of a module of verbs ``histostudy.verbs.slides:tissue_shard``.
    aggregators : frozenset of str, optional
        The aggregators that are used, by name: the modules of the others count only where one of these imports them.
        Default: all.

    Raises
    ------
    ValueError
        If a module does not exist.
    ConfigError
        If it is not known which module registers an aggregator.
    """
    if aggregators and (unknown := sorted(aggregators - aggregator_modules().keys())):
        what = f"it is not known which code the aggregator {unknown[0]!r} is"
        raise ConfigError(what, todo="check its name; a new one is registered at the start of a line of its module")
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
    return seen


@cache
def code_version(*modules: str, aggregators: frozenset[str] | None = None) -> str:
    """Hash (12 hex digits) of `modules` and all that they import of the package (see `closure`)."""
    seen = closure(*modules, aggregators=aggregators)
    text = "\n".join(f"{name} {seen[name]}" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
