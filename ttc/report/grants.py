"""Who was granted what: grants and spending by difficulty, and what the predictor behind them is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ttc.report.breakdown import Levels, named, series_order, split_tokens
from ttc.report.grid import Column, Grid, Line, Value
from ttc.report.labels import plain
from ttc.report.leaderboard import Row, Section
from ttc.report.outcomes import Outcomes
from ttc.report.pictures import KINDS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Bars = tuple["NDArray[np.float64]", "NDArray[np.float64]"]
"""Mean tokens a problem of each group, (groups, 4) as in `split_tokens`, and its mean grant, (groups,)."""


def dearest(section: Section) -> list[Row]:
    """Return each series' row at its largest budget, best series first."""
    largest: dict[str, Row] = {}
    for row in series_order(section):
        if row.accuracy is not None:
            largest[row.series] = row
    return list(largest.values())


def level_bars(outcomes: Outcomes, cell: int, groups: Levels) -> Bars:
    """Return where a cell's tokens went by difficulty."""
    import numpy as np

    parts, grant = split_tokens(outcomes, cell), outcomes.grant[:, cell]
    bars = np.asarray([parts[rows].mean(axis=0) for rows in groups.members])
    return bars, np.asarray([_mean(grant[rows]) for rows in groups.members])


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values == values]
    return float(known.mean()) if known.size else math.nan


def allocation_grid(section: Section, outcomes: Outcomes, groups: Levels | None, allocation: pa.Table) -> Grid:
    """Return what each series granted and spent at its largest budget, by difficulty where the problems have one."""
    import numpy as np

    names = groups.names if groups else ()
    columns = [
        Column("series", "Strategy"), Column("budget", "Budget", "count"), Column("smallest", "Smallest grant", "count"),
        Column("median", "Median grant", "count"), Column("largest", "Largest grant", "count"),
        Column("price", "Shadow price a token", "number"),
        *(Column(f"granted at {name}", f"Granted, {name}", "count") for name in names),
        *(Column(f"spent at {name}", f"Spent, {name}", "count") for name in names),
    ]  # fmt: skip
    prices: dict[str, float] = {}
    for entry in allocation.select(["cell", "price"]).to_pylist():
        if entry["price"] is not None:
            prices.setdefault(entry["cell"], entry["price"])
    lines = []
    for row in dearest(section):
        column = outcomes.column(row.cell)
        grant = outcomes.grant[:, column]
        known = grant[~np.isnan(grant)]
        if not known.size:
            continue
        values: list[Value] = [float(part) for part in np.percentile(known, (0, 50, 100))]
        values.append(prices.get(row.cell))
        if groups is not None:
            bars, means = level_bars(outcomes, column, groups)
            equal = known.min() == known.max()  # then it stands before it
            values += [None if equal or math.isnan(mean) else float(mean) for mean in means]
            values += [float(total) for total in bars.sum(axis=1)]
        lines.append(Line(row.cell, (named(row, section), row.budget, *values), "oracle" if row.oracle else ""))
    return Grid("allocation", section.title, tuple(columns), tuple(lines)).without_empty_columns()


def bars_grid(section: Section, name: str, drawn: Sequence[tuple[Row, Bars]], levels: Sequence[str]) -> Grid:
    """Return a picture's bars as a table, for the file of numbers."""
    columns = (
        Column("group", "Group"),
        *(Column(kind, kind, "number") for kind in KINDS),
        Column("grant", "grant", "number"),
    )
    lines = []
    for row, (bars, grants) in drawn:
        for place, (bar, grant) in enumerate(zip(bars, grants, strict=True)):
            group = levels[place] if levels else str(place + 1)
            mean = None if math.isnan(grant) else float(grant)
            lines.append(Line(f"{row.cell} {group}", (group, *(float(value) for value in bar), mean)))
    return Grid(name, section.title, columns, tuple(lines))


def predictor_grid(section: Section, predictor: Mapping[str, Any]) -> Grid:
    """Return the predictor's own reliability, measured when it was fitted, for the section's model.

    `reliability` is a list of bins: bin_low, bin_high, mean_predicted, mean_actual, n, model, strategy. A bin without
    numbers is left out.
    """
    columns = (
        Column("series", "Strategy"), Column("bin", "Predictions from, to"), Column("n", "Predictions", "count"),
        Column("predicted", "Predicted %", "percent"), Column("observed", "Observed %", "percent"),
    )  # fmt: skip
    lines = []
    for entry in predictor.get("reliability") or ():
        if not isinstance(entry, Mapping) or entry.get("model") not in (None, section.model):
            continue
        numbers = [entry.get(key) for key in ("bin_low", "bin_high", "n", "mean_predicted", "mean_actual")]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            continue
        low, high, n, predicted, observed = (float(str(number)) for number in numbers)
        if n > 0:
            name = plain(entry.get("strategy") or "all strategies")
            bin_text = f"{100 * low:.0f} to {100 * high:.0f} %"
            lines.append(Line(f"{name} {bin_text}", (name, bin_text, n, predicted, observed)))
    return Grid("predictor", section.title, columns, tuple(lines))
