"""The tables behind the page's chapters: difficulty, spending, sharing, failures, latency, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttc.metrics.statistics import wilson
from ttc.report.aggregate import UNANSWERED, Attention
from ttc.report.grid import Column, Grid, Line, Value
from ttc.report.leaderboard import Row, Section
from ttc.report.outcomes import Outcomes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

MOST_LEVELS = 10
"""More stated difficulties than this are grouped by rank, so that each holds enough problems."""
BARS = 40
"""Groups of problems in one allocation picture."""
RELIABILITY_BINS = 10
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Levels:
    """Groups of problems by difficulty: a name and the rows of the outcomes in it."""

    names: tuple[str, ...]
    members: tuple[NDArray[np.int64], ...]
    stated: bool
    """Whether the task states the difficulty; else it is how often this run's own cells were right."""


def levels(outcomes: Outcomes, stated: Mapping[str, float]) -> Levels | None:
    """Group the problems by stated difficulty, else by how many of the run's answers were right.

    The second kind is made of the outcomes it then breaks down: it describes, and can test nothing. None where
    all problems fall into one group.
    """
    import numpy as np

    given = np.asarray([stated.get(problem, np.nan) for problem in outcomes.problems])
    if np.isfinite(given).sum() >= 2 and np.unique(given[np.isfinite(given)]).size > 1:
        return _stated(given)
    judged = [i for i, cell in enumerate(outcomes.cells) if not cell["oracle"]]
    known = outcomes.score[:, judged]
    counts = (~np.isnan(known)).sum(axis=1)
    share = np.where(counts > 0, np.nansum(known, axis=1) / np.maximum(counts, 1), np.nan)
    groups = {
        "always right": share == 1,
        "mostly right": (share < 1) & (share > 2 / 3),
        "sometimes right": (share <= 2 / 3) & (share >= 1 / 3),
        "rarely right": (share < 1 / 3) & (share > 0),
        "never right": share == 0,
    }
    kept = {name: np.flatnonzero(mask) for name, mask in groups.items() if mask.any()}
    return Levels(tuple(kept), tuple(kept.values()), stated=False) if len(kept) > 1 else None


def _stated(given: NDArray[np.float64]) -> Levels:
    import numpy as np

    distinct = np.unique(given[np.isfinite(given)])
    if distinct.size <= MOST_LEVELS:
        return Levels(tuple(f"{level:g}" for level in distinct),
                      tuple(np.flatnonzero(given == level) for level in distinct), stated=True)  # fmt: skip
    edges = np.unique(np.nanquantile(given, np.linspace(0, 1, 6)))
    at = np.clip(np.searchsorted(edges, given, side="right") - 1, 0, edges.size - 2)
    names, members = [], []
    for i in range(edges.size - 1):
        found = np.flatnonzero((at == i) & np.isfinite(given))
        if found.size:
            names.append(f"{given[found].min():g} to {given[found].max():g}")
            members.append(found)
    return Levels(tuple(names), tuple(members), stated=True)


def difficulty_grid(section: Section, outcomes: Outcomes, groups: Levels) -> Grid:
    """Return the accuracy of every cell in every group, in percent of the problems that did not fail."""
    import numpy as np

    columns = [Column("series", "Strategy"), Column("budget", "Budget", "count")]
    columns += [Column(f"accuracy at {name}", f"{name} (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{len(rows):,})", "bar")
                for name, rows in zip(groups.names, groups.members, strict=True)]  # fmt: skip
    lines = []
    for row in series_order(section):
        score = outcomes.score[:, outcomes.column(row.cell)]
        parts = [score[rows] for rows in groups.members]
        values = [float(np.nanmean(p)) if (~np.isnan(p)).any() else None for p in parts]
        lines.append(Line(row.cell, (named(row, section), row.budget, *values), "oracle" if row.oracle else ""))
    return Grid("difficulty", section.title, tuple(columns), tuple(lines))


def series_order(section: Section) -> list[Row]:
    """Return the rows by series, best first, and within one by budget."""
    place = {name: i for i, name in reversed(list(enumerate(row.series for row in section.rows)))}
    return sorted(section.rows, key=lambda row: (place[row.series], row.seed, row.budget))


def named(row: Row, section: Section) -> str:
    """Return what a row is called where there is no column for its allocator and seed."""
    alone = len({other.allocator for other in section.rows}) == 1
    return (row.label if alone else row.series) + (f", seed {row.seed}" if section.many_seeds else "")


