"""Journal to tables, on runs small enough to reckon by hand."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_runs import cell, end, failed, record, run_of

from ttc.core.errors import DataError, StorageError
from ttc.report import samples
from ttc.report.aggregate import NOTES_KEY, compact, load_tables
from ttc.store.tables import SCHEMAS, read_table, rows_of, schema, to_table, write_table


def only(tables):
    (row,) = rows_of(tables.cells)
    return row


def test_accuracy_leaves_out_errors_and_keeps_the_unanswered(tmp_path):
    lines = [
        cell("a", n_problems=6),
        record("a", "1", 1.0, 100),
        record("a", "2", 1.0, 200),
        record("a", "3", 0.0, 50),
        record("a", "4", 0.0, 40, answer=None, status="budget"),
        record("a", "5", 0.0, 30, answer=None, status="unparsed"),
        failed("a", "6", tokens=10),
        end("a"),
    ]
    row = only(compact(run_of(tmp_path, lines)))
    assert row["accuracy"] == pytest.approx(2 / 5)
    assert (row["n_problems"], row["n_errors"], row["n_unanswered"]) == (6, 1, 2)
    assert row["tokens_total"] == row["tokens_max"] == 430
    assert row["tokens_per_problem"] == pytest.approx(430 / 6)
    assert (row["prompt_tokens"], row["cached_tokens"], row["reward_tokens"]) == (120, 30, 0)
    assert row["ci_method"] == "wilson"
    # Wilson 95 % for 2 of 5, tabulated.
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(0.1176, abs=1e-4), pytest.approx(0.7693, abs=1e-4))


def test_a_cell_in_which_everything_failed(tmp_path):
    row = only(compact(run_of(tmp_path, [cell("a"), failed("a", "1"), failed("a", "2"), end("a")])))
    assert (row["accuracy"], row["ci_low"], row["ci_high"]) == (None, None, None)
    assert row["n_errors"] == 2


def test_draws(tmp_path):
    lines = [
        cell("a", draws=3),
        record("a", "1", 2 / 3, 110.0, correct=None, draw_tokens=[100, 110, 120]),
        record("a", "2", 1 / 3, 60.0, correct=None, draw_tokens=[90, 40, 50]),
        end("a"),
    ]
    row = only(compact(run_of(tmp_path, lines)))
    assert row["tokens_total"] == pytest.approx(170.0)
    assert row["tokens_max"] == 190  # draws: 190, 150, 170
    assert row["accuracy"] == pytest.approx(0.5)
    assert row["ci_method"] == "bootstrap"
    # Two problems resampled: means 1/3, 1/2 (twice), 2/3.
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_draws_of_zero_or_one_are_still_no_coin_flips(tmp_path):
    lines = [cell("a", draws=2), record("a", "1", 1.0, draw_tokens=[1, 1]), record("a", "2", 0.0), end("a")]
    assert only(compact(run_of(tmp_path, lines)))["ci_method"] == "bootstrap"


def test_flops(tmp_path):
    def flops(name, **counts):
        lines = [cell("a", **counts), record("a", "1", tokens=100, reward_tokens=reward), end("a")]
        return only(compact(run_of(tmp_path / name, lines)))["flops"]

    reward = 30
    assert flops("both", parameters=1000, reward_parameters=10) == 2 * 1000 * (20 + 100) + 2 * 10 * 30
    assert flops("policy unknown", reward_parameters=10) is None
    assert flops("reward unknown", parameters=1000) is None
    reward = 0
    assert flops("no reward", parameters=1000) == 2 * 1000 * 120


def test_times_are_known_only_with_the_cell(tmp_path):
    waits = [0.1, 0.4, 0.2, 0.9, 0.3]
    lines = [cell("a", n_problems=5), *(record("a", str(i), wall_s=w) for i, w in enumerate(waits))]
    row = only(compact(run_of(tmp_path / "known", [*lines, end("a", 2.5)])))
    assert row["wall_s"] == 2.5
    assert row["latency_p50_s"] == pytest.approx(0.3)
    assert row["latency_p95_s"] == pytest.approx(np.percentile(waits, 95))
    row = only(compact(run_of(tmp_path / "unknown", [*lines, end("a")])))
    assert (row["wall_s"], row["latency_p50_s"], row["latency_p95_s"]) == (None, None, None)


def test_kv_token_steps_are_summed_or_unknown(tmp_path):
    some = [cell("a"), record("a", "1", kv_token_steps=5.0), record("a", "2"), end("a")]
    assert only(compact(run_of(tmp_path / "some", some)))["kv_token_steps"] is None
    all_of_them = [cell("a"), record("a", "1", kv_token_steps=5.0), record("a", "2", kv_token_steps=6.0), end("a")]
    assert only(compact(run_of(tmp_path / "all", all_of_them)))["kv_token_steps"] == 11.0


def test_order_of_the_journal_does_not_matter(tmp_path):
    head = [cell("b"), cell("a", budget=256)]
    body = [record(c, p, float(p == "1"), 10) for c in "ab" for p in ("2", "1", "10")]
    one = compact(run_of(tmp_path / "one", [*head, *body, end("a"), end("b")]))
    two = compact(run_of(tmp_path / "two", [*head, *reversed(body), end("b"), end("a")]))
    for name in ("cells", "records", "allocation"):
        assert getattr(one, name).equals(getattr(two, name))
    assert one.candidates.whole().equals(two.candidates.whole())
    assert one.candidates.whole()["problem_id"].to_pylist() == ["1", "10", "2"] * 2
    assert one.cells["cell"].to_pylist() == ["b", "a"]
    assert one.records["problem_id"].to_pylist() == ["1", "10", "2"] * 2


def test_last_description_and_first_record_count(tmp_path):
    lines = [cell("a", n_problems=9), cell("b"), record("b", "1"), cell("a", n_problems=1), record("a", "1", 1.0),
             record("a", "1", 0.0), end("a")]  # fmt: skip
    tables = compact(run_of(tmp_path, lines))
    a, b = rows_of(tables.cells)
    assert (a["cell"], a["accuracy"], a["n_problems"]) == ("a", 1.0, 1)
    assert tables.incomplete == {"b"}
    assert b["n_problems"] == 1


def test_incomplete_and_empty_cells_and_lost_lines(tmp_path):
    lines = [
        cell("ended short", n_problems=2),
        record("ended short", "1"),
        end("ended short"),
        cell("empty"),
        record("unknown", "1"),
    ]
    run = run_of(tmp_path, lines)
    with (run.journal / "main.jsonl").open("a") as file:
        file.write("{damaged\n")
    tables = compact(run)
    assert tables.incomplete == {"ended short"}
    assert (tables.empty_cells, tables.lost) == (1, 2)
    assert tables.cells["cell"].to_pylist() == tables.records["cell"].to_pylist() == ["ended short"]


def test_seeds_stay_apart(tmp_path):
    lines = [cell("a", seed=0), record("a", "1"), cell("b", seed=1), record("b", "1"), end("a"), end("b")]
    assert compact(run_of(tmp_path, lines)).cells["seed"].to_pylist() == [0, 1]


def test_nested_rows_and_files(tmp_path):
    grant = {"grant_tokens": 512, "option": None, "predicted_value": 0.5, "predicted_tokens": 90.0, "price": 0.001}
    run = run_of(tmp_path, [cell("a"), record("a", "1", allocation=grant), record("a", "2"), end("a")])
    tables = compact(run)
    assert rows_of(tables.allocation) == [{"cell": "a", "problem_id": "1", **grant}]
    assert tables.candidates.whole()["problem_id"].to_pylist() == ["1", "2"]
    for name in ("cells", "records", "candidates", "allocation"):
        written = pq.read_table(run.table(name))
        assert written.schema.equals(schema(name))
        assert written.equals(tables.candidates.whole() if name == "candidates" else getattr(tables, name))
        assert written.column_names == list(SCHEMAS[name])


def test_what_was_predicted_stands_beside_the_grant(tmp_path):
    told = {"option": "8", "predicted_value": 0.5, "predicted_tokens": 90.0, "price": 0.001}
    lines = [cell("a"), record("a", "1", allocation=told, grant_tokens=77), record("a", "2"), end("a")]
    run = run_of(tmp_path, lines)
    expected = [{"cell": "a", "problem_id": "1", "grant_tokens": 77, **told}]
    assert rows_of(compact(run).allocation) == expected
    assert rows_of(read_table(run.table("allocation"), "allocation")) == expected


def test_candidates_are_read_only_where_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "BATCH_ROWS", 3)
    texts = [{"index": i, "answer": str(i), "correct": None, "score": None, "logprob": None, "completion_tokens": 1,
              "finish": "stop", "text": f"t{i}"} for i in range(4)]  # fmt: skip
    lines = [
        line for c in "ab" for line in (cell(c), *(record(c, p, candidates=texts) for p in ("1", "2", "3")), end(c))
    ]
    found = compact(run_of(tmp_path, lines)).candidates
    assert found.whole().num_rows == 24
    some = rows_of(found.of({"1", "3"}, {"b", "unknown"}))
    assert [(r["cell"], r["problem_id"], r["index"]) for r in some] == [("b", p, i) for p in "13" for i in range(4)]
    assert found.only(["a"]).of({"1"}, {"a", "b"})["cell"].to_pylist() == ["a"] * 4
    assert found.only([]).whole().num_rows == 0


def test_unusable_candidates_are_named(tmp_path):
    broken = [{"index": 0, "answer": "4", "completion_tokens": "many", "finish": "stop"}]
    with pytest.raises(DataError, match="candidates"):
        compact(run_of(tmp_path, [cell("a"), record("a", "1", candidates=broken)]))


def test_attention_is_summed_or_unknown(tmp_path):
    counted = {"attended_tokens": 50.0, "kv_read_tokens": 20.0}
    lines = [cell("a"), record("a", "1", **counted), record("a", "2", **counted), end("a")]
    run = run_of(tmp_path / "known", lines)
    assert load_tables(run).attention == {"a": (100, 40)}
    shutil.rmtree(run.journal)
    assert load_tables(run).attention == {"a": (100, 40)}  # it is kept beside the cells
    assert compact(run_of(tmp_path / "unknown", [*lines[:2], record("a", "2"), end("a")])).attention == {}


def test_empty_run_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no finished problem"):
        compact(run_of(tmp_path / "no lines", []))
    with pytest.raises(DataError, match="no finished problem"):
        compact(run_of(tmp_path / "no records", [cell("a")]))


@pytest.mark.parametrize("broken", [{"completion_tokens": None}, {"completion_tokens": "many"}, {"status": None}])
def test_unusable_records_are_named(tmp_path, broken):
    with pytest.raises(DataError, match="records"):
        compact(run_of(tmp_path, [cell("a"), record("a", "1", **broken)]))


def test_tables_are_rebuilt_when_the_journal_is_newer(tmp_path):
    run = run_of(tmp_path, [cell("a"), record("a", "1")])
    first = load_tables(run)
    assert first.incomplete == {"a"}
    journal = run.journal / "main.jsonl"
    before = run.table("cells").stat().st_mtime_ns
    os.utime(journal, ns=(before - 10**9, before - 10**9))
    again = load_tables(run)
    assert run.table("cells").stat().st_mtime_ns == before
    assert again.cells.equals(first.cells)
    assert again.incomplete == first.incomplete
    with journal.open("a") as file:
        file.write(json.dumps(record("a", "2", 0.0)) + "\n" + json.dumps(end("a")) + "\n")
    os.utime(journal, ns=(before + 10**9, before + 10**9))
    later = load_tables(run)
    assert later.records.num_rows == 2
    assert later.incomplete == frozenset()


def test_rebuild_reads_the_journal_whatever_its_age(tmp_path):
    run = run_of(tmp_path, [cell("a"), record("a", "1"), end("a")])
    load_tables(run)
    os.utime(run.journal / "main.jsonl", ns=(0, 0))
    run.table("cells").write_bytes(run.table("records").read_bytes())
    assert load_tables(run, rebuild=True).cells["cell"].to_pylist() == ["a"]


def test_a_run_without_journal_has_its_tables(tmp_path):
    run = run_of(tmp_path, [cell("a"), record("a", "1"), end("a")])
    expected = load_tables(run)
    (run.journal / "main.jsonl").unlink()
    assert load_tables(run).cells.equals(expected.cells)
    assert load_tables(run, rebuild=True).cells.equals(expected.cells)


def test_tables_of_an_earlier_version_lack_only_what_may_be_null(tmp_path):
    run = run_of(tmp_path, [cell("a"), record("a", "1"), end("a")])
    expected = load_tables(run)
    (run.journal / "main.jsonl").unlink()
    write_table(
        read_table(run.table("records"), "records").drop_columns(["kv_token_steps", "wall_s"]), run.table("records")
    )
    found = load_tables(run).records
    assert found.schema.equals(expected.records.schema)
    assert found["kv_token_steps"].null_count == 1
    write_table(found.drop_columns(["score", "status"]), run.table("records"))
    with pytest.raises(StorageError, match=r"records\.parquet lacks the column 'status'"):
        load_tables(run)


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("cells", "budget", ["many"]),
        ("cells", "task", [None]),
        ("records", "score", ["high"]),
        ("records", "completion_tokens", [None]),
        ("records", "status", [1]),
        ("allocation", "price", ["dear"]),
        ("problems", "task", [3]),
        ("candidates", "text", [{"a": 1}]),
    ],
)
def test_odd_columns_of_a_run_without_journal_are_refused(table, column, values, tmp_path):
    told = {"option": "8", "predicted_value": 0.5, "predicted_tokens": 90.0, "price": 0.001}
    run = run_of(tmp_path, [cell("a"), record("a", "1", allocation=told), end("a")])
    load_tables(run)
    write_table(to_table("problems", [{"task": "t", "problem_id": "1"}]), run.table("problems"))
    (run.journal / "main.jsonl").unlink()
    found = pq.read_table(run.table(table))
    assert found.num_rows == 1
    pq.write_table(found.set_column(found.column_names.index(column), column, pa.array(values)), run.table(table))
    with pytest.raises(StorageError, match=rf"{table}\.parquet: column '{column}'"):
        load_tables(run).candidates.whole()


@pytest.mark.parametrize(
    "notes", [b"{", b"[]", b'{"lost": "some"}', b'{"incomplete": 3}', b'{"lost": 1e999}', b'{"attention": {"a": 1}}']
)
def test_odd_notes_of_a_run_without_journal_are_refused(notes, tmp_path):
    run = run_of(tmp_path, [cell("a"), record("a", "1"), end("a")])
    marked = load_tables(run).cells.replace_schema_metadata({NOTES_KEY: notes})
    (run.journal / "main.jsonl").unlink()
    write_table(marked, run.table("cells"))
    with pytest.raises(StorageError, match=r"cells\.parquet has notes that cannot be read"):
        load_tables(run)
