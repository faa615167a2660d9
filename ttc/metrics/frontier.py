"""Frontiers and curves over (cost, value) points, and comparisons of whole curves.

A cost is whatever the caller counts: completion tokens, all tokens, FLOPs, KV-token steps, seconds, money. Nothing is
ever extrapolated beyond the costs that were measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttc.metrics.statistics import (
    LEVEL,
    RESAMPLES,
    Difference,
    Interval,
    bootstrap_statistic,
    paired_difference,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """A method at C settings on the same P problems: costs and scores, each (C, P).

    Several seeds of a problem are averaged beforehand. Settings may come in any order.
    """

    costs: Floats
    scores: Floats

    def __post_init__(self) -> None:
        if self.costs.shape != self.scores.shape or self.costs.ndim != 2 or self.costs.size == 0:
            raise ValueError(
                f"costs {self.costs.shape} and scores {self.scores.shape} must both be settings x problems"
            )


@dataclass(frozen=True, slots=True)
class Match:
    """The cost at which a curve reaches another method's score, and its ratio to that method's own cost."""

    cost: float | None
    """Mean cost a problem; None where the curve does not reach the score within its range."""
    ratio: Interval | None
    """`cost` over the other's cost. An end is 0 where the curve may reach the score below its cheapest setting, and
    infinite where it may not reach it at all: beyond the range nothing is claimed."""
    status: Literal["reached", "at most", "not reached"]
    """`at most`: already its cheapest setting has the score, so the cost is an upper bound."""


def frontier(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Return the positions of the strict running maxima by cost, cheapest first.

    A point is on it where no point of lower or equal cost has at least its value; of equal points the first
    counts.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i], i))
    kept: list[int] = []
    for i in order:
        if not kept or values[i] > values[kept[-1]]:
            kept.append(i)
    return kept


def log_weights(costs: Sequence[float], cost: float) -> list[tuple[int, float]] | None:
    """Return the points and weights, summing to 1, that interpolate at `cost`, linearly in log cost.

    Points of equal cost share their weight. Points that cost nothing have no logarithm and are left out.
    None outside the range of the others: nothing is extrapolated.
    """
    known = [c for c in costs if c > 0]
    below = max((c for c in known if c <= cost), default=None)
    above = min((c for c in known if c >= cost), default=None)
    if below is None or above is None:
        return None
    share = 0.0 if below == above else math.log(cost / below) / math.log(above / below)
    weights: list[tuple[int, float]] = []
    for end, weight in ((below, 1 - share), (above, share)):
        if weight > 0:
            at = [i for i, c in enumerate(costs) if c == end]
            weights += [(i, weight / len(at)) for i in at]
    return weights


def interpolate_log(costs: Sequence[float], values: Sequence[float], cost: float) -> float | None:
    """Return the value at `cost` on the curve through the points, linear in log cost; None outside its range."""
    weights = log_weights(costs, cost)
    return None if weights is None else sum(weight * values[i] for i, weight in weights)


def hypervolume(costs: Sequence[float], values: Sequence[float], reference: tuple[float, float]) -> float:
    """Return the area that the points dominate within a reference (cost, value), in units of cost times value.

    The reference is the worst corner: the largest cost that counts, and a value that anything reaches (the score of
    one sample). Points beyond either add nothing. For an area on a logarithmic axis give logarithms of the costs.

    Source: Zitzler and Thiele 1999, in two dimensions.
    """
    inside = [(c, v) for c, v in zip(costs, values, strict=True) if c <= reference[0] and v > reference[1]]
    corners = [inside[i] for i in frontier([c for c, _ in inside], [v for _, v in inside])]
    corners.append(reference)
    return math.fsum((end - cost) * (value - reference[1]) for (cost, value), (end, _) in itertools.pairwise(corners))


def area_under_curve(costs: Sequence[float], values: Sequence[float], low: float, high: float) -> float | None:
    """Return the mean height between two costs of the curve through the points, linear in log cost.

    This is the area under value against log cost over [low, high], divided by the length of that range: the unit
    is that of the values, whatever the base of the logarithm. None where the range is not inside the points' own;
    compare methods on a common range.

    Raises:
        ValueError: not 0 < low < high.
    """
    if not 0 < low < high:
        raise ValueError(f"a range of costs above 0 is needed, not {low} to {high}")
    knots = sorted({low, high, *(c for c in costs if low < c < high)})
    heights = [interpolate_log(costs, values, c) for c in knots]
    known = [h for h in heights if h is not None]
    if len(known) < len(knots):
        return None
    return float(np.trapezoid(np.asarray(known), np.log(knots))) / math.log(high / low)


def compute_to_match(
    curve: Curve,
    costs: ArrayLike,
    scores: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Match:
    """Return the cost at which `curve` reaches the mean score of another method, with a paired bootstrap interval.

    `costs` and `scores` (P,) are the other method's, on the curve's problems. The curve is linear in log cost between
    its settings; on a curve that falls again the first crossing counts. Each resample of problems moves the curve, the
    other method's score and its cost together.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or a mean cost that is not above 0.
    """
    rival = _pair(curve, costs, scores)
    if rival[:, 0].mean() <= 0 or (curve.costs.mean(axis=1) <= 0).any():
        raise ValueError("mean costs must be above 0: they are compared by their logarithms")
    c = curve.costs.shape[0]

    def ratios(means: Floats) -> Floats:
        """Return (R,) ratios, 0 where already the cheapest setting is above the target, inf where none reaches it."""
        order = np.argsort(means[:, :c], axis=1, kind="stable")
        spent = np.take_along_axis(means[:, :c], order, axis=1)
        height = np.take_along_axis(means[:, c : 2 * c], order, axis=1)
        return _first_reach(np.log(spent), height, means[:, -1]) / means[:, -2]

    columns = np.hstack([curve.costs.T, curve.scores.T, rival])
    ratio = bootstrap_statistic(columns, ratios, level=level, resamples=resamples, seed=seed)
    own = float(rival[:, 0].mean())
    if math.isinf(ratio.estimate):
        return Match(None, None, "not reached")
    if ratio.estimate > 0:
        return Match(ratio.estimate * own, ratio, "reached")
    cheapest = float(curve.costs.mean(axis=1).min())
    return Match(cheapest, replace(ratio, estimate=cheapest / own), "at most")


def share_of_gap(
    own: Curve,
    baseline: Curve,
    oracle: Curve,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Return the share of the gap between a baseline and an oracle that a method closes, (A - U) / (O - U).

    `own` is the method at one setting (1, P); the other two curves are read at its realised mean cost, linear in log
    cost. Below 0 the method is worse than the baseline. None where its cost is outside the range of either curve or the
    oracle is not above the baseline. Ends are infinite where the oracle's lead is itself not certain.

    Raises:
        ValueError: `own` has several settings, the problems differ in number, or values are not finite.
    """
    if own.scores.shape[0] != 1:
        raise ValueError(f"the share of a gap is read at one setting, not at {own.scores.shape[0]}")
    rival = _pair(baseline, own.costs[0], own.scores[0])
    _pair(oracle, own.costs[0], own.scores[0])
    at = float(rival[:, 0].mean())
    lower, upper = _at_cost(baseline, at), _at_cost(oracle, at)
    if lower is None or upper is None or upper.mean() <= lower.mean():
        return None

    def share(means: Floats) -> Floats:
        own_score, low, high = means.T
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (own_score - low) / (high - low)
        # Where a resample has no gap, nothing bounds the share on the side of the method's own difference.
        return np.where(high > low, ratio, np.copysign(np.inf, own_score - low))

    return bootstrap_statistic(
        np.column_stack([rival[:, 1], lower, upper]), share, level=level, resamples=resamples, seed=seed
    )


