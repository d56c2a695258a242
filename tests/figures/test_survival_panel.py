"""Patients at risk and censoring of a survival panel, against a count of the patients themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histostudy.evaluation.survival_curves import km_of_groups
from histostudy.figures import style, survival_panel


def _panel(table: pd.DataFrame, tones: dict, ticks: np.ndarray, unit: float) -> tuple:
    fig = style.canvas(4, 4)
    ax, below = fig.subplots(2, 1)
    survival_panel.draw_strata(ax, below, table, tones, ticks, unit)
    survival_panel.frame(ax, below, tones, ticks, 4.0, "time, months")
    return ax, below


def test_the_counts_are_of_patients_still_followed() -> None:
    rng = np.random.default_rng(0)
    time, event = rng.integers(1, 120, 90).astype(float), rng.uniform(size=90) < 0.5
    group = np.array(["a", "b", "c"])[rng.integers(3, size=90)]
    ticks = np.arange(5.0)
    tones = {"c": "black", "absent": "red", "a": "blue", "b": "green"}
    ax, below = _panel(km_of_groups(time, event, group, np.zeros(90), 0.95), tones, ticks, 30.0)
    found = {(t.get_position()[0], t.get_position()[1]): int(t.get_text()) for t in below.texts}
    wanted = {
        (x, 3 - row): int(((time >= 30 * x) & (group == name)).sum())
        for row, name in enumerate(tones) if name != "absent" for x in ticks
    }  # fmt: skip
    assert found == wanted
    assert [t.get_text() for t in below.get_yticklabels()] == list(tones)
    marks = np.concatenate([line.get_xdata() for line in ax.lines if line.get_marker() == "|"])
    censored = {(g, t) for g, t in zip(group[~event], time[~event], strict=True)}
    assert len(marks) == len(censored)
    np.testing.assert_allclose(sorted(marks * 30), sorted(t for _, t in censored))


def test_what_is_said_of_a_panel() -> None:
    table = pd.DataFrame(
        {"time_days": [0.0, 5.0, 0.0, 7.0], "at_risk": [4, 4, 6, 5], "events": [0, 1, 0, 2], "p": 0.02}
    )
    assert survival_panel.size_text(table) == "n = 10, 3 events"
    assert survival_panel.p_and_ratio(table) == "log-rank p = 0.02"
    more = table.assign(hr=2.0, hr_low=1.1, hr_high=3.5)
    assert survival_panel.p_and_ratio(more) == "log-rank p = 0.02, HR 2.00 [1.10, 3.50]"
    assert survival_panel.p_and_ratio(more.assign(p=np.nan, hr=np.nan)) == ""


def test_the_time_axis_is_in_a_fitting_unit_with_round_times_or_the_horizons() -> None:
    assert [survival_panel.time_unit(days)[1] for days in (100, 400, 2000)] == ["days", "months", "years"]
    ticks = survival_panel.time_ticks(2400, 365.25)
    assert ticks[0] == 0 and ticks[-1] <= 2400 / 365.25 and (ticks == ticks.round()).all()
    np.testing.assert_allclose(survival_panel.time_ticks(2400, 365.25, [1826.25, 730.5, 9999]), [0, 2, 5])
