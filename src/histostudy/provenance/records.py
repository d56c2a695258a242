"""Snakemake's own records, kept with the results that they are of.

Snakemake knows whether a result holds by a record in `.snakemake/metadata`: the rule, code, parameters and inputs that
made it. Results that travel without these (a clone, `dvc pull`, rsync) are either made again or, worse, taken for what
they are not. So each results folder carries its records in `provenance.jsonl`, one line a declared output, bound to the
output's SHA-256: written when a run ends, well or not, and given back to Snakemake before it plans.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import math
import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from histostudy.errors import StudyError
from histostudy.files import write_text
from histostudy.hashcache import HashCache
from histostudy.layout import PROVENANCE

logger = logging.getLogger(__name__)

#: Version of Snakemake's records that is understood; another one wants a look at what changed in them.
FORMAT = 6
SNAKEMAKE = Path(".snakemake")
#: What differs between two runs that are the same.
VOLATILE = ("starttime", "endtime", "job_hash", "external_jobid")
#: Snakemake cuts the encoded name of an output into folders of this many letters.
NAME_LETTERS = 254


class Output(Protocol):
    """An output of a rule: a path with wildcards in braces, which knows what it stands for."""

    def match(self, target: str) -> object:
        """Something true where the path is one of this output's."""


def record_path(output: str, kind: str = "metadata") -> Path:
    """Where Snakemake keeps the record of an output, or (`incomplete`) the mark of one that is being made."""
    name = urlsafe_b64encode(output.encode()).decode()
    parts = [name[i : i + NAME_LETTERS] for i in range(0, len(name), NAME_LETTERS)]
    return SNAKEMAKE.joinpath(kind, *(f"@{part}" for part in parts[:-1]), parts[-1])


def save(file: Path, prefixes: Sequence[str], cache: HashCache) -> int:
    """Write the records of some outputs; returns how many there are.

    Lines of outputs that are not here (another study's features, not pulled) stay as they were, and so do those of
    outputs that somebody changed: the next plan refuses these.

    Parameters
    ----------
    file : Path
        Where to write them: ``provenance.jsonl`` of a results folder.
    prefixes : sequence of str
        How the paths of these outputs begin.
    cache : HashCache
        Hashes of large outputs, so that each is read once.

    Raises
    ------
    StudyError
        If Snakemake writes its records in a form that is not known.
    """
    found = {
        output: path for output, path in _records(tuple(prefixes))
        # one that is still marked was being made again when its job was killed: its record is of what was there before
        if os.path.isfile(output) and not record_path(output, "incomplete").exists()
    }  # fmt: skip
    before = {line["target"]: line for line in _lines(file)}
    lines = {target: line for target, line in before.items() if not os.path.exists(target)}
    for (output, path), digest in zip(found.items(), cache.sha256s(found), strict=True):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("record_format_version") != FORMAT:
            raise StudyError(
                f"Snakemake's record of {output} has format {record.get('record_format_version')}, not {FORMAT}",
                todo="install the locked version of snakemake (envs/requirements.lock)",
            )
        if output in before and digest != before[output]["sha256"] and not _made(output, record):
            logger.warning("%s was changed since it was made: its record stays that of what was made", output)
            lines[output] = before[output]
            continue
        # the command as the rule has it: with threads and paths filled in it would differ between machines
        kept = record | dict.fromkeys(VOLATILE) | {"shellcmd": record["code"]}
        lines[output] = {"target": output, "sha256": digest, "record": kept}
    if not lines:
        return 0
    text = "".join(json.dumps(lines[target], sort_keys=True) + "\n" for target in sorted(lines))
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)
    write_text(_seen(file), _digest(file))
    return len(lines)


def restore(file: Path, cache: HashCache) -> int:
    """Give Snakemake the records of a file; returns how many it had not.

    Where the file of records is the one this working directory wrote or restored last, outputs are compared with their
    lines, and get them where they were not here then, or came back over what a killed run made. Otherwise an output of
    another content than its line says loses its record.

    Raises
    ------
    StudyError
        If somebody changed an output since a job of this working directory made it, or since it was restored.
    """
    if not file.is_file():
        return 0
    seen = _seen(file).is_file() and _seen(file).read_text(encoding="utf-8") == _digest(file)
    if seen:
        _refuse_changed(file, cache)
    # without this folder Snakemake would take the records for those of a version of its own from long ago
    (SNAKEMAKE / "incomplete").mkdir(parents=True, exist_ok=True)
    (SNAKEMAKE / "metadata").mkdir(parents=True, exist_ok=True)
    here = [line for line in _lines(file) if os.path.isfile(line["target"]) and not (seen and _vouched(line["target"]))]
    restored = 0
    for line, digest in zip(here, cache.sha256s(line["target"] for line in here), strict=True):
        path = record_path(line["target"])
        if digest != line["sha256"]:
            path.unlink(missing_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(line["record"]), encoding="utf-8")
        restored += 1
    if not seen:
        write_text(_seen(file), _digest(file))
        logger.info("%s: records of %d outputs restored", file, restored)
    return restored


