"""Build a run's report: tables, picture, leaderboard, page, and the page's numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ttc.core.errors import DataError, cannot_write
from ttc.report.aggregate import Tables, load_tables
from ttc.report.chapter import Known, chapter_of
from ttc.report.chart import claims_grid, outcomes_data, payload
from ttc.report.costs import Rates, TokenPrice, rates_of, with_options
from ttc.report.examples import MOST_PROBLEMS
from ttc.report.figures import panels, pareto_figure, png_bytes, svg_text
from ttc.report.grid import Grid
from ttc.report.html import Page, provenance, render
from ttc.report.labels import plain
from ttc.report.leaderboard import Section, csv_text, headline, leaderboard, markdown
from ttc.report.outcomes import by_subject
from ttc.store.rundir import RunDir
from ttc.store.tables import rows_of, write_table


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


@dataclass(frozen=True, slots=True)
class Options:
    """What a reader may choose about a report."""

    baseline: str | None = None
    """What everything is compared with (`leaderboard`)."""
    hardware: str | None = None
    """The accelerator of the equivalent FLOPs, a key of `ttc.metrics.compute.HARDWARE`."""
    prices: Mapping[str, TokenPrice] = field(default_factory=dict)
    """By model, `""` for any; without them the price that the run recorded."""


def build_report(run: RunDir, out: Path | None = None, rebuild: bool = False, options: Options | None = None) -> Report:
    """Write `index.html`, `pareto.svg`, `pareto.png`, `leaderboard.md`, `leaderboard.csv` and `numbers.parquet`.

    The tables are made from the journal where they are missing or older, always with `rebuild`. `out` is the
    report's own folder, `<run>/report` without it.

    Raises:
        DataError: the run has no finished problem.
        ConfigError: nothing is called as the options say.
        StorageError: something cannot be read or written.
    """
    return write_report(content_of(run, rebuild=rebuild), run.report if out is None else out, options)


def content_of(run: RunDir, *, rebuild: bool = False) -> Content:
    """Return what a run's report is made of. Raises as `build_report`."""
    tables = load_tables(run, rebuild=rebuild)
    if tables.cells.num_rows == 0:
        raise DataError(f"{run.path} holds no finished problem", "run it first: ttc sweep")
    manifest, environment = run.read_manifest(), _environment(run)
    notes = notes_of(manifest, tables)
    title = manifest.get("label")
    facts = provenance(manifest, environment, tables)
    predictor = manifest.get("predictor")
    return Content(
        tables, tuple(notes), facts, None if title is None else str(title), manifest.get("limit") is not None,
        replace(rates_of(manifest), attention=tables.attention), predictor if isinstance(predictor, Mapping) else {},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Content:
    """What a report is made of: the tables of one run or of several that may stand side by side."""

    tables: Tables
    notes: tuple[str, ...]
    facts: Sequence[tuple[str, str]]
    title: str | None = None
    limited: bool = False
    rates: Rates = field(default_factory=Rates)
    predictor: Mapping[str, Any] = field(default_factory=dict)
    """What the run's manifest says of its predictor: label, fingerprint, reliability."""


def write_report(content: Content, folder: Path, options: Options | None = None) -> Report:
    """Write a report's files into a folder.

    Raises:
        ConfigError: nothing is called as the options say.
        StorageError: something cannot be written.
    """
    tables, notes, options = content.tables, content.notes, options or Options()
    rates = with_options(content.rates, options.hardware, options.prices)
    sections = leaderboard(tables, options.baseline)
    figure = pareto_figure(tables.cells, tables.incomplete, limited=content.limited)
    svg = svg_text(figure)
    outcomes = by_subject(tables)
    cells = {cell["cell"]: cell for cell in rows_of(tables.cells)}
    known, places = Known(tables, rates, content.predictor), MOST_PROBLEMS // len(sections)
    chapters = [chapter_of(section, outcomes[section.task, section.model], known, places) for section in sections]
    title = plain(content.title or "; ".join(section.title for section in sections))
    chart = payload(sections, panels(tables.cells, tables.incomplete), cells, rates)
    chart["problems"] = [outcomes_data(chapter.section, chapter.problems) for chapter in chapters]
    page = Page(title, notes, content.limited, svg, [*content.facts, *rates.facts()], chapters, chart)
    files = {
        "pareto.svg": svg.encode(),
        "pareto.png": png_bytes(figure),
        "leaderboard.md": markdown(sections, notes).encode(),
        "leaderboard.csv": csv_text(sections).encode(),
        "index.html": render(page).encode(),
    }
    for name, bytes_ in files.items():
        _write(folder / name, bytes_)
    grids = [grid for section in sections for grid in (section.grid(), claims_grid(section))]
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
        notes.append(
            f"Failed and made again: {tables.retried:,} attempts. Totals hold what they spent, records do not."
        )
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
        raise cannot_write(path, error) from error
