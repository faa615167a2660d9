"""The exact knapsack, by integer programming and by dynamic programming: slower, for small runs and as a check."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ttc.allocate.greedy import knapsack
from ttc.core.allocation import Allocation, admitted, allocation, total
from ttc.core.curves import Curves, FloatArray, IntArray

TABLE_CELLS = 50_000_000
"""Prompts times capacity that the dynamic program's table may have: 100 MB at two bytes each."""


def knapsack_exact(
    curves: Curves, total_tokens: int, relative_gap: float = 1e-6, time_limit_s: float | None = None
) -> Allocation:
    """Choose one option a prompt so that the values sum to the most that a total of tokens can buy, by HiGHS.

    Proved to within `relative_gap` of the optimum; `bound` is the solver's. Where the time runs out first, the best
    found so far is returned, at least `knapsack`'s, with the bound that holds for it. Seconds for a thousand prompts
    with 16 options.

    Raises:
        ConfigError: a negative total.
    """
    fast = knapsack(curves, total_tokens)
    if not len(curves):
        return fast
    offered, shift = admitted(curves, total_tokens)
    base = offered.cheapest()
    left = total(total_tokens) - int(base.sum())
    extra = offered.costs - np.repeat(base, offered.sizes)
    chosen, bound = _solved(offered, extra, left, relative_gap, time_limit_s)
    capacity, over = left, 0 if chosen is None else int(extra[chosen].sum()) - left
    while chosen is not None and over > 0:
        # HiGHS keeps constraints to within a tolerance: what a token too much bought is solved again.
        capacity = max(0, capacity - over)
        chosen, _ = _solved(offered, extra, capacity, relative_gap, time_limit_s)
        over = 0 if chosen is None else int(extra[chosen].sum()) - left
    bound = min(b for b in (fast.bound, bound) if b is not None)
    choice = fast.choice if chosen is None else chosen - offered.offsets[:-1] - shift
    found = allocation(curves, int(total_tokens), choice, fast.price, bound)
    return found if found.value >= fast.value else replace(fast, bound=bound)


def _solved(
    offered: Curves, extra: IntArray, capacity: int, relative_gap: float, time_limit_s: float | None
) -> tuple[IntArray | None, float | None]:
    """Return each prompt's chosen flat position, None where nothing was found in time, and the proved bound."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, vstack

    fits = np.flatnonzero(extra <= capacity)
    prompts = offered.prompts[fits]
    one_each = csr_array((np.ones(fits.size), (prompts, np.arange(fits.size))), shape=(len(offered), fits.size))
    spend = csr_array(extra[fits][None, :].astype(np.float64))
    upper = np.append(np.ones(len(offered)), float(capacity))
    lower = np.append(np.ones(len(offered)), 0.0)
    done = milp(
        -offered.values[fits],
        integrality=np.ones(fits.size, dtype=np.int64),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(vstack([one_each, spend]), lower, upper),
        options={"mip_rel_gap": relative_gap, "time_limit": np.inf if time_limit_s is None else time_limit_s},
    )
    bound = None if done.mip_dual_bound is None else -float(done.mip_dual_bound)
    return (None, bound) if done.x is None else (fits[done.x > 0.5], bound)


def knapsack_dp(curves: Curves, total_tokens: int, quantum: int | None = None) -> Allocation:
    """Choose one option a prompt so that the values sum to the most that a total of tokens can buy, by a table.

    Exact with a `quantum` of 1; a larger one rounds the cost of every upgrade up to whole quanta, so the total still
    holds. By default the smallest quantum whose table stays under 50 million cells. Time and memory grow with
    prompts x tokens / quantum.

    Raises:
        ConfigError: a negative total.
    """
    offered, shift = admitted(curves, total_tokens)
    base = offered.cheapest()
    extra = offered.costs - np.repeat(base, offered.sizes)
    most = int(np.maximum.reduceat(extra, offered.offsets[:-1]).sum()) if len(curves) else 0
    left = min(total(total_tokens) - int(base.sum()), most)
    unit = quantum or max(1, -(-left * max(1, len(curves)) // TABLE_CELLS))
    capacity, steps = left // unit, -(-extra // unit)
    best = np.zeros(capacity + 1)
    small = np.int16 if offered.sizes.max(initial=0) <= np.iinfo(np.int16).max else np.int64
    table = np.zeros((len(curves), capacity + 1), dtype=small)
    for i, (a, b) in enumerate(itertools.pairwise(offered.offsets.tolist())):
        best = _extended(best, steps[a:b], offered.values[a:b], table[i])
    chosen = np.zeros(len(curves), dtype=np.int64)
    room = capacity
    for i in reversed(range(len(curves))):
        chosen[i] = table[i, room]
        room -= int(steps[offered.offsets[i] + chosen[i]])
    reference = knapsack(curves, total_tokens)
    bound = reference.bound if unit > 1 else float(best[capacity])
    return allocation(curves, int(total_tokens), chosen - shift, reference.price, bound)


def _extended(best: FloatArray, steps: IntArray, values: FloatArray, row: NDArray[np.int16 | np.int64]) -> FloatArray:
    """Return the best value at each capacity with one prompt more, and note its option in `row`."""
    new = np.full(best.size, -np.inf)
    for option, (step, value) in enumerate(zip(steps.tolist(), values.tolist(), strict=True)):
        if step < best.size:
            with_it = best[: best.size - step] + value
            better = with_it > new[step:]
            new[step:][better] = with_it[better]
            row[step:][better] = option
    return new