def spending_grid(section: Section, outcomes: Outcomes) -> Grid:
    """Return where each cell's completion tokens went: to right, wrong and unanswered problems."""
    import numpy as np

    columns = (
        Column("series", "Strategy"), Column("budget", "Budget", "count"),
        Column("tokens_total", "Tokens in total", "count"),
        Column("to_right", "On problems answered right", "share"), Column("to_wrong", "Answered wrong", "share"),
        Column("to_unanswered", "Not answered", "share"), Column("to_failed", "Failed", "share"),
        Column("used", "Of the grants used", "share"), Column("p50", "Median problem", "count"),
        Column("p95", "95th percentile", "count"), Column("dearest_tenth", "Share of the dearest 10 %", "share"),
    )  # fmt: skip
    lines = []
    for row in series_order(section):
        i = outcomes.column(row.cell)
        tokens = np.nan_to_num(outcomes.tokens[:, i])
        total = float(tokens.sum())
        known = outcomes.tokens[:, i][~np.isnan(outcomes.tokens[:, i])]
        granted = float(np.nansum(outcomes.grant[:, i]))
        parts = split_tokens(outcomes, i).sum(axis=0)
        shares: list[Value] = [float(part) / total if total else None for part in parts]
        ordered = np.sort(known)[::-1]
        tenth = float(ordered[: max(1, round(ordered.size / 10))].sum()) / total if total else None
        lines.append(
            Line(row.cell, (named(row, section), row.budget, total, *shares, total / granted if granted else None,
                            float(np.percentile(known, 50)), float(np.percentile(known, 95)), tenth),
                 "oracle" if row.oracle else "")
        )  # fmt: skip
    return Grid("spending", section.title, columns, tuple(lines))


def split_tokens(outcomes: Outcomes, cell: int) -> NDArray[np.float64]:
    """Return each problem's tokens as (right, wrong, not answered, failed); a mean over draws is split by its score."""
    import numpy as np

    tokens, status = np.nan_to_num(outcomes.tokens[:, cell]), outcomes.status[:, cell]
    score = np.nan_to_num(outcomes.score[:, cell])
    failed, unanswered = status == "error", np.isin(status, UNANSWERED) & (score == 0)
    answered = ~failed & ~unanswered
    return np.column_stack([
        np.where(answered, tokens * score, 0.0), np.where(answered, tokens * (1 - score), 0.0),
        np.where(unanswered, tokens, 0.0), np.where(failed, tokens, 0.0),
    ])  # fmt: skip


