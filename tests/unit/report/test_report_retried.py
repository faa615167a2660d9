"""What an attempt spent before it failed stays spent when the problem is tried again: the totals hold it."""

import json

import pytest
from made_up_runs import cell, end, failed, record, run_of

from ttc.report.aggregate import compact, load_tables
from ttc.report.build import notes_of
from ttc.report.merge import load, merge
from ttc.store.tables import rows_of

LINES = [
    cell("a", parameters=10, strategy_params=json.dumps({"n": 2})),
    failed("a", "1", tokens=70, prompt_tokens=8, cached_tokens=2, reward_tokens=3),
    failed("a", "1", tokens=30, prompt_tokens=8, cached_tokens=2, reward_tokens=0),
    record("a", "1", 1.0, 100),
    record("a", "2", 0.0, 50),
]


def only(tables):
    (row,) = rows_of(tables.cells)
    return row


def test_totals_hold_every_attempt_and_records_the_last_one(tmp_path):
    tables = compact(run_of(tmp_path, [*LINES, end("a")]))
    row = only(tables)
    assert row["tokens_total"] == row["tokens_max"] == 250
    assert row["tokens_per_problem"] == 125
    assert (row["prompt_tokens"], row["cached_tokens"], row["reward_tokens"]) == (56, 14, 3)
    assert (row["n_problems"], row["n_errors"], row["accuracy"]) == (2, 0, 0.5)
    assert {r["problem_id"]: r["completion_tokens"] for r in rows_of(tables.records)} == {"1": 100, "2": 50}


def test_an_attempt_that_is_still_the_last_is_counted_once(tmp_path):
    tables = compact(run_of(tmp_path, [*LINES[:3], record("a", "2", 0.0, 50), end("a")]))
    assert only(tables)["tokens_total"] == 150
    assert only(tables)["n_errors"] == 1


def test_work_is_reckoned_on_all_of_it(tmp_path):
    (row,) = rows_of(compact(run_of(tmp_path, [LINES[0], *LINES[3:], end("a")])).cells)
    (more,) = rows_of(compact(run_of(tmp_path / "more", [LINES[0], LINES[2], *LINES[3:], end("a")])).cells)
    assert more["flops"] - row["flops"] == 2 * 10 * (30 + 8)


def test_every_draw_of_a_replay_holds_it(tmp_path):
    lines = [
        cell("a", draws=2),
        failed("a", "1", tokens=15.0, draw_tokens=[10, 20]),
        record("a", "1", 0.5, 110.0, correct=None, draw_tokens=[100, 120]),
        record("a", "2", 0.5, 60.0, correct=None, draw_tokens=[90, 30]),
        end("a"),
    ]
    row = only(compact(run_of(tmp_path, lines)))
    assert row["tokens_total"] == 185
    assert row["tokens_max"] == 200  # draws: 10 + 100 + 90, 20 + 120 + 30


def test_it_is_said_also_of_tables_that_are_read_again(tmp_path):
    run = run_of(tmp_path, [*LINES, end("a")])
    said = "Failed and made again: 2 attempts. Totals hold what they spent, records do not."
    for tables in (compact(run), load_tables(run)):
        assert tables.retried == 2
        assert said in notes_of({}, tables)
    assert not [
        note for note in notes_of({}, compact(run_of(tmp_path / "b", LINES[:1] + LINES[3:]))) if "again" in note
    ]


def test_averaged_seeds_hold_it(tmp_path):
    other = [json.loads(json.dumps(line).replace('"a"', '"b"')) for line in LINES[3:]]
    runs = [
        run_of(tmp_path / "one", [*LINES, end("a")]),
        run_of(tmp_path / "two", [cell("b", seed=1, strategy_params=json.dumps({"n": 2})), *other, end("b")]),
    ]
    row = only(merge(load(runs)).tables)
    assert row["tokens_total"] == pytest.approx((250 + 150) / 2)
    assert row["tokens_per_problem"] == pytest.approx(100)
    assert row["tokens_max"] >= row["tokens_total"]
