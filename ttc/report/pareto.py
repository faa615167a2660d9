"""Frontiers and curves over (cost, value) points."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
