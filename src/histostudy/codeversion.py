"""Which code made a result: a hash of the syntax trees that a stage imports.

Comments, docstrings and formatting are left out, so mending a comment re-runs nothing; a changed line of a
module re-runs the stages that import it, and no others.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = __package__
#: Imported everywhere and without effect on a result: what is said, not what is computed. The study's keys are
#: here because their values are in every identity anyway.
_KEYS = (
    "log", "errors", "layout", "study", "studyfile", "tasks", "continual_keys", "simulate_keys", "model_kinds",
    "stain_keys", "runtime_keys", "pretrain_keys", "tissue_keys", "scale_keys",
)  # fmt: skip
NEUTRAL = frozenset({PACKAGE, *(f"{PACKAGE}.{name}" for name in _KEYS)})


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
def _parsed(name: str) -> tuple[str, frozenset[str]]:
    """Dump of a module without its docstrings, and the modules of this package that it imports."""
    file = _module_file(name)
    if file is None:
        return "", frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    ours = {n for n in found if n.split(".")[0] == PACKAGE and _module_file(n) is not None}
    # importing a.b.c runs a/__init__ and a.b/__init__ too
    for n in list(ours):
        parts = n.split(".")
        ours.update(".".join(parts[:k]) for k in range(2, len(parts)))
    return ast.dump(_strip_docstrings(tree)), frozenset(ours - {name})


@cache
def code_version(*modules: str) -> str:
    """Hash (12 hex digits) of `modules` (``histostudy.tissue.stage``) and all that they import of the package.

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
        seen[name], imports = _parsed(name)
        todo.extend(imports)
    text = "\n".join(f"{name} {seen[name]}" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
