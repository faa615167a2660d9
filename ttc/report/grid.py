"""Tables as data: one source for the page, the Markdown, the CSV and the file of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "count", "number", "percent", "bar", "interval", "points", "estimate", "seconds", "share"]
"""How a value is shown. `bar` is a percentage with a bar behind it; `interval`, `points` and `estimate` are tuples of
numbers: (low, high), and (mean, low, high) in percentage points or as it is. An end may be infinite: nothing is known
there."""
Value = str | float | int | tuple[float, ...] | None
NONE = "-"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name in the file of numbers, its heading, and how its values are shown."""

    key: str
    header: str
    kind: Kind = "text"


@dataclass(frozen=True, slots=True)
class Line:
    """One row; `item` names it in the file of numbers, `mark` is its class on the page."""

    item: str
    values: tuple[Value, ...]
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of the page. `name` says which; `subject` is the task and model it is about."""

    name: str
    subject: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    def without_empty_columns(self) -> Grid:
        """Return the table without columns that have no value in any line."""
        kept = [i for i in range(len(self.columns)) if any(line.values[i] is not None for line in self.lines)]
        lines = (Line(line.item, tuple(line.values[i] for i in kept), line.mark) for line in self.lines)
        return Grid(self.name, self.subject, tuple(self.columns[i] for i in kept), tuple(lines))

    def shown(self) -> list[tuple[Line, list[str]]]:
        """Return every line with its texts."""
        return [
            (line, [show(c.kind, v) for c, v in zip(self.columns, line.values, strict=True)]) for line in self.lines
        ]

    def numbers(self) -> Iterator[dict[str, Any]]:
        """Yield one row a number for the file of numbers; texts are left out."""
        for line in self.lines:
            for column, value in zip(self.columns, line.values, strict=True):
                if value is None or isinstance(value, str):
                    continue
                parts: Sequence[float | None] = value if isinstance(value, tuple) else (value, None, None)
                mean, low, high = parts if len(parts) == 3 else (None, *parts)
                mean, low, high = (None if part is None or math.isinf(part) else part for part in (mean, low, high))
                yield {"table": self.name, "subject": self.subject, "item": line.item, "name": column.key,
                       "value": mean, "low": low, "high": high}  # fmt: skip


def show(kind: Kind, value: Value) -> str:
    """Return a value's text, `-` where there is none."""
    if value is None:
        return NONE
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        if kind == "points":
            # Adding 0 makes a rounded -0.0 a plain 0.
            mean, low, high = (round(100 * part, 1) + 0.0 for part in value)
            return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        if kind == "estimate":
            estimate, least, most = (_bounded(part) for part in value)
            return f"{estimate} [{least}, {most}]"
        low, high = value
        return f"{100 * low:.1f} to {100 * high:.1f}"
    return _SHOW[kind](value)


def _bounded(value: float) -> str:
    if math.isinf(value):
        return "-\N{INFINITY}" if value < 0 else "\N{INFINITY}"
    return f"{round(value, 2) + 0.0:.2f}"


def _number(value: float) -> str:
    if value == 0 or 0.001 <= abs(value) < 1e9:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.2e}"


_SHOW: Mapping[str, Callable[[float], str]] = {
    "text": str,
    "count": lambda value: f"{value:,.0f}",
    "number": _number,
    "percent": lambda value: f"{100 * value:.1f}",
    "bar": lambda value: f"{100 * value:.1f}",
    "share": lambda value: f"{100 * value:.0f} %",
    "seconds": lambda value: f"{value:,.2f}",
}
