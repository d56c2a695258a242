"""A sequence of tasks in words and as a table."""

from __future__ import annotations

import pandas as pd

from histostudy.report.continual import METRICS, continual_paragraph, continual_table, learners_of

STUDY = {
    "sequence": ["lung", "kidney"],
    "models": {
        "abmil": {"aggregator": "abmil"},
        "alone": {"continual": {"method": "finetune"}},
        "buro": {"continual": {"method": "conslide", "memory": 4096, "region": 64}},
        "rows": {"continual": {"method": "comel", "orthogonality": "rows"}},
    },
}


def test_every_learner_and_what_it_may_remember_is_said() -> None:
    assert list(learners_of(STUDY)) == ["alone", "buro", "rows"]
    text = continual_paragraph(STUDY)
    assert "lung and kidney were learned in this order" in text and "3 models" in text
    assert "at most 4,096 tiles in regions of at most 64" in text and "as published, off the rows" in text
    assert "abmil" not in text.split(":")[1].split(";")[0]
    assert continual_paragraph({"models": {"abmil": {"aggregator": "abmil"}}}) == ""


def test_the_table_holds_every_number_with_its_interval() -> None:
    metrics = pd.DataFrame(
        [
            {"model": model, "reading": reading, "metric": metric, "estimate": -0.1, "low": -0.2, "high": 0.05,
             "n": 40, "runs": 5}
            for model in ("alone", "buro") for reading in ("task", "class") for metric in METRICS
        ]
    )  # fmt: skip
    table = continual_table(metrics)
    assert len(table) == 4 and table["task"].tolist() == ["known", "not known"] * 2
    assert (table[list(METRICS.values())] == "\u22120.100 [\u22120.200, 0.050]").all(axis=None)
    assert (table["patients"] == 40).all()
