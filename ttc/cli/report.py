"""`ttc report`, `leaderboard`, `compare` and `show`: from run folders to tables, pictures, verdicts and problems."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttc.cli.tree import tree_lines
from ttc.core.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from ttc.report.leaderboard import Section
    from ttc.report.merge import Loaded
    from ttc.report.verdict import Selector
    from ttc.store.rundir import RunDir

SHOWN_CHARACTERS = 600


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("report")(report)
    app.command("leaderboard")(leaderboard)
    app.command("compare")(compare)
    app.command("show")(show)


Baseline = Annotated[
    str | None, typer.Option(help="What everything is compared with: a strategy, or STRATEGY/ALLOCATOR.")
]
Hardware = Annotated[
    str | None, typer.Option(help="Accelerator of the equivalent FLOPs: B200, H200-SXM, H100-SXM, A100-80GB, L40S.")
]
PricePerMtok = Annotated[
    list[str] | None,
    typer.Option(help="Price of a million tokens, [MODEL=]IN,OUT[,CACHED]; the run's own without it."),
]


def report(
    run: Annotated[list[Path], typer.Argument(help="Run folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report; <run>/report without it.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the tables from the journal again.")] = False,
    baseline: Baseline = None,
    hardware: Hardware = None,
    price_per_mtok: PricePerMtok = None,
    track: Annotated[
        list[str] | None, typer.Option(help="Also log the run: wandb:PROJECT, mlflow:EXPERIMENT, trackio:PROJECT.")
    ] = None,
) -> None:
    """Write a run's tables, Pareto picture, leaderboard and page."""
    from ttc.api import existing_run
    from ttc.report.build import Options, build_report
    from ttc.report.costs import parse_prices
    from ttc.trackers import find, send

    if len(run) > 1 and out is not None:
        raise ConfigError(f"--out names one folder, {len(run)} runs are given", "report them one by one")
    for word in track or ():
        find(word)
    options = Options(baseline, hardware, parse_prices(price_per_mtok or ()))
    for path in run:
        folder = existing_run(path)
        built = build_report(folder, out, rebuild, options)
        tell_boards(built.sections, built.notes)
        typer.echo(f"report: {built.html}")
        for sent in send(track or (), folder.path, built.html.parent):
            typer.echo(sent.line if sent.failure is None else f"warning: {sent.line}", err=True)


def leaderboard(
    run: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path | None, typer.Option(help="Folder for a joint report; none is written without it.")] = None,
    baseline: Baseline = None,
    hardware: Hardware = None,
    price_per_mtok: PricePerMtok = None,
) -> None:
    """Join runs that may be compared into one leaderboard; what may not is kept apart, with the reason."""
    from ttc.api import existing_run
    from ttc.report.build import Options, write_report
    from ttc.report.costs import parse_prices
    from ttc.report.leaderboard import leaderboard as sections_of
    from ttc.report.merge import load, merge

    content = merge(load([existing_run(path) for path in run]))
    if out is None:
        tell_boards(sections_of(content.tables, baseline), content.notes)
        return
    built = write_report(content, out, Options(baseline, hardware, parse_prices(price_per_mtok or ())))
    tell_boards(built.sections, built.notes)
    typer.echo(f"report: {built.html}")


def compare(
    a: Annotated[str, typer.Argument(help="RUN, or RUN:STRATEGY[/ALLOCATOR], each with @BUDGET or without.")],
    b: Annotated[str, typer.Argument(help="The other side, in the same form.")],
) -> None:
    """Say whether A or B is better: paired by problem, at equal realised tokens, with the interval."""
    from ttc.report.verdict import paired_sides, sides, verdicts

    (loaded_a, chosen_a), (loaded_b, chosen_b) = _selected(a), _selected(b)
    faced = paired_sides((loaded_a, sides(loaded_a, chosen_a)), (loaded_b, sides(loaded_b, chosen_b)))
    typer.echo("\n\n".join("\n".join(verdict.lines) for verdict in verdicts(faced)))


def _selected(text: str) -> tuple[Loaded, Selector]:
    from ttc.api import RESULTS, existing_run
    from ttc.report.merge import load
    from ttc.report.verdict import parse_selector

    selector = parse_selector(text, is_run=Path(text).exists() or (RESULTS / text).is_dir())
    (loaded,) = load([existing_run(Path(selector.run))])
    return loaded, selector


def tell_run(path: Path) -> None:
    """Put a run's leaderboard on stdout, one table for each task and model."""
    from ttc.api import existing_run
    from ttc.report.aggregate import load_tables
    from ttc.report.build import notes_of
    from ttc.report.leaderboard import leaderboard as sections_of

    run = existing_run(path)
    tables = load_tables(run)
    tell_boards(sections_of(tables), notes_of(run.read_manifest(), tables))


def tell_boards(sections: Sequence[Section], notes: Sequence[str] = ()) -> None:
    """Put leaderboards on stdout: as tables on a terminal, as aligned text elsewhere."""
    if not sys.stdout.isatty():
        typer.echo(sections_text(sections, notes))
        return
    from rich.console import Console

    draw_boards(Console(highlight=False), sections, notes)


