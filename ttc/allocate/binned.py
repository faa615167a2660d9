"""A table learned on other prompts and applied to one prompt at a time."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ttc.allocate.envelope import envelope
from ttc.core.allocation import total
from ttc.core.curves import Curves, FloatArray, IntArray
from ttc.core.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class BinnedPolicy:
    """For each pace (mean tokens a prompt) and each bin of a difficulty score, a grant. Plain arrays: store as JSON.

    Source: the "offline" policy of Damani et al. 2024 (arXiv 2410.04707). With the agreement of a few samples as the
    score it is Certaindex's Pareto policy (Fu et al. 2024, arXiv 2412.20993).
    """

    edges: FloatArray
    """Inner edges of the bins, (bins - 1,); a score on an edge belongs to the upper bin."""
    grants: IntArray
    """Tokens, (rungs, bins): each rung buys one bin one upgrade more than the rung before."""
    mean_tokens: FloatArray
    """Mean grant of each rung on the prompts it was fitted on, (rungs,)."""

    def apply(self, scores: ArrayLike, total_tokens: int) -> IntArray:
        """Grant each prompt tokens by its own score, in order, (n,); the sum is at most the total.

        The rung is chosen by what is left a prompt, so a run that differs from the fitted prompts corrects itself.
        Wherever the total pays for the dearest bin's first rung for everyone, everyone has at least that of its own.
        """
        bins = np.searchsorted(self.edges, np.asarray(scores, dtype=np.float64), side="right").tolist()
        left, paces, table = total(total_tokens), self.mean_tokens.tolist(), self.grants.T.tolist()
        dearest_first = int(self.grants[0].max())
        out = np.zeros(len(bins), dtype=np.int64)
        for i, row in enumerate(map(table.__getitem__, bins)):
            others = len(bins) - i - 1
            rung = min(bisect_right(paces, left / (others + 1)), bisect_right(row, left - dearest_first * others)) - 1
            grant = row[max(rung, 0)]
            out[i] = grant if grant <= left else 0
            left -= int(out[i])
        return out


def fit_bins(scores: ArrayLike, curves: Curves, bins: int = 8) -> BinnedPolicy:
    """Learn the table on held-out prompts: `scores` (n,) as predicted, `curves` best from recorded samples.

    Cuts the scores into quantile bins and buys upgrades on the bins' mean curves, each upgrade for the whole bin.

    Raises:
        DataError: prompts with different numbers of options, or none.
    """
    predicted = np.asarray(scores, dtype=np.float64)
    sizes = curves.sizes
    if not sizes.size or predicted.shape != sizes.shape or (sizes != sizes[0]).any():
        raise DataError("a binned policy needs prompts with a score each and one number of options")
    edges = quantile_edges(predicted, bins)
    member = np.searchsorted(edges, predicted, side="right")
    members = np.bincount(member)
    costs, values = (a.reshape(len(curves), -1) for a in (curves.costs, curves.values))
    mean_costs = np.array([costs[member == g].mean(axis=0) for g in range(members.size)])
    mean_values = np.array([values[member == g].mean(axis=0) for g in range(members.size)])
    means = Curves.from_table(mean_costs, mean_values)
    hull = envelope(means)
    order = np.argsort(-hull.slopes, kind="stable")
    taken = np.zeros((order.size + 1, members.size), dtype=np.int64)
    taken[np.arange(1, order.size + 1), hull.prompts[order]] = 1
    grants = means.costs[hull.points[hull.offsets[:-1] + np.cumsum(taken, axis=0)]]
    return BinnedPolicy(edges, grants, grants @ members / members.sum())


def quantile_edges(scores: FloatArray, bins: int) -> FloatArray:
    """Return inner edges of about equally populated bins, none of them empty: fewer where scores are tied."""
    edges = np.unique(np.quantile(scores, np.arange(1, bins) / bins))
    used = np.unique(np.searchsorted(edges, scores, side="right"))
    return edges[used[1:] - 1]
