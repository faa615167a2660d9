"""Build a run's report: tables, picture, leaderboard, page, and the page's numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttc.core.errors import DataError, StorageError
from ttc.report import breakdown
from ttc.report.aggregate import Tables, load_tables
from ttc.report.chart import claims_grid, curves_grid, payload
from ttc.report.examples import MOST_PROBLEMS, views
from ttc.report.figures import panels, pareto_figure, png_bytes, svg_text
from ttc.report.grid import Grid
from ttc.report.html import Chapter, Page, provenance, render
from ttc.report.labels import plain
from ttc.report.leaderboard import Row, Section, csv_text, headline, leaderboard, markdown
from ttc.report.outcomes import Outcomes, by_subject
from ttc.report.pictures import Picture, ceiling, reliability_picture, spending_picture
from ttc.store.rundir import RunDir
from ttc.store.tables import rows_of, write_table

MOST_PICTURES = 12
"""Allocation pictures of one task and model; further strategies are in the table below them."""


@dataclass(frozen=True, slots=True)
class Report:
    """Where the report's files lie, and what a terminal may show of it."""

    html: Path
    svg: Path
    png: Path
    markdown: Path
    csv: Path
    numbers: Path
    """Every number of the page: table, subject, item, name, value, low, high."""
    sections: tuple[Section, ...]
    headlines: tuple[str, ...]
    notes: tuple[str, ...]
    """Warnings about the numbers as a whole."""


def build_report(run: RunDir, out: Path | None = None, rebuild: bool = False, baseline: str | None = None) -> Report:
    """Write `index.html`, `pareto.svg`, `pareto.png`, `leaderboard.md`, `leaderboard.csv` and `numbers.parquet`.

    The tables are made from the journal where they are missing or older, always with `rebuild`. `out` is the
    report's own folder, `<run>/report` without it. `baseline` is what everything is compared with (`leaderboard`).

    Raises:
        DataError: the run has no finished problem.
        ConfigError: nothing is called `baseline`.
        StorageError: something cannot be read or written.
    """
    tables = load_tables(run, rebuild=rebuild)
    if tables.cells.num_rows == 0:
        raise DataError(f"{run.path} holds no finished problem", "run it first: ttc sweep")
    manifest, environment = run.read_manifest(), _environment(run)
    notes = notes_of(manifest, tables)
    title = manifest.get("label")
    facts = provenance(manifest, environment, tables)
    content = Content(tables, tuple(notes), facts, None if title is None else str(title),
                      manifest.get("limit") is not None)  # fmt: skip
    return write_report(content, run.report if out is None else out, baseline)


@dataclass(frozen=True, slots=True)
class Content:
    """What a report is made of: the tables of one run or of several that may stand side by side."""

    tables: Tables
    notes: tuple[str, ...]
    facts: Sequence[tuple[str, str]]
    title: str | None = None
    limited: bool = False


