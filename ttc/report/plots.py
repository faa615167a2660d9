"""The page's other pictures as matplotlib figures, for notebooks and papers: one panel a task and model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ttc.core.errors import DataError
from ttc.report.chapter import Chapter
from ttc.report.figures import COLOURS, GRID, INK, PANEL_HEIGHT, PANEL_WIDTH
from ttc.report.grid import Grid, Line
from ttc.report.pictures import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_COLOURS = dict(zip(KINDS, ("#0072B2", "#E69F00", "#999999", "#CC79A7"), strict=True))
MOST_CURVES = 12
"""Strategies in one panel; further ones would hide each other."""


def allocation_figure(chapters: Sequence[Chapter]) -> Figure:
    """Draw what every strategy granted and spent at its largest budget, by difficulty where there is one.

    Raises:
        DataError: no strategy has a graded answer.
    """
    drawn = [c for c in chapters if c.allocation.lines]
    if not drawn:
        raise DataError("no grants are recorded", "a run records them: ttc sweep")
    return _paneled(drawn, lambda axes, chapter: _bars(axes, chapter.allocation))


def difficulty_figure(chapters: Sequence[Chapter]) -> Figure:
    """Draw accuracy by difficulty, each strategy at its largest budget.

    Raises:
        DataError: the problems have no levels, neither the task's nor the run's own.
    """
    drawn = [c for c in chapters if c.difficulty is not None]
    if not drawn:
        raise DataError("these problems cannot be told apart by difficulty", "run more problems")
    return _paneled(drawn, _levels)


def reliability_figure(chapters: Sequence[Chapter]) -> Figure:
    """Draw observed against predicted scores.

    Raises:
        DataError: nothing was predicted.
    """
    drawn = [c for c in chapters if c.reliability]
    if not drawn:
        raise DataError("this run holds no predictions", "run an allocator with a predictor")
    return _paneled(drawn, _reliability)


def latency_figure(chapters: Sequence[Chapter]) -> Figure:
    """Draw the percentiles of seconds a problem.

    Raises:
        DataError: no times were measured.
    """
    drawn = [c for c in chapters if c.latency.lines]
    if not drawn:
        raise DataError("no times were measured", "run a model with --cache off")
    return _paneled(drawn, _percentiles)


def _paneled(chapters: Sequence[Chapter], draw: Callable[[Axes, Chapter], None]) -> Figure:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Labels come from users: a dollar sign in one is no formula.
    with mpl.rc_context({"text.parse_math": False, "font.size": 10, "svg.fonttype": "none"}):
        figure = Figure(figsize=(PANEL_WIDTH * 1.35, PANEL_HEIGHT * len(chapters)), layout="constrained")
        FigureCanvasAgg(figure)
        for place, chapter in enumerate(chapters):
            axes = figure.add_subplot(len(chapters), 1, place + 1)
            draw(axes, chapter)
            axes.set_title(chapter.section.title, color=INK, fontsize=11)
            axes.tick_params(colors=INK, length=3)
            axes.grid(visible=True, color=GRID, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            handles, labels = axes.get_legend_handles_labels()
            if handles:
                axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    return figure


def _columns(grid: Grid, prefix: str) -> list[int]:
    return [i for i, column in enumerate(grid.columns) if column.key.startswith(prefix)]


def _numbers(line: Line, columns: Sequence[int]) -> list[float]:
    values = (line.values[i] for i in columns)
    return [float(value) if isinstance(value, int | float) else np.nan for value in values]


def _bars(axes: Axes, grid: Grid) -> None:
    spent = _columns(grid, "spent at ")
    granted = _columns(grid, "granted at ")
    lines = grid.lines[:MOST_CURVES]
    names = [grid.columns[i].key.removeprefix("spent at ") for i in spent]
    width = 0.8 / max(len(lines), 1)
    for place, line in enumerate(lines):
        colour, name = COLOURS[place % len(COLOURS)], str(line.values[0])
        if not spent:
            axes.barh(place, _numbers(line, _columns(grid, "median"))[0], color=colour, label=name)
            continue
        at = np.arange(len(spent)) - 0.4 + width * (place + 0.5)
        hatch = "//" if place >= len(COLOURS) else None
        axes.bar(at, _numbers(line, spent), width * 0.9, color=colour, hatch=hatch, edgecolor="white", label=name)
        if granted:
            axes.plot(at, _numbers(line, granted), linestyle="none", marker="_", markersize=9, color=INK)
    if spent:
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel("Tokens per problem; dash: grant" if granted else "Tokens per problem", color=INK)
    else:
        axes.set_yticks([])
        axes.set_xlabel("Median grant, tokens", color=INK)


def _levels(axes: Axes, chapter: Chapter) -> None:
    grid = chapter.difficulty
    if grid is None:
        return
    columns = _columns(grid, "accuracy at ")
    dearest: dict[str, Line] = {str(line.values[0]): line for line in grid.lines}  # the largest budget comes last
    for place, (name, line) in enumerate(list(dearest.items())[:MOST_CURVES]):
        style = "--" if line.mark == "oracle" else "-"
        axes.plot([100 * v for v in _numbers(line, columns)], marker="os^DvPX"[place % 7], linestyle=style,
                  color=COLOURS[place % len(COLOURS)], label=name)  # fmt: skip
    axes.set_xticks(range(len(columns)), [grid.columns[i].key.removeprefix("accuracy at ") for i in columns])
    axes.set_ylabel("Accuracy %", color=INK)
    axes.set_xlabel("Difficulty" if chapter.difficulty_stated else "Problems by this run's own results", color=INK)


def _reliability(axes: Axes, chapter: Chapter) -> None:
    axes.plot([0, 100], [0, 100], color="#888888", linestyle=":", linewidth=1.2)
    place = 0
    for grid in (chapter.reliability.grid, chapter.reliability.fitted):
        found: dict[str, list[Line]] = {}
        for line in grid.lines:
            budget = line.values[1] if isinstance(line.values[1], int) else "when fitted"
            found.setdefault(f"{line.values[0]}, {budget}", []).append(line)
        at = [i for i, column in enumerate(grid.columns) if column.key in ("predicted", "observed")]
        for name, lines in found.items():
            if place >= MOST_CURVES:
                break
            points = 100 * np.asarray([_numbers(line, at) for line in lines])
            axes.plot(*points.T, marker="os^DvPX"[place % 7], color=COLOURS[place % len(COLOURS)], label=name)
            place += 1
    axes.set_xlabel("Predicted score %", color=INK)
    axes.set_ylabel("Observed score %", color=INK)


def _percentiles(axes: Axes, chapter: Chapter) -> None:
    grid = chapter.latency
    columns = [i for i in _columns(grid, "p") if grid.columns[i].kind == "seconds"]
    names = [f"{line.values[0]}, {line.values[1]}" for line in grid.lines[: 2 * MOST_CURVES]]
    for i, column in enumerate(columns):
        values = [_numbers(line, [column])[0] for line in grid.lines[: 2 * MOST_CURVES]]
        axes.plot(values, range(len(values)), linestyle="none", marker="os^D"[i % 4], color=COLOURS[i % len(COLOURS)],
                  label=grid.columns[column].key.removesuffix("_s"))  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("Seconds per problem (log scale)", color=INK)
