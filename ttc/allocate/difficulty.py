"""The best strategy for each difficulty: compute-optimal test-time scaling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ttc.core.curves import FloatArray, IntArray
from ttc.core.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class ComputeOptimal:
    """Which strategy each difficulty bin should use at each budget."""

    choice: IntArray
    """Fitted on all problems, (bins, budgets): for problems that were not fitted on."""
    scores: FloatArray
    """Cross-validated accuracy at each budget, (budgets,)."""
    folds: IntArray
    """The half each problem belongs to, (n,)."""
    fold_choice: IntArray
    """Fitted on the half other than the fold's own, (2, bins, budgets): for the fitted problems themselves."""


def difficulty_bins(scores: ArrayLike, bins: int = 5) -> IntArray:
    """Return each problem's bin, (n,), equally populated, 0 for the highest scores: the easiest problems."""
    values = np.asarray(scores, dtype=np.float64)
    ranks = np.empty(values.size, dtype=np.int64)
    ranks[np.argsort(-values, kind="stable")] = np.arange(values.size)
    return ranks * bins // max(1, values.size)


def compute_optimal(difficulty: ArrayLike, scores: ArrayLike, rng: np.random.Generator) -> ComputeOptimal:
    """Pick the most accurate strategy in each bin and at each budget, with two-fold cross-validation inside the bins.

    `difficulty` is (n,), bins counted from 0; `scores` is (n, strategies, budgets), each problem's score under each
    strategy at each budget. Of equals the first strategy wins. A bin without problems in a half takes what is best in
    that half as a whole. Its knapsack form is `knapsack(joined(curves of each strategy), total)`. Source: Snell et
    al. 2024 (arXiv 2408.03314), section 3.2.

    Raises:
        DataError: shapes that do not fit, fewer than two problems.
    """
    bins, table = np.asarray(difficulty, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    if table.ndim != 3 or bins.shape != table.shape[:1] or bins.size < 2:
        raise DataError("compute-optimal needs two problems or more, a bin each, and scores by strategy and budget")
    count = int(bins.max()) + 1
    folds = _halves(bins, rng)
    fold_choice = np.stack([_winners(bins[folds != f], table[folds != f], count) for f in (0, 1)])
    mine = fold_choice[folds, bins]
    held_out = np.take_along_axis(table, mine[:, None, :], axis=1)[:, 0, :]
    return ComputeOptimal(_winners(bins, table, count), held_out.mean(axis=0), folds, fold_choice)


def _halves(bins: IntArray, rng: np.random.Generator) -> IntArray:
    """Split each bin at random; odd ones out go to either half in turn, so that both halves have problems."""
    shuffled = rng.permutation(bins.size)
    order = shuffled[np.argsort(bins[shuffled], kind="stable")]
    folds = np.empty(bins.size, dtype=np.int64)
    folds[order] = np.arange(bins.size) % 2
    return folds


def _winners(bins: IntArray, table: FloatArray, count: int) -> IntArray:
    everywhere = table.mean(axis=0)
    means = [table[bins == g].mean(axis=0) if (bins == g).any() else everywhere for g in range(count)]
    return np.asarray(np.argmax(np.stack(means), axis=1), dtype=np.int64)
