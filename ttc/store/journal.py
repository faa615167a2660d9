"""The append-only journal: one JSON object a line, flushed per line, replayed at start.

A line that carries `problem_id` is a finished record; other kinds say what else happened (`kind`). A torn
last line, left by a crash, is dropped on replay; a damaged line elsewhere is skipped and counted, because
the record it held is then simply run again.

Each line ends in a checksum of what stands before it (`crc`, CRC-32 in hexadecimal): one flipped bit would else turn
a score, a token count or a problem's name into another that looks as good. A line without one is taken as it is.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TextIO

from ttc.core.errors import StorageError, cannot_write

_BLOCK = 1 << 16
_CHECK = ',"crc":"{:08x}"}}'
_CHECK_START = b',"crc":"'
_CHECK_LENGTH = len(_CHECK.format(0))
Place = tuple[Path, int]
"""Where a line stands: its file, and the byte that it begins at."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a journal holds: records by (cell, problem), other lines in order, and what was damaged."""

    records: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """`file:line` of lines that are not what was written, a torn last line left out."""
    retried: list[dict[str, Any]] = field(default_factory=list)
    """Records of errors that gave way to another attempt: what they spent is spent."""
    places: dict[tuple[str, str], Place] = field(default_factory=dict)
    """Where each of the records stands."""


def read_journal(folder: Path, without: Collection[str] = ()) -> Replay:
    """Replay every file of a journal folder.

    The first record of a (cell, problem) counts, but an error gives way to a later attempt. Keys of records in `without`
    are forgotten as they are read: samples with their texts are most of a journal.

    Raises:
        StorageError: a file cannot be read.
    """
    replay = Replay()
    for path in sorted(folder.glob("*.jsonl")):
        for number, start, line, whole in _lines(path):
            row = row_of(line)
            if row is None:
                if whole:
                    replay.damaged.append(f"{path.name}:{number}")
            elif "problem_id" in row:
                for dropped in without:
                    row.pop(dropped, None)
                key = (str(row.get("cell")), str(row["problem_id"]))
                earlier = replay.records.get(key)
                if earlier is None or earlier.get("status") == "error":
                    if earlier is not None:
                        replay.retried.append(earlier)
                    replay.records[key] = row
                    replay.places[key] = (path, start)
                elif row.get("status") == "error":  # of another file, whose attempt failed before this one's succeeded
                    replay.retried.append(row)
            else:
                replay.events.append(row)
    return replay


def read_rows(places: Iterable[Place]) -> Iterator[dict[str, Any]]:
    """Yield the whole records at some places of a replay, in the order asked for.

    Raises:
        StorageError: a file cannot be read, or is no longer what it was.
    """
    with ExitStack() as stack:
        files: dict[Path, BinaryIO] = {}
        for path, start in places:
            try:
                if path not in files:
                    files[path] = stack.enter_context(path.open("rb"))
                files[path].seek(start)
                row = row_of(files[path].readline())
            except OSError as error:
                raise StorageError(f"cannot read {path}: {error}") from error
            if row is None:
                raise StorageError(f"{path} has changed while it was read", "run the same command again")
            yield row


def _line(row: dict[str, Any]) -> str:
    """Return a row's line with its checksum, without a line break."""
    body = json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)[:-1]
    # A server's text may hold half a surrogate pair, which no encoding takes.
    return body + _CHECK.format(zlib.crc32(body.encode("utf-8", "replace")))


def row_of(line: bytes) -> dict[str, Any] | None:
    """Return what a line holds, without its checksum; None where it is not what was written."""
    line = line.rstrip()
    check = line[-_CHECK_LENGTH:]
    if check.startswith(_CHECK_START) and check != _CHECK.format(zlib.crc32(line[:-_CHECK_LENGTH])).encode():
        return None
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    row.pop("crc", None)
    return row


def _lines(path: Path) -> Iterator[tuple[int, int, bytes, bool]]:
    """Yield each line that is not blank: its number, where it begins, itself, and whether it is whole."""
    start = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield number, start, raw, raw.endswith(b"\n")
                start += len(raw)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _after_last_break(file: BinaryIO) -> int:
    """Return the position after the last line break, reading from the end of the file."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


class JournalWriter:
    """Appends to one worker's file. Use as a context manager."""

    def __init__(self, folder: Path, worker: str) -> None:
        self.path = folder / f"{worker}.jsonl"
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._end_torn_line()
            self._file = self.path.open("a", encoding="utf-8", errors="replace")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return self

    def _end_torn_line(self) -> None:
        # A crash may have left half a line: the next record must not be glued to it. A whole record that only
        # lacks its line break was replayed, so it stays.
        if not (self.path.is_file() and self.path.stat().st_size):
            return
        with self.path.open("rb+") as file:
            start = _after_last_break(file)
            file.seek(start)
            line = file.read()
            if not line:
                return
            if row_of(line) is None:
                file.truncate(start)
            else:
                file.write(b"\n")

    def append(self, row: dict[str, Any]) -> None:
        """Write one line and hand it to the operating system.

        Raises:
            StorageError: the disk is full or gone.
        """
        if self._file is None:
            raise StorageError(f"{self.path} is not open")
        try:
            self._file.write(_line(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error

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
                    raise cannot_write(self.path, failure) from failure
