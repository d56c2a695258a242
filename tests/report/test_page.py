"""The page is whole, holds what it was given, asks no other file, and works in a browser."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import pandas as pd
import pytest

from histostudy.report.context import FigureItem, ReportContext
from histostudy.report.page import render_report

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.urls: list[str] = []
        self.seen: Counter[str] = Counter()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.seen[tag] += 1
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values)
        self.urls += [v for k, v in attrs if k in ("src", "href", "srcset", "action") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data + " "


def test_the_page_is_well_formed_and_self_contained(context):
    text = render_report(context)
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(url.startswith(("data:", "#")) for url in page.urls)
    assert all(link[1:] in page.ids for link in page.links)
    assert all(image.get("alt") is not None for image in page.images)
    assert "url(" not in text.lower()
    assert not re.search(r"https?://", re.sub(r"http://www.w3.org/\S+", "", text))
    assert page.seen["h1"] == page.seen["main"] == 1


def test_it_holds_what_it_was_given(context):
    page = Page(render_report(context))
    text = " ".join(page.text.split())
    for expected in (
        "demo_study", "60 slides", "the file does not say its scale: 2 slides, 2 patients", "36 events",
        "62 [55, 69]", "no patient, slide or file is on two sides", "5 alpha, 7 beta", "8 events",
        "mean 37.2",
        "each patient tested once a repeat yes", "AUROC at 365 d", "+0.100", "<0.001", "GENE<3>", "Contact sheet",
        "hazard ratio per SD of stroma", "2.7", "SIM-060-S1", "fluorescence", "torch", "2.14.1", "slides.csv",
        "aggregator: abmil", "This cohort is simulated",
    ):  # fmt: skip
        assert expected in text, expected
    assert page.seen["svg"] == 4  # a forest plot a task
    assert len(page.images) == 3 + 57


def test_the_same_context_gives_the_same_bytes(context):
    assert render_report(context) == render_report(context)


def test_leakage_is_said_aloud(context):
    context.leakage = {"ok": False, "problems": ["repeat 0 fold 1: 1 patients in train and test: P1"]}
    text = Page(render_report(context)).text
    assert "cannot be trusted" in text
    assert "train and test: P1" in text
    assert Page(render_report(context)).text.count("Inner validation") == 1  # counted from the splits


def test_a_study_without_tasks_or_anything(context):
    study = {k: v for k, v in context.study.items() if k not in ("tasks", "models")}
    page = Page(render_report(ReportContext(study=study)))
    assert page.open == []
    assert "findings" not in page.ids
    assert "results" not in page.ids
    page = Page(render_report(ReportContext(study=study, slides=context.slides, flow=context.flow)))
    assert {"slides", "flow"} <= set(page.ids)


def test_names_cannot_break_out_of_the_page(context):
    evil = '<script>alert("x")</script>'
    slides = context.slides.assign(detail=evil)
    study = {**context.study, "study": evil}
    metrics = {"subtype": context.metrics["subtype"].replace({"model": {"max": evil}})}
    page = Page(render_report(dataclasses.replace(context, study=study, slides=slides, metrics=metrics)))
    assert page.seen["script"] == 1
    assert page.open == []


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, ""])
def test_unknown_values_of_slides_are_blank(missing):
    slides = pd.DataFrame({"slide_id": ["a", "b"], "status": ["ok", "failed"], "mpp": [0.5, missing]})
    text = Page(render_report(ReportContext(study={"study": "s"}, slides=slides))).text
    assert "nan" not in text.lower().split()
    assert "<NA>" not in text


def test_the_page_of_a_large_cohort_says_which_slides_are_pictured(context):
    assert "are pictured" not in render_report(context)  # all that can be read
    few = dict(list(context.thumbnails.items())[:7])
    page = render_report(dataclasses.replace(context, thumbnails=few))
    assert "7 slides are pictured" in page and page.count("<tr data-status=") == len(context.slides)


def test_figures_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a\.pdf"):
        FigureItem.of(tmp_path / "a.pdf", "A", "b")
    (tmp_path / "a.PNG").write_bytes(b"x")
    assert FigureItem.of(tmp_path / "a.PNG", "A", "b").kind == "png"


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    return found


def _browse(tmp_path, html: str, *options: str) -> str:
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    command = [_chromium(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               "--virtual-time-budget=2000", *options, file.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_slide_table_sorts_and_filters_in_a_browser(context, tmp_path):
    act = """<script>
    const say = {};
    const column = [...document.querySelectorAll('#slide-table button')].find((b) => b.textContent === 'Tiles');
    column.click(); column.click();
    const rows = () => [...document.querySelectorAll('#slide-table tbody tr')].filter((r) => !r.hidden);
    const cell = Number(column.dataset.column);
    say.tiles = rows().map((r) => r.cells[cell].dataset.sort);
    const status = document.getElementById('slide-status');
    status.value = 'failed'; status.dispatchEvent(new Event('change'));
    say.failed = rows().length;
    const search = document.getElementById('slide-search');
    search.value = 'fluor'; search.dispatchEvent(new Event('input'));
    say.found = rows().length; say.count = document.getElementById('slide-count').textContent;
    say.wide = document.documentElement.scrollWidth <= window.innerWidth;
    document.body.innerHTML = '<pre id="said"></pre>';
    document.getElementById('said').textContent = JSON.stringify(say);
    </script>"""
    import json

    html = render_report(context).replace("</body>", act + "</body>")
    out = _browse(tmp_path, html, "--dump-dom")
    said = json.loads(re.search(r'<pre id="said">(.*?)</pre>', out, re.DOTALL)[1])
    tiles = [float(t) for t in said["tiles"] if t]
    assert len(tiles) == 57
    assert tiles == sorted(tiles, reverse=True)
    assert said["tiles"][-3:] == ["", "", ""]
    assert said["failed"] == 3
    assert said["found"] == 1
    assert said["count"] == "1 of 60 slides"
    assert said["wide"]


@pytest.mark.parametrize("size", ["1280,900", "500,900"])
def test_it_renders_in_a_browser(context, tmp_path, size):
    import numpy as np
    from PIL import Image

    picture = tmp_path / "page.png"
    _browse(tmp_path, render_report(context), f"--window-size={size}", f"--screenshot={picture}")
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape[1] == int(size.split(",")[0])
    assert 0.005 < (pixels.min(2) < 128).mean() < 0.5  # text on paper


def test_a_study_without_slides_speaks_of_none(context):
    study = {**context.study, "cohort": {"name": "demo", "patients": "p.csv", "slides": None, "simulate": None}}
    flow = {
        "steps": [{"step": "patients", "slides": 0, "patients": 64, "excluded": [
            {"reason": "no fold", "slides": 0, "patients": 2}]}],
        "tasks": {},
    }  # fmt: skip
    leakage = {**context.leakage, "slides": 0}
    bare = dataclasses.replace(
        context, study=study, flow=flow, leakage=leakage, slides=None, thumbnails={}, planted=None, figures=()
    )
    text = " ".join(Page(render_report(bare)).text.split())
    assert "Cohort demo: 64 patients" in text
    assert "no fold: 2 patients" in text
    assert "no patient is on two sides" in text
    assert "This cohort is simulated" not in text
    assert not re.search(r"\b0 slides|slides 0\b|0 tiles|Tissue was found", text)


def test_nulls_are_marked_and_get_no_card(context):
    tasks = [{**t, "permute": 1} if t["name"] == "os" else t for t in context.study["tasks"]]
    html = render_report(dataclasses.replace(context, study={**context.study, "tasks": tasks}))
    text = " ".join(Page(html).text.split())
    assert html.count('class="card"') == 3
    assert "A null: the outcomes were shuffled among the patients (seed 1)" in text
    assert "With 42 events a hazard ratio" not in text
    whole = " ".join(Page(render_report(context)).text.split())
    assert "With 42 events a hazard ratio below 2.37" in whole


def test_models_that_were_not_trained_here_are_marked(context):
    models = {
        "mean": {"predictions": "m.csv"}, "max": {"aggregator": "max", "training": {"epochs": 0}},
        "abmil": context.study["models"]["abmil"],
    }  # fmt: skip
    html = render_report(dataclasses.replace(context, study={**context.study, "models": models}))
    assert html.count(">made elsewhere</span>") == 4  # a table a task
    assert html.count(">not trained</span>") == 4
    assert "predictions mean" in html


def test_what_must_be_said_of_a_cohort_stands_on_the_page(context: ReportContext) -> None:
    study = context.study | {"cohort": dict(context.study["cohort"]) | {"note": "Sections of <one> patient."}}
    assert "Sections of <one> patient." in Page(render_report(dataclasses.replace(context, study=study))).text
    assert "Sections of" not in Page(render_report(context)).text
