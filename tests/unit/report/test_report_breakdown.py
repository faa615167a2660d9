"""The page's tables, against sums and shares worked out by hand."""

import pytest
from made_up_runs import cell, end, failed, record, run_of

from ttc.report import breakdown
from ttc.report.aggregate import compact
from ttc.report.leaderboard import leaderboard
from ttc.report.outcomes import by_subject
from ttc.report.pictures import ceiling, reliability_picture, spending_picture
from ttc.store.tables import to_table


def measured(path, lines):
    tables = compact(run_of(path, lines))
    (section,) = leaderboard(tables)
    (outcomes,) = by_subject(tables).values()
    return section, outcomes


def values(grid, item, *names):
    (line,) = [line for line in grid.lines if line.item == item]
    keys = [column.key for column in grid.columns]
    return tuple(line.values[keys.index(name)] for name in names)


def one_cell(*records, **described):
    return [cell("a", n_problems=len(records), **described), *records, end("a", 10.0)]


def test_tokens_are_split_by_what_became_of_the_problem(tmp_path):
    section, outcomes = measured(
        tmp_path,
        one_cell(
            record("a", "1", 1.0, 100, grant_tokens=200),
            record("a", "2", 0.0, 300, grant_tokens=400),
            record("a", "3", 0.0, 500, status="unparsed", grant_tokens=500),
            failed("a", "4", tokens=100, grant_tokens=900),
        ),
    )
    grid = breakdown.spending_grid(section, outcomes)
    assert values(grid, "a", "tokens_total", "to_right", "to_wrong", "to_unanswered", "to_failed") == (
        1000, 0.1, 0.3, 0.5, 0.1)  # fmt: skip
    assert values(grid, "a", "used", "p50", "dearest_tenth") == (0.5, 200, 0.5)
    bars, grants = breakdown.spending_bars(outcomes, 0)
    assert bars.sum(axis=1).tolist() == [100, 100, 300, 500]
    assert grants.tolist() == [200, 900, 400, 500]
    picture = spending_picture("a", bars, grants, ceiling(900))
    assert picture.svg.count("M") == 4  # a rectangle a problem: each had one outcome
    assert picture.svg.count("<path") == 4
    assert "10 % on right, 30 % on wrong, 50 % on unanswered, 10 % on failed" in picture.svg


def test_means_over_draws_are_split_by_their_score(tmp_path):
    row = record("a", "1", 0.25, 80, draw_tokens=[60, 100])
    section, outcomes = measured(tmp_path, one_cell(row, draws=2))
    assert breakdown.split_tokens(outcomes, 0).tolist() == [[20, 60, 0, 0]]
    assert values(breakdown.spending_grid(section, outcomes), "a", "to_right") == (0.25,)


def test_many_problems_are_grouped(tmp_path):
    records = [record("a", f"{i:03}", 1.0, i + 1) for i in range(95)]
    _, outcomes = measured(tmp_path, one_cell(*records))
    bars, _ = breakdown.spending_bars(outcomes, 0)
    assert len(bars) == breakdown.BARS
    assert list(bars.sum(axis=1)) == sorted(bars.sum(axis=1))
    assert bars[0].sum() == 2  # the three cheapest: 1, 2, 3


def test_difficulty_is_the_tasks_own_where_it_states_one(tmp_path):
    records = [record("a", f"{i}", float(i < 3)) for i in range(6)]
    section, outcomes = measured(tmp_path, one_cell(*records))
    stated = {str(i): 1.0 + (i >= 2) for i in range(5)}  # of problem 5 nothing is known
    groups = breakdown.levels(outcomes, stated)
    assert groups.stated
    grid = breakdown.difficulty_grid(section, outcomes, groups)
    assert [c.header.replace("\N{NO-BREAK SPACE}", " ") for c in grid.columns[2:]] == ["1 (n = 2)", "2 (n = 3)"]
    assert grid.lines[0].values[2:] == (1.0, pytest.approx(1 / 3))


def test_many_stated_difficulties_are_ranked_into_fifths(tmp_path):
    _, outcomes = measured(tmp_path, one_cell(*(record("a", f"{i:03}") for i in range(100))))
    groups = breakdown.levels(outcomes, {f"{i:03}": i / 7 for i in range(100)})
    assert [len(rows) for rows in groups.members] == [20] * 5
    assert sorted(i for rows in groups.members for i in rows) == list(range(100))


