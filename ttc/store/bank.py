"""The sample bank: recorded samples, one row per (problem, configuration, sample).

On disk a bank is a folder: `bank.parquet` with the rows and `bank.json` with its name. The interchange form
is JSON lines with the same fields.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttc.core.errors import DataError, StorageError, cannot_write, did_you_mean
from ttc.core.identity import file_sha256
from ttc.store.tables import SCHEMAS, read_table, rows_of, to_table, write_table

if TYPE_CHECKING:
    import pyarrow as pa

FIELDS = SCHEMAS["bank"]


@dataclass(frozen=True, slots=True)
class Row:
    """One recorded sample; `answer` is None where none could be extracted."""

    problem_id: str
    prompt: str | None
    config: str
    sample: int
    answer: str | None
    correct: bool
    completion_tokens: int
    prompt_tokens: int
    finish: str
    logprob: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Bank:
    """A loaded bank. `pools[config][problem_id]` holds a problem's samples by sample index."""

    name: str
    fingerprint: str
    pools: Mapping[str, Mapping[str, tuple[Row, ...]]]

    @cached_property
    def mean_tokens(self) -> float:
        """Return the mean completion tokens of a sample, over all configurations."""
        lengths = [row.completion_tokens for row in self.rows()]
        return sum(lengths) / len(lengths)

    def rows(self) -> Iterator[Row]:
        """Yield every sample."""
        for pool in self.pools.values():
            for samples in pool.values():
                yield from samples

    def longest(self, config: str) -> int:
        """Return the longest sample of a configuration, in completion tokens."""
        return max(row.completion_tokens for samples in self.pools[config].values() for row in samples)

    def scored(self, config: str) -> bool:
        """Say whether every finished sample of a configuration has a reward score; one cut short cannot compete."""
        finished = [row for samples in self.pools[config].values() for row in samples if row.finish == "stop"]
        return bool(finished) and all(row.score is not None for row in finished)

    def problem_ids(self, config: str) -> list[str]:
        """Return the problems of a configuration, sorted."""
        return sorted(self.pools[config])