SHORT = {
    "tokens_per_problem": "Tokens",
    "accuracy": "Acc. %",
    "accuracy_interval": "95 %",
    "difference": "Against baseline",
}
"""Headings that leave a terminal's width to the numbers."""
WIDE = 110
"""Columns of a terminal that has room for every number."""


def draw_boards(console: Console, sections: Sequence[Section], notes: Sequence[str] = ()) -> None:
    """Draw leaderboards with what stands out marked: gains, losses, the baseline, oracles.

    Columns that say the same in every row are left out, and on a narrow terminal those that can best be spared.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from ttc.report.leaderboard import headline

    for note in notes:
        console.print(Text(note, style="yellow"))
    styles = {"better": "green", "worse": "red", "oracle": "dim italic", "baseline": "bold"}
    for section in sections:
        grid = section.grid()
        shown = grid.shown()
        spared = {"accuracy_interval", "q", "n_errors", "n_unanswered"} if console.width < WIDE else set()
        spared |= {key for i, column in enumerate(grid.columns) for key in (column.key,)
                   if key in ("allocator", "n_errors", "n_unanswered") and len({texts[i] for _, texts in shown}) == 1}  # fmt: skip
        kept = [i for i, column in enumerate(grid.columns) if column.key not in spared]
        console.print(Text(f"\n{section.title}", style="bold"))
        console.print(Text(headline(section)))
        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column in (grid.columns[i] for i in kept):
            words = column.kind == "text"
            header = Text(SHORT.get(column.key, column.header))
            width = {"strategy": 22, "verdict": 12}.get(column.key)
            table.add_column(header, justify="left" if words else "right", no_wrap=not words, overflow="fold",
                             min_width=width)  # fmt: skip
        for line, texts in shown:
            # Texts come from users and models: none of them is markup.
            cells = [Text(texts[i], style=styles.get(texts[i], "") if grid.columns[i].key == "verdict" else "")
                     for i in kept]  # fmt: skip
            table.add_row(*cells, style=styles.get(line.mark.partition(" ")[0], ""))
        console.print(table)


def sections_text(sections: Sequence[Section], notes: Sequence[str] = ()) -> str:
    """Return leaderboards as plain text."""
    from ttc.report.leaderboard import HEADERS, headline

    lines = list(notes)
    for section in sections:
        lines += ["", section.title, headline(section), ""]
        lines += aligned([HEADERS, *(shown for _, shown in section.grid().shown())])
    return "\n".join(lines).lstrip("\n")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns: words to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numeric = [all(_number(row[i]) for row in rows[1:]) for i in range(len(rows[0]))]
    return [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    ]


def _number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("%", "").lstrip("+-").isdigit() or text in ("", "-")


def show(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    problem: Annotated[str | None, typer.Option(help="Show what every cell did with this problem.")] = None,
) -> None:
    """Show a run's state and leaderboard, or one problem with its candidates."""
    from ttc.api import existing_run

    folder = existing_run(run)
    if problem is not None:
        _show_problem(folder, problem)
        return
    manifest = folder.read_manifest()
    for key in ("state", "command", "started_at", "finished_at"):
        if manifest.get(key):
            typer.echo(f"{key}: {manifest[key]}")
    tell_run(folder.path)


def _show_problem(run: RunDir, problem: str) -> None:
    replay = run.replay()
    cells = {str(e["cell"]): e for e in replay.events if e.get("kind") == "cell"}
    rows = [row for (_, pid), row in replay.records.items() if pid == problem]
    if not rows:
        known = {pid for _, pid in replay.records}
        if not known:
            raise DataError(f"{run.path} holds no finished problem", "run it first: ttc sweep")
        hint = did_you_mean(problem, known) if len(known) < 2000 else ""
        raise DataError(
            f"{run.path} has no problem {problem!r}", hint if len(hint) < 200 else "records.parquet names them"
        )
    for row in rows:
        cell = cells.get(row["cell"], {})
        typer.echo(f"\n{cell.get('model')} {cell.get('strategy')}/{cell.get('allocator')} budget {cell.get('budget')}"
                   f" (cell {row['cell']})")  # fmt: skip
        typer.echo(
            f"  answer {row['answer']!r}  score {row['score']}  status {row['status']}  stopped: {row['stop_reason']}"
        )
        typer.echo(f"  {row['completion_tokens']:g} of {row['grant_tokens']} tokens in {row['calls']:g} calls")
        if "error" in row:
            typer.echo(f"  error: {row['error']}")
        for line in tree_lines(row):
            typer.echo(line)
        for candidate in row.get("candidates") or []:
            _show_candidate(candidate)


def _show_candidate(candidate: dict[str, Any]) -> None:
    mark = {True: "right", False: "wrong"}.get(candidate["correct"], "not graded")
    typer.echo(
        f"  [{candidate['index']}] {mark}: {candidate['answer']!r}, {candidate['completion_tokens']} tokens, {candidate['finish']}"
    )
    text = candidate.get("text")
    if text:
        cut = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " ..."
        # A model may write control sequences: only line breaks reach the terminal as they are.
        safe = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in cut)
        typer.echo("      " + safe.replace("\n", "\n      "))
