"""Live progress of a sweep: a Rich display on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import typer

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from ttc.run.plan import Cell

PLAIN_EVERY_S = 10.0
SPEED_WINDOW_S = 15.0


class Display(Protocol):
    """Shows a `Progress`. A context manager around the run."""

    def show(self, progress: Progress) -> None:
        """Draw the state, as often as is bearable."""

    def line(self, text: str) -> None:
        """Show one line that stays."""

    def warn(self, text: str) -> None:
        """Show one line that must be seen."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(slots=True)
class CellState:
    """Where one cell stands."""

    cell: Cell
    done: int = 0
    score: float = 0.0
    errors: int = 0
    spent: float = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one record."""
        self.done += 1
        self.spent += row["completion_tokens"]
        if row["score"] is None:
            self.errors += 1
        else:
            self.score += row["score"]

    @property
    def accuracy(self) -> float | None:
        """Return the running accuracy."""
        return self.score / (self.done - self.errors) if self.done > self.errors else None


@dataclass(slots=True)
class Progress:
    """Everything a display may show: implements `ttc.run.sweep.Observer`."""

    cells: Sequence[Cell]
    display: Display
    parts: Mapping[str, Sequence[str]] | None = None
    """The problems of each cell that this process runs; None where it runs all."""
    finished_cells: int = 0
    problems_done: int = 0
    live: dict[str, CellState] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    _offered: int = 0
    """Budget tokens of the problems that are done: the work behind."""
    _resumed: int = 0
    """Of these, what an earlier run did."""
    _window: deque[tuple[float, int]] = field(default_factory=deque)

    def __enter__(self) -> Self:
        self.display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.__exit__(kind, error, trace)

    @property
    def problems_total(self) -> int:
        """Return the (cell, problem) pairs of the whole run."""
        return sum(self.size(cell) for cell in self.cells)

    def size(self, cell: Cell) -> int:
        """Return the problems of a cell that this process runs."""
        return len(cell.subject.problem_ids if self.parts is None else self.parts[cell.id])

    @property
    def tokens_per_s(self) -> float:
        """Return the speed over the last seconds."""
        now = time.monotonic()
        while self._window and now - self._window[0][0] > SPEED_WINDOW_S:
            self._window.popleft()
        span = now - max(self.started, now - SPEED_WINDOW_S)
        return sum(count for _, count in self._window) / span if span > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Return the seconds left at the pace so far, None before anything is done."""
        fresh = self._offered - self._resumed
        if not fresh:
            return None
        left = sum(cell.budget * self.size(cell) for cell in self.cells) - self._offered
        return (time.monotonic() - self.started) * left / fresh

    def note(self, text: str) -> None:
        """Show a line."""
        self.display.line(text)

    def warn(self, text: str) -> None:
        """Show a warning, however little is shown else."""
        self.display.warn(text)

    def cell_started(self, cell: Cell, done: Sequence[Mapping[str, Any]]) -> None:
        """Begin to show a cell."""
        state = CellState(cell)
        for row in done:
            state.add(row)
        self.live[cell.id] = state
        self.problems_done += len(done)
        self._offered += cell.budget * len(done)
        self._resumed += cell.budget * len(done)
        if done:
            self.display.line(f"{_name(cell)}: {len(done)} of {self.size(cell)} problems are done already")

    def tokens(self, count: int) -> None:
        """Count tokens for the speed."""
        now = time.monotonic()
        if self._window and now - self._window[-1][0] < 0.2:
            self._window[-1] = (self._window[-1][0], self._window[-1][1] + count)
        else:
            self._window.append((now, count))
            self.display.show(self)

    def problem_finished(self, cell: Cell, row: Mapping[str, Any]) -> None:
        """Count one problem."""
        self.live[cell.id].add(row)
        self.problems_done += 1
        self._offered += cell.budget
        if row["status"] == "error":
            self.display.line(
                f"{_name(cell)}: problem {row['problem_id']} failed: {row.get('error', 'the grader failed')}"
            )
        self.display.show(self)

    def cell_finished(self, cell: Cell, wall_s: float | None) -> None:
        """Show a cell's result."""
        state = self.live.pop(cell.id)
        self.finished_cells += 1
        self.display.line(f"[{self.finished_cells}/{len(self.cells)}] {_summary(state)}{_took(wall_s)}")


