"""Rows and claims of the leaderboard, on runs whose differences are known."""

import csv
import io
import re

import numpy as np
import pytest
from made_up_runs import cell, end, failed, record, run_of, sweep

from ttc.report.aggregate import compact
from ttc.report.leaderboard import HEADERS, csv_text, headline, leaderboard, markdown, texts


def lines_of(name, scores, tokens, strategy="self-consistency", **other):
    described = cell(name, strategy, n_problems=len(scores), **other)
    return [described, *(record(name, f"{i:03}", s, tokens) for i, s in enumerate(scores)), end(name)]


def board(path, lines):
    return leaderboard(compact(run_of(path, lines)))


def row_of(section, name):
    return next(row for row in section.rows if row.cell == name)


def test_comparison_is_at_the_realised_tokens(tmp_path):
    low = [0.0] * 40
    high = [1.0] * 20 + [0.0] * 20
    better = [1.0] * 30 + [0.0] * 10
    lines = [
        *lines_of("low", low, 100, budget=128),
        *lines_of("high", high, 400, budget=512),
        # 200 tokens are half way from 100 to 400 in log tokens: the baseline's curve stands at 0.25.
        *lines_of("mine", better, 200, "best-of-n", budget=512),
        *lines_of("dear", better, 401, "best-of-n", budget=1024),
        *lines_of("cheap", better, 99, "best-of-n", budget=64),
    ]
    (section,) = board(tmp_path, lines)
    mine = row_of(section, "mine").difference
    assert mine.mean == pytest.approx(0.75 - 0.25)
    assert mine.difference.n == 40
    assert mine.significant
    # Per problem the difference is 0.5 (20 times), 1 (10 times), 0 (10 times).
    per_problem = np.array([0.5] * 20 + [1.0] * 10 + [0.0] * 10)
    spread = per_problem.std() / np.sqrt(40)
    assert mine.difference.high - mine.difference.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    for outside in ("dear", "cheap"):
        assert row_of(section, outside).difference is None
        assert texts(row_of(section, outside))[6] == "-"
        assert texts(row_of(section, outside))[8] == "no claim"
    assert row_of(section, "low").baseline
    assert texts(row_of(section, "low"))[8] == "baseline"


def test_problems_that_either_side_failed_leave_the_pairs(tmp_path):
    def half_failed(name, strategy, score, failures):
        rows = [failed(name, str(i), tokens=100) if i in failures else record(name, str(i), score) for i in range(8)]
        return [cell(name, strategy, n_problems=8), *rows, end(name)]

    lines = half_failed("base", "self-consistency", 1.0, {0}) + half_failed("mine", "best-of-n", 0.0, {6, 7})
    (section,) = board(tmp_path, lines)
    assert row_of(section, "mine").difference.difference.n == 5
    assert row_of(section, "mine").difference.mean == -1.0


def test_not_significant_is_said(tmp_path):
    lines = [*lines_of("base", [1.0, 0.0] * 20, 100), *lines_of("mine", [0.0, 1.0] * 20, 100, "best-of-n")]
    (section,) = board(tmp_path, lines)
    assert texts(row_of(section, "mine"))[8] == "not significant"
    assert headline(section).startswith("Nothing is significantly better")
    # Every pair is discordant: sqrt(40) d = 1.96 + 0.84 sqrt(1 - d^2), which bisection solves.
    assert "differences of about 43.0" in headline(section)


def test_baseline_choice(tmp_path):
    def baseline(name, *cells):
        lines = [line for i, (strategy, other) in enumerate(cells)
                 for line in lines_of(str(i), [1.0], 10, strategy, **other)]  # fmt: skip
        (section,) = board(tmp_path / name, lines)
        return section.baseline

    knapsack = {"allocator": "knapsack"}
    assert baseline("preferred", ("greedy", {}), ("self-consistency", {})) == "self-consistency under uniform"
    assert baseline("first", ("self-consistency", knapsack), ("greedy", {}), ("best-of-n", {})) == (
        "greedy under uniform"
    )
    assert baseline("oracles", ("coverage", {"oracle": True}), ("greedy", {})) == "greedy under uniform"
    assert baseline("none", ("greedy", knapsack)) is None


