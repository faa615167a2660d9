"""The columns of every table that others script against, and how they reach Parquet.

The journal is the truth; these tables are derived from it and can be rebuilt at any time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ttc.core.errors import StorageError, cannot_write

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

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

    A nullable column that the file lacks (an earlier version did not record it) is null, other columns are left out.

    Raises:
        StorageError: it is missing, damaged, of other columns or types, or unfolds to more than this machine's memory.
    """
    with _opened(path) as file:
        found = _fitting(file.schema_arrow, name, path)
        _bounded(path, sum(_size(path, file, group, found) for group in range(file.num_row_groups)))
        return _typed(file.read(columns=found), name, path)


def read_groups(path: Path, name: TableName) -> Iterator[pa.Table]:
    """Read a Parquet file as `read_table` does, a row group at a time: only one of them must fit the memory."""
    with _opened(path) as file:
        found = _fitting(file.schema_arrow, name, path)
        for group in range(file.num_row_groups):
            _bounded(path, _size(path, file, group, found))
            yield _typed(file.read_row_group(group, columns=found), name, path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield file
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist", AGAIN) from error
    except (OSError, MemoryError, pa.ArrowException) as error:
        raise StorageError(f"cannot read {path}: {error}", AGAIN) from error


def _fitting(found: pa.Schema, name: TableName, path: Path) -> list[str]:
    """Return those columns of a file that the table has.

    Raises:
        StorageError: a column is missing, there twice, or of another kind.
    """
    import pyarrow as pa

    columns = []
    for field in schema(name):
        count = found.names.count(field.name)
        if count > 1 or (not count and not field.nullable):
            what = f"has the column {field.name!r} twice" if count else f"lacks the column {field.name!r}"
            raise StorageError(f"{path} {what}", AGAIN)
        if not count:
            continue
        kind = found.field(field.name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        fits = _FAMILIES[SCHEMAS[name][field.name].rstrip("?")]
        if not any(getattr(pa.types, f"is_{family}")(kind) for family in fits):
            raise StorageError(f"{path}: column {field.name!r} is of type {kind}, {field.type} is needed", AGAIN)
        columns.append(field.name)
    return columns


def _size(path: Path, file: pq.ParquetFile, group: int, columns: Sequence[str]) -> int:
    """Return the bytes that a row group unfolds to: a text that repeats is stored once, and so is a number."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    told = file.metadata.row_group(group)
    stored: int = told.total_byte_size + 8 * sum(told.column(i).num_values for i in range(told.num_columns))
    _bounded(path, stored)
    kinds = {column: file.schema_arrow.field(column).type for column in columns}
    texts = [c for c, kind in kinds.items() if kind in (pa.string(), pa.large_string()) or pa.types.is_dictionary(kind)]
    if not texts:
        return stored
    with pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False) as folded:
        chunks = [chunk for column in folded.read_row_group(group, columns=texts).columns for chunk in column.chunks]
    letters = (pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() for chunk in chunks)
    unfolded: int = stored + sum(length or 0 for length in letters)
    return unfolded


def _bounded(path: Path, size: int) -> None:
    """Refuse what would take more than half of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory // 2:
        raise StorageError(
            f"{path} unfolds to {size / 1e9:,.0f} GB, more than half of this machine's {memory / 1e9:,.0f} GB",
            "read a part of it, or use a machine with more memory",
        )


def _typed(table: pa.Table, name: TableName, path: Path) -> pa.Table:
    """Return a table's columns in the types of the table `name`. Raises StorageError where they cannot be."""
    import pyarrow as pa

    columns = {}
    for field in schema(name):
        if field.name not in table.column_names:
            columns[field.name] = pa.nulls(table.num_rows, field.type)
            continue
        try:
            columns[field.name] = table[field.name].cast(field.type)
        except pa.ArrowException as error:
            raise StorageError(f"{path}: column {field.name!r}: {str(error).splitlines()[0]}", AGAIN) from error
        if table[field.name].null_count and not field.nullable:
            raise StorageError(f"{path}: column {field.name!r} has empty places", AGAIN)
    return pa.table(columns, schema=schema(name).with_metadata(table.schema.metadata))


def rows_of(table: pa.Table) -> Sequence[dict[str, Any]]:
    """Return a table as a list of rows."""
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
