"""Build a run's report: tables, picture, leaderboard, page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttc.core.errors import DataError, StorageError
from ttc.report.aggregate import Tables, load_tables
from ttc.report.figures import pareto_figure, png_bytes, svg_text
from ttc.report.html import Page, provenance, render
from ttc.report.labels import plain
from ttc.report.leaderboard import Section, csv_text, headline, leaderboard, markdown
from ttc.store.rundir import RunDir


@dataclass(frozen=True, slots=True)
class Report:
    """Where the report's files lie, and what a terminal may show of it."""

    html: Path
    svg: Path
    png: Path
    markdown: Path
    csv: Path
    sections: tuple[Section, ...]
    headlines: tuple[str, ...]
    notes: tuple[str, ...]
    """Warnings about the numbers as a whole."""


def build_report(run: RunDir, out: Path | None = None, rebuild: bool = False) -> Report:
    """Write `index.html`, `pareto.svg`, `pareto.png`, `leaderboard.md` and `leaderboard.csv`.

    The tables are made from the journal where they are missing or older, always with `rebuild`. `out` is the
    report's own folder, `<run>/report` without it.

    Raises:
        DataError: the run has no finished problem.
        StorageError: something cannot be read or written.
    """
    tables = load_tables(run, rebuild=rebuild)
    if tables.cells.num_rows == 0:
        raise DataError(f"{run.path} holds no finished problem", "run it first: ttc sweep")
    manifest, environment = run.read_manifest(), _environment(run)
    notes = _notes(manifest, tables)
    sections = leaderboard(tables)
    figure = pareto_figure(tables.cells, tables.incomplete)
    svg = svg_text(figure)
    title = plain(manifest.get("label") or "; ".join(section.title for section in sections))
    page = Page(title, notes, svg, provenance(manifest, environment, tables))
    folder = run.report if out is None else out
    contents = {
        "pareto.svg": svg.encode(),
        "pareto.png": png_bytes(figure),
        "leaderboard.md": markdown(sections, notes).encode(),
        "leaderboard.csv": csv_text(sections).encode(),
        "index.html": render(page, sections, tables).encode(),
    }
    for name, content in contents.items():
        _write(folder / name, content)
    return Report(
        html=folder / "index.html",
        svg=folder / "pareto.svg",
        png=folder / "pareto.png",
        markdown=folder / "leaderboard.md",
        csv=folder / "leaderboard.csv",
        sections=tuple(sections),
        headlines=tuple(headline(section) for section in sections),
        notes=tuple(notes),
    )


def _notes(manifest: Mapping[str, Any], tables: Tables) -> list[str]:
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
