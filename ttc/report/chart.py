"""What the page's script draws, as JSON that no text can break out of: rows of numbers, every text once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ttc.report.breakdown import named, series_order
from ttc.report.costs import Rates, label, per_problem
from ttc.report.examples import OUTCOMES, ProblemView
from ttc.report.figures import COLOURS, MARKERS, Panel, curve_styles
from ttc.report.grid import Column, Grid, Line, show
from ttc.report.labels import plain
from ttc.report.leaderboard import Row, Section, verdict
from ttc.report.outcomes import Cell


class Words:
    """Texts that are written once and named by their number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Return a text's number."""
        return self._numbers.setdefault(text, len(self._numbers))

    def texts(self) -> list[str]:
        """Return the texts in the order of their numbers."""
        return list(self._numbers)


def axes_of(cells: Iterable[Cell], rates: Rates) -> list[str]:
    """Return the costs that any of the cells has above 0, in their order."""
    found = [per_problem(cell, rates) for cell in cells]
    return [key for key in found[0] if any(one.get(key, 0) > 0 for one in found)] if found else []


def curves_grid(section: Section, cells: Mapping[str, Cell], rates: Rates) -> Grid:
    """Return the chart's points as a table: accuracy and every cost of every cell."""
    axes = axes_of((cells[row.cell] for row in section.rows), rates)
    columns = (
        Column("series", "Strategy"), Column("budget", "Budget", "count"), Column("accuracy", "Accuracy %", "percent"),
        Column("n", "Problems", "count"), *(Column(key, label(key), "number") for key in axes),
    )  # fmt: skip
    lines = []
    for row in section.rows:
        costs = per_problem(cells[row.cell], rates)
        values = (row.series, row.budget, row.accuracy, row.n_problems, *(costs.get(key) for key in axes))
        lines.append(Line(row.cell, values, "oracle" if row.oracle else ""))
    return Grid("curves", section.title, columns, tuple(lines))


POINT = ("y", "low", "high", "wilson", "n", "budget", "unanswered", "errors", "complete")
"""What a point's row begins with; its costs follow, in the order of `costs`."""


def payload(
    sections: Sequence[Section], content: Sequence[Panel], cells: Mapping[str, Cell], rates: Rates
) -> dict[str, Any]:
    """Return the script's data: panels of curves, the costs they have, and every baseline's claims."""
    styles = curve_styles(content)
    complete = {row.cell: row.complete for section in sections for row in section.rows}
    drawn = [cells[point.cell] for panel in content for curve in panel.curves for point in curve.points]
    axes = axes_of(drawn, rates)
    found: list[dict[str, Any]] = []
    for panel in content:
        several = len({curve.seed for curve in panel.curves}) > 1
        curves = []
        for curve in panel.curves:
            colour, marker = styles[curve.label]
            members = [cells[point.cell] for point in curve.points]
            curves.append({
                "name": curve.label + (f", seed {curve.seed}" if several else ""), "oracle": curve.oracle,
                "colour": COLOURS.index(colour), "marker": MARKERS.index(marker), "seed": curve.seed,
                "draws": members[0]["draws"], "settings": _settings(members[0]),
                "points": [_point(cell, complete[cell["cell"]], axes, rates) for cell in members],
            })  # fmt: skip
        found.append({"title": f"{plain(panel.task)}, {plain(panel.model)}", "curves": curves})
    words = Words()
    claims = [_claims(section, words) for section in sections]
    return {"costs": [[key, label(key)] for key in axes], "point": POINT, "panels": found, "claims": claims,
            "words": words.texts()}  # fmt: skip


def _point(cell: Cell, complete: bool, axes: Sequence[str], rates: Rates) -> list[float | None]:
    costs = per_problem(cell, rates)
    return [
        *(_rounded(cell[key]) for key in ("accuracy", "ci_low", "ci_high")), int(cell["ci_method"] == "wilson"),
        cell["n_problems"], cell["budget"], cell["n_unanswered"], cell["n_errors"], int(complete),
        *(_rounded(value) if (value := costs.get(key)) else None for key in axes),
    ]  # fmt: skip


