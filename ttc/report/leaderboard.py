"""Which method wins at equal tokens: rows, and their texts for Markdown, CSV, HTML and the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from ttc.core.errors import ConfigError, did_you_mean
from ttc.report.aggregate import Tables
from ttc.report.comparison import Claim, TokensToMatch, claims, detectable, tokens_to_match, versus
from ttc.report.grid import Column, Grid, Line, Value, show
from ttc.report.labels import allocator_labels, plain, strategy_labels
from ttc.report.outcomes import Cell, Outcomes, by_subject

PREFERRED_BASELINE = "self-consistency"
BASELINE_ALLOCATOR = "uniform"


@dataclass(frozen=True, slots=True)
class Row:
    """One cell among its rivals."""

    cell: str
    label: str
    allocator: str
    budget: int
    seed: int
    tokens_per_problem: float
    accuracy: float | None
    ci_low: float | None
    ci_high: float | None
    ci_method: str
    difference: Claim | None
    """To the baseline at this row's tokens; None where no claim can be made."""
    baseline: bool
    oracle: bool
    complete: bool
    n_problems: int
    n_errors: int
    n_unanswered: int

    @property
    def series(self) -> str:
        """Return what the row's curve is called."""
        return f"{self.label} under {self.allocator}"


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one (task, model), best accuracy first."""

    task: str
    model: str
    baseline: str | None
    rows: tuple[Row, ...]
    claims: Mapping[str, Mapping[str, Claim]] = field(default_factory=dict)
    """By baseline, then by cell: what holds against every series that could be the baseline."""
    detectable: float | None = None
    """The smallest difference to the baseline that this many problems are likely to show."""
    match: tuple[str, TokensToMatch] | None = None
    """The series with the largest gain, and its tokens to the baseline's best accuracy."""

    @property
    def title(self) -> str:
        """Return task and model on one line."""
        return f"{plain(self.task)}, {plain(self.model)}"

    @property
    def many_seeds(self) -> bool:
        """Say whether the rows come from more than one seed."""
        return len({row.seed for row in self.rows}) > 1

    def grid(self) -> Grid:
        """Return the rows as a table against the section's baseline."""
        lines = []
        for row in self.rows:
            interval = None if row.ci_low is None or row.ci_high is None else (row.ci_low, row.ci_high)
            claim = row.difference
            values: tuple[Value, ...] = (
                _named(row, seed=self.many_seeds), row.allocator, row.budget, row.tokens_per_problem, row.accuracy,
                interval, None if claim is None else claim.points,
                None if claim is None else claim.q, verdict(row, claim), row.n_errors, row.n_unanswered,
            )  # fmt: skip
            marks = [name for name, on in (("baseline", row.baseline), ("oracle", row.oracle)) if on]
            lines.append(Line(row.cell, values, " ".join(marks)))
        return Grid("leaderboard", self.title, COLUMNS, tuple(lines))


COLUMNS = (
    Column("strategy", "Strategy"),
    Column("allocator", "Allocator"),
    Column("budget", "Budget", "count"),
    Column("tokens_per_problem", "Tokens per problem", "count"),
    Column("accuracy", "Accuracy %", "percent"),
    Column("accuracy_interval", "95 % interval", "interval"),
    Column("difference", "Against the baseline at equal tokens", "points"),
    Column("q", "q", "number"),
    Column("verdict", "Verdict"),
    Column("n_errors", "Failed", "count"),
    Column("n_unanswered", "No answer", "count"),
)
HEADERS = tuple(column.header for column in COLUMNS)


