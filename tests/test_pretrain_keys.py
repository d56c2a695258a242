"""The `pretrain` section: what is refused, in one line, and what the plan and the report make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from histostudy.errors import ConfigError
from histostudy.files import write_json
from histostudy.plan import make_plan
from histostudy.report.pretraining import pretraining_text
from histostudy.studyfile import parse_study, resolve

DRAWN = {"name": "c", "simulate": {"patients": 12}}


def _config(pretrain: dict[str, Any] | None, **sections: Any) -> dict[str, Any]:
    study: dict[str, Any] = {"study": "s", "cohort": DRAWN, "features": {"encoder": "pretrained"}}
    return study | ({} if pretrain is None else {"pretrain": pretrain}) | sections


BAD = {
    "distil learns from a teacher: give teacher": _config({"method": "distil"}),
    "dino has no teacher but itself": _config({"method": "dino", "teacher": "uni"}),
    "teacher pretrained: say by teacher_checkpoint": _config({"method": "distil", "teacher": "pretrained"}),
    "add a pretrain section, or features.checkpoint": _config(None),
    "nothing uses it: set features.encoder: pretrained": _config({}, features={"encoder": "builtin"}),
    "this study has none": _config(
        {}, cohort={"name": "c", "simulate": {"patients": 12, "features": {"dim": 16}}}
    ),
    "pretrain.stain and features.stain must be the same": _config({"stain": {"method": "macenko"}}),
    "a folder of images has none": _config({"images": "x", "where": {"site": "A"}}),
    "batch_size 9 is not a multiple of processes 2": _config({"batch_size": 9, "processes": 2}),
    "scale: the smaller first": _config({"views": {"scale": [0.9, 0.4]}}),
    "unknown key, did you mean 'epochs'": _config({"epoch_s": 3}),
    "Input should be 'dino', 'ibot' or 'distil'": _config({"method": "mae"}),
    "pretrain.images: nowhere does not exist": _config({"images": "nowhere"}),
    "pretrain.where: grade is an outcome": _config(
        {"where": {"grade": "high"}}, tasks=[{"name": "t", "kind": "classification", "target": "grade"}]
    ),
}  # fmt: skip


@pytest.mark.parametrize("line", BAD)
def test_what_cannot_be_is_one_line(line: str) -> None:
    with pytest.raises(ConfigError) as bad:
        parse_study(BAD[line])
    assert line in str(bad.value) and "\n" not in str(bad.value)


def test_the_plan_puts_the_encoder_where_the_features_find_it(tmp_path: Path) -> None:
    plan = make_plan(_config({"name": "mine"}), root=tmp_path)
    folder = tmp_path / "cohorts" / "c" / "encoders" / "mine"
    assert plan.study.features.checkpoint == folder == plan.layout.encoder
    assert [Path(f).name for f in plan.encoder] == ["weights.safetensors", "config.json", "card.md", "history.csv"]
    assert plan.layout.features.name == "pretrained-mine"
    assert plan.files(plan.study.features.checkpoint) == plan.files()  # made by a rule, not found
    # the resolved study, as every job reads it, is the same study
    again = make_plan(resolve(plan.study), root=tmp_path)
    assert again.study == plan.study
    with pytest.raises(ConfigError, match="the encoder is made, or given, not both"):
        make_plan(_config({}, features={"encoder": "pretrained", "checkpoint": "elsewhere"}), root=tmp_path)
    assert make_plan(_config(None, features={"encoder": "builtin"}), root=tmp_path).encoder == []


def test_another_pretraining_is_another_rule(tmp_path: Path) -> None:
    plans = [make_plan(_config({"epochs": n}), root=tmp_path) for n in (3, 4)]
    assert plans[0].settings("pretrain") != plans[1].settings("pretrain")
    assert plans[0].settings("tissue", "tiles") == plans[1].settings("tissue", "tiles")


def test_the_report_says_whose_tiles_it_saw() -> None:
    def text(pretrain: dict[str, Any]) -> str:
        return pretraining_text(resolve(parse_study(_config(pretrain))))

    assert "transductive" in text({}) and "DINO" in text({})
    chosen = text({"where": {"site": ["A", "B"]}, "method": "ibot"})
    assert "site A or B alone" in chosen and "transductive" not in chosen
    assert "not trained at all" in text({"epochs": 0})
    assert "distillation of the encoder uni" in text({"method": "distil", "teacher": "uni"})
    assert "cannot tell" in text({"images": "."})
    assert pretraining_text(resolve(parse_study(_config(None, features={"encoder": "builtin"})))) == ""


def test_the_report_says_what_the_encoder_is_and_whom_it_saw(tmp_path: Path) -> None:
    made = {
        "network": "vit_tiny", "method": "heads", "steps": 7, "teacher": {"encoder": "uni"}, "collapsed": "all alike",
        "tiles": {"cohort": "c", "patients": 12, "slides": 13, "tiles": 900},
    }  # fmt: skip
    write_json(tmp_path / "config.json", made)
    given = {"encoder": "pretrained", "checkpoint": str(tmp_path)}
    text = pretraining_text({"features": given, "cohort": {"name": "c"}})
    assert "encoder uni" in text and "900 tiles of 13 slides of 12 patients of the cohort c" in text
    assert "7 steps" in text and "transductive" in text and "collapsed: all alike" in text
    assert "cannot tell" in pretraining_text({"features": given, "cohort": {"name": "d"}})
    own = resolve(parse_study(_config({
        "method": "distil", "teacher_checkpoint": str(tmp_path), "where": {"fold": 1}, "steps": 90,
    }, splits={"column": "fold"})))  # fmt: skip
    text = pretraining_text(own)
    assert " alone" not in text and "Its teacher, made here before, had seen 900 tiles" in text
    assert "in fold 1 the encoder had seen" in text and "at most 90 steps" in text
