"""One question, A or B: paired by problem, at equal realised tokens where there is a curve to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttc.core.errors import ConfigError, DataError, did_you_mean
from ttc.metrics.frontier import log_weights
from ttc.metrics.statistics import LEVEL, benjamini_hochberg, mcnemar, paired_differences
from ttc.report.comparison import Floats, bootstrap_seed, detectable
from ttc.report.grid import show
from ttc.report.labels import allocator_labels, strategy_labels
from ttc.report.merge import Loaded, groups_of, reasons
from ttc.report.outcomes import Cell, Outcomes, by_subject

UNEQUAL = 0.05
"""Two cells whose realised tokens differ by more than this share are not at equal tokens."""
NOT_SIGNIFICANT = "verdict: not significant"
_BUDGET = re.compile(r"(?P<rest>.*)@(?P<budget>\d+)")


@dataclass(frozen=True, slots=True)
class Selector:
    """What a side of the comparison names: a run, and in it a series and a budget where they are given."""

    run: str
    strategy: str | None = None
    allocator: str | None = None
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """The cells that one side selects, of one task and model."""

    task: str
    model: str
    name: str
    outcomes: Outcomes
    columns: tuple[int, ...]

    @property
    def ids(self) -> frozenset[str]:
        """Return the cells' identities: equal ones are the same computation, wherever they lie."""
        return frozenset(self.outcomes.cells[i]["cell"] for i in self.columns)


def parse_selector(text: str, is_run: bool) -> Selector:
    """Read `RUN`, `RUN:STRATEGY`, `RUN:STRATEGY/ALLOCATOR`, each with `@BUDGET` or without it.

    `is_run` says that the whole text is the name of a run, whatever characters are in it.
    """
    if is_run:
        return Selector(text)
    budget = None
    if match := _BUDGET.fullmatch(text):
        text, budget = match["rest"], int(match["budget"])
    run, colon, series = text.rpartition(":")
    if not colon:
        return Selector(text, budget=budget)
    strategy, slash, allocator = series.partition("/")
    return Selector(run, strategy or None, allocator if slash else None, budget)


def sides(loaded: Loaded, selector: Selector) -> list[Side]:
    """Return what a selector names, one side a task, model and series; oracles only where they are named.

    Raises:
        ConfigError: nothing in the run is called so.
    """
    cells = loaded.tables.cells.to_pylist()
    strategies, allocators = strategy_labels(cells), allocator_labels(cells)
    found: dict[tuple[str, str, str], list[int]] = {}
    subjects = by_subject(loaded.tables)
    for (task, model), outcomes in subjects.items():
        for i, cell in enumerate(outcomes.cells):
            names = (cell["strategy"], strategies[cell["cell"]])
            named = selector.strategy in names if selector.strategy is not None else not cell["oracle"]
            fits = named and selector.allocator in (None, cell["allocator"], allocators[cell["cell"]])
            if fits and selector.budget in (None, cell["budget"]) and cell["cell"] not in loaded.tables.incomplete:
                name = f"{strategies[cell['cell']]} under {allocators[cell['cell']]}"
                found.setdefault((task, model, name), []).append(i)
    if not found:
        raise _nothing_called(loaded.name, cells, selector)
    return [Side(task, model, name, subjects[task, model], tuple(columns))
            for (task, model, name), columns in found.items()]  # fmt: skip


def _nothing_called(run: str, cells: Sequence[Cell], selector: Selector) -> ConfigError:
    strategies = {str(cell["strategy"]) for cell in cells}
    if selector.strategy is not None and selector.strategy not in strategies:
        return ConfigError(f"{run} has no strategy {selector.strategy!r}", did_you_mean(selector.strategy, strategies))
    members = [cell for cell in cells if selector.strategy in (None, cell["strategy"])]
    allocators = {str(cell["allocator"]) for cell in members}
    if selector.allocator is not None and selector.allocator not in allocators:
        hint = did_you_mean(selector.allocator, allocators)
        return ConfigError(f"{run} has no allocator {selector.allocator!r} with {selector.strategy}", hint)
    budgets = ", ".join(str(budget) for budget in sorted({cell["budget"] for cell in members}))
    return ConfigError(f"{run} has no finished cell of that name at budget {selector.budget}", f"budgets: {budgets}")


