"""One row a strategy: what its whole curve is worth, by the measures of the field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttc.metrics.adaptivity import adaptiveness, arise, control, normalised_regret
from ttc.metrics.frontier import Curve, area_under_curve, hypervolume, share_of_gap
from ttc.metrics.statistics import Difference, bootstrap_mean, paired_differences
from ttc.report.breakdown import named
from ttc.report.comparison import bootstrap_seed, tokens_to_match
from ttc.report.grid import Column, Grid, Line, Value
from ttc.report.leaderboard import Section
from ttc.report.outcomes import Outcomes

Floats = NDArray[np.float64]

COLUMNS = (
    Column("series", "Strategy"),
    Column("budgets", "Budgets", "count"),
    Column("area", "Area %", "percent"),
    Column("area_gain", "Area against the baseline", "points"),
    Column("match", "Tokens to match", "estimate"),
    Column("gap", "Oracle's lead closed", "estimate"),
    Column("hypervolume", "Hypervolume %", "percent"),
    Column("regret", "Regret", "number"),
    Column("arise", "ARISE", "estimate"),
    Column("kept", "Grants kept", "share"),
    Column("deviation", "Off the grant", "share"),
    Column("correlation", "Follows difficulty", "number"),
    Column("overthinking", "Overthinking", "share"),
)
READING = (
    "Area: mean accuracy over the range of log tokens that a strategy shares with the baseline, and its paired difference"
    " there. Tokens to match: what share of the baseline's tokens reaches the baseline's best accuracy. Oracle's lead: (A - U) / (O"
    " - U) at the largest budget where all three were measured, with U the baseline and O an oracle; above 1 it"
    " does better than that oracle, which is then no bound for it. Hypervolume: the area"
    " of tokens and accuracy that the curve dominates, as a share of the rectangle between the dearest cell with the lowest"
    " accuracy and a perfect answer at no cost. Regret: one minus the mean accuracy from no tokens to the dearest cell's."
    " ARISE: gains from budget to budget at a discount for tokens, losses at a surcharge, averaged over problems; above 0"
    " more budget helped. Grants kept, off the grant (mean distance): control of the budget (L1). Follows difficulty (Spearman's"
    " correlation of tokens with the task's own difficulty), overthinking (easy problems with more tokens than the mean one):"
    " adaptiveness (L2). Intervals are 95 %, by the paired bootstrap over problems. - means that it could not be measured."
)


@dataclass(frozen=True, slots=True)
class _Member:
    """One curve: a series at one seed, its columns cheapest first."""

    series: str
    name: str
    """What the page calls it."""
    seed: int
    columns: tuple[int, ...]
    oracle: bool


def measures_grid(
    section: Section, outcomes: Outcomes, incomplete: frozenset[str], difficulty: Mapping[str, float]
) -> Grid:
    """Return the measures of every curve that is no oracle's; incomplete cells are left out.

    `difficulty` is the task's own, by problem, where it states one.
    """
    curves = _curves(section, outcomes, incomplete)
    baselines = {curve.seed: curve for curve in curves if curve.series == section.baseline}
    ranked = [curve for curve in curves if not curve.oracle]
    gains = {i: gain for i, curve in enumerate(ranked)
             if (gain := _area_gain(outcomes, curve, baselines.get(curve.seed))) is not None}  # fmt: skip
    found = dict(zip(gains, _estimated(list(gains.values()), outcomes), strict=True))
    corner = _corner(outcomes, ranked)
    hard = np.asarray([difficulty.get(problem, np.nan) for problem in outcomes.problems])
    lines = []
    for i, curve in enumerate(ranked):
        baseline = baselines.get(curve.seed)
        values: tuple[Value, ...] = (
            curve.name, len(curve.columns), _area(outcomes, curve, baseline), _triple(found.get(i)),
            _match(outcomes, curve, baseline), _gap(outcomes, curve, baseline, curves), _volume(outcomes, curve, corner),
            _regret(outcomes, curve, corner), _arise(outcomes, curve), *_control(outcomes, curve),
            *_adaptiveness(outcomes, curve, hard),
        )  # fmt: skip
        lines.append(Line(curve.name, values, "baseline" if curve.series == section.baseline else ""))
    return Grid("measures", section.title, COLUMNS, tuple(lines)).without_empty_columns()


def _curves(section: Section, outcomes: Outcomes, incomplete: frozenset[str]) -> list[_Member]:
    groups: dict[tuple[str, str, int, bool], list[int]] = {}
    for row in section.rows:
        if row.cell not in incomplete and row.accuracy is not None:
            groups.setdefault((row.series, named(row, section), row.seed, row.oracle), []).append(
                outcomes.column(row.cell)
            )
    return [
        _Member(series, name, seed, tuple(sorted(columns, key=lambda i: outcomes.cells[i]["budget"])), oracle)
        for (series, name, seed, oracle), columns in groups.items()
    ]


def _tokens(outcomes: Outcomes, curve: _Member) -> list[float]:
    return [float(outcomes.cells[i]["tokens_per_problem"]) for i in curve.columns]


def _accuracies(outcomes: Outcomes, curve: _Member) -> list[float]:
    return [float(outcomes.cells[i]["accuracy"]) for i in curve.columns]


def _shared_range(outcomes: Outcomes, curve: _Member, baseline: _Member | None) -> tuple[float, float] | None:
    costs = [[c for c in _tokens(outcomes, one) if c > 0] for one in (curve, baseline or curve)]
    if not all(costs):
        return None
    low, high = max(map(min, costs)), min(map(max, costs))
    return (low, high) if low < high else None


def _area(outcomes: Outcomes, curve: _Member, baseline: _Member | None) -> float | None:
    shared = _shared_range(outcomes, curve, baseline)
    return None if shared is None else area_under_curve(_tokens(outcomes, curve), _accuracies(outcomes, curve), *shared)


def _area_gain(outcomes: Outcomes, curve: _Member, baseline: _Member | None) -> Floats | None:
    """Return each problem's difference of areas to the baseline, NaN where a cell of either failed."""
    if baseline is None or baseline.series == curve.series:
        return None
    shared = _shared_range(outcomes, curve, baseline)
    if shared is None:
        return None
    area = np.zeros(len(outcomes.problems))
    for one, sign in ((curve, 1.0), (baseline, -1.0)):
        costs = _tokens(outcomes, one)
        for i, column in enumerate(one.columns):
            # The area is linear in the heights: this cell's part of it is that of a curve of 1 here and 0 elsewhere.
            part = area_under_curve(costs, [float(i == j) for j in range(len(costs))], *shared)
            if part:
                area += sign * part * outcomes.score[:, column]
    return area