def make_observer(display: str, cells: Sequence[Cell], parts: Mapping[str, Sequence[str]] | None = None) -> Progress:
    """Return the progress display of that name; `auto` is Rich on a terminal and plain lines elsewhere.

    `parts` are the problems of each cell that this process runs; cells without any are not shown.
    """
    if display == "auto":
        display = "rich" if sys.stderr.isatty() else "plain"
    shown: dict[str, type[Display]] = {
        "rich": RichDisplay,
        "plain": PlainDisplay,
        "json": JsonDisplay,
        "none": NoDisplay,
    }
    if parts is not None:
        cells = [cell for cell in cells if cell.id in parts]
    return Progress(cells, shown[display](), parts=parts)


def _name(cell: Cell) -> str:
    return f"{cell.subject.task} {cell.subject.model} {cell.strategy.name}/{cell.allocator.name}@{cell.budget}"


def _summary(state: CellState) -> str:
    accuracy = "-" if state.accuracy is None else f"{state.accuracy:.3f}"
    errors = f", {state.errors} errors" if state.errors else ""
    return f"{_name(state.cell)}: accuracy {accuracy}, spent {state.spent:,.0f} of {state.cell.total_tokens:,}{errors}"


def _took(wall_s: float | None) -> str:
    return "" if wall_s is None else f", {wall_s:.1f} s"


def duration(seconds: float | None) -> str:
    """Return seconds as h:mm:ss, or a dash."""
    if seconds is None:
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


class NoDisplay:
    """Shows nothing."""

    def show(self, progress: Progress) -> None:
        """Show nothing."""

    def line(self, text: str) -> None:
        """Show nothing."""

    def warn(self, text: str) -> None:
        """Print a warning."""
        typer.echo(f"warning: {text}", err=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


class PlainDisplay(NoDisplay):
    """Lines on stderr, at most one state every few seconds."""

    def __init__(self) -> None:
        self._shown = time.monotonic()

    def line(self, text: str) -> None:
        """Print a line."""
        typer.echo(text, err=True)

    def show(self, progress: Progress) -> None:
        """Print the state when it is time again."""
        if time.monotonic() - self._shown < PLAIN_EVERY_S:
            return
        self._shown = time.monotonic()
        running = "; ".join(_summary(state) for state in list(progress.live.values())[:3])
        self.line(
            f"{progress.problems_done}/{progress.problems_total} problems, {progress.tokens_per_s:,.0f} tokens/s,"
            f" ETA {duration(progress.eta_s)}; {running}"
        )


class JsonDisplay(NoDisplay):
    """One JSON object a line on stderr."""

    def __init__(self) -> None:
        self._shown = 0.0

    def line(self, text: str) -> None:
        """Print a note."""
        typer.echo(json.dumps({"note": text}, ensure_ascii=False), err=True)

    def warn(self, text: str) -> None:
        """Print a warning."""
        typer.echo(json.dumps({"warning": text}, ensure_ascii=False), err=True)

    def show(self, progress: Progress) -> None:
        """Print the state, at most once a second."""
        if time.monotonic() - self._shown < 1.0:
            return
        self._shown = time.monotonic()
        eta = progress.eta_s
        state = {
            "problems_done": progress.problems_done,
            "problems_total": progress.problems_total,
            "tokens_per_s": round(progress.tokens_per_s, 1),
            "eta_s": None if eta is None else round(eta, 1),
            "cells": [
                {
                    "cell": s.cell.id,
                    "done": s.done,
                    "accuracy": s.accuracy,
                    "spent": s.spent,
                    "total": s.cell.total_tokens,
                }
                for s in progress.live.values()
            ],
        }
        typer.echo(json.dumps(state), err=True)


class RichDisplay(NoDisplay):
    """A table that renews itself, with a bar for the whole run."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._live: Live = Live(console=self._console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(None, None, None)

    def line(self, text: str) -> None:
        """Print a line above the table."""
        self._live.console.print(text, markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """Print a warning above the table."""
        self.line(f"warning: {text}")

    def show(self, progress: Progress) -> None:
        """Hand over the new table; Rich draws it when it is time."""
        self._live.update(_table(progress))


def _table(progress: Progress) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for state in list(progress.live.values())[:8]:
        accuracy = "-" if state.accuracy is None else f"{state.accuracy:.3f}"
        table.add_row(
            _name(state.cell),
            f"{state.done}/{progress.size(state.cell)}",
            f"accuracy {accuracy}",
            f"spent {state.spent:,.0f}/{state.cell.total_tokens:,}",
            f"{state.errors} errors" if state.errors else "",
        )
    table.add_row(
        ProgressBar(total=progress.problems_total, completed=progress.problems_done, width=40),
        f"{progress.problems_done}/{progress.problems_total}",
        f"cell {progress.finished_cells + 1}/{len(progress.cells)}",
        f"{progress.tokens_per_s:,.0f} tokens/s",
        f"ETA {duration(progress.eta_s)}",
    )
    return table
