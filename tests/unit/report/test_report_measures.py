"""Measures of whole curves, on curves whose worth is known."""

import itertools
import math

import numpy as np
import pytest
from made_up_runs import cell, end, failed, record, run_of

from ttc.report.aggregate import compact
from ttc.report.leaderboard import leaderboard
from ttc.report.measures import COLUMNS, measures_grid
from ttc.report.outcomes import by_subject

KEYS = [column.key for column in COLUMNS]


def lines_of(curves, problems=8):
    """Curves: (strategy, other) -> [(budget, tokens, right)], the first `right` problems being right."""
    lines = []
    for (strategy, allocator), points in curves.items():
        for budget, tokens, right in points:
            name = f"{strategy}-{allocator}-{budget}"
            oracle = strategy == "coverage" or allocator == "oracle"
            lines += [cell(name, strategy, budget=budget, allocator=allocator, n_problems=problems, oracle=oracle)]
            lines += [record(name, f"{i}", float(i < right), tokens, grant_tokens=budget) for i in range(problems)]
            lines += [end(name)]
    return lines


def measured(path, lines, difficulty=None):
    tables = compact(run_of(path, lines))
    (section,) = leaderboard(tables)
    (outcomes,) = by_subject(tables).values()
    grid = measures_grid(section, outcomes, tables.incomplete, difficulty or {})
    keys = [column.key for column in grid.columns]
    return {line.item: dict(zip(keys, line.values, strict=True)) for line in grid.lines}


CURVES = {
    ("self-consistency", "uniform"): [(128, 100, 2), (512, 400, 4), (2048, 1600, 4)],
    ("best-of-n", "uniform"): [(128, 100, 4), (512, 400, 8)],
    ("coverage", "uniform"): [(128, 100, 4), (512, 400, 8), (2048, 1600, 8)],
}


def test_whole_curves_by_hand(tmp_path):
    rows = measured(tmp_path, lines_of(CURVES))
    assert list(rows) == ["best-of-n", "self-consistency"]  # the oracle is no method
    best, base = rows["best-of-n"], rows["self-consistency"]
    # From 100 to 400 tokens: 0.5 to 1 against 0.25 to 0.5.
    assert best["area"] == pytest.approx(0.75)
    assert best["area_gain"][0] == pytest.approx(0.375)
    assert base["area"] == pytest.approx((0.375 + 0.5) / 2)  # its own whole range: twice a factor of 4
    assert base["area_gain"] is None
    # 0.5 is reached at 100 tokens, 0.25 of the 400 with which the baseline first has it.
    assert best["match"][0] == pytest.approx(0.25)
    # (1 - 0.5) / (1 - 0.5) at 400 tokens.
    assert best["gap"][0] == pytest.approx(1.0)
    # The corner: 1,600 tokens and 0.25.
    assert best["hypervolume"] == pytest.approx((1200 * 0.75 + 300 * 0.25) / (1600 * 0.75))
    assert base["hypervolume"] == pytest.approx(1200 * 0.25 / (1600 * 0.75))
    # Ramp to (100, 0.5), then to (400, 1), then flat to 1,600.
    assert best["regret"] == pytest.approx(1 - (25 + 225 + 1200) / 1600)
    # Half of the problems are right from the start, the others are gained at four times the tokens.
    assert best["arise"][0] == pytest.approx(0.5 * 100 / 400)
    assert base["arise"][0] == pytest.approx(0.25 * 100 / 400)
    assert (best["kept"], best["deviation"]) == (1.0, pytest.approx(1 - 100 / 128))
    assert "correlation" not in best  # no difficulty is stated


def test_intervals_hold_their_estimates(tmp_path):
    generator = np.random.default_rng(0)
    lines = []
    for strategy, offset in (("self-consistency", 0.0), ("best-of-n", 0.25)):
        for budget in (128, 512):
            name = f"{strategy}{budget}"
            score = generator.random(60) < 0.3 + offset + (budget > 128) * 0.2
            rows = [record(name, f"{i:02}", float(s), budget - 20) for i, s in enumerate(score)]
            lines += [cell(name, strategy, budget=budget, n_problems=60), *rows, end(name)]
    row = measured(tmp_path, lines)["best-of-n"]
    for key in ("area_gain", "arise"):
        estimate, low, high = row[key]
        assert low < estimate < high
        assert 0.02 < high - low < 1


def test_an_allocator_is_held_against_its_own_oracle(tmp_path):
    curves = {
        ("best-of-n", "uniform"): [(512, 400, 2)],
        ("best-of-n", "knapsack"): [(512, 400, 3)],
        ("best-of-n", "oracle"): [(512, 400, 6)],
        ("coverage", "uniform"): [(512, 400, 8)],
        ("self-consistency", "uniform"): [(512, 400, 1)],
    }
    rows = measured(tmp_path, lines_of(curves))
    assert rows["best-of-n under knapsack"]["gap"][0] == pytest.approx((3 - 2) / (6 - 2))
    # Of another strategy there is no oracle allocator: the one that sees answers bounds it.
    assert rows["self-consistency under uniform"]["gap"] is None  # it is the baseline itself


def test_difficulty_that_the_task_states(tmp_path):
    rows = [record("a", f"{i}", 1.0, 100 + 10 * i, grant_tokens=160) for i in range(8)]
    lines = [cell("a", n_problems=8), *rows, end("a")]
    row = measured(tmp_path, lines, {f"{i}": float(i) for i in range(8)})["self-consistency"]
    assert (row["correlation"], row["overthinking"]) == (pytest.approx(1.0), 0.0)
    assert row["kept"] == 7 / 8  # the last one spent 170


@pytest.mark.parametrize(
    "odd", ["one problem", "all failed", "nothing spent", "unfinished", "one budget", "no baseline"]
)
def test_odd_runs_have_no_measure_that_is_not_a_number(tmp_path, odd):
    if odd == "one problem":
        lines = lines_of(CURVES, problems=1)
    elif odd == "all failed":
        lines = [cell("a"), failed("a", "1"), failed("a", "2"), end("a")]
    elif odd == "nothing spent":
        lines = lines_of({("greedy", "uniform"): [(64, 0, 0), (128, 0, 0)]})
    elif odd == "unfinished":
        lines = [line for line in lines_of(CURVES) if line.get("kind") != "cell_end"]
    elif odd == "one budget":
        lines = lines_of({key: points[:1] for key, points in CURVES.items()})
    else:
        lines = lines_of({("best-of-n", "knapsack"): [(128, 100, 4), (512, 400, 8)]})
    for row in measured(tmp_path, lines).values():
        numbers = itertools.chain.from_iterable(v if isinstance(v, tuple) else (v,) for v in row.values())
        assert not any(isinstance(n, float) and math.isnan(n) for n in numbers)


def test_failed_problems_leave_the_pairs(tmp_path):
    lines = lines_of(CURVES)
    for line in lines:
        if line.get("problem_id") == "7" and line["cell"].startswith("best-of-n"):
            line.update(status="error", score=None, correct=None, answer=None)
    row = measured(tmp_path, lines)["best-of-n"]
    # Seven problems: 4 right then 7, against 2 then 4.
    assert row["area_gain"][0] == pytest.approx((4 + 7 - 2 - 4) / 2 / 7)
    assert row["arise"][0] == pytest.approx(3 / 7 * 0.25)