def test_without_stated_difficulty_the_runs_own_results_make_the_groups(tmp_path):
    lines = []
    for name, right in (("a", {0, 1}), ("b", {0, 2}), ("c", {0, 1, 2})):
        lines += [
            cell(name, name, n_problems=4),
            *(record(name, str(i), float(i in right)) for i in range(4)),
            end(name),
        ]
    lines += [cell("o", "coverage", n_problems=4, oracle=True), *(record("o", str(i)) for i in range(4)), end("o")]
    _, outcomes = measured(tmp_path, lines)
    groups = breakdown.levels(outcomes, {})
    assert not groups.stated
    found = dict(zip(groups.names, (rows.tolist() for rows in groups.members), strict=True))
    assert found == {"always right": [0], "sometimes right": [1, 2], "never right": [3]}


def test_one_group_is_no_breakdown(tmp_path):
    _, outcomes = measured(tmp_path, one_cell(record("a", "1"), record("a", "2")))
    assert breakdown.levels(outcomes, {}) is None


def test_sharing(tmp_path):
    rows = [record("a", str(i), kv_token_steps=500, prompt_tokens=30, cached_tokens=90) for i in range(2)]
    section, outcomes = measured(tmp_path, one_cell(*rows))
    grid = breakdown.sharing_grid(section, outcomes, {"a": (400.0, 100.0)})
    assert values(grid, "a", "prompt_tokens", "cached_tokens", "cached_share") == (60, 180, 0.75)
    assert values(grid, "a", "kv_token_steps", "kv_per_token") == (1000, 5.0)
    assert values(grid, "a", "reads_saved") == (0.75,)
    section, outcomes = measured(tmp_path / "unknown", one_cell(record("a", "1")))
    keys = [column.key for column in breakdown.sharing_grid(section, outcomes, {}).columns]
    assert not {"kv_token_steps", "kv_per_token", "reads_saved"} & set(keys)


def test_latency_only_where_it_was_measured(tmp_path):
    section, outcomes = measured(tmp_path, one_cell(*(record("a", f"{i:03}", wall_s=float(i)) for i in range(101))))
    grid = breakdown.latency_grid(section, outcomes)
    assert values(grid, "a", "p50_s", "p90_s", "p95_s", "p99_s") == (50, 90, 95, 99)
    assert values(grid, "a", "wall_s", "tokens_per_s") == (10.0, 1010.0)
    unmeasured = [cell("a", n_problems=1), record("a", "1"), end("a", None)]
    section, outcomes = measured(tmp_path / "cached", unmeasured)
    assert breakdown.latency_grid(section, outcomes).lines == ()


def test_reliability_compares_predictions_with_what_came(tmp_path):
    section, outcomes = measured(
        tmp_path, one_cell(*(record("a", f"{i}", float(i in {2, 3, 4}), 100 + i) for i in range(6)))
    )
    predicted = [0.11, 0.13, 0.82, 0.84, 0.86, None]
    rows = [{"cell": "a", "problem_id": f"{i}", "grant_tokens": 9, "predicted_value": p, "predicted_tokens": 50.0}
            for i, p in enumerate(predicted)]  # fmt: skip
    grid = breakdown.reliability_grid(section, outcomes, to_table("allocation", rows))
    first, second = (line.values for line in grid.lines)
    assert (first[2], first[3], first[4]) == (2, pytest.approx(0.12), 0.0)
    assert (second[2], second[3], second[4]) == (3, pytest.approx(0.84), 1.0)
    assert (second[6], second[7]) == (50.0, 103.0)
    # Wilson's interval of 3 of 3: from n / (n + z^2) to 1.
    assert second[5] == (pytest.approx(3 / (3 + 1.959964**2)), pytest.approx(1.0))
    assert reliability_picture("a", grid.lines).svg.count("<circle") == 2
    nothing = to_table("allocation", [{**row, "predicted_value": None} for row in rows])
    assert breakdown.reliability_grid(section, outcomes, nothing).lines == ()


@pytest.mark.parametrize(("value", "end"), [(0, 1), (1, 1), (2048, 2400), (2401, 3000), (0.07, 0.08), (99, 100)])
def test_axes_end_at_round_numbers(value, end):
    assert ceiling(value) == pytest.approx(end)
