"""The base of the package: files, seeds, code versions, registry, shards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histostudy import codeversion
from histostudy.errors import BadSlideError, ConfigError
from histostudy.files import atomic, digest_of, fingerprint, sha256, write_json
from histostudy.layout import Layout, shard_count, shard_of
from histostudy.model_kinds import aggregators_of
from histostudy.registry import Registry
from histostudy.seeds import derive_seed
from histostudy.stages import run_shard
from histostudy.studyfile import parse_study


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "a" / "x.json"
    with pytest.raises(RuntimeError), atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert not target.exists()
    assert list(target.parent.iterdir()) == []


def test_a_failed_rewrite_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, {"a": float("nan")})
    assert target.read_text() == '{\n "a": 1\n}\n'


def test_fingerprint_notices_a_change_at_either_end_and_of_size(tmp_path: Path) -> None:
    path = tmp_path / "slide"
    content = bytearray(os.urandom(5 << 20))
    path.write_bytes(content)
    seen = {fingerprint(path)}
    for change in (0, len(content) // 2, len(content) - 1):
        content[change] ^= 1
        path.write_bytes(content)
        seen.add(fingerprint(path))
    path.write_bytes(content[:-1])
    assert len(seen | {fingerprint(path)}) == 5


@given(st.dictionaries(st.text(), st.integers()))
def test_digest_does_not_see_the_order_of_keys(value: dict) -> None:
    assert digest_of(value) == digest_of(dict(reversed(list(value.items()))))


def test_seeds_differ_by_purpose_and_repeat() -> None:
    seeds = {derive_seed(0, "os", "abmil", repeat, fold) for repeat in range(10) for fold in range(10)}
    assert len(seeds) == 100
    assert derive_seed(0, "os", "abmil", 1, 11) != derive_seed(0, "os", "abmil", 11, 1)
    assert derive_seed(3, "a") == derive_seed(3, "a") != derive_seed(4, "a")


def test_registry_suggests_the_name_that_was_meant() -> None:
    things: Registry[int] = Registry("aggregator")
    things.register("abmil")(1)
    with pytest.raises(ConfigError, match="unknown aggregator 'abmill'; did you mean 'abmil'"):
        things["abmill"]
    with pytest.raises(ValueError, match="twice"):
        things.register("abmil")(2)


def _version_of(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "stage.py").write_text(source)
    monkeypatch.setattr(codeversion, "ROOT", tmp_path)
    codeversion._parsed.cache_clear()
    codeversion.code_version.cache_clear()
    version = codeversion.code_version("histostudy.stage")
    codeversion._parsed.cache_clear()
    codeversion.code_version.cache_clear()
    return version


def test_code_version_sees_code_and_not_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper.py").write_text("X = 1\n")
    code = "from histostudy.helper import X\n\ndef f():\n    '''One.'''\n    return X\n"
    first = _version_of(code, tmp_path, monkeypatch)
    assert _version_of(code.replace("One", "Two") + "# why\n", tmp_path, monkeypatch) == first
    assert _version_of(code.replace("return X", "return -X"), tmp_path, monkeypatch) != first
    types = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from histostudy.kinds import Kind\n\n"
    (tmp_path / "kinds.py").write_text("class Kind: pass\n")
    typed = _version_of(types + code, tmp_path, monkeypatch)
    (tmp_path / "kinds.py").write_text("class Kind: x = 1\n")
    assert _version_of(types + code, tmp_path, monkeypatch) == typed, "no result is made by a type"
    (tmp_path / "helper.py").write_text("X = 2\n")
    assert _version_of(code, tmp_path, monkeypatch) != first, "a changed import changes what imports it"


@pytest.fixture
def _parsed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A working directory without parsed modules; forgets, when called, what this process knows of them."""
    caches = (codeversion._known, codeversion._parsed, codeversion.code_version)

    def forget() -> None:
        for function in caches:
            function.cache_clear()
        codeversion._USED.clear()

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    forget()
    yield forget
    forget()


def test_kept_modules_say_the_same_and_only_changed_ones_are_parsed(
    _parsed_anew: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "helper.py").write_text("X = 1\n")
    (tmp_path / "stage.py").write_text("from histostudy.helper import X\n\nY = X\n")
    monkeypatch.setattr(codeversion, "ROOT", tmp_path)
    first = codeversion.code_version("histostudy.stage")
    codeversion.keep()
    parsed: list[bytes] = []
    parse = codeversion._parse
    monkeypatch.setattr(codeversion, "_parse", lambda source, *part: parsed.append(source) or parse(source, *part))
    _parsed_anew()
    assert codeversion.code_version("histostudy.stage") == first and parsed == []
    # the same size and, as far as a checkout goes, the same time: the content counts
    (tmp_path / "helper.py").write_text("X = 2\n")
    _parsed_anew()
    assert codeversion.code_version("histostudy.stage") != first and parsed == [b"X = 2\n"]
    for damage in ("", "[]", codeversion.KEPT.read_text().replace('"by": "', '"by": "another ')):
        codeversion.KEPT.write_text(damage)
        parsed.clear()
        _parsed_anew()
        codeversion.code_version("histostudy.stage")
        assert len(parsed) == 2, f"what was kept by {damage[:20]!r} was believed"


