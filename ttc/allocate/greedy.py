"""The fast knapsack: buy upgrades on concave envelopes, dearest gain per token first."""

from __future__ import annotations

import numpy as np

from ttc.allocate.envelope import Envelope, envelope
from ttc.core.allocation import Allocation, admitted, allocation, total
from ttc.core.curves import Curves, FloatArray, IntArray

WINDOW = 1 << 16
"""Upgrades sorted at a time."""


def knapsack(curves: Curves, total_tokens: int) -> Allocation:
    """Choose one option a prompt so that the values sum to as much as a total of tokens can buy.

    Buys the upgrades of the concave envelopes by falling gain per token, ties cheaper first, then in order; an upgrade
    that no longer fits ends its prompt, cheaper ones of others may still follow. The value falls short of the optimum
    by less than the gain of one upgrade, so for a handful of prompts take `knapsack_dp`. `bound` is the Lagrangian
    (here: linear programming) bound, `price` the shadow price. With unit costs and `Curves.from_success` it is the
    joint allocation of Damani et al. 2024 (arXiv 2410.04707). About linear in the number of options.

    Raises:
        ConfigError: a negative total.
    """
    offered, shift = admitted(curves, total_tokens)
    hull = envelope(offered)
    left = total(total_tokens) - int(offered.cheapest().sum())
    price, left = critical_price(hull.slopes, hull.steps, left)
    levels = np.bincount(hull.prompts[hull.slopes > price], minlength=len(curves)).astype(np.int64)
    bound = float(offered.values[hull.at(levels)].sum()) + price * left
    _fill(hull, levels, left, price)
    return allocation(curves, int(total_tokens), hull.at(levels) - offered.offsets[:-1] - shift, price, bound)


def shadow_price(curves: Curves, total_tokens: int) -> float:
    """Return what a further token is worth when `total_tokens` are split at best, 0 where some are left over.

    It is the rule for later decisions: accept any upgrade that gains more than this per token.
    """
    offered, _ = admitted(curves, total_tokens)
    hull = envelope(offered)
    return critical_price(hull.slopes, hull.steps, total(total_tokens) - int(offered.cheapest().sum()))[0]


def critical_price(slopes: FloatArray, steps: IntArray, tokens: int) -> tuple[float, int]:
    """Return the lowest price at which all upgrades with a larger slope fit into `tokens`, and what they leave.

    The price is the slope of the first upgrade that does not fit whole, 0 where all fit. Narrowed down by pivots
    instead of sorted: linear.
    """
    left = tokens
    while slopes.size > WINDOW:
        pivot = float(np.median(slopes[:: max(1, slopes.size // 1023)]))
        above = slopes > pivot
        if not above.any():  # so much is tied with the pivot that it has to be split off
            above = slopes == pivot
            if int(steps[above].sum()) > left:
                return pivot, left
        cost = int(steps[above].sum())
        keep = ~above if cost <= left else above
        left -= cost if cost <= left else 0
        slopes, steps = slopes[keep], steps[keep]
    order = np.argsort(-slopes, kind="stable")
    slopes, spent = slopes[order], np.cumsum(steps[order])
    fit = int(np.searchsorted(spent, left, side="right"))
    if fit == slopes.size:
        return 0.0, left - (int(spent[-1]) if spent.size else 0)
    price = float(slopes[fit])
    above_price = int(np.searchsorted(-slopes, -price, side="left"))
    return price, left - (int(spent[above_price - 1]) if above_price else 0)


def _fill(hull: Envelope, levels: IntArray, left: int, price: float) -> None:
    """Spend what is left on the upgrades at or below the price, in order, and raise `levels` in place."""
    first = hull.first_upgrades
    # What costs more than is left now will never fit: leaving it out blocks what comes after it in its prompt.
    rest = np.flatnonzero((hull.slopes <= price) & (hull.steps <= left))
    while rest.size:
        window, rest = _steepest(hull, rest)
        steps = hull.steps[window]
        least = int(steps.min())
        prompts = hull.prompts[window]
        ranks = window - first[prompts]
        for prompt, rank, step in zip(prompts.tolist(), ranks.tolist(), steps.tolist(), strict=True):
            if step <= left and levels[prompt] == rank:
                levels[prompt] = rank + 1
                left -= step
                if left < least:
                    break
        rest = rest[hull.steps[rest] <= left]


def _steepest(hull: Envelope, upgrades: IntArray) -> tuple[IntArray, IntArray]:
    """Split off the steepest WINDOW upgrades, with all their ties, sorted by slope, then cost, then order."""
    slopes, rest = hull.slopes[upgrades], upgrades[:0]
    if upgrades.size > WINDOW:
        cut = np.partition(slopes, upgrades.size - WINDOW)[upgrades.size - WINDOW]
        upgrades, rest = upgrades[slopes >= cut], upgrades[slopes < cut]
    order = np.lexsort((hull.steps[upgrades], -hull.slopes[upgrades]))
    return upgrades[order], rest
