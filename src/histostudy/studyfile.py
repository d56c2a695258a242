"""Reading a study file: from YAML to checked keys with absolute paths, and one line for what is wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from histostudy.errors import ConfigError
from histostudy.study import Model, Study
from histostudy.tasks import Keys, TaskKeys

S = TypeVar("S", bound=Keys)

_PATH_KEYS = (
    ("cohort", "slides"), ("cohort", "patients"), ("features", "precomputed"), ("features", "checkpoint"),
    ("splits", "published"), ("tiles", "spots"), ("tissue", "checkpoint"),
)  # fmt: skip


def parse_study(config: Mapping[str, Any], *, source: str | Path | None = None) -> Study:
    """Validate a configuration and make its paths absolute.

    Parameters
    ----------
    config : mapping
        What the study file says.
    source : str or Path, optional
        The study file: relative paths are looked for in its folder first, then in the working directory.

    Raises
    ------
    ConfigError
        One line naming the key, what is wrong with it, and what is allowed.
    """
    try:
        study = Study.model_validate(dict(config))
    except ValidationError as error:
        raise ConfigError(_one_line(error), where=source, todo="see the study file's keys in the README") from None
    base = Path(source).resolve().parent if source else Path.cwd()
    for key, given, put in paths_of(study):
        put(_find(given, base, key, source))
    return study


def paths_of(study: Study) -> list[tuple[str, Path, Callable[[Path], None]]]:
    """Every file and folder that a study names: its key, the path, and what sets it.

    Tables of a drawn cohort are no such files, for the study draws them, nor is the encoder that it trains.
    """
    parts: list[tuple[str, Keys, tuple[str, ...]]] = []
    drawn = study.cohort.simulate is not None
    parts += [(section, getattr(study, section), (key,)) for section, key in _PATH_KEYS if not drawn]
    parts += [(f"models.{name}", model, ("predictions",)) for name, model in study.models.items()]
    parts += [("features.stain", study.features.stain, ("target",))] if study.features.stain is not None else []
    parts += [("train_tissue", study.train_tissue, ("real",))] if study.train_tissue is not None else []
    if study.pretrain is not None:
        parts.append(("pretrain", study.pretrain, ("images", "teacher_checkpoint")))
    if not drawn:
        parts += [(f"tasks.{t.name}", t, ("table", "centroids")) for t in study.tasks if t.kind == "expression"]
        parts += [(f"tasks.{t.name}", t, ("table",)) for t in study.tasks if t.kind == "tile_classification"]
        parts += [(f"tasks.{t.name}", t, ("annotations",)) for t in study.tasks if t.kind == "segmentation"]
        parts += [(f"modalities.{name}", m, ("table", "groups")) for name, m in study.modalities.items()]
    found: list[tuple[str, Path, Callable[[Path], None]]] = []
    for where, part, keys in parts:
        for key in keys:
            made = where == "features" and key == "checkpoint" and study.pretrain is not None
            if (value := getattr(part, key)) is not None and not made:
                found.append((f"{where}.{key}", value, partial(setattr, part, key)))
    for name, model in study.models.items():
        # an option, not a key: the weights that a segmenter starts from
        if model.segmenter is not None and isinstance(given := model.options.get("checkpoint"), str):
            found.append((f"models.{name}.options.checkpoint", Path(given), partial(_put_checkpoint, model)))
    return found


def _put_checkpoint(model: Model, path: Path) -> None:
    model.options = model.options | {"checkpoint": str(path)}


def checked(section: type[S], **values: Any) -> S:
    """A section of a study file made from `values`, with a one-line error where they are wrong."""
    try:
        return section(**values)
    except ValidationError as error:
        raise ConfigError(_one_line(error), where=section.__name__.lower()) from None


def read_study_file(path: str | Path) -> dict[str, Any]:
    """What a study file says, not yet validated.

    Raises
    ------
    ConfigError
        If there is no such file, or it is not YAML of keys and values.
    """
    import yaml

    path = Path(path)
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such study file", where=path, todo="check the path") from None
    except yaml.YAMLError as error:
        line = str(error).replace("\n", " ")
        raise ConfigError(f"not YAML: {line}", where=path, todo="mend the file") from None
    if not isinstance(config, dict):
        raise ConfigError("not a study file: expected keys and values", where=path, todo="see the README")
    return config


def load_study(path: str | Path) -> Study:
    """Read and validate a study file (see `parse_study`)."""
    return parse_study(read_study_file(path), source=path)


def resolve(study: Study) -> dict[str, Any]:
    """The study with every default written out, as plain data."""
    return study.model_dump(mode="json")


def json_schema() -> dict[str, Any]:
    """JSON schema of the study file."""
    schema = Study.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema


def _find(path: Path, base: Path, key: str, source: str | Path | None) -> Path:
    expanded = Path(os.path.expandvars(path)).expanduser()
    for folder in (base, Path.cwd()):
        if (folder / expanded).exists():
            found = Path(os.path.normpath(folder / expanded))  # a link stays one: DVC may make links of the data
            # relative where it can be, so that a study's folder can move with its data
            return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
    raise ConfigError(
        f"{key}: {path} does not exist",
        where=source,
        todo="paths are relative to the study file, then to here",
    )


def _one_line(error: ValidationError) -> str:
    """The first thing wrong, as `key: what`, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    message = re.sub(r"^Value error, ", "", first["msg"])
    if first["type"] == "extra_forbidden":
        message = f"unknown key{_suggest(first['loc'])}"
    elif "input" in first and not isinstance(first["input"], dict):
        message += f" (it is {first['input']!r})"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return (f"{key}: " if key else "") + message + more


def _suggest(loc: tuple[int | str, ...]) -> str:
    """`, did you mean ...` for an unknown key, from all the keys a study file knows."""
    from difflib import get_close_matches

    known = {key for model in Keys.__subclasses__() + TaskKeys.__subclasses__() for key in model.model_fields}
    close = get_close_matches(str(loc[-1]), sorted(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