def test_rows_are_sorted_within_task_and_model(tmp_path):
    lines = [
        *lines_of("worse", [1.0, 0.0], 10),
        *lines_of("dearer", [1.0, 1.0], 20, "best-of-n"),
        *lines_of("cheaper", [1.0, 1.0], 10, "greedy"),
        *lines_of("elsewhere", [0.0, 0.0], 10, model="other"),
        cell("failed", "greedy", budget=1),
        failed("failed", "000"),
    ]
    first, second = board(tmp_path, lines)
    assert [row.cell for row in first.rows] == ["cheaper", "dearer", "worse", "failed"]
    assert [row.cell for row in second.rows] == ["elsewhere"]
    assert second.title == "gsm8k, other"


def test_labels_say_what_differs(tmp_path):
    lines = [
        *lines_of("a", [1.0], 10, "best-of-n", strategy_params='{"select":"logprob","temperature":0.7}'),
        *lines_of("b", [1.0], 10, "best-of-n", strategy_params='{"select":"reward","temperature":0.7}'),
        *lines_of("c", [1.0], 10, "coverage", strategy_params='{"k":4}', oracle=True),
    ]
    (section,) = board(tmp_path, lines)
    assert {row.cell: row.label for row in section.rows} == {
        "a": "best-of-n (select=logprob)",
        "b": "best-of-n (select=reward)",
        "c": "coverage (oracle)",
    }


def test_incomplete_cells_are_flagged_and_claim_nothing(tmp_path):
    lines = [*lines_of("base", [0.0] * 9, 100), *lines_of("mine", [1.0] * 9, 100, "best-of-n")[:-1]]
    (section,) = board(tmp_path, lines)
    row = row_of(section, "mine")
    assert not row.complete
    assert row.difference is None
    assert texts(row)[0] == "best-of-n [incomplete]"


def test_other_seeds_are_no_pairs(tmp_path):
    lines = [
        *lines_of("base 0", [0.0] * 9, 100, seed=0),
        *lines_of("base 1", [1.0] * 9, 100, seed=1),
        *lines_of("mine", [1.0] * 9, 100, "best-of-n", seed=1),
        *lines_of("lone", [1.0] * 9, 100, "best-of-n", seed=2),
    ]
    (section,) = board(tmp_path, lines)
    assert row_of(section, "mine").difference.mean == 0.0
    assert row_of(section, "lone").difference is None
    assert texts(row_of(section, "lone"), seed=section.many_seeds)[0] == "best-of-n, seed 2"


def test_oracles_do_not_make_the_headline(tmp_path):
    strategies = {("self-consistency", "uniform"): 0.0, ("coverage", "uniform"): 0.4, ("best-of-n", "uniform"): 0.2}
    (section,) = board(tmp_path, sweep(strategies, (256, 1024), problems=120))
    assert section.rows[0].label == "coverage (oracle)"
    assert re.match(r"best-of-n under uniform is \d", headline(section))


def test_csv_holds_the_numbers(tmp_path):
    sections = board(tmp_path, [*lines_of("a", [1.0, 0.0, 0.0], 100), *lines_of("b", [1.0] * 3, 100, "best, of n")])
    rows = list(csv.DictReader(io.StringIO(csv_text(sections))))
    assert [row["strategy"] for row in rows] == ["best, of n", "self-consistency"]
    assert float(rows[1]["accuracy"]) == pytest.approx(1 / 3)
    assert float(rows[0]["difference"]) == pytest.approx(2 / 3)
    assert rows[0]["significant"] == "False"
    assert rows[1]["difference"] == ""


def test_markdown_tables_survive_any_label(tmp_path):
    sections = board(tmp_path, lines_of("a", [1.0], 100, "a|b <script>", model="x\n# y"))
    text = markdown(sections, ["Limited"])
    (table_row,) = [line for line in text.splitlines() if "a\\|b" in line and line.startswith("|")]
    assert table_row.replace("\\|", "").count("|") == len(HEADERS) + 1
    assert "<script>" not in text
    assert "\n# y" not in text
    assert "**Limited**" in text