def spending_bars(outcomes: Outcomes, cell: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean tokens of groups of problems, cheapest group first, and the mean grant of each.

    Shapes: (groups, 4) as in `split_tokens`, and (groups,). At most BARS groups of nearly equal size.
    """
    import numpy as np

    parts = split_tokens(outcomes, cell)
    order = np.argsort(parts.sum(axis=1), kind="stable")
    groups = np.array_split(order, min(BARS, order.size))
    bars = np.asarray([parts[rows].mean(axis=0) for rows in groups])
    grants = np.asarray([float(np.nanmean(g)) if (~np.isnan(g := outcomes.grant[rows, cell])).any() else np.nan
                         for rows in groups])  # fmt: skip
    return bars, grants


def sharing_grid(section: Section, outcomes: Outcomes, attention: Mapping[str, Attention]) -> Grid:
    """Return how much of each cell's prompts came from the prefix cache, and what its keys and values occupied.

    Reads are saved where calls made together read what they share once a step for all of them.
    """
    columns = (
        Column("series", "Strategy"), Column("budget", "Budget", "count"),
        Column("prompt_tokens", "Prompt tokens computed", "count"),
        Column("cached_tokens", "From the prefix cache", "count"), Column("cached_share", "Shared", "share"),
        Column("reward_tokens", "Reward-model tokens", "count"),
        Column("reads_saved", "Cache reads saved", "share"), Column("kv_token_steps", "KV token-steps", "number"),
        Column("kv_per_token", "KV token-steps per completion token", "number"),
    )  # fmt: skip
    cells = {cell["cell"]: cell for cell in outcomes.cells}
    lines = []
    for row in series_order(section):
        cell = cells[row.cell]
        prompts, steps = cell["prompt_tokens"] + cell["cached_tokens"], cell["kv_token_steps"]
        attended, read = attention.get(row.cell, (0.0, 0.0))
        lines.append(
            Line(row.cell, (named(row, section), row.budget, cell["prompt_tokens"], cell["cached_tokens"],
                            cell["cached_tokens"] / prompts if prompts else None, cell["reward_tokens"],
                            1 - read / attended if attended else None, steps,
                            steps / cell["tokens_total"] if steps is not None and cell["tokens_total"] else None))
        )  # fmt: skip
    return Grid("sharing", section.title, columns, tuple(lines)).without_empty_columns()


def failures_grid(section: Section, outcomes: Outcomes) -> Grid:
    """Return what kept problems from an answer, for the cells where anything did."""
    columns = (
        Column("series", "Strategy"), Column("budget", "Budget", "count"), Column("n_problems", "Problems", "count"),
        Column("error", "Failed", "count"), Column("budget_too_small", "Grant too small", "count"),
        Column("unparsed", "No answer found", "count"), Column("timeout", "Timed out", "count"),
    )  # fmt: skip
    lines = []
    for row in series_order(section):
        status = outcomes.status[:, outcomes.column(row.cell)]
        counts = [int((status == kind).sum()) for kind in ("error", *UNANSWERED)]
        if any(counts):
            lines.append(Line(row.cell, (named(row, section), row.budget, row.n_problems, *counts)))
    return Grid("failures", section.title, columns, tuple(lines))


def latency_grid(section: Section, outcomes: Outcomes) -> Grid:
    """Return the percentiles of seconds a problem, for the cells whose time was measured."""
    import numpy as np

    columns = (
        Column("series", "Strategy"), Column("budget", "Budget", "count"), Column("wall_s", "Whole cell, s", "seconds"),
        *(Column(f"p{p}_s", f"p{p}, s", "seconds") for p in PERCENTILES),
        Column("tokens_per_s", "Completion tokens per s", "number"),
    )  # fmt: skip
    cells = {cell["cell"]: cell for cell in outcomes.cells}
    lines = []
    for row in series_order(section):
        cell = cells[row.cell]
        waits = outcomes.wall_s[:, outcomes.column(row.cell)]
        waits = waits[~np.isnan(waits)]
        if cell["wall_s"] is None or not waits.size:
            continue
        found = [float(value) for value in np.percentile(waits, PERCENTILES)]
        rate = cell["tokens_total"] / cell["wall_s"] if cell["wall_s"] else None
        lines.append(Line(row.cell, (named(row, section), row.budget, cell["wall_s"], *found, rate)))
    return Grid("latency", section.title, columns, tuple(lines))


def reliability_grid(section: Section, outcomes: Outcomes, allocation: pa.Table) -> Grid:
    """Return, for cells that an allocator predicted, the observed score in bins of the predicted one.

    Intervals are Wilson's, for scores that are right or wrong; means over draws are rounded to a count. Empty
    where no prediction is in the allocation table.
    """
    import numpy as np

    columns = (
        Column("series", "Strategy"), Column("budget", "Budget", "count"), Column("n", "Problems", "count"),
        Column("predicted", "Predicted %", "percent"), Column("observed", "Observed %", "percent"),
        Column("observed_interval", "95 % interval", "interval"),
        Column("predicted_tokens", "Predicted tokens", "count"), Column("observed_tokens", "Spent tokens", "count"),
    )  # fmt: skip
    row_of = {problem: i for i, problem in enumerate(outcomes.problems)}
    predicted: dict[str, list[dict[str, Any]]] = {}
    for entry in allocation.to_pylist():
        if entry["predicted_value"] is not None and entry["problem_id"] in row_of:
            predicted.setdefault(entry["cell"], []).append(entry)
    lines = []
    for row in series_order(section):
        entries = predicted.get(row.cell, [])
        column = outcomes.column(row.cell)
        places = np.asarray([row_of[e["problem_id"]] for e in entries], dtype=np.int64)
        values = np.asarray([e["predicted_value"] for e in entries])
        costs = np.asarray([np.nan if e["predicted_tokens"] is None else e["predicted_tokens"] for e in entries])
        for part in _bins(values):
            score = outcomes.score[places[part], column]
            known = score[~np.isnan(score)]
            if known.size:
                expected = costs[part][~np.isnan(costs[part])]
                observed = float(known.mean())
                spent = outcomes.tokens[places[part], column]
                lines.append(
                    Line(row.cell, (named(row, section), row.budget, known.size, float(values[part].mean()), observed,
                                    wilson(round(observed * known.size), known.size),
                                    float(expected.mean()) if expected.size else None, float(np.nanmean(spent))))
                )  # fmt: skip
    return Grid("reliability", section.title, columns, tuple(lines))


def _bins(values: NDArray[np.float64]) -> Sequence[NDArray[np.int64]]:
    """Return positions in groups of equal width over [0, 1]."""
    import numpy as np

    at = np.clip((values * RELIABILITY_BINS).astype(np.int64), 0, RELIABILITY_BINS - 1)
    return [found for i in range(RELIABILITY_BINS) if (found := np.flatnonzero(at == i)).size]