def parse_rows(lines: Iterable[str], source: str) -> list[Row]:
    """Validate JSON lines.

    Raises:
        DataError: naming the line and the field of the first row that is wrong.
    """
    rows: list[Row] = []
    seen: dict[tuple[str, str, int], int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = parse_row(line, f"{source}, line {number}")
        key = (row.problem_id, row.config, row.sample)
        if key in seen:
            raise DataError(
                f"{source}, line {number}: sample {row.sample} of problem {row.problem_id!r} in configuration"
                f" {row.config!r} stands already on line {seen[key]}"
            )
        seen[key] = number
        rows.append(row)
    if not rows:
        raise DataError(f"{source} holds no samples")
    return rows


def parse_row(line: str, where: str) -> Row:
    """Validate one JSON line."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(value).__name__}")
    for key in value:
        if key not in FIELDS:
            raise DataError(f"{where}: unknown field {key!r}", did_you_mean(key, FIELDS))
    return Row(**{name: _field(value, name, where) for name in FIELDS})


def _field(value: Mapping[str, Any], name: str, where: str) -> Any:
    kind, given = FIELDS[name], value.get(name)
    if given is None:
        if kind.endswith("?"):
            return None
        raise DataError(f"{where}: field {name!r} is {'null' if name in value else 'missing'}")
    wanted = kind.rstrip("?")
    fits = {
        "str": isinstance(given, str),
        "bool": isinstance(given, bool),
        "int": isinstance(given, int) and not isinstance(given, bool),
        "float": isinstance(given, int | float) and not isinstance(given, bool) and abs(given) <= sys.float_info.max,
    }[wanted]
    if not fits:
        words = {"str": "a string", "bool": "true or false", "int": "a whole number", "float": "a finite number"}
        raise DataError(f"{where}: field {name!r} must be {words[wanted]}, found {given!r}")
    if wanted == "int" and not 0 <= given < 2**63:
        raise DataError(f"{where}: field {name!r} must be at least 0 and less than 2^63, found {given}")
    if wanted == "str" and not _encodable(given):
        raise DataError(f"{where}: field {name!r} holds half a surrogate pair, which is not Unicode text")
    if name == "finish" and given not in ("stop", "length"):
        raise DataError(f"{where}: field 'finish' must be 'stop' or 'length', found {given!r}")
    if name == "score" and not 0 <= given <= 1:
        raise DataError(f"{where}: field 'score' must lie in [0, 1], found {given}")
    if name in ("problem_id", "config") and not given:
        raise DataError(f"{where}: field {name!r} is empty")
    return float(given) if wanted == "float" else given


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def import_rows(source: Path, out: Path, task: str | None) -> Bank:
    """Make a bank from JSON lines.

    Raises:
        DataError: the file cannot be read or a row is wrong.
        StorageError: the bank cannot be written, or there is one already.
    """
    try:
        with source.open(encoding="utf-8") as file:
            rows = parse_rows(file, source.name)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"cannot read {source}: {reason}") from error
    write_bank(rows, out, task or out.name)
    return read_bank(out)


def write_bank(rows: Iterable[Row], out: Path, name: str, *, replace: bool = False) -> None:
    """Write a bank folder.

    Raises:
        StorageError: it cannot be written, or there is one already and `replace` is false.
    """
    if not replace and (out / "bank.parquet").exists():
        raise StorageError(f"{out} already holds a bank", "give another --out")
    ordered = sorted(rows, key=lambda r: (r.config, r.problem_id, r.sample))
    table = to_table("bank", ({field: getattr(row, field) for field in FIELDS} for row in ordered))
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "bank.json").write_text(json.dumps({"name": name}) + "\n", encoding="utf-8")
    except OSError as error:
        raise cannot_write(out, error) from error
    write_table(table, out / "bank.parquet")


def read_bank(path: Path) -> Bank:
    """Load a bank folder.

    Raises:
        DataError: there is none, or it is damaged.
    """
    file = path / "bank.parquet"
    if not file.is_file():
        raise DataError(f"{path} is not a bank (it has no bank.parquet)", "make one: ttc import ROWS.jsonl --out BANK")
    try:
        name = str(json.loads((path / "bank.json").read_text(encoding="utf-8"))["name"])
    except FileNotFoundError:
        name = path.name
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"cannot read {path / 'bank.json'}: {error}") from error
    try:
        table = read_table(file, "bank")
    except StorageError as error:
        raise DataError(error.message, "import or collect the bank again") from error
    pools: dict[str, dict[str, list[Row]]] = {}
    for values in rows_of(_checked(table, file)):
        row = Row(**values)
        pools.setdefault(row.config, {}).setdefault(row.problem_id, []).append(row)
    if not pools:
        raise DataError(f"{path} holds no samples")
    frozen = {
        config: {pid: tuple(sorted(rows, key=lambda r: r.sample)) for pid, rows in pool.items()}
        for config, pool in pools.items()
    }
    for config, pool in frozen.items():
        for pid, rows in pool.items():
            if len({row.sample for row in rows}) < len(rows):
                raise DataError(f"{file}: a sample of problem {pid!r} in configuration {config!r} stands there twice")
    return Bank(name, file_sha256(file)[:16], frozen)


def _checked(table: pa.Table, file: Path) -> pa.Table:
    """Return a bank's columns, their values held to the rules of its JSON lines.

    Raises:
        DataError: naming the first column that is wrong.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for field in table.schema:
        column = table[field.name]
        if field.type == pa.int64() and (pc.min(column).as_py() or 0) < 0:
            raise DataError(f"{file}: column {field.name!r} has a number below 0")
        if field.type == pa.float64() and pc.all(pc.is_finite(column)).as_py() is False:
            raise DataError(f"{file}: column {field.name!r} has a number that is not finite")
    if strange := set(table["finish"].unique().to_pylist()) - {"stop", "length"}:
        raise DataError(f"{file}: column 'finish' must be 'stop' or 'length', found {strange.pop()!r}")
    score = table["score"]
    if not 0 <= (pc.min(score).as_py() or 0) <= (pc.max(score).as_py() or 0) <= 1:
        raise DataError(f"{file}: column 'score' must lie in [0, 1]")
    return table