def leaderboard(tables: Tables, baseline: str | None = None) -> list[Section]:
    """Return one section for each (task, model), in the run's order.

    The baseline is the series that `baseline` names (a strategy, `strategy/allocator`, or a label of the table);
    without it `self-consistency` under `uniform`, else the first uniform strategy that is no oracle. Each row is
    compared with it at the row's own realised tokens, paired by problem, over the problems that neither side
    failed on; outside the baseline's range of tokens no claim is made. A claim is called significant at a
    false-discovery rate of 5 % over the comparisons of its section (Benjamini and Hochberg).

    Raises:
        ConfigError: no section has a series called `baseline`.
    """
    labels, allocators = strategy_labels(rows := tables.cells.to_pylist()), allocator_labels(rows)
    names = {row["cell"]: f"{labels[row['cell']]} under {allocators[row['cell']]}" for row in rows}
    sections, known = [], set[str]()
    for (task, model), outcomes in by_subject(tables).items():
        chosen = _baseline(outcomes.cells, names, baseline)
        known.update(cell["strategy"] for cell in outcomes.cells)
        found = all_claims(outcomes, names, tables.incomplete)
        own = {} if chosen is None else found.get(chosen, {})
        board = []
        for cell in outcomes.cells:
            name = cell["cell"]
            board.append(
                Row(
                    **{key: cell[key] for key in _COPIED},
                    label=labels[name],
                    allocator=allocators[name],
                    difference=own.get(name),
                    baseline=names[name] == chosen,
                    complete=name not in tables.incomplete,
                )
            )
        board.sort(key=lambda row: (row.accuracy is None, -(row.accuracy or 0.0), row.tokens_per_problem))
        section = Section(task, model, chosen, tuple(board), found)
        sections.append(_completed(section, outcomes, names, tables.incomplete))
    if baseline is not None and not any(section.baseline for section in sections):
        raise ConfigError(f"no series is called {baseline!r}", did_you_mean(baseline, known))
    return sections


_COPIED = ("cell", "budget", "seed", "tokens_per_problem", "accuracy", "ci_low", "ci_high", "ci_method", "oracle",
           "n_problems", "n_errors", "n_unanswered")  # fmt: skip


def _baseline(cells: Iterable[Cell], names: Mapping[str, str], wanted: str | None) -> str | None:
    candidates = [c for c in cells if not c["oracle"]]
    if wanted is not None:
        named = [c for c in candidates if wanted in (names[c["cell"]], f"{c['strategy']}/{c['allocator']}")]
        named = named or [c for c in candidates if c["strategy"] == wanted]
        return names[min(named, key=lambda c: c["allocator"] != BASELINE_ALLOCATOR)["cell"]] if named else None
    uniform = [c for c in candidates if c["allocator"] == BASELINE_ALLOCATOR]
    preferred = [c for c in uniform if c["strategy"] == PREFERRED_BASELINE]
    return next((names[c["cell"]] for c in preferred or uniform), None)


def all_claims(outcomes: Outcomes, names: Mapping[str, str], incomplete: frozenset[str]) -> dict[str, dict[str, Claim]]:
    """Return every cell's claim against every series, by series and cell, corrected within a series.

    All of them come from one resample of the problems. Oracles are compared, but are no baseline and are not in
    the family that is corrected. Incomplete cells are in no comparison.
    """
    usable = [i for i, cell in enumerate(outcomes.cells) if cell["cell"] not in incomplete]
    family = [cell["cell"] for cell in outcomes.cells if not cell["oracle"]]
    curves: dict[str, list[int]] = {}
    for i in usable:
        if not outcomes.cells[i]["oracle"]:
            curves.setdefault(names[outcomes.cells[i]["cell"]], []).append(i)
    found = {}
    for series, curve in curves.items():
        columns = {}
        for i in usable:
            column = None if i in curve else versus(outcomes, i, curve)
            if column is not None:
                columns[outcomes.cells[i]["cell"]] = column
        found[series] = claims(columns, family, int(outcomes.cells[0]["seed"]))
    return found


