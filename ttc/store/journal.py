"""The append-only journal: one JSON object a line, flushed per line, replayed at start.

A line that carries `problem_id` is a finished record; other kinds say what else happened (`kind`). A torn
last line, left by a crash, is dropped on replay; a damaged line elsewhere is skipped and counted, because
the record it held is then simply run again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from ttc.core.errors import StorageError

_FAILED: dict[str, Any] = {"status": "error"}


@dataclass(frozen=True, slots=True)
class Replay:
    """What a journal holds: records by (cell, problem), other lines in order, and what was damaged."""

    records: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """`file:line` of lines that are not JSON objects, a torn last line left out."""


def read_journal(folder: Path) -> Replay:
    """Replay every file of a journal folder.

    The first record of a (cell, problem) counts, but an error gives way to a later attempt.

    Raises:
        StorageError: a file cannot be read.
    """
    replay = Replay()
    for path in sorted(folder.glob("*.jsonl")):
        for number, line, whole in _lines(path):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                if whole:
                    replay.damaged.append(f"{path.name}:{number}")
            elif "problem_id" in row:
                key = (str(row.get("cell")), str(row["problem_id"]))
                if replay.records.get(key, _FAILED).get("status") == "error":
                    replay.records[key] = row
            else:
                replay.events.append(row)
    return replay


def _lines(path: Path) -> Iterator[tuple[int, str, bool]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield number, raw.decode("utf-8", errors="replace"), raw.endswith(b"\n")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


class JournalWriter:
    """Appends to one worker's file. Use as a context manager."""

    def __init__(self, folder: Path, worker: str) -> None:
        self.path = folder / f"{worker}.jsonl"
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._end_torn_line()
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from error
        return self

    def _end_torn_line(self) -> None:
        # A crash may have left half a line: the next record must not be glued to it.
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def append(self, row: dict[str, Any]) -> None:
        """Write one line and hand it to the operating system.

        Raises:
            StorageError: the disk is full or gone.
        """
        if self._file is None:
            raise StorageError(f"{self.path} is not open")
        try:
            self._file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}", "free some space and run the same command again"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as failure:
                # Closing flushes once more: after a full disk that fails again, and must not hide the first error.
                if error is None:
                    raise StorageError(f"cannot write {self.path}: {failure.strerror or failure}") from failure
