"""Every registered name has a reference or is our own; every key is in the file; the file is BibTeX."""

from __future__ import annotations

import importlib

import pytest

from histostudy.encoders.known import ENCODERS
from histostudy.provenance.versions import PACKAGES
from histostudy.report import aggregators, citations, recipes
from histostudy.report.bibtex import REFERENCES, cite, parse, references, render
from histostudy.report.context import ReportContext
from histostudy.report.reporting import reporting_files

TABLES = {
    name: getattr(citations, name)
    for name in ("AGGREGATORS", "RECIPES", "TISSUE", "STAINS", "PRETRAINING", "ENCODERS", "LAYOUTS", "CONTINUAL",
                 "CLASSIFIERS", "SEGMENTERS", "LOSSES", "STATISTICS")
}  # fmt: skip
#: Ours, or without a source to name.
OWN = {"mean", "max", "subsample", "instance_dropout", "ensemble", "finetune", "joint", "replay", "auto", "plain",
       "regression", "expression", "segmentation", "pretrained"}  # fmt: skip


def _keys() -> set[str]:
    of_libraries = {key for keys, _ in citations.LIBRARIES.values() for key in keys}
    return {key for table in TABLES.values() for keys in table.values() for key in keys} | of_libraries


def test_every_registered_name_is_there() -> None:
    from histostudy.encoders.stain.normaliser import NORMALISERS
    from histostudy.features.layouts import LAYOUTS
    from histostudy.models.registry import AGGREGATORS
    from histostudy.tissue.registry import SEGMENTERS, weights_of
    from histostudy.training.recipes.base import RECIPES

    weights_of("otsu")
    for folder in ("models.aggregators", "models.multimodal", "training.recipes"):
        importlib.import_module(f"histostudy.{folder}")
    assert set(citations.AGGREGATORS) == set(AGGREGATORS) == set(aggregators.AGGREGATORS)
    assert set(citations.RECIPES) == set(RECIPES) == set(recipes.RECIPES)
    assert set(citations.TISSUE) == set(SEGMENTERS)
    assert set(citations.STAINS) == set(NORMALISERS)
    assert set(citations.ENCODERS) == set(ENCODERS)
    assert set(citations.LAYOUTS) == {"auto", *LAYOUTS}


def test_every_choice_of_the_study_file_is_there() -> None:
    from typing import get_args

    from histostudy.pretrain_keys import Pretrain
    from histostudy.report.continual import METHODS
    from histostudy.report.segmentation import PHRASES
    from histostudy.study import Model, Training

    def choices(annotation: object) -> set[str]:
        return {a for arg in get_args(annotation) for a in ({arg} if isinstance(arg, str) else choices(arg))}

    assert set(citations.PRETRAINING) == choices(Pretrain.model_fields["method"].annotation)
    assert set(citations.CLASSIFIERS) == choices(Model.model_fields["classifier"].annotation)
    assert set(citations.LOSSES) == choices(Training.model_fields["loss"].annotation)
    assert set(citations.CONTINUAL) == set(METHODS)
    assert set(citations.SEGMENTERS) == set(PHRASES)
    assert set(PACKAGES) <= set(citations.LIBRARIES)


def test_what_has_no_reference_is_our_own() -> None:
    assert {name for table in TABLES.values() for name, keys in table.items() if not keys} == OWN


def test_every_key_resolves_and_every_entry_is_used_or_a_standard() -> None:
    assert _keys() <= set(references())
    named = REFERENCES.parents[1].joinpath("citations.py").read_text(encoding="utf-8")
    assert [key for key in references() if f'"{key}"' not in named] == []


def test_entries_say_who_what_when_and_where() -> None:
    for key, entry in references().items():
        assert entry.get("author") and entry.get("title") and entry.get("year").isdigit(), key
        where = [entry.get(name) for name in ("journal", "booktitle", "publisher", "howpublished", "eprint", "note")]
        assert any(where), key
        assert entry.get("doi").startswith("10.") or not entry.get("doi"), key
        assert cite(entry).startswith(entry.get("author").split(",")[0].split(" and ")[0]), key


def test_the_file_is_read_and_written_back() -> None:
    assert parse(render(references().values())) == references()


def test_a_whole_parser_of_bibtex_reads_the_same() -> None:
    bibtexparser = pytest.importorskip("bibtexparser", reason="bibtexparser is not installed")
    library = bibtexparser.parse_string(REFERENCES.read_text(encoding="utf-8"))
    assert not library.failed_blocks
    theirs = {entry.key: {field.key: field.value for field in entry.fields} for entry in library.entries}
    assert theirs == {key: dict(entry.fields) for key, entry in references().items()}


@pytest.mark.parametrize("text", ["@misc{a,\n  title = {b}\n}", "@misc{a,\n  title = {b{,\n}", "nothing here",
                                  "@misc{a,\n  title = {b},\n}\n@misc{a,\n  title = {b},\n}"])  # fmt: skip
def test_what_is_not_in_the_plain_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_a_study_cites_what_it_uses_and_no_more(context: ReportContext) -> None:
    keys = list(parse(reporting_files(context)["references.bib"]))
    assert len(set(keys)) == len(keys)
    assert {"ilse2018attention", "otsu1979threshold", "collins2024tripodai", "mcshane2005remark"} <= set(keys)
    assert not {"lu2024conch", "chen2021mcat", "wightman2019timm", "macenko2009stain", "wang2019simpleshot"} & set(keys)