def test_a_model_file_is_not_part_of_the_embedding() -> None:
    from histostudy.plan import STAGES

    modules: set[str] = set()
    todo = list(STAGES["embed"])
    while todo:
        name = todo.pop()
        if name not in modules:
            modules.add(name)
            todo.extend(codeversion._parsed(name)[1])
    assert "histostudy.features.stage" in modules
    assert not [m for m in modules if m.startswith(("histostudy.models", "histostudy.training", "histostudy.report"))]


def test_every_aggregator_is_known_by_the_module_that_registers_it() -> None:
    from histostudy.models.registry import AGGREGATORS, aggregator_kind

    aggregator_kind("mean")  # registers them all
    assert codeversion.aggregator_modules() == {name: AGGREGATORS[name].__module__ for name in AGGREGATORS}


def test_a_model_depends_on_its_own_aggregator(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = "histostudy.training.stage"
    used = [frozenset(names) for names in (["abmil"], ["self_vit_mil"], ["mean"], ["mean", "abmil"], [])]

    def versions() -> list[str]:
        codeversion.code_version.cache_clear()
        return [codeversion.code_version(stage, aggregators=one) for one in used]

    def changed(module: str) -> list[bool]:
        real = codeversion._parsed
        before = versions()
        with monkeypatch.context() as patch:
            patch.setattr(codeversion, "_parsed", lambda n: (real(n)[0] + "!", real(n)[1]) if n == module else real(n))
            after = versions()
        return [old != new for old, new in zip(before, after, strict=True)]

    assert len(set(versions())) == len(used)
    assert changed("histostudy.models.aggregators.abmil") == [True, False, False, True, False]
    # which another one is made of
    assert changed("histostudy.models.aggregators.dsmil") == [False, True, False, False, False]
    assert changed("histostudy.models.aggregators") == [False] * 5
    assert changed("histostudy.models.model") == [True] * 5
    codeversion.code_version.cache_clear()


def test_a_model_is_made_of_its_sources_too() -> None:
    one = SimpleNamespace(aggregator="moe_pkt", sources="two")
    models = {"one": one, "two": SimpleNamespace(aggregator="abmil", sources=None)}
    assert aggregators_of(models, "one") == {"moe_pkt", "abmil"}
    assert aggregators_of(models, "two") == {"abmil"}
    assert aggregators_of(models, "prior") == frozenset()
    # an aggregator may build on itself, and models on each other
    models["three"] = SimpleNamespace(aggregator="moe_pkt", sources="one")
    assert aggregators_of(models, "three") == {"moe_pkt", "abmil"}
    models["two"].sources = "three"
    assert aggregators_of(models, "two") == {"moe_pkt", "abmil"}


def test_an_aggregator_that_nobody_registers_is_refused() -> None:
    with pytest.raises(ConfigError, match="which code the aggregator 'abmill' is"):
        codeversion.code_version("histostudy.training.stage", aggregators=frozenset(["abmill"]))


def test_a_part_of_a_verbs_module_is_what_it_uses(
    _parsed_anew: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codeversion, "ROOT", tmp_path)
    (tmp_path / "verbs").mkdir()
    (tmp_path / "verbs" / "__init__.py").touch()
    for name in ("one", "two", "three", "work"):
        (tmp_path / f"{name}.py").write_text(f"X = '{name}'\n")
    (tmp_path / "work.py").write_text("from histostudy.verbs.v import first\n")
    text = (
        "from typing import TYPE_CHECKING\nfrom histostudy import one, two\nif TYPE_CHECKING:\n"
        "    from histostudy.three import X\nMOST = 3\ndef first(x: X) -> None:\n    one.X\n    _helped()\n"
        "def second() -> None:\n    two.X\ndef _helped() -> None:\n    print(MOST)\n"
    )
    file = tmp_path / "verbs" / "v.py"

    def versions(text: str) -> list[str]:
        file.write_text(text)
        _parsed_anew()
        return [codeversion.code_version(n) for n in ("histostudy.verbs.v:first", "histostudy.verbs.v:second")]

    before = versions(text)
    assert set(codeversion.closure("histostudy.work")) == {
        "histostudy.work", "histostudy.verbs", "histostudy.verbs.v:first", "histostudy.one",
    }  # fmt: skip
    for old, new, changed in (
        ("print(MOST)", "print(MOST + 1)", [True, False]),
        ("MOST = 3", "MOST = 4", [True, False]),
        ("two.X", "two.X + 1", [False, True]),
        ("MOST = 3", "MOST = 3  # said", [False, False]),
    ):
        assert [a != b for a, b in zip(before, versions(text.replace(old, new)), strict=True)] == changed, new
    with pytest.raises(ValueError, match="no third"):
        codeversion.code_version("histostudy.verbs.v:third")


@given(st.integers(1, 100_000))
def test_shards_are_about_as_large_as_asked(slides: int) -> None:
    shards = shard_count(slides, 64)
    assert slides <= shards * 64 and (shards == 1 or slides > shards * 32)


def test_one_more_slide_touches_one_shard() -> None:
    ids = [f"slide-{i}" for i in range(300)]
    before = {i: shard_of(i, shard_count(300, 64)) for i in ids}
    after = {i: shard_of(i, shard_count(301, 64)) for i in [*ids, "new"]}
    assert all(before[i] == after[i] for i in ids)


def test_shards_keep_what_holds_and_redo_the_rest(tmp_path: Path) -> None:
    rows = pd.DataFrame({"slide_id": ["b", "a", "bad"]})
    done: list[str] = []

    def work(row: dict) -> tuple[str, dict]:
        done.append(row["slide_id"])
        if row["slide_id"] == "bad":
            raise BadSlideError("no_tissue", "nothing but glass")
        name = f"{row['slide_id']}.txt"
        (tmp_path / name).write_text(row["slide_id"])
        return name, {"n": 1}

    def run(parameter: int) -> pd.DataFrame:
        done.clear()
        return run_shard(rows, work, out_dir=tmp_path, identity_of=lambda row: [row["slide_id"], parameter])

    index = run(1)
    assert index["slide_id"].tolist() == ["a", "b", "bad"]
    assert index["status"].tolist() == ["ok", "ok", "failed"]
    assert index.loc[2, "reason"] == "no_tissue"
    assert index.loc[0, "sha256"] == sha256(tmp_path / "a.txt")
    run(1)
    assert done == []
    (tmp_path / "a.txt").write_text("half a fi")
    run(1)
    assert done == ["a"], "a file that is not what was written is made again"
    run(2)
    assert done == ["a", "b", "bad"], "another parameter is other work"


def test_a_bad_machine_is_not_a_bad_slide(tmp_path: Path) -> None:
    rows = pd.DataFrame({"slide_id": ["a", "b"]})

    def work(row: dict) -> tuple[None, dict]:
        if row["slide_id"] == "b":
            raise OSError("No space left on device")
        return None, {}

    with pytest.raises(OSError, match="No space"):
        run_shard(rows, work, out_dir=tmp_path, identity_of=dict)
    seen: list[str] = []
    run_shard(rows, lambda r: (seen.append(r["slide_id"]), (None, {}))[1], out_dir=tmp_path, identity_of=dict)
    assert seen == ["b"], "what was finished before the failure is kept"


def test_two_studies_cannot_fill_one_folder_with_different_tiles(tmp_path: Path) -> None:
    def layout(name: str, **tiles: object) -> Layout:
        study = parse_study({"study": name, "cohort": {"name": "c", "simulate": {}}, "tiles": tiles})
        return Layout(study, tmp_path)

    layout("one").claim()
    layout("one", min_tissue=0.3).claim()
    layout("two", min_tissue=0.3).claim()
    with pytest.raises(ConfigError, match="made by study 'one'.*tiles.label"):
        layout("two", min_tissue=0.4).claim()
    layout("two", min_tissue=0.4, label="dense").claim()


def test_two_studies_cannot_draw_one_cohort_twice(tmp_path: Path) -> None:
    """Each would make the other's slides and shards again, for ever."""

    def claim(name: str, seed: int = 0, shard_size: int = 64) -> None:
        cohort = {"name": "c", "simulate": {}, "shard_size": shard_size}
        Layout(parse_study({"study": name, "seed": seed, "cohort": cohort}), tmp_path).claim()

    claim("one")
    claim("two")
    for other in ({"seed": 1}, {"shard_size": 1}):
        with pytest.raises(ConfigError, match="made by study 'one'.*another cohort.name"):
            claim("two", **other)
    claim("one", seed=1)


def test_help_and_plan_import_neither_torch_nor_openslide() -> None:
    code = "import sys, histostudy.cli, histostudy.plan; print([m for m in ('torch', 'openslide') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
