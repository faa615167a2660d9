"""Which method wins at equal tokens: rows, and their texts for Markdown, CSV, HTML and the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttc.core.identity import sample_seed
from ttc.report.aggregate import Tables, scores_by_cell
from ttc.report.labels import allocator_labels, plain, series_of, strategy_labels
from ttc.report.pareto import log_weights
from ttc.report.stats import Difference, paired_difference
from ttc.store.tables import rows_of

PREFERRED_BASELINE = "self-consistency"
BASELINE_ALLOCATOR = "uniform"

Cell = Mapping[str, Any]
Scores = Mapping[str, Mapping[str, float]]


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
    difference: Difference | None
    """To the baseline at this row's tokens; None where no claim can be made."""
    baseline: bool
    oracle: bool
    complete: bool
    n_problems: int
    n_errors: int
    n_unanswered: int


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one (task, model), best accuracy first."""

    task: str
    model: str
    baseline: str | None
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Return task and model on one line."""
        return f"{plain(self.task)}, {plain(self.model)}"

    @property
    def many_seeds(self) -> bool:
        """Say whether the rows come from more than one seed."""
        return len({row.seed for row in self.rows}) > 1


def leaderboard(tables: Tables) -> list[Section]:
    """Return one section for each (task, model), in the run's order.

    The baseline is `self-consistency` under `uniform`, else the first uniform strategy that is no oracle. Each
    row is compared with it at the row's own realised tokens, by a paired bootstrap over the problems that
    neither side failed on; outside the baseline's range of tokens no claim is made. The intervals are not
    corrected for the number of comparisons.
    """
    cells = rows_of(tables.cells)
    labels, allocators, scores = strategy_labels(cells), allocator_labels(cells), scores_by_cell(tables.records)
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["task"], cell["model"]), []).append(cell)
    sections = []
    for (task, model), members in groups.items():
        baseline = _baseline(members)
        chosen = [c for c in members if baseline is not None and series_of(c) == series_of(baseline)]
        curve = [c for c in chosen if c["cell"] not in tables.incomplete]
        rows = [
            Row(
                **{key: cell[key] for key in _COPIED},
                label=labels[cell["cell"]],
                allocator=allocators[cell["cell"]],
                difference=None
                if cell in chosen or cell["cell"] in tables.incomplete
                else _versus(cell, curve, scores),
                baseline=cell in chosen,
                complete=cell["cell"] not in tables.incomplete,
            )
            for cell in members
        ]
        rows.sort(key=lambda row: (row.accuracy is None, -(row.accuracy or 0.0), row.tokens_per_problem))
        name = None if baseline is None else f"{labels[baseline['cell']]} under {allocators[baseline['cell']]}"
        sections.append(Section(task, model, name, tuple(rows)))
    return sections


_COPIED = ("cell", "budget", "seed", "tokens_per_problem", "accuracy", "ci_low", "ci_high", "oracle", "n_problems",
           "n_errors", "n_unanswered")  # fmt: skip


def _baseline(cells: Iterable[Cell]) -> Cell | None:
    candidates = [c for c in cells if c["allocator"] == BASELINE_ALLOCATOR and not c["oracle"]]
    preferred = [c for c in candidates if c["strategy"] == PREFERRED_BASELINE]
    return next(iter(preferred or candidates), None)


def _versus(cell: Cell, curve: Sequence[Cell], scores: Scores) -> Difference | None:
    # Cells of one seed saw the same samples; across seeds the pairing would be lost.
    rivals = [c for c in curve if c["seed"] == cell["seed"]]
    weights = log_weights([c["tokens_per_problem"] for c in rivals], cell["tokens_per_problem"])
    own = scores.get(cell["cell"], {})
    if weights is None or not own:
        return None
    parts = [(scores.get(rivals[i]["cell"], {}), weight) for i, weight in weights]
    shared = [p for p in own if all(p in part for part, _ in parts)]
    return paired_difference(
        [own[p] for p in shared],
        [sum(weight * part[p] for part, weight in parts) for p in shared],
        seed=sample_seed(cell["seed"], "", "bootstrap", 0),
    )


