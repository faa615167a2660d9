"""A run as Python users hold it: its tables, its leaderboard, its pictures.

run = ttc.sweep({...})            # or ttc.RunResult.open("results/...")
run.to_pandas()                   # one row a cell
run.plot_pareto("flops").savefig("pareto.pdf")
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ttc.core.errors import ConfigError, DataError, did_you_mean
from ttc.store.rundir import RunDir

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure

    from ttc.report.build import Content, Options, Report
    from ttc.report.chapter import Chapter
    from ttc.report.leaderboard import Section

Table = Literal["cells", "records", "candidates", "allocation", "problems", "leaderboard"]
TABLES: tuple[Table, ...] = ("cells", "records", "candidates", "allocation", "problems", "leaderboard")


@dataclass(frozen=True)
class RunResult:
    """A finished run, or one that ended early: whatever it holds. Tables are read when they are first asked for."""

    folder: RunDir

    @classmethod
    def open(cls, path: Path | str) -> RunResult:
        """Return the run in a folder. Raises DataError where there is none."""
        return cls(RunDir.existing(Path(path)))

    def __repr__(self) -> str:
        return f"RunResult({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """Return the run's folder."""
        return self.folder.path

    @property
    def manifest(self) -> dict[str, Any]:
        """Return what was run: command, models, sources, seed."""
        return self.folder.read_manifest()

    @cached_property
    def _content(self) -> Content:
        from ttc.report.build import content_of

        return content_of(self.folder)

    @property
    def cells(self) -> pa.Table:
        """Return one row a cell, as in `cells.parquet`. Raises DataError where nothing is finished."""
        return self._content.tables.cells

    @property
    def records(self) -> pa.Table:
        """Return one row a cell and problem, as in `records.parquet`."""
        return self._content.tables.records

    @property
    def candidates(self) -> pa.Table:
        """Return one row a sample, with its text where it is stored: read anew at each call, and may be large."""
        return self._content.tables.candidates.whole()

    @property
    def allocation(self) -> pa.Table:
        """Return what allocators were told of each problem; empty where they were told nothing."""
        return self._content.tables.allocation

    @property
    def problems(self) -> pa.Table:
        """Return the problems with their stated difficulty and, where they may be stored, their texts."""
        return self._content.tables.problems

    @cached_property
    def leaderboard(self) -> list[Section]:
        """Return the rows of every task and model, best first, with claims against the usual baseline."""
        return self.leaderboard_against(None)

    def leaderboard_against(self, baseline: str | None) -> list[Section]:
        """Return the leaderboard against a baseline: a strategy, or STRATEGY/ALLOCATOR.

        Raises:
            ConfigError: nothing is called so.
        """
        from ttc.report.leaderboard import leaderboard

        return leaderboard(self._content.tables, baseline)

    def to_pandas(self, table: Table = "cells") -> pd.DataFrame:
        """Return a table as a data frame; `leaderboard` is what `leaderboard.csv` holds.

        Raises:
            ConfigError: there is no such table, or pandas is not installed.
        """
        if table not in TABLES:
            raise ConfigError(f"a run has no table {table!r}", did_you_mean(table, TABLES))
        try:
            import pandas as pd
        except ImportError as error:
            raise ConfigError("pandas is not installed", "pip install 'ttc-toolkit[notebook]'") from error
        if table == "leaderboard":
            from io import StringIO

            from ttc.report.leaderboard import csv_text

            return pd.read_csv(StringIO(csv_text(self.leaderboard)))
        return getattr(self, table).to_pandas()

    def report(self, out: Path | None = None, options: Options | None = None) -> Report:
        """Write the report's files anew, into the run's own folder or into `out`, and return where they lie.

        Raises:
            ConfigError: nothing is called as the options say. StorageError: the folder cannot be written.
        """
        from ttc.report.build import write_report

        return write_report(self._content, self.folder.report if out is None else out, options)

    def plot_pareto(self, cost: str = "completion_tokens", options: Options | None = None) -> Figure:
        """Draw accuracy against a cost per problem: a key of `ttc.report.costs.AXES`.

        Raises:
            ConfigError: there is no such cost. DataError: no cell has it.
        """
        from ttc.report.costs import AXES, cost_of, label, with_options
        from ttc.report.figures import Along, panels, pareto_figure

        if cost not in AXES:
            raise ConfigError(f"there is no cost {cost!r}", did_you_mean(cost, AXES))
        content = self._content
        rates = content.rates
        if options is not None:
            rates = with_options(rates, options.hardware, options.prices)
        tables = content.tables
        along = Along(label(cost), lambda cell: cost_of(cell, cost, rates))
        if not panels(tables.cells, tables.incomplete, along):
            raise DataError(f"no cell has a cost of {cost}", "ttc.report.costs says what each one needs")
        return pareto_figure(tables.cells, tables.incomplete, limited=content.limited, along=along)

    @cached_property
    def _chapters(self) -> list[Chapter]:
        from ttc.report.chapter import Known, chapter_of
        from ttc.report.outcomes import by_subject

        content = self._content
        known = Known(content.tables, content.rates, content.predictor)
        outcomes = by_subject(content.tables)
        return [chapter_of(section, outcomes[section.task, section.model], known, 0) for section in self.leaderboard]

    def plot_allocation(self) -> Figure:
        """Draw what was granted and spent by difficulty. Raises DataError where no grants are recorded."""
        from ttc.report.plots import allocation_figure

        return allocation_figure(self._chapters)

    def plot_difficulty(self) -> Figure:
        """Draw accuracy by difficulty. Raises DataError where problems cannot be told apart by it."""
        from ttc.report.plots import difficulty_figure

        return difficulty_figure(self._chapters)

    def plot_reliability(self) -> Figure:
        """Draw observed against predicted scores. Raises DataError where nothing was predicted."""
        from ttc.report.plots import reliability_figure

        return reliability_figure(self._chapters)

    def plot_latency(self) -> Figure:
        """Draw percentiles of seconds a problem. Raises DataError where no times were measured."""
        from ttc.report.plots import latency_figure

        return latency_figure(self._chapters)

    def _repr_html_(self) -> str:
        """Return the headline, the picture and the leaderboard for a notebook's cell."""
        from ttc.report.figures import pareto_figure, svg_text
        from ttc.report.html import inline_svg
        from ttc.report.leaderboard import headline

        try:
            content, sections = self._content, self.leaderboard
        except DataError as error:
            return f"<p>{escape(str(self.path))}: {escape(error.message)}</p>"
        parts = [f"<p><b>{escape(note)}</b></p>" for note in content.notes]
        for section in sections:
            parts.append(f"<p><b>{escape(section.title)}</b>: {escape(headline(section))}</p>")
            grid = section.grid()
            heads = "".join(f"<th>{escape(column.header)}</th>" for column in grid.columns)
            rows = "".join(
                "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in texts) + "</tr>" for _, texts in grid.shown()
            )
            parts.append(f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>")
        tables = content.tables
        picture = inline_svg(svg_text(pareto_figure(tables.cells, tables.incomplete, limited=content.limited)))
        # The picture leaves its greys to the page's style, which a notebook does not have.
        return f'<div style="--grid:#8884;max-width:56rem">{picture}</div>' + "".join(parts)
