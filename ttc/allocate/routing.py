"""A cheap and a dear way to answer: who gets the dear one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ttc.allocate.greedy import knapsack
from ttc.core.allocation import Allocation, allocation, total
from ttc.core.curves import Curves, FloatArray


def route(preferences: ArrayLike, weak_costs: ArrayLike, strong_costs: ArrayLike, total_cost: int) -> Allocation:
    """Send prompts to the strong model (choice 1) by falling preference while the total lasts, others to the weak (0).

    `preferences` is (n,): the predicted probability that the strong answer is better. Prompts at 1/2 or below stay
    weak: the strong answer is not expected to gain. Costs are whole units of one currency, (n,) or one number, in
    tokens of one model or in FLOPs for two. Where not even the weak model can be paid for everyone, `knapsack`
    decides. Source: routing of Damani et al. 2024 (arXiv 2410.04707).

    Raises:
        ConfigError: a negative total.
    """
    prefer = np.atleast_1d(np.asarray(preferences, dtype=np.float64))
    costs = np.stack([np.broadcast_to(np.asarray(c), prefer.shape) for c in (weak_costs, strong_costs)], axis=1)
    curves = Curves.from_table(costs, np.stack([1 - prefer, prefer], axis=1))
    best = knapsack(curves, total_cost)
    costs = curves.costs.reshape(-1, 2)
    left = total(total_cost) - int(costs[:, 0].sum())
    if left < 0:
        return best
    choice = np.zeros(prefer.size, dtype=np.int64)
    extra = np.diff(costs, axis=1)[:, 0].tolist()
    for i in np.argsort(-prefer, kind="stable").tolist():
        if prefer[i] <= 0.5:
            break
        if extra[i] <= left:
            choice[i], left = 1, left - extra[i]
    return allocation(curves, int(total_cost), choice, best.price, best.bound)


def preference(weak_scores: ArrayLike, strong_scores: ArrayLike) -> FloatArray:
    """Return the mean of sigmoid(strong - weak) over all pairs of samples, (n,): the label that routing predicts.

    Scores are (n, samples); the two may have different numbers of samples.
    """
    weak, strong = np.asarray(weak_scores, dtype=np.float64), np.asarray(strong_scores, dtype=np.float64)
    difference = strong[:, :, None] - weak[:, None, :]
    return np.asarray((1 / (1 + np.exp(-difference))).mean(axis=(1, 2)), dtype=np.float64)