def difference_at_cost(
    curve: Curve,
    costs: ArrayLike,
    scores: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference | None:
    """Return the mean of `scores` less the curve's score at the mean of `costs`, None outside the curve's range.

    `costs` and `scores` (P,) belong to the curve's problems. For the FLOPs-matched comparison with a larger model, the
    curve is the small model's, `scores` are the larger model's, and `costs` the small model's greedy tokens times
    `compute.matched_multiplier` (Snell et al. 2024, section 7).

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    rival = _pair(curve, costs, scores)
    level_scores = _at_cost(curve, float(rival[:, 0].mean()))
    if level_scores is None:
        return None
    return paired_difference(rival[:, 1], level_scores, level=level, resamples=resamples, seed=seed)


def _pair(curve: Curve, costs: ArrayLike, scores: ArrayLike) -> Floats:
    """Return costs and scores as (P, 2), one row for each of the curve's problems."""
    pair = np.column_stack([np.asarray(costs, dtype=np.float64), np.asarray(scores, dtype=np.float64)])
    if pair.shape != (curve.costs.shape[1], 2):
        raise ValueError(f"the curve has {curve.costs.shape[1]} problems, the other method {pair.shape[0]}")
    return pair


def _at_cost(curve: Curve, cost: float) -> Floats | None:
    """Return each problem's score (P,) on the curve at a mean cost: the same mixture of settings for all."""
    weights = log_weights(curve.costs.mean(axis=1).tolist(), cost)
    if weights is None:
        return None
    return np.asarray(sum(weight * curve.scores[i] for i, weight in weights))


def _first_reach(log_costs: Floats, heights: Floats, target: Floats) -> Floats:
    """Return the cost (R,) at which each row's curve, (R, C) by increasing cost, first has its target (R,)."""
    reached = heights >= target[:, None] - 1e-12
    first = reached.argmax(axis=1)
    rows = np.arange(first.size)
    before = np.maximum(first - 1, 0)
    low, high = heights[rows, before], heights[rows, first]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(first == 0, 1.0, np.clip((target - low) / (high - low), 0.0, 1.0))
    cost = np.exp(log_costs[rows, before] + part * (log_costs[rows, first] - log_costs[rows, before]))
    below = (first == 0) & (heights[:, 0] > target + 1e-12)
    return np.where(reached.any(axis=1), np.where(below, 0.0, cost), np.inf)
