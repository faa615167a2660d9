"""Load benchmark rows, from the hub through `datasets` or from a local file, and turn them into examples."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ttc.core.errors import ConfigError, DataError, did_you_mean
from ttc.core.identity import file_sha256, identity
from ttc.core.protocols import Dataset, LoadOptions
from ttc.core.types import Example, Message

_COMMIT = re.compile(r"@([0-9a-f]{40})/")
_PARQUET = {".parquet", ".pq"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a benchmark lives, and its columns by the names used here. A user may override each of these."""

    fields: Mapping[str, str]
    hub: str | None = None
    config: str | None = None
    split: str = "test"


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `where` names its file and line, or its hub name and number, for error messages."""

    where: str
    values: Mapping[str, Any]
    fields: Mapping[str, str]

    def text(self, field: str) -> str:
        """Return a field that must be text. Raises DataError."""
        value = self._value(field)
        if not isinstance(value, str):
            raise self._wrong_type(field, "text", value)
        return value

    def answer(self, field: str) -> str:
        """Return a field that may be text or a number, as text. Raises DataError."""
        value = self._value(field)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._wrong_type(field, "text or a number", value)
        text = str(value).strip()
        if not text:
            raise DataError(f"{self.where}: field {self.fields[field]!r} is empty")
        return text

    def texts(self, field: str) -> list[str]:
        """Return a field that must be a list of texts. Raises DataError."""
        value = self._value(field)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong_type(field, "a list of texts", value)
        return value

    def has(self, field: str) -> bool:
        """Say whether the row holds a value for a field."""
        return self.values.get(self.fields[field]) is not None

    def _value(self, field: str) -> Any:
        column = self.fields[field]
        if column not in self.values:
            raise DataError(f"{self.where}: no field {column!r}", _near(column, self.values))
        return self.values[column]

    def _wrong_type(self, field: str, wanted: str, value: Any) -> DataError:
        return DataError(f"{self.where}: field {self.fields[field]!r} must be {wanted}, not {type(value).__name__}")


def load_examples(task: str, source: Source, options: LoadOptions, build: Callable[[str, Row], Example]) -> Dataset:
    """Load a task: `build` makes an example of an id and a row.

    The id is the row's own where `source.fields` names one and the row has it, else the task's name and the
    row's number. The first `options.limit` rows are read, and no others.

    Raises:
        ConfigError: a field override that the task does not have, or a limit below 1.
        DataError: a source that cannot be reached or read; a row that lacks something, with its place; no rows;
            the same id twice.
    """
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"limit is {options.limit}, it must be at least 1")
    fields = dict(source.fields)
    for name, column in (options.fields or {}).items():
        if name not in fields:
            raise ConfigError(f"task {task} has no field {name!r}", did_you_mean(name, fields))
        fields[name] = column
    if options.data is not None:
        origin, rows = _open_file(options.data, options, fields)
    else:
        origin, rows = _open_hub(task, source, options, fields)
    examples: list[Example] = []
    places: dict[str, str] = {}
    for number, row in enumerate(islice(rows, options.limit)):
        own = row.answer("id") if "id" in fields and row.has("id") else f"{task}-{number:05d}"
        if own in places:
            raise DataError(f"{row.where}: id {own!r} was already used at {places[own]}", "ids must be unique")
        places[own] = row.where
        examples.append(build(own, row))
    if not examples:
        raise DataError(f"{origin['name']} holds no rows")
    content = [[e.question, e.gold, [[m.role, m.content] for m in e.messages]] for e in examples]
    return Dataset(tuple(examples), identity(content), origin)


def ask(template: str, question: str) -> tuple[Message, ...]:
    """Return the chat that asks `question` in the wording of `template`."""
    return (Message("user", template.replace("{question}", question)),)


def _near(column: str, values: Mapping[str, Any]) -> str:
    return did_you_mean(column, [str(key) for key in values]) + "; other names are set by the task's fields"


def _open_file(path: Path, options: LoadOptions, fields: Mapping[str, str]) -> tuple[dict[str, str], Iterator[Row]]:
    if not path.is_file():
        raise DataError(f"no such file: {path}", "give a JSON Lines or Parquet file")
    try:
        origin = {"name": path.name, "sha256": file_sha256(path)}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if options.split is not None:
        origin["split"] = options.split  # a file has no splits: the name is only recorded
    rows = _read_parquet(path) if path.suffix in _PARQUET else _read_json_lines(path)
    return origin, (Row(where, values, fields) for where, values in rows)


def _read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path.name} line {number}"
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8 text", "give a JSON Lines or Parquet file") from error
            except (json.JSONDecodeError, RecursionError) as error:
                reason = (
                    f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
                )
                raise DataError(f"{where}: not JSON: {reason}", "one JSON object a line") from error
            if not isinstance(values, dict):
                raise DataError(
                    f"{where}: must be a JSON object, not {type(values).__name__}", "one JSON object a line"
                )
            yield where, values


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield f"{path.name} row {number}", values
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path.name}: not a readable Parquet file: {_first_line(error)}") from error


def _open_hub(
    task: str, source: Source, options: LoadOptions, fields: Mapping[str, str]
) -> tuple[dict[str, str], Iterator[Row]]:
    hub = options.hub or source.hub
    if hub is None:
        raise DataError(f"task {task} has no rows of its own", "name them with --data FILE")
    config, split = options.hub_config or source.config, options.split or source.split
    table = _download(hub, config, split, options.revision)
    origin = {"name": hub, "config": config or "default", "split": split, "revision": _resolved_commit(table)}
    return origin, (Row(f"{hub} {split} row {i}", values, fields) for i, values in enumerate(table, 1))


def _download(hub: str, config: str | None, split: str, revision: str | None) -> Any:
    import datasets

    hint = "check the name and the connection, or give the rows with --data FILE"
    try:
        return datasets.load_dataset(hub, config, split=split, revision=revision)
    except ValueError as error:  # an unknown split or configuration: the message lists those there are
        raise DataError(
            f"cannot load {hub}, split {split!r}: {_first_line(error)}", "choose another split or configuration"
        ) from error
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"cannot load {hub}: {_first_line(error)}", hint) from error


def _resolved_commit(table: Any) -> str:
    """Return the commit in the addresses of the downloaded files, "unknown" where none is recorded."""
    for address in getattr(table.info, "download_checksums", None) or {}:
        if match := _COMMIT.search(address):
            return match[1]
    return "unknown"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
