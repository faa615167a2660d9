"""What the page says of one task and model: the tables and pictures of every chapter below the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttc.report import breakdown
from ttc.report.aggregate import Tables
from ttc.report.chart import curves_grid
from ttc.report.costs import Rates
from ttc.report.examples import ProblemView, views
from ttc.report.grants import Bars, allocation_grid, bars_grid, dearest, level_bars, predictor_grid
from ttc.report.grid import Grid
from ttc.report.leaderboard import Row, Section
from ttc.report.measures import measures_grid
from ttc.report.outcomes import Outcomes
from ttc.report.pictures import Picture, ceiling, reliability_picture, spending_picture
from ttc.store.tables import rows_of

MOST_PICTURES = 12
"""Allocation pictures of one task and model; further strategies are in the table below them."""


@dataclass(frozen=True, slots=True)
class Spending:
    """Where the tokens went: two rows of pictures on one axis, and the numbers behind them."""

    grid: Grid
    pictures: Sequence[Picture]
    """Problems from cheapest to dearest."""
    level_pictures: Sequence[Picture]
    """Problems by difficulty; none where they have no levels."""
    bars: Sequence[Grid]
    """The pictures' own numbers; no table of the page."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predictions against what came: the run's own, and the predictor's when it was fitted."""

    grid: Grid
    pictures: Sequence[Picture]
    fitted: Grid
    fitted_pictures: Sequence[Picture]
    predictor: str
    """What the predictor is called."""

    def __bool__(self) -> bool:
        return bool(self.grid.lines or self.fitted.lines)


@dataclass(frozen=True, slots=True)
class Chapter:
    """What the page says of one task and model below the leaderboard."""

    section: Section
    costs: Grid
    measures: Grid
    difficulty: Grid | None
    difficulty_stated: bool
    spending: Spending
    allocation: Grid
    reliability: Reliability
    sharing: Grid
    failures: Grid
    latency: Grid
    problems: Sequence[ProblemView]

    def grids(self) -> list[Grid]:
        """Return every table of the chapter, those behind its pictures too."""
        own = [self.costs, self.measures, self.spending.grid, *self.spending.bars, self.allocation, self.reliability.grid,
               self.reliability.fitted, self.sharing, self.failures, self.latency]  # fmt: skip
        return [*([self.difficulty] if self.difficulty else []), *own, *(view.grid for view in self.problems)]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beside the outcomes: all tables, the rates of the axes, what the manifest says of the predictor."""

    tables: Tables
    rates: Rates
    predictor: Mapping[str, Any]


def chapter_of(section: Section, outcomes: Outcomes, known: Known, places: int) -> Chapter:
    """Return a section's chapter, with at most `places` problems in full."""
    tables = known.tables
    stated = {row["problem_id"]: row["difficulty"] for row in rows_of(tables.problems)
              if row["task"] == section.task and row["difficulty"] is not None}  # fmt: skip
    groups = breakdown.levels(outcomes, stated)
    cells = {cell["cell"]: cell for cell in outcomes.cells}
    return Chapter(
        section=section,
        costs=curves_grid(section, cells, known.rates),
        measures=measures_grid(section, outcomes, tables.incomplete, stated),
        difficulty=None if groups is None else breakdown.difficulty_grid(section, outcomes, groups),
        difficulty_stated=groups is not None and groups.stated,
        spending=_spending(section, outcomes, groups),
        allocation=allocation_grid(section, outcomes, groups, tables.allocation),
        reliability=_reliability(section, outcomes, known),
        sharing=breakdown.sharing_grid(section, outcomes, tables.attention),
        failures=breakdown.failures_grid(section, outcomes),
        latency=breakdown.latency_grid(section, outcomes),
        problems=views(section, outcomes, tables, places),
    )


def _spending(section: Section, outcomes: Outcomes, groups: breakdown.Levels | None) -> Spending:
    """Draw each series at its largest budget, all on one axis."""
    rows = dearest(section)[:MOST_PICTURES]
    columns = [outcomes.column(row.cell) for row in rows]
    ranked = [breakdown.spending_bars(outcomes, column) for column in columns]
    leveled = [] if groups is None else [level_bars(outcomes, column, groups) for column in columns]
    names = () if groups is None else groups.names
    return Spending(
        grid=breakdown.spending_grid(section, outcomes),
        pictures=_drawn(section, rows, ranked, ()),
        level_pictures=_drawn(section, rows, leveled, names),
        bars=[
            bars_grid(section, name, list(zip(rows, bars, strict=True)), levels)
            for name, bars, levels in (("spending_groups", ranked, ()), ("spending_levels", leveled, names))
            if bars
        ],
    )


def _drawn(section: Section, rows: Sequence[Row], bars: Sequence[Bars], levels: Sequence[str]) -> list[Picture]:
    if not bars:
        return []
    top = ceiling(
        max(max(float(parts.sum(axis=1).max()), float(np.nan_to_num(grants).max())) for parts, grants in bars)
    )
    return [
        spending_picture(_pictured(row, section), *drawn, top, levels) for row, drawn in zip(rows, bars, strict=True)
    ]


def _reliability(section: Section, outcomes: Outcomes, known: Known) -> Reliability:
    grid = breakdown.reliability_grid(section, outcomes, known.tables.allocation)
    fitted = predictor_grid(section, known.predictor)
    rows = {row.cell: row for row in section.rows}
    cells = list(dict.fromkeys(line.item for line in grid.lines))[:MOST_PICTURES]
    strategies = list(dict.fromkeys(str(line.values[0]) for line in fitted.lines))[:MOST_PICTURES]
    return Reliability(
        grid=grid,
        pictures=[
            reliability_picture(_pictured(rows[cell], section), [line for line in grid.lines if line.item == cell])
            for cell in cells
        ],
        fitted=fitted,
        fitted_pictures=[
            reliability_picture(name, [line for line in fitted.lines if line.values[0] == name]) for name in strategies
        ],
        predictor=str(known.predictor.get("label") or "The predictor"),
    )


def _pictured(row: Row, section: Section) -> str:
    return f"{breakdown.named(row, section)}, budget {row.budget:,}"
