"""The columns of every table that others script against, and how they reach Parquet.

The journal is the truth; these tables are derived from it and can be rebuilt at any time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ttc.core.errors import StorageError, cannot_write

if TYPE_CHECKING:
    import pyarrow as pa

TableName = Literal["cells", "records", "candidates", "allocation", "problems", "bank", "features"]

# Column name -> type; `?` marks a column that may be null.
SCHEMAS: dict[TableName, dict[str, str]] = {
    "cells": {
        "cell": "str",
        "task": "str",
        "model": "str",
        "strategy": "str",
        "strategy_params": "str",
        "allocator": "str",
        "allocator_params": "str",
        "budget": "int",
        "seed": "int",
        "draws": "int",
        "n_problems": "int",
        "tokens_total": "float",
        "tokens_max": "float",
        "tokens_per_problem": "float",
        "accuracy": "float?",
        "ci_low": "float?",
        "ci_high": "float?",
        "ci_method": "str",
        "prompt_tokens": "float",
        "cached_tokens": "float",
        "reward_tokens": "float",
        "kv_token_steps": "float?",
        "flops": "float?",
        "wall_s": "float?",
        "latency_p50_s": "float?",
        "latency_p95_s": "float?",
        "n_errors": "int",
        "n_unanswered": "int",
        "oracle": "bool",
    },
    "records": {
        "cell": "str",
        "problem_id": "str",
        "grant_tokens": "int",
        "answer": "str?",
        "correct": "bool?",
        "score": "float?",
        "status": "str",
        "stop_reason": "str?",
        "completion_tokens": "float",
        "probe_tokens": "float",
        "prompt_tokens": "float",
        "cached_tokens": "float",
        "reward_tokens": "float",
        "sequential_tokens": "float",
        "kv_token_steps": "float?",
        "calls": "float",
        "wall_s": "float?",
    },
    "candidates": {
        "cell": "str",
        "problem_id": "str",
        "index": "int",
        "answer": "str?",
        "correct": "bool?",
        "score": "float?",
        "logprob": "float?",
        "completion_tokens": "int",
        "finish": "str",
        "text": "str?",
    },
    "allocation": {
        "cell": "str",
        "problem_id": "str",
        "grant_tokens": "int",
        "option": "str?",
        "predicted_value": "float?",
        "predicted_tokens": "float?",
        "price": "float?",
    },
    "problems": {
        "task": "str",
        "problem_id": "str",
        "difficulty": "float?",
        "question": "str?",
        "reference": "str?",
    },
    "bank": {
        "problem_id": "str",
        "prompt": "str?",
        "config": "str",
        "sample": "int",
        "answer": "str?",
        "correct": "bool",
        "completion_tokens": "int",
        "prompt_tokens": "int",
        "finish": "str",
        "logprob": "float?",
        "score": "float?",
    },
    "features": {
        "problem_id": "str",
        "config": "str",
        "vector": "vector",
        "prompt_tokens": "int?",
        "source": "str?",
    },
}


def schema(name: TableName) -> pa.Schema:
    """Return the Arrow schema of a table."""
    import pyarrow as pa

    types = {
        "str": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "vector": pa.list_(pa.float32()),
    }
    return pa.schema(
        [pa.field(column, types[kind.rstrip("?")], kind.endswith("?")) for column, kind in SCHEMAS[name].items()]
    )


def to_table(name: TableName, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Build a table from rows; keys that are not columns are left out."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {column: [] for column in SCHEMAS[name]}
    for row in rows:
        for column, values in columns.items():
            values.append(row.get(column))
    return pa.table(columns, schema=schema(name))


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet beside the target and rename it: a reader never sees half a file.

    Raises:
        StorageError: the folder cannot be written.
    """
    import pyarrow.parquet as pq

    partial = path.with_name(f".{path.name}.partial")
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # where nothing may be written, nothing may be taken away either
            partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def read_table(path: Path) -> pa.Table:
    """Read a Parquet file whole.

    Raises:
        StorageError: it is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist", "rebuild it: ttc report RUN --rebuild") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(f"cannot read {path}: {error}", "rebuild it: ttc report RUN --rebuild") from error


def rows_of(table: pa.Table) -> Sequence[dict[str, Any]]:
    """Return a table as a list of rows."""
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