def paired_sides(a: tuple[Loaded, Sequence[Side]], b: tuple[Loaded, Sequence[Side]]) -> list[tuple[Side, Side]]:
    """Return which sides face each other: one series against one, whatever their names, else equal names.

    Raises:
        DataError: the two sides cannot be compared, with the reasons.
        ConfigError: it is not clear what is to be compared with what.
    """
    (run_a, of_a), (run_b, of_b) = a, b
    faced: list[tuple[Side, Side]] = []
    refused: list[str] = []
    for one in of_a:
        for other in of_b:
            alone = len(of_a) == 1 or len(of_b) == 1
            models_differ = len({s.model for s in of_a}) > 1 or len({s.model for s in of_b}) > 1
            if one.task == other.task and (alone or one.name == other.name):
                if models_differ and one.model != other.model:
                    continue
                if why := _refusal(run_a, one, run_b, other):
                    refused.append(why)
                elif one.ids != other.ids:
                    faced.append((one, other))
    if refused and not faced:
        raise DataError(f"these runs cannot be compared: {refused[0]}", "compare runs of the same problems and grader")
    if not {side.task for side in of_a} & {side.task for side in of_b}:
        told = " and ".join(", ".join(sorted({side.task for side in part})) for part in (of_a, of_b))
        raise ConfigError(f"A and B have no task in common: {told}", "compare runs of the same problems")
    if not faced:
        names = sorted({side.name.replace(" under ", "/") for side in (*of_a, *of_b)})
        raise ConfigError(
            "A and B have no strategy in common, or are the same",
            "name them, as in RUN:STRATEGY; known: " + ", ".join(names),
        )
    return faced


