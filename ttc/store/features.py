"""Vectors of problems beside the rows of a bank or a run: `features.parquet`, one row per (problem, configuration).

The columns that are needed are `problem_id`, `config` and `vector`; the vectors of a configuration have one width.
`prompt_tokens` is what was read to compute a vector, `source` names what it was computed from: a vector whose source
is another one is out of date. Both may be absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttc.core.errors import DataError, StorageError
from ttc.store.tables import SCHEMAS, read_table, rows_of, to_table, write_table

if TYPE_CHECKING:
    import pyarrow as pa

Vector = NDArray[np.float32]
FILE = "features.parquet"
_COLUMNS = SCHEMAS["features"]
_AGAIN = "delete it and record it again: ttc collect ... --features hidden"


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One problem's vector, (width,), in one configuration."""

    problem_id: str
    config: str
    vector: Vector
    prompt_tokens: int | None = None
    source: str | None = None


def read_features(folder: Path) -> dict[str, dict[str, Vector]]:
    """Return the vectors of a bank or a run by configuration and problem; none where none were recorded.

    Raises:
        DataError: the file is damaged, or its columns or values do not fit.
    """
    found: dict[str, dict[str, Vector]] = {}
    for row in load_features(folder):
        found.setdefault(row.config, {})[row.problem_id] = row.vector
    return found


def load_features(folder: Path) -> list[Feature]:
    """Return every row of a folder's `features.parquet`, none where there is no such file.

    Raises:
        DataError: the file is damaged, or its columns or values do not fit.
    """
    file = folder / FILE
    if not file.is_file():
        return []
    try:
        table = read_table(file, "features")
    except StorageError as error:
        raise DataError(error.message, _AGAIN) from error
    rows = [Feature(vector=vector, **told) for told, vector in _told(table, file)]
    _check(rows, str(file))
    return rows


def write_features(folder: Path, config: str, rows: Iterable[Feature]) -> None:
    """Replace one configuration's rows; those of other configurations stay.

    Raises:
        DataError: vectors of several widths, one that is not finite, or a file that cannot be joined.
        StorageError: the folder cannot be written.
    """
    merged = [row for row in load_features(folder) if row.config != config]
    merged += rows
    _check(merged, str(folder / FILE))
    merged.sort(key=lambda row: (row.config, row.problem_id))
    table = to_table("features", ({name: getattr(row, name) for name in _COLUMNS} for row in merged))
    write_table(table, folder / FILE)


def _told(table: pa.Table, file: Path) -> Iterable[tuple[dict[str, Any], Vector]]:
    """Return each row's other columns and its vector."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = pa.array(table["vector"].combine_chunks())
    if lists.flatten().null_count:
        raise DataError(f"{file}: the numbers of vector may not be null", _AGAIN)
    ends = np.cumsum(pc.list_value_length(lists).to_numpy(zero_copy_only=False))
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    return zip(rows_of(table.drop_columns(["vector"])), np.split(flat, ends[:-1]) if len(ends) else [], strict=True)


def _check(rows: Sequence[Feature], where: str) -> None:
    widths: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for row in rows:
        what = f"{where}: the vector of problem {row.problem_id!r} in {row.config!r}"
        if (row.config, row.problem_id) in seen:
            raise DataError(f"{what} stands twice", _AGAIN)
        seen.add((row.config, row.problem_id))
        width = widths.setdefault(row.config, len(row.vector))
        if not width or len(row.vector) != width:
            raise DataError(f"{what} has {len(row.vector)} numbers, others have {width}", _AGAIN)
        if not np.isfinite(row.vector).all():
            raise DataError(f"{what} holds a number that is not finite", _AGAIN)
