"""From a run's journal to its tables: one replay, one row a cell."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ttc.core.errors import DataError, StorageError
from ttc.core.identity import sample_seed
from ttc.metrics.statistics import bootstrap_mean, wilson
from ttc.report.samples import Part, Samples, grouped, write_samples
from ttc.store.journal import Replay, read_rows
from ttc.store.rundir import RunDir
from ttc.store.tables import AGAIN, SCHEMAS, TableName, read_table, to_table, write_table

if TYPE_CHECKING:
    import pyarrow as pa

UNANSWERED = ("budget", "unparsed", "timeout")
"""Statuses without an answer to grade: they score 0 and stay in the denominator."""

TABLES: tuple[TableName, ...] = ("cells", "records", "candidates", "allocation")
# Where cells.parquet keeps what its columns do not say.
NOTES_KEY = b"ttc.notes"

Record = dict[str, Any]
Attention = tuple[float, float]
"""Summed over a cell's generated tokens: how many tokens stand before each, and the same with what calls made together
share counted once a step (`ttc.metrics.compute.Counts`)."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The derived tables of one run, and what a reader must be told about them."""

    cells: pa.Table
    records: pa.Table
    candidates: Samples
    """Left in their file: a large run's texts fill a machine's memory."""
    allocation: pa.Table
    problems: pa.Table
    """What the task said of its problems; empty for a run that did not record it."""
    incomplete: frozenset[str]
    """Cells that did not end, or that lack records: their numbers may still change."""
    empty_cells: int = 0
    """Cells that began and have no record; they are in no table."""
    lost: int = 0
    """Journal lines that are damaged, or that belong to no known cell."""
    retried: int = 0
    """Attempts that failed and were made again: their tokens are in the cells, and in no record."""
    attention: Mapping[str, Attention] = field(default_factory=dict)
    """By cell; a cell of which it is not known for every problem is left out."""


def compact(run: RunDir) -> Tables:
    """Replay the journal, aggregate it, and write the Parquet files.

    Rows are in the plan's order of cells, then of problem ids, so equal content gives equal tables. The
    journal is read twice: what was sampled passes through on the second time and is never in memory as a whole.

    Raises:
        DataError: the journal has no records, or lines that lack required values.
        StorageError: the journal cannot be read, or the tables cannot be written.
    """
    replay = run.replay(without=("candidates", "trace"))
    cells: dict[str, Record] = {}
    ends: dict[str, Record] = {}
    for event in replay.events:
        if event.get("kind") == "cell":
            cells[str(event.get("cell"))] = event  # the last description counts, the first place is kept
        elif event.get("kind") == "cell_end":
            ends[str(event.get("cell"))] = event
    by_cell: dict[str, list[Record]] = {cell: [] for cell in _planned(run, cells)}
    orphans = 0
    for (cell, _), record in replay.records.items():
        if cell in by_cell:
            by_cell[cell].append(record)
        else:
            orphans += 1
    filled = {cell: sorted(rows, key=lambda r: str(r["problem_id"])) for cell, rows in by_cell.items() if rows}
    if not filled:
        raise DataError(f"the journal of {run.path} holds no finished problem", "run it first: ttc sweep")
    records = [record for rows in filled.values() for record in rows]
    # Checked before they are summed: these tables refuse records that lack a required value.
    records_table = _table("records", records)
    _table("records", replay.retried)
    retried: dict[str, list[Record]] = {}
    for record in replay.retried:
        retried.setdefault(str(record["cell"]), []).append(record)
    tables = Tables(
        cells=_table(
            "cells", [aggregate_cell(cells[c], rows, ends.get(c), retried.get(c, ())) for c, rows in filled.items()]
        ),
        records=records_table,
        candidates=write_samples(run.table("candidates"), _candidates(replay, records)),
        allocation=_table("allocation", [_granted(r) for r in records if r.get("allocation")]),
        problems=_problems(run),
        incomplete=frozenset(
            c for c, rows in filled.items() if c not in ends or len(rows) < (cells[c].get("n_problems") or 0)
        ),
        empty_cells=len(cells) - len(filled),
        lost=orphans + len(replay.damaged),
        retried=len(replay.retried),
        attention={cell: found for cell, rows in filled.items() if (found := _attention(rows)) is not None},
    )
    write_tables(run, tables)
    return tables


