"""The candidates of a run: with their texts they are most of its bytes, so they are read only as far as asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttc.core.errors import cannot_write
from ttc.store.tables import read_groups, schema, to_table

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 8192
"""Rows that are in memory at once where texts are read; of 600 characters they are 5 MB."""


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of some cells in one file; of all its cells where none are named."""

    path: Path
    cells: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """Candidates in files, one after another."""

    parts: tuple[Part, ...] = ()

    def only(self, cells: Collection[str]) -> Samples:
        """Return those of some cells."""
        wanted = frozenset(cells)
        return Samples(tuple(Part(p.path, wanted if p.cells is None else wanted & p.cells) for p in self.parts))

    def of(self, problems: Collection[str], cells: Collection[str]) -> pa.Table:
        """Read the rows of these problems in these cells.

        Raises:
            StorageError: a file is missing or damaged.
        """
        return self._read(frozenset(problems), frozenset(cells))

    def whole(self) -> pa.Table:
        """Read everything. Raises StorageError where a file is missing or damaged."""
        return self._read(None, None)

    def _read(self, problems: frozenset[str] | None, cells: frozenset[str] | None) -> pa.Table:
        import pyarrow as pa

        kept = []
        for part in self.parts:
            allowed = part.cells if cells is None else cells if part.cells is None else cells & part.cells
            for group in read_groups(part.path, "candidates"):
                found = _filtered(_filtered(group, "cell", allowed), "problem_id", problems)
                if found.num_rows:
                    kept.append(found.replace_schema_metadata(None))
        return pa.concat_tables(kept) if kept else to_table("candidates", ())


def _filtered(rows: pa.Table, column: str, wanted: frozenset[str] | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    if wanted is None or not rows.num_rows:
        return rows
    return rows.filter(pc.is_in(rows[column], value_set=pa.array(sorted(wanted), pa.string())))


def write_samples(path: Path, groups: Iterator[pa.Table]) -> Samples:
    """Write tables of candidates one after another; none but one is in memory at a time.

    Raises:
        StorageError: the folder cannot be written.
    """
    import pyarrow.parquet as pq

    partial = path.with_name(f".{path.name}.partial")
    try:
        with pq.ParquetWriter(partial, schema("candidates"), compression="zstd") as writer:
            for table in groups:
                writer.write_table(table)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # where nothing may be written, nothing may be taken away either
            partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    return Samples((Part(path),))


def grouped(rows: Iterator[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """Yield rows in groups of at most BATCH_ROWS."""
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == BATCH_ROWS:
            yield group
            group = []
    if group:
        yield group