def _completed(section: Section, outcomes: Outcomes, names: Mapping[str, str], incomplete: frozenset[str]) -> Section:
    """Return the section with what it can detect, and the tokens its best series needs to match the baseline."""
    if section.baseline is None:
        return section
    usable = [i for i, cell in enumerate(outcomes.cells) if cell["cell"] not in incomplete]
    curve = [i for i in usable if names[outcomes.cells[i]["cell"]] == section.baseline]
    compared = {row.cell for row in section.rows if row.difference is not None and not row.oracle}
    columns = [versus(outcomes, i, curve) for i in usable if outcomes.cells[i]["cell"] in compared]
    found = [detectable(column) for column in columns if column is not None]
    known = [value for value in found if value is not None]
    section = replace(section, detectable=median(known) if known else None)
    best = largest_gain(section)
    if best is None or not curve:
        return section
    members = [i for i in usable if names[outcomes.cells[i]["cell"]] == best.series
               and outcomes.cells[i]["seed"] == best.seed]  # fmt: skip
    rivals = [i for i in curve if outcomes.cells[i]["seed"] == best.seed and outcomes.cells[i]["accuracy"] is not None]
    if not rivals:
        return section
    top = max(rivals, key=lambda i: outcomes.cells[i]["accuracy"])
    match = tokens_to_match(outcomes, members, top)
    return section if match is None else replace(section, match=(best.series, match))


def largest_gain(section: Section) -> Row | None:
    """Return the row with the largest significant gain over the baseline, oracles left out."""
    gains = [row for row in section.rows
             if row.difference is not None and not row.oracle and row.difference.significant
             and row.difference.mean > 0]  # fmt: skip
    return max(gains, key=lambda row: row.difference.mean if row.difference else 0.0, default=None)


def headline(section: Section) -> str:
    """Return what was found in words: the largest significant gain at equal tokens, else that there is none."""
    compared = [row for row in section.rows if row.difference is not None and not row.oracle]
    count = f"{len(compared)} comparison{'' if len(compared) == 1 else 's'}"
    best = largest_gain(section)
    if best is not None:
        text = (
            f"{best.series} is {_gain_text(best)} than {section.baseline} at the same"
            f" {best.tokens_per_problem:,.0f} tokens per problem: the largest gain of {count},"
            " at a false-discovery rate of 5 %."
        )
        return text + _match_text(section)
    if compared:
        text = f"Nothing is significantly better than {section.baseline} at equal tokens ({count})."
        said = resolution(section)
        return f"{text} {said}" if said else text
    graded = [row for row in section.rows if row.accuracy is not None and not row.oracle]
    if not graded:
        return "No strategy has a graded answer."
    top = graded[0]
    return (
        f"{top.series} is the most accurate: {accuracy_text(top)} % at {top.tokens_per_problem:,.0f} tokens per"
        " problem. There is nothing to compare it with at equal tokens."
    )


def resolution(section: Section) -> str:
    """Return in words how small a difference to the baseline the run can show; nothing where it cannot be said."""
    compared = [row for row in section.rows if row.difference is not None and not row.oracle]
    if section.detectable is None or not compared:
        return ""
    return (
        f"With {compared[0].n_problems:,} problems, only differences of about {100 * section.detectable:.1f} points or more"
        " are likely to be found (80 % power)."
    )


def _gain_text(row: Row) -> str:
    claim = row.difference
    if claim is None:
        return "as accurate"
    mean, low, high = (f"{100 * part:.1f}" for part in claim.points)
    return f"{mean} points more accurate (95 % interval {low} to {high})"


def _match_text(section: Section) -> str:
    if section.match is None:
        return ""
    series, match = section.match
    share = f"{'at most ' if match.at_most else ''}{match.share:.2f}"
    doubt = "" if match.high < 1 else "; not significant, the interval includes equal tokens"
    return (
        f" {series} reaches {section.baseline}'s accuracy at {match.rival_tokens:,.0f} tokens ({100 * match.accuracy:.1f} %)"
        f" with {share} of the tokens (95 % interval {match.low:.2f} to {match.high:.2f}{doubt})."
    )