def _planned(run: RunDir, cells: Mapping[str, Record]) -> list[str]:
    """Return the cells in the plan's order: a line that was damaged and written again stands at another place."""
    try:
        planned = run.read_manifest().get("cells")
    except StorageError:
        planned = None  # a journal alone: its lines are in the plan's order unless one was damaged
    order = {str(cell): n for n, cell in enumerate(planned if isinstance(planned, list) else ())}
    return sorted(cells, key=lambda cell: order.get(cell, len(order)))


def _candidates(replay: Replay, records: Sequence[Record]) -> Iterator[pa.Table]:
    """Yield the records' candidates in tables of a bearable size, in the records' order."""
    places = (replay.places[str(record["cell"]), str(record["problem_id"])] for record in records)
    rows = (
        {**candidate, "cell": row["cell"], "problem_id": row["problem_id"]}
        for row in read_rows(places)
        for candidate in row.get("candidates") or ()
    )
    for group in grouped(rows):
        yield _table("candidates", group)


def _granted(record: Record) -> Record:
    """Return an allocation row: what was predicted of a problem, beside what it was granted."""
    return {**record["allocation"], **{key: record[key] for key in ("cell", "problem_id", "grant_tokens")}}


def _table(name: TableName, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    try:
        table = to_table(name, rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"the journal holds {name} of another type: {error}") from error
    lacking = [c for c, kind in SCHEMAS[name].items() if not kind.endswith("?") and table[c].null_count]
    if lacking:
        raise DataError(f"the journal holds {name} without {', '.join(lacking)}")
    return table


def aggregate_cell(
    cell: Mapping[str, Any], records: Sequence[Record], end: Mapping[str, Any] | None, retried: Sequence[Record] = ()
) -> Record:
    """Return one row of the cells table.

    Token counts are sums over problems (of means over draws), and hold what `retried` attempts spent before they failed
    and were made again; trees and caches are those of the records alone. `accuracy` and its interval are null where every
    problem failed, `flops` where a parameter count that it needs is unknown, times where the run could not
    measure them.
    """
    attempts = [*records, *retried]
    total = math.fsum(r["completion_tokens"] for r in attempts)
    sums = {key: math.fsum(r[key] for r in attempts) for key in ("prompt_tokens", "cached_tokens", "reward_tokens")}
    errors = sum(r["status"] == "error" for r in records)
    return {
        **{key: cell.get(key) for key in SCHEMAS["cells"]},
        **_accuracy(cell, [score_of(r) for r in records if r["status"] != "error"]),
        **sums,
        **_times(records, end),
        "n_problems": len(records),
        "tokens_total": total,
        "tokens_max": _largest_draw(attempts, int(cell.get("draws") or 1), total),
        "tokens_per_problem": total / len(records),
        "kv_token_steps": _sum_of_all(records, "kv_token_steps"),
        "flops": _flops(cell, attempts, total + sums["prompt_tokens"], sums["reward_tokens"]),
        "n_errors": errors,
        "n_unanswered": sum(r["status"] in UNANSWERED for r in records),
    }


def _attention(records: Sequence[Record]) -> Attention | None:
    attended, read = (_sum_of_all(records, key) for key in ("attended_tokens", "kv_read_tokens"))
    return None if attended is None or read is None else (attended, read)


def _sum_of_all(records: Sequence[Record], key: str) -> float | None:
    """Return a sum, None where a record lacks its part."""
    known = [value for r in records if (value := r.get(key)) is not None]
    return math.fsum(known) if len(known) == len(records) else None


def score_of(record: Mapping[str, Any]) -> float:
    """Return the score of a problem that did not fail: 0 where there was no answer to grade."""
    score = record["score"]
    return 0.0 if score is None else float(score)


def _accuracy(cell: Mapping[str, Any], scores: Sequence[float]) -> Record:
    if cell.get("draws") == 1 and all(score in {0.0, 1.0} for score in scores):
        low, high = wilson(int(sum(scores)), len(scores))
        method = "wilson"
    else:
        interval = bootstrap_mean(scores, seed=sample_seed(int(cell.get("seed") or 0), "", "bootstrap", 0))
        low, high = (interval.low, interval.high) if interval else (0.0, 1.0)
        method = "bootstrap"
    known = len(scores) > 0
    return {
        "accuracy": math.fsum(scores) / len(scores) if known else None,
        "ci_low": low if known else None,
        "ci_high": high if known else None,
        "ci_method": method,
    }


def _largest_draw(records: Sequence[Record], draws: int, total: float) -> float:
    if draws == 1:
        return total
    import numpy as np

    sums = np.zeros(draws)
    for record in records:
        per_draw = record.get("draw_tokens")
        # A problem that failed in some draws has no count for each of them: it weighs equally on all.
        sums += per_draw if per_draw and len(per_draw) == draws else record["completion_tokens"]
    return float(sums.max())


def _flops(
    cell: Mapping[str, Any], records: Sequence[Record], policy_tokens: float, reward_tokens: float
) -> float | None:
    # Two operations a parameter and token, the usual forward-pass estimate; cached prompt tokens cost none.
    parameters, reward_parameters = cell.get("parameters"), cell.get("reward_parameters")
    # Models of several sizes were counted call by call.
    policy = _sum_of_all(records, "policy_flops") if parameters is None else 2.0 * float(parameters) * policy_tokens
    if policy is None or (reward_tokens and reward_parameters is None):
        return None
    return policy + 2.0 * float(reward_parameters or 0) * reward_tokens


def _times(records: Sequence[Record], end: Mapping[str, Any] | None) -> Record:
    wall_s = None if end is None else end.get("wall_s")
    waits = [r["wall_s"] for r in records if r.get("wall_s") is not None]
    if wall_s is None or not waits:
        return {"wall_s": wall_s, "latency_p50_s": None, "latency_p95_s": None}
    import numpy as np

    p50, p95 = np.percentile(waits, [50, 95])
    return {"wall_s": float(wall_s), "latency_p50_s": float(p50), "latency_p95_s": float(p95)}


def write_tables(run: RunDir, tables: Tables) -> None:
    """Write the Parquet files of a run, the cells last; the candidates are written as they are read."""
    notes = {"incomplete": sorted(tables.incomplete), "empty_cells": tables.empty_cells, "lost": tables.lost,
             "retried": tables.retried, "attention": dict(tables.attention)}  # fmt: skip
    write_table(tables.records, run.table("records"))
    write_table(tables.allocation, run.table("allocation"))
    marked = tables.cells.replace_schema_metadata({NOTES_KEY: json.dumps(notes).encode()})
    write_table(marked, run.table("cells"))


def load_tables(run: RunDir, *, rebuild: bool = False) -> Tables:
    """Return a run's tables: from its Parquet files where they are newer than the journal, else by `compact`.

    A run that comes without its journal has only the Parquet files: there is nothing to rebuild them from.
    """
    journals = [path.stat().st_mtime_ns for path in run.journal.glob("*.jsonl")]
    files = [run.table(name) for name in TABLES]
    if all(path.is_file() for path in files):
        fresh = min(path.stat().st_mtime_ns for path in files) > max(journals, default=0)
        if not journals or (fresh and not rebuild):
            return _read_tables(run)
    return compact(run)


def _problems(run: RunDir) -> pa.Table:
    path = run.table("problems")
    return read_table(path, "problems") if path.is_file() else to_table("problems", [])


def _read_tables(run: RunDir) -> Tables:
    cells = read_table(run.table("cells"), "cells")
    return Tables(
        cells=cells,
        records=read_table(run.table("records"), "records"),
        candidates=Samples((Part(run.table("candidates")),)),
        allocation=read_table(run.table("allocation"), "allocation"),
        problems=_problems(run),
        **_notes(run, cells),
    )


def _notes(run: RunDir, cells: pa.Table) -> dict[str, Any]:
    """Return what a table of cells says of the run beside its columns."""
    try:
        notes = json.loads((cells.schema.metadata or {}).get(NOTES_KEY, b"{}"))
        return {
            "incomplete": frozenset(map(str, notes.get("incomplete", ()))),
            **{key: int(notes.get(key, 0)) for key in ("empty_cells", "lost", "retried")},
            "attention": {
                cell: (float(attended), float(read)) for cell, (attended, read) in notes.get("attention", {}).items()
            },
        }
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise StorageError(f"{run.table('cells')} has notes that cannot be read: {error}", AGAIN) from error