def _refusal(run_a: Loaded, one: Side, run_b: Loaded, other: Side) -> str:
    first = next(g for g in groups_of(run_a) if (g.task, g.model) == (one.task, one.model))
    second = next(g for g in groups_of(run_b) if (g.task, g.model) == (other.task, other.model))
    # Another model is what may be compared; fewer problems leave those in both.
    allowed = ("another model", "other weights", "other problems", "other rows")
    why = [reason for reason in reasons(first, second) if not reason.startswith(allowed)]
    if not first.problems & second.problems:
        why.append("they have no problem in common")
    return "; ".join(why)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One comparison: what A did, what B did at the same tokens, and the paired difference in words."""

    lines: tuple[str, ...]
    p_value: float
    significant: bool


def verdicts(pairs: Sequence[tuple[Side, Side]]) -> list[Verdict]:
    """Return the verdicts of all pairs, corrected for their number."""
    return _corrected([verdict for one, other in pairs for verdict in compare(one, other)])


def compare(one: Side, other: Side) -> list[Verdict]:
    """Compare every cell of one side with the other side, at the cell's realised tokens where that can be read.

    Where the other side is a single cell it is taken as it is, and unequal tokens are said to be so.
    """
    shared = [p for p in one.outcomes.problems if p in set(other.outcomes.problems)]
    at_a = {p: i for i, p in enumerate(one.outcomes.problems)}
    at_b = {p: i for i, p in enumerate(other.outcomes.problems)}
    rows_a, rows_b = [at_a[p] for p in shared], [at_b[p] for p in shared]
    found = []
    for column in sorted(one.columns, key=lambda i: one.outcomes.cells[i]["budget"]):
        cell = one.outcomes.cells[column]
        rivals = [other.outcomes.cells[i] for i in other.columns]
        score_a, scores_b = one.outcomes.score[rows_a, column], other.outcomes.score[rows_b][:, list(other.columns)]
        heading = _side_text("A", one, cell, score_a)
        if len(rivals) == 1:
            text = _side_text("B", other, rivals[0], scores_b[:, 0])
            found.append(_verdict([heading, text, *_unequal(cell, rivals[0])], score_a, scores_b[:, 0], cell["seed"]))
            continue
        costs = [rival["tokens_per_problem"] for rival in rivals]
        weights = log_weights(costs, cell["tokens_per_problem"])
        if weights is None:
            none = (f"no claim: B was measured from {min(costs):,.0f} to {max(costs):,.0f} tokens per problem, and"
                    " nothing is extrapolated")  # fmt: skip
            found.append(Verdict((heading, f"B  {_where(other)}", none), float("nan"), significant=False))
            continue
        level = sum((weight * scores_b[:, i] for i, weight in weights), np.zeros(len(shared)))
        budgets = " and ".join(f"{rivals[i]['budget']:,}" for i, _ in weights)
        text = (f"B  {_where(other)}: {_mean(level)} % at the same tokens"
                + (f", interpolated between budgets {budgets}" if len(weights) > 1 else f", budget {budgets}"))  # fmt: skip
        found.append(_verdict([heading, text], score_a, level, cell["seed"]))
    return found


def _where(side: Side) -> str:
    return f"{side.name}, {side.task}, {side.model}"


def _mean(score: Floats) -> str:
    known = score[~np.isnan(score)]
    return show("percent", float(known.mean()) if known.size else None)


def _side_text(letter: str, side: Side, cell: Cell, score: Floats) -> str:
    return (f"{letter}  {_where(side)}, budget {cell['budget']:,}, seed {cell['seed']}: {_mean(score)} % at"
            f" {cell['tokens_per_problem']:,.0f} tokens per problem")  # fmt: skip


def _unequal(cell: Cell, rival: Cell) -> list[str]:
    own, others = cell["tokens_per_problem"], rival["tokens_per_problem"]
    if others > 0 and abs(own / others - 1) > UNEQUAL:
        return [f"not at equal tokens: A spent {own / others:.2f} times what B spent"]
    return []


def _verdict(lines: list[str], a: Floats, b: Floats, seed: int) -> Verdict:
    column = a - b
    known = column[~np.isnan(column)]
    found = paired_differences(column[:, None], seed=bootstrap_seed(seed))[0]
    if found is None:
        return Verdict((*lines, "no claim: no problem was answered by both without failing"), float("nan"), False)
    whole = bool(np.isin(known, (-1.0, 0.0, 1.0)).all())
    method = "McNemar's exact interval: fewer than 10 problems differ" if found.method == "mcnemar" else (
        "bootstrap over problems")  # fmt: skip
    lines = [
        *lines,
        f"{found.n:,} problems in both; A scores more on {found.wins:,}, B on {found.losses:,}",
        f"difference {show('points', (found.mean, found.low, found.high))} points, 95 % interval ({method}),"
        f" p = {found.p_value:.3g}",
    ]
    if whole and found.method != "mcnemar":
        lines.append(f"exact McNemar p = {mcnemar(found.wins, found.losses):.3g}")
    least = detectable(column)
    if not found.significant and least is not None:
        lines.append(f"{found.n:,} problems are likely to show differences of about {100 * least:.1f} points or more"
                     " (80 % power); a smaller one may exist unseen")  # fmt: skip
    return Verdict((*lines, _sentence(found.mean, found.significant)), found.p_value, found.significant)


def _sentence(mean: float, significant: bool) -> str:
    if not significant:
        return NOT_SIGNIFICANT
    return f"verdict: {'A' if mean > 0 else 'B'} is better"


def _corrected(found: list[Verdict]) -> list[Verdict]:
    """Return the verdicts with what is left of them after Benjamini and Hochberg's correction for their number."""
    made = [verdict for verdict in found if not np.isnan(verdict.p_value)]
    if len(made) < 2:
        return found
    qs = dict(zip(map(id, made), benjamini_hochberg([verdict.p_value for verdict in made]), strict=True))
    corrected = []
    for verdict in found:
        q = qs.get(id(verdict))
        if q is None:
            corrected.append(verdict)
            continue
        kept = verdict.significant and bool(q <= 1 - LEVEL)
        last = verdict.lines[-1] if kept or not verdict.significant else f"{NOT_SIGNIFICANT} after correction"
        text = f"{last} (q = {q:.3g} over {len(made)} comparisons)"
        corrected.append(Verdict((*verdict.lines[:-1], text), verdict.p_value, kept))
    return corrected