def _settings(cell: Cell) -> str:
    return ", ".join(
        plain(f"{key} {_short(value)}")
        for name in ("strategy_params", "allocator_params")
        for key, value in _parsed(cell[name]).items()
        if value is not None
    )


def _claims(section: Section, words: Words) -> dict[str, Any]:
    """Return what the table shows against every baseline, a row a cell in the table's order.

    A row is the difference and its interval in tenths of points, then the texts of q and of the verdict; where nothing
    is claimed it is the verdict alone.
    """
    return {
        "cells": [row.cell for row in section.rows],
        "by": {
            series: [_claim(section, row, series, words) for row in section.rows] for series in section.claims
        },
    }  # fmt: skip


def _claim(section: Section, row: Row, series: str, words: Words) -> int | list[int]:
    claim = section.claims[series].get(row.cell)
    if row.series == series:
        return words.number("baseline")
    if claim is None:
        return words.number("no claim" if row.complete else "incomplete")
    shown = show("points", claim.points)
    tenths = [int(part.strip("[],").replace(".", "")) for part in shown.split()]
    return [*tenths, words.number(show("number", claim.q)), words.number(verdict(row, claim))]


def claims_grid(section: Section) -> Grid:
    """Return every claim against every baseline, for the file of numbers; the page shows one baseline at a time."""
    columns = (Column("difference", "Difference", "points"), Column("p", "p", "number"), Column("q", "q", "number"),
               Column("differing", "Differing problems", "count"))  # fmt: skip
    lines = [
        Line(f"{cell} against {series}", (claim.points, claim.difference.p_value, claim.q, claim.discordant))
        for series, by_cell in section.claims.items()
        for cell, claim in by_cell.items()
    ]
    return Grid("claims", section.title, columns, tuple(lines))


def outcomes_data(section: Section, views: Sequence[ProblemView]) -> dict[str, Any]:
    """Return what every cell did with the shown problems: for each problem a list a column, a place a cell.

    Columns that are all null are left out. `outcome` holds numbers of `outcomes`, -1 where a cell has no record, `answer`
    those of the problem's own `answers`, -1 where there is none.
    """
    rows = series_order(section)
    return {
        "names": [named(row, section) for row in rows],
        "budgets": [row.budget for row in rows],
        "outcomes": OUTCOMES,
        "problems": [_outcomes(view, [row.cell for row in rows]) for view in views],
    }


def _outcomes(view: ProblemView, cells: Sequence[str]) -> dict[str, Any]:
    answers = Words()
    by_cell = {line.item: line.values for line in view.grid.lines}
    columns: dict[str, list[Any]] = {key: [] for key in ("outcome", "score", "answer", "tokens", "grant")}
    for cell in cells:
        _, _, outcome, score, answer, tokens, grant = by_cell.get(cell, (None,) * 7)
        columns["outcome"].append(-1 if outcome is None else OUTCOMES.index(str(outcome)))
        partial = isinstance(score, float) and score not in {0.0, 1.0}
        columns["score"].append(round(score, 3) if isinstance(score, float) and partial else None)
        columns["answer"].append(-1 if answer is None else answers.number(str(answer)))
        columns["tokens"].append(round(tokens) if isinstance(tokens, float | int) else None)
        columns["grant"].append(grant)
    kept = {key: values for key, values in columns.items() if any(value is not None for value in values)}
    return {**kept, "answers": answers.texts()}


def _parsed(params: str) -> Mapping[str, Any]:
    try:
        value = json.loads(params or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else text[:79] + "\N{HORIZONTAL ELLIPSIS}"


def _rounded(value: float | None) -> float | int | None:
    """Return a number with five digits, as an int where it is a whole one: it is shorter."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e15 else rounded


def script_json(value: Any) -> str:
    """Return JSON that may stand in a script element: nothing in it can end the element or start another.

    The marks of HTML and the two line separators of JavaScript are written as escapes, which JSON reads back.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text