def _arise(outcomes: Outcomes, curve: _Member) -> tuple[float, float, float] | None:
    """Return the mean ARISE over the curve's budgets; a problem that failed or spent nothing in a cell is left out."""
    columns = list(curve.columns)
    score, tokens = outcomes.score[:, columns], outcomes.tokens[:, columns]
    known = ~np.isnan(score).any(axis=1) & (np.nan_to_num(tokens) > 0).all(axis=1)
    if len(columns) < 2 or not known.any():
        return None
    each = arise(score[known], tokens[known], [outcomes.cells[i]["draws"] for i in columns])
    mean = bootstrap_mean(each, seed=_seed(outcomes))
    return None if mean is None else (mean.estimate, mean.low, mean.high)


def _estimated(vectors: Sequence[Floats], outcomes: Outcomes) -> list[Difference | None]:
    if not vectors:
        return []
    return paired_differences(np.column_stack(vectors), seed=_seed(outcomes))


def _seed(outcomes: Outcomes) -> int:
    return bootstrap_seed(int(outcomes.cells[0]["seed"]))


def _triple(found: Difference | None) -> tuple[float, float, float] | None:
    return None if found is None else (found.mean, found.low, found.high)


def _match(outcomes: Outcomes, curve: _Member, baseline: _Member | None) -> Value:
    if baseline is None or baseline.series == curve.series:
        return None
    rival = max(baseline.columns, key=lambda i: outcomes.cells[i]["accuracy"])
    found = tokens_to_match(outcomes, list(curve.columns), rival)
    return None if found is None else (found.share, found.low, found.high)