def write_report(content: Content, folder: Path, baseline: str | None = None) -> Report:
    """Write a report's files into a folder.

    Raises:
        ConfigError: nothing is called `baseline`.
        StorageError: something cannot be written.
    """
    tables, notes = content.tables, content.notes
    sections = leaderboard(tables, baseline)
    figure = pareto_figure(tables.cells, tables.incomplete, limited=content.limited)
    svg = svg_text(figure)
    outcomes = by_subject(tables)
    chapters = [_chapter(section, outcomes[section.task, section.model], tables, MOST_PROBLEMS // len(sections))
                for section in sections]  # fmt: skip
    cells = {cell["cell"]: cell for cell in rows_of(tables.cells)}
    title = plain(content.title or "; ".join(section.title for section in sections))
    chart = payload(sections, panels(tables.cells, tables.incomplete), cells)
    page = Page(title, notes, content.limited, svg, content.facts, chapters, chart)
    files = {
        "pareto.svg": svg.encode(),
        "pareto.png": png_bytes(figure),
        "leaderboard.md": markdown(sections, notes).encode(),
        "leaderboard.csv": csv_text(sections).encode(),
        "index.html": render(page).encode(),
    }
    for name, bytes_ in files.items():
        _write(folder / name, bytes_)
    grids = [
        grid for section in sections for grid in (section.grid(), claims_grid(section), curves_grid(section, cells))
    ]
    write_table(_numbers([*grids, *(grid for chapter in chapters for grid in chapter.grids())]),
                folder / "numbers.parquet")  # fmt: skip
    return Report(
        html=folder / "index.html",
        svg=folder / "pareto.svg",
        png=folder / "pareto.png",
        markdown=folder / "leaderboard.md",
        csv=folder / "leaderboard.csv",
        numbers=folder / "numbers.parquet",
        sections=tuple(sections),
        headlines=tuple(headline(section) for section in sections),
        notes=notes,
    )


def _chapter(section: Section, outcomes: Outcomes, tables: Tables, places: int) -> Chapter:
    stated = {row["problem_id"]: row["difficulty"] for row in rows_of(tables.problems)
              if row["task"] == section.task and row["difficulty"] is not None}  # fmt: skip
    groups = breakdown.levels(outcomes, stated)
    reliability = breakdown.reliability_grid(section, outcomes, tables.allocation)
    predicted = list(dict.fromkeys(line.item for line in reliability.lines))
    rows = {row.cell: row for row in section.rows}
    return Chapter(
        section=section,
        difficulty=None if groups is None else breakdown.difficulty_grid(section, outcomes, groups),
        difficulty_stated=groups is not None and groups.stated,
        spending=breakdown.spending_grid(section, outcomes),
        spending_pictures=_spending(section, outcomes),
        reliability=reliability,
        reliability_pictures=[
            reliability_picture(
                _pictured(rows[cell], section), [line for line in reliability.lines if line.item == cell]
            )
            for cell in predicted[:MOST_PICTURES]
        ],
        sharing=breakdown.sharing_grid(section, outcomes),
        failures=breakdown.failures_grid(section, outcomes),
        latency=breakdown.latency_grid(section, outcomes),
        problems=views(section, outcomes, tables, places),
    )


def _spending(section: Section, outcomes: Outcomes) -> list[Picture]:
    """Draw each series at its largest budget, all on one axis."""
    largest: dict[str, Row] = {}
    for row in breakdown.series_order(section):
        if row.accuracy is not None:
            largest[row.series] = row
    drawn = [(row, *breakdown.spending_bars(outcomes, outcomes.column(row.cell)))
             for row in list(largest.values())[:MOST_PICTURES]]  # fmt: skip
    top = ceiling(max((max(float(bars.sum(axis=1).max()), float(np.nan_to_num(grants).max()))
                       for _, bars, grants in drawn), default=1.0))  # fmt: skip
    return [spending_picture(_pictured(row, section), bars, grants, top) for row, bars, grants in drawn]


def _pictured(row: Row, section: Section) -> str:
    return f"{breakdown.named(row, section)}, budget {row.budget:,}"


def _numbers(grids: Iterable[Grid]) -> Any:
    import pyarrow as pa

    fields = [(name, pa.string()) for name in ("table", "subject", "item", "name")]
    fields += [(name, pa.float64()) for name in ("value", "low", "high")]
    return pa.Table.from_pylist([row for grid in grids for row in grid.numbers()], schema=pa.schema(fields))


def notes_of(manifest: Mapping[str, Any], tables: Tables) -> list[str]:
    """Return the warnings about a run's numbers as a whole."""
    notes = []
    if manifest.get("limit") is not None:
        notes.append(f"Limited run: only {plain(manifest['limit'])} problems were asked for. Not a benchmark result.")
    unfinished = len(tables.incomplete) + tables.empty_cells
    if unfinished:
        cells = tables.cells.num_rows + tables.empty_cells
        notes.append(f"Unfinished run: {unfinished} of {cells} started cells are incomplete, and may still change.")
    errors = sum(tables.cells["n_errors"].to_pylist())
    if errors:
        total = tables.records.num_rows
        notes.append(f"Failures: {errors:,} of {total:,} records are errors, and are left out of the accuracies.")
    if tables.retried:
        notes.append(f"Failed and made again: {tables.retried:,} attempts. Totals hold what they spent, records do not.")
    if tables.lost:
        notes.append(f"Journal lines that are damaged or belong to no known cell, and are left out: {tables.lost:,}.")
    return notes


def _environment(run: RunDir) -> dict[str, Any]:
    try:
        found = json.loads((run.path / "env.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Provenance may be missing; the numbers stand without it, and the page then says less.
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
