"""The columns of every table that others script against, and how they reach Parquet.

The journal is the truth; these tables are derived from it and can be rebuilt at any time.
"""

from __future__ import annotations

import contextlib
import os
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

_FAMILIES = {
    "str": ("string", "large_string", "null"),
    "bool": ("boolean", "null"),
    "int": ("integer", "null"),
    "float": ("floating", "integer", "null"),
    "vector": ("list", "large_list", "fixed_size_list"),
}
"""Arrow types that a Parquet file may hold a column in."""
AGAIN = "rebuild it: ttc report RUN --rebuild"


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


def read_table(path: Path, name: TableName) -> pa.Table:
    """Read a Parquet file, whoever wrote it, as the table `name`: exactly that table's columns in its types.

    A nullable column that the file lacks (an earlier version did not record it) is null, other columns are left
    out. Text that repeats is stored once in the file and can unfold to any size, so it is counted first.

    Raises:
        StorageError: it is missing, damaged, of other columns or types, or more than this machine's memory holds.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        texts = [field.name for field in pq.read_schema(path) if field.type in (pa.string(), pa.large_string())]
        with pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False) as file:
            found = [column for column in file.schema_arrow.names if column in SCHEMAS[name]]
            stored = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
            _bounded(path, stored + 8 * file.metadata.num_rows * len(SCHEMAS[name]))
            table = file.read(columns=found)
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist", AGAIN) from error
    except (OSError, MemoryError, pa.ArrowException) as error:
        raise StorageError(f"cannot read {path}: {error}", AGAIN) from error
    _bounded(path, sum(_unfolded(column) for column in table.columns))
    return typed(table, name, path)


def _bounded(path: Path, size: int) -> None:
    """Refuse what would take more than half of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory // 2:
        raise StorageError(
            f"{path} unfolds to {size / 1e9:,.0f} GB, more than half of this machine's {memory / 1e9:,.0f} GB",
            "read a part of it, or use a machine with more memory",
        )


def _unfolded(column: pa.ChunkedArray) -> int:
    """Return the bytes of a dictionary-encoded column's values, each as often as it stands in the column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return 0
    lengths = (pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() for chunk in column.chunks)
    return sum(length or 0 for length in lengths)


def typed(table: pa.Table, name: TableName, path: Path) -> pa.Table:
    """Return a table's columns in the types of the table `name`.

    Raises:
        StorageError: a column is missing, of another kind, or empty where it may not be.
    """
    import pyarrow as pa

    columns = {}
    for field in schema(name):
        if field.name not in table.column_names:
            if not field.nullable:
                raise StorageError(f"{path} lacks the column {field.name!r}", AGAIN)
            columns[field.name] = pa.nulls(table.num_rows, field.type)
            continue
        column = table[field.name]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        fits = _FAMILIES[SCHEMAS[name][field.name].rstrip("?")]
        if not any(getattr(pa.types, f"is_{family}")(kind) for family in fits):
            raise StorageError(f"{path}: column {field.name!r} is of type {kind}, {field.type} is needed", AGAIN)
        try:
            columns[field.name] = column.cast(field.type)
        except pa.ArrowException as error:
            raise StorageError(f"{path}: column {field.name!r}: {str(error).splitlines()[0]}", AGAIN) from error
        if column.null_count and not field.nullable:
            raise StorageError(f"{path}: column {field.name!r} has empty places", AGAIN)
    return pa.table(columns, schema=schema(name).with_metadata(table.schema.metadata))


def rows_of(table: pa.Table) -> Sequence[dict[str, Any]]:
    """Return a table as a list of rows."""
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