def headline(section: Section) -> str:
    """Return one sentence: the largest significant gain at equal tokens, else that there is none."""
    compared = [row for row in section.rows if row.difference is not None and not row.oracle]
    gains = [(row.difference.mean, row) for row in compared if row.difference and row.difference.significant]
    count = f"{len(compared)} comparison{'' if len(compared) == 1 else 's'}"
    if gains and (best := max(gains, key=lambda pair: pair[0]))[0] > 0:
        row = best[1]
        return (
            f"{row.label} under {row.allocator} is {difference_text(row)} points more accurate than {section.baseline}"
            f" at the same {row.tokens_per_problem:,.0f} tokens per problem (the largest gain of {count})."
        )
    if compared:
        return f"Nothing is significantly better than {section.baseline} at equal tokens ({count})."
    graded = [row for row in section.rows if row.accuracy is not None and not row.oracle]
    if not graded:
        return "No strategy has a graded answer."
    top = graded[0]
    return (
        f"{top.label} under {top.allocator} is the most accurate: {accuracy_text(top)} % at"
        f" {top.tokens_per_problem:,.0f} tokens per problem. There is nothing to compare it with at equal tokens."
    )


HEADERS = ("Strategy", "Allocator", "Budget", "Tokens per problem", "Accuracy %", "95 % interval",
           "Against the baseline at equal tokens", "Errors", "Unanswered")  # fmt: skip


def texts(row: Row, *, seed: bool = False) -> tuple[str, ...]:
    """Return a row as display texts under HEADERS; `seed` adds the seed to the label."""
    marks = (f", seed {row.seed}" if seed else "") + ("" if row.complete else " [incomplete]")
    interval = "-" if row.ci_low is None or row.ci_high is None else f"{row.ci_low:.1%} to {row.ci_high:.1%}"
    return (
        row.label + marks,
        row.allocator,
        f"{row.budget:,}",
        f"{row.tokens_per_problem:,.0f}",
        accuracy_text(row),
        interval.replace("%", ""),
        "baseline" if row.baseline else difference_text(row),
        f"{row.n_errors:,} of {row.n_problems:,}",
        f"{row.n_unanswered:,}",
    )


def accuracy_text(row: Row) -> str:
    """Return the accuracy in percent, `-` where there is none."""
    return "-" if row.accuracy is None else f"{100 * row.accuracy:.1f}"


def difference_text(row: Row) -> str:
    """Return the difference in percentage points with its interval, `-` where no claim is made."""
    found = row.difference
    if found is None:
        return "-"
    text = f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return text if found.significant else f"{text} not significant"


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
        lines.append("|---|---|" + "---:|" * (len(HEADERS) - 2))
        for row in section.rows:
            lines.append("| " + " | ".join(_escape(t) for t in texts(row, seed=section.many_seeds)) + " |")
        lines.append("")
    return "\n".join([*lines, READING, ""])


READING = (
    "Differences are in percentage points, by a paired bootstrap over problems, at the tokens per problem that the row"
    " really spent; the baseline's curve is interpolated in log tokens, and outside its range there is no claim (-)."
    " The 95 % intervals are not corrected for the number of comparisons. Unanswered problems count as wrong;"
    " failed problems (errors) are left out of the accuracy. Rows marked (oracle) saw the right answers."
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
         "ci_high", "baseline", "difference", "difference_low", "difference_high", "significant", "oracle",
         "complete", "n_problems", "n_errors", "n_unanswered"]
    )  # fmt: skip
    for section in sections:
        for row in section.rows:
            found = row.difference
            claim = ["", "", "", ""] if found is None else [found.mean, found.low, found.high, found.significant]
            writer.writerow(
                [section.task, section.model, row.label, row.allocator, row.budget, row.seed, row.tokens_per_problem,
                 row.accuracy, row.ci_low, row.ci_high, row.baseline, *claim, row.oracle, row.complete,
                 row.n_problems, row.n_errors, row.n_unanswered]
            )  # fmt: skip
    return out.getvalue()