def verdict(row: Row, claim: Claim | None) -> str:
    """Return what may be said of a row against a baseline, in a word or two."""
    if row.baseline and claim is None:
        return "baseline"
    if not row.complete:
        return "incomplete"
    if claim is None:
        return "no claim"
    if row.oracle:
        return "oracle"
    if claim.discordant == 0:
        return "identical"
    if claim.significant:
        return "better" if claim.mean > 0 else "worse"
    return "not significant"


def _named(row: Row, *, seed: bool) -> str:
    return row.label + (f", seed {row.seed}" if seed else "") + ("" if row.complete else " [incomplete]")


def texts(row: Row, *, seed: bool = False) -> tuple[str, ...]:
    """Return a row as display texts under HEADERS; `seed` adds the seed to the label."""
    section = Section("", "", None, (row,))
    ((_, shown),) = section.grid().shown()
    return (_named(row, seed=seed), *shown[1:])


def accuracy_text(row: Row) -> str:
    """Return the accuracy in percent, `-` where there is none."""
    return show("percent", row.accuracy)


def difference_text(row: Row) -> str:
    """Return the difference in percentage points with its interval, `-` where no claim is made."""
    claim = row.difference
    return show("points", None if claim is None else claim.points)


def markdown(sections: Sequence[Section], notes: Sequence[str] = ()) -> str:
    """Return the leaderboard as Markdown, one table a section."""
    lines = ["# Leaderboard", ""]
    for note in notes:
        lines += [f"**{_escape(note)}**", ""]
    for section in sections:
        lines += [f"## {_escape(section.title)}", "", _escape(headline(section)), ""]
        if section.baseline is not None:
            lines += [f"Baseline: {_escape(section.baseline)}.", ""]
        lines.append("| " + " | ".join(HEADERS) + " |")
        lines.append("|" + "".join("---|" if column.kind == "text" else "---:|" for column in COLUMNS))
        lines += ["| " + " | ".join(_escape(t) for t in shown) + " |" for _, shown in section.grid().shown()]
        lines.append("")
    return "\n".join([*lines, READING, ""])


READING = (
    "Differences are in percentage points, paired by problem, at the tokens per problem that the row really spent; the"
    " baseline's curve is interpolated in log tokens, and outside its range there is no claim (-). Intervals are 95 %:"
    " Wilson's for an accuracy of right and wrong answers, else the bootstrap over problems; where fewer than 10"
    " problems differ, a bootstrap would be too narrow and McNemar's exact interval is given. q is the p value after"
    " Benjamini and Hochberg's correction over the table; better and worse mean q of at most 0.05. Unanswered"
    " problems count as wrong; failed problems (errors) are left out of the accuracy. Rows marked (oracle) saw the"
    " right answers: bounds, not methods."
)


def _escape(text: str) -> str:
    for mark in "\\`*_[]|":
        text = text.replace(mark, "\\" + mark)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def csv_text(sections: Sequence[Section]) -> str:
    """Return the leaderboard as CSV: fractions, not percent; empty where there is no number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["task", "model", "strategy", "allocator", "budget", "seed", "tokens_per_problem", "accuracy", "ci_low",
         "ci_high", "baseline", "difference", "difference_low", "difference_high", "p", "q", "significant",
         "verdict", "oracle",
         "complete", "n_problems", "n_errors", "n_unanswered"]
    )  # fmt: skip
    for section in sections:
        for row in section.rows:
            found = row.difference
            claim: list[object] = [""] * 6
            if found is not None:
                claim = [*found.points, found.difference.p_value, found.q, found.significant]
            writer.writerow(
                [section.task, section.model, row.label, row.allocator, row.budget, row.seed, row.tokens_per_problem,
                 row.accuracy, row.ci_low, row.ci_high, row.baseline, *claim, verdict(row, found), row.oracle, row.complete,
                 row.n_problems, row.n_errors, row.n_unanswered]
            )  # fmt: skip
    return out.getvalue()