def _gap(
    outcomes: Outcomes, curve: _Member, baseline: _Member | None, curves: Sequence[_Member]
) -> tuple[float, float, float] | None:
    """Return the share of the lead that an oracle has over the baseline, at the largest budget where it can be read.

    The oracle is that of the same strategy (under an allocator that sees outcomes) where there is one, and then the
    baseline is the same strategy's own uniform curve; else it is the first oracle of the run.
    """
    strategy = outcomes.cells[curve.columns[0]]["strategy"]
    rivals = [c for c in curves if c.seed == curve.seed]
    oracles = [c for c in rivals if c.oracle]
    own = [c for c in oracles if outcomes.cells[c.columns[0]]["strategy"] == strategy]
    if own:
        uniform = [c for c in rivals if not c.oracle and outcomes.cells[c.columns[0]]["strategy"] == strategy
                   and outcomes.cells[c.columns[0]]["allocator"] == "uniform"]  # fmt: skip
        baseline = uniform[0] if uniform else baseline
    if not oracles or baseline is None or baseline == curve:
        return None
    oracle = (own or oracles)[0]
    involved = [*curve.columns, *baseline.columns, *oracle.columns]
    shared = np.flatnonzero(~np.isnan(outcomes.score[:, involved]).any(axis=1))
    if not shared.size:
        return None
    of_baseline, of_oracle = _read(outcomes, baseline.columns, shared), _read(outcomes, oracle.columns, shared)
    for column in reversed(curve.columns):
        own_point = _read(outcomes, (column,), shared)
        found = share_of_gap(own_point, of_baseline, of_oracle, seed=_seed(outcomes))
        if found is not None:
            return found.estimate, found.low, found.high
    return None


def _read(outcomes: Outcomes, columns: Sequence[int], shared: NDArray[np.intp]) -> Curve:
    chosen = list(columns)
    return Curve(outcomes.tokens[shared][:, chosen].T, outcomes.score[shared][:, chosen].T)


def _corner(outcomes: Outcomes, curves: Sequence[_Member]) -> tuple[float, float] | None:
    """Return the worst corner: the most tokens a problem of any curve, and the lowest accuracy."""
    tokens = [t for curve in curves for t in _tokens(outcomes, curve)]
    heights = [a for curve in curves for a in _accuracies(outcomes, curve)]
    return (max(tokens), min(heights)) if tokens and max(tokens) > 0 else None


def _volume(outcomes: Outcomes, curve: _Member, corner: tuple[float, float] | None) -> float | None:
    if corner is None or corner[1] >= 1:
        return None
    area = hypervolume(_tokens(outcomes, curve), _accuracies(outcomes, curve), corner)
    return area / (corner[0] * (1 - corner[1]))


def _regret(outcomes: Outcomes, curve: _Member, corner: tuple[float, float] | None) -> float | None:
    by_cost: dict[float, list[float]] = {}
    for cost, height in zip(_tokens(outcomes, curve), _accuracies(outcomes, curve), strict=True):
        if cost > 0:
            by_cost.setdefault(cost, []).append(height)
    if corner is None or not by_cost:
        return None
    costs = sorted(by_cost)
    return normalised_regret(costs, [math.fsum(by_cost[c]) / len(by_cost[c]) for c in costs], corner[0])


def _control(outcomes: Outcomes, curve: _Member) -> tuple[float | None, float | None]:
    columns = list(curve.columns)
    granted, used = outcomes.grant[:, columns].ravel(), outcomes.tokens[:, columns].ravel()
    known = (np.nan_to_num(granted) > 0) & ~np.isnan(used)
    if not known.any():
        return None, None
    found = control(granted[known], used[known])
    return found.compliance, found.deviation


def _adaptiveness(outcomes: Outcomes, curve: _Member, hard: Floats) -> tuple[float | None, float | None]:
    """Return how tokens at the largest budget follow the task's own difficulty."""
    used = outcomes.tokens[:, curve.columns[-1]]
    known = ~np.isnan(used) & ~np.isnan(hard)
    if np.unique(hard[known]).size < 2:
        return None, None
    found = adaptiveness(used[known], hard[known])
    return found.correlation, found.overthinking