def existing(outputs: Iterable[Output]) -> list[str]:
    """Files there are of the outputs that rules declare; the files behind an index are not among them."""
    found: set[str] = set()
    for output in outputs:
        pieces = re.split(r"\{[^{}]+\}", str(output))
        found.update(file for file in glob.glob("*".join(map(glob.escape, pieces))) if output.match(file))
    return sorted(found)


def refuse_unrecorded(outputs: Iterable[Output]) -> None:
    """Stop before a result of unknown making is taken for a good one.

    Raises
    ------
    StudyError
        If a declared output exists of which there is no record, nor a mark that it was being made; or if one is a
        folder, whose content Snakemake has no checksum of.
    """
    outputs = list(outputs)
    if folders := [str(output) for output in outputs if getattr(output, "is_directory", False)]:
        raise StudyError(
            "a folder cannot be the output of a rule: a copy of it would never hold",
            where=folders[0],
            todo="declare the files in it, or an index with their checksums",
        )
    lost = [file for file in existing(outputs) if not _known(file)]
    if lost:
        raise StudyError(
            f"{len(lost)} result(s) have no record of how they were made",
            where=lost[0],
            todo=f"bring {PROVENANCE} along with them (dvc pull, dvc checkout), or delete them",
        )


def _known(output: str) -> bool:
    """Whether Snakemake has a record of an output, or a mark that it is being made."""
    return record_path(output).exists() or record_path(output, "incomplete").exists()


def read_records(file: Path) -> list[Mapping[str, Any]]:
    """Lines of a file of records: `target`, `sha256`, `record`."""
    return list(_lines(file))


def _vouched(output: str) -> bool:
    """Whether the record there is of an output is of its bytes: restored with them, or of the job that wrote them."""
    if record_path(output, "incomplete").exists():
        return True
    path = record_path(output)
    if not path.exists():
        return False
    record = json.loads(path.read_text(encoding="utf-8"))
    return record.get("endtime") is None or _made(output, record)


def _refuse_changed(file: Path, cache: HashCache) -> None:
    """Stop where an output is neither what its line says nor what a job made since (whose run was killed)."""
    here = {line["target"]: line["sha256"] for line in _lines(file) if os.path.isfile(line["target"])}
    other = [target for target, digest in zip(here, cache.sha256s(here), strict=True) if digest != here[target]]
    changed = [target for target in other if _changed(target)]
    if changed:
        raise StudyError(
            "was changed since it was made" + (f", and {len(changed) - 1} more" if len(changed) > 1 else ""),
            where=changed[0],
            todo="delete it to have it made again, or bring it back (dvc checkout --force)",
        )


def _changed(output: str) -> bool:
    """Whether an output has a record, and that of another content; one without is no known result at all."""
    path = record_path(output)
    if record_path(output, "incomplete").exists() or not path.exists():
        return False
    return not _made(output, json.loads(path.read_text(encoding="utf-8")))


def _made(output: str, record: Mapping[str, Any]) -> bool:
    """Whether the job that a record tells of wrote the output as it is: its time is the one that Snakemake noted then.

    A restored record tells of no time. A disk of coarse times may round off what Snakemake was told at first.
    """
    end = record.get("endtime")
    return end is not None and any(abs(os.stat(output).st_mtime - time) < 1e-3 for time in (end, math.floor(end)))


def _records(prefixes: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Outputs whose paths begin so and that Snakemake has a record of, with its file."""
    top = SNAKEMAKE / "metadata"
    for path in sorted(top.rglob("*")):
        if path.is_file():
            name = "".join(part.removeprefix("@") for part in path.relative_to(top).parts)
            output = urlsafe_b64decode(name).decode()
            if output.startswith(prefixes):
                yield output, path


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.is_file():
        with file.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)


def _seen(file: Path) -> Path:
    """Where the digest of the records that were written or restored last is kept."""
    return SNAKEMAKE / "histostudy" / f"{hashlib.sha256(str(file).encode()).hexdigest()[:16]}.seen"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
