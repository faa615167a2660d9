"""Grants and spending by difficulty, and the predictor's own reliability, against sums by hand."""

import math

import pytest
from made_up_runs import cell, end, record, run_of

from ttc.report import grants
from ttc.report.aggregate import compact
from ttc.report.breakdown import levels
from ttc.report.build import build_report
from ttc.report.leaderboard import leaderboard
from ttc.report.outcomes import by_subject
from ttc.report.pictures import reliability_picture, spending_picture

STATED = {"p0": 1.0, "p1": 1.0, "p2": 2.0, "p3": 2.0}
GRANTED = (100, 200, 600, 1000)


def lines_of(granted=GRANTED, told=True):
    lines = []
    for budget in (256, 512):
        name = f"knapsack{budget}"
        lines += [cell(name, allocator="knapsack", budget=budget, n_problems=4)]
        lines += [
            record(name, f"p{i}", float(i != 3), grant // 2, grant_tokens=grant,
                   allocation={"option": "4", "predicted_value": 0.5, "predicted_tokens": 90.0, "price": 0.002}
                   if told else None)
            for i, grant in enumerate(granted)
        ]  # fmt: skip
        lines += [end(name)]
    return lines


def measured(path, lines):
    tables = compact(run_of(path, lines))
    (section,) = leaderboard(tables)
    (outcomes,) = by_subject(tables).values()
    return section, outcomes, tables


def test_grants_by_difficulty(tmp_path):
    section, outcomes, tables = measured(tmp_path, lines_of())
    groups = levels(outcomes, STATED)
    grid = grants.allocation_grid(section, outcomes, groups, tables.allocation)
    (line,) = grid.lines  # one a series, at its largest budget
    assert line.item == "knapsack512"
    assert dict(zip((c.key for c in grid.columns[1:]), line.values[1:], strict=True)) == {
        "budget": 512, "smallest": 100, "median": 400, "largest": 1000, "price": 0.002,
        "granted at 1": 150, "granted at 2": 800, "spent at 1": 75, "spent at 2": 400,
    }  # fmt: skip
    bars, means = grants.level_bars(outcomes, 1, groups)
    assert bars.tolist() == [[75, 0, 0, 0], [150, 250, 0, 0]]
    assert means.tolist() == [150, 800]
    picture = spending_picture("a", bars, means, 1000, groups.names)
    assert "easiest to hardest" in picture.svg
    assert picture.svg.count("<path") == 2


def test_equal_grants_are_told_once(tmp_path):
    section, outcomes, tables = measured(tmp_path, lines_of((512,) * 4, told=False))
    keys = [
        c.key for c in grants.allocation_grid(section, outcomes, levels(outcomes, STATED), tables.allocation).columns
    ]
    assert keys == ["series", "budget", "smallest", "median", "largest", "spent at 1", "spent at 2"]
    alone = grants.allocation_grid(section, outcomes, None, tables.allocation)
    assert [c.key for c in alone.columns] == keys[:5]


BINS = [
    {"bin_low": 0.0, "bin_high": 0.5, "mean_predicted": 0.2, "mean_actual": 0.25, "n": 30, "model": "tiny", "strategy": "vote"},
    {"bin_low": 0.5, "bin_high": 1.0, "mean_predicted": 0.8, "mean_actual": 0.7, "n": 10, "model": "tiny", "strategy": "vote"},
    {"bin_low": 0.5, "bin_high": 1.0, "mean_predicted": 0.8, "mean_actual": 0.7, "n": 10, "model": "other", "strategy": "vote"},
    {"bin_low": 0.5, "bin_high": 1.0, "mean_predicted": math.nan, "mean_actual": 0.7, "n": 9, "model": "tiny", "strategy": "vote"},
    {"bin_low": 0.5, "bin_high": 1.0, "mean_predicted": 0.1, "mean_actual": None, "n": 0, "model": None, "strategy": None},
    "nonsense",
]  # fmt: skip


def test_the_predictors_own_reliability(tmp_path):
    section, _, _ = measured(tmp_path, lines_of())
    grid = grants.predictor_grid(section, {"label": "p", "reliability": BINS})
    assert [line.values for line in grid.lines] == [
        ("vote", "0 to 50 %", 30.0, 0.2, 0.25),
        ("vote", "50 to 100 %", 10.0, 0.8, 0.7),
    ]
    assert reliability_picture("vote", grid.lines).svg.count("<circle") == 2
    assert grants.predictor_grid(section, {}).lines == ()


def test_the_page_shows_it_only_where_it_is_there(tmp_path):
    told = run_of(
        tmp_path / "a", lines_of(), predictor={"label": "my <predictor>", "fingerprint": "f00", "reliability": BINS}
    )
    text = build_report(told).html.read_text()
    assert "my &lt;predictor&gt; when it was fitted" in text
    assert "my &lt;predictor&gt;, f00" in text  # how the numbers were made
    assert 'id="reliability"' in text
    assert "Before a token was spent" in text
    untold = build_report(run_of(tmp_path / "b", lines_of(told=False))).html.read_text()
    assert 'id="reliability"' not in untold


@pytest.mark.parametrize("predictor", ["a word", {"reliability": None}, {"label": None, "reliability": []}, []])
def test_a_manifest_that_says_something_else_is_no_reason_to_fail(tmp_path, predictor):
    assert (
        'id="reliability"'
        not in build_report(run_of(tmp_path, lines_of(told=False), predictor=predictor)).html.read_text()
    )
