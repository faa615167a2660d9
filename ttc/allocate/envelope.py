"""Concave envelopes of many curves at once: the upgrades that a greedy allocator may buy, each at its price."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttc.core.curves import Curves, FloatArray, IntArray

BLOCK_OPTIONS = 1 << 20
"""Options treated at a time: temporary arrays stay small beside the curves."""


@dataclass(frozen=True, slots=True, eq=False)
class Envelope:
    """Each prompt's upper concave envelope, cheapest point first, and the upgrades between its points.

    Prompt i owns the points `offsets[i]:offsets[i + 1]`, at least one. Upgrade s of prompt i leads from its point
    s to its point s + 1; slopes fall strictly within a prompt.
    """

    points: IntArray
    """Positions in the curves' flat arrays."""
    offsets: IntArray
    prompts: NDArray[np.int32]
    """Each upgrade's prompt."""
    steps: IntArray
    """Each upgrade's cost in tokens, at least 1."""
    slopes: FloatArray
    """Each upgrade's gain in value per token, above 0."""

    @property
    def first_upgrades(self) -> IntArray:
        """Return the position of each prompt's first upgrade, (n,)."""
        first: IntArray = self.offsets[:-1] - np.arange(self.offsets.size - 1)
        return first

    def at(self, levels: IntArray) -> IntArray:
        """Return the flat position in the curves of each prompt's point number `levels`, (n,)."""
        positions: IntArray = self.points[self.offsets[:-1] + levels]
        return positions


def envelope(curves: Curves) -> Envelope:
    """Return the upper concave envelopes: what is left when dominated options and options under a chord are dropped.

    Of equal costs the best survives, and each prompt's cheapest option always does. Linear in the number of options
    where curves are sorted by cost, a few passes where they are far from concave.
    """
    if not len(curves):
        none = np.zeros(0, dtype=np.int64)
        return Envelope(none, np.zeros(1, dtype=np.int64), none.astype(np.int32), none, none.astype(np.float64))
    parts = [_block(curves, a, b) for a, b in _blocks(curves.offsets)]
    points, prompts, steps, slopes = (np.concatenate([p[k] for p in parts]) for k in range(4))
    sizes = np.bincount(prompts, minlength=len(curves)) + 1
    return Envelope(points, np.concatenate([[0], np.cumsum(sizes)]), prompts, steps, slopes)


def _blocks(offsets: IntArray) -> list[tuple[int, int]]:
    """Cut the prompts into runs of about BLOCK_OPTIONS options, at least one prompt each."""
    n, cuts = offsets.size - 1, [0]
    while cuts[-1] < n:
        fits = int(np.searchsorted(offsets, offsets[cuts[-1]] + BLOCK_OPTIONS, side="right")) - 1
        cuts.append(max(cuts[-1] + 1, min(fits, n)))
    return list(itertools.pairwise(cuts))


def _block(curves: Curves, start: int, stop: int) -> tuple[IntArray, NDArray[np.int32], IntArray, FloatArray]:
    """Return points, and prompt, step and slope of each upgrade, for some prompts."""
    low, high = int(curves.offsets[start]), int(curves.offsets[stop])
    costs, values = curves.costs[low:high], curves.values[low:high]
    prompts = np.repeat(np.arange(start, stop, dtype=np.int32), curves.sizes[start:stop])
    order = np.arange(low, high)
    within = prompts[1:] == prompts[:-1]
    rising = (costs[1:] > costs[:-1]) | ((costs[1:] == costs[:-1]) & (values[1:] <= values[:-1]))
    if not (rising | ~within).all():
        sort = np.lexsort((-values, costs, prompts))
        order, costs, values = order[sort], costs[sort], values[sort]
    while True:
        slopes = _slopes(costs, values, prompts)
        # An option that gains nothing is dominated. One whose successor gains at least as much per token lies on or
        # under the chord of its neighbours. Neither can be a corner, so all of them go at once.
        following = np.append(slopes[1:], 0.0)
        following[np.isinf(following)] = 0.0
        kept = (slopes > 0) & (slopes > following)
        if kept.all():
            break
        order, costs, values, prompts = order[kept], costs[kept], values[kept], prompts[kept]
    upgrade = ~np.isinf(slopes)
    steps = np.diff(costs, prepend=0)[upgrade]
    return order, prompts[upgrade], steps, slopes[upgrade]


def _slopes(costs: IntArray, values: FloatArray, prompts: NDArray[np.int32]) -> FloatArray:
    """Return each option's gain per token over the one before, 0 for no gain, infinity for a prompt's first."""
    rise, run = np.diff(values), np.diff(costs)
    slopes = np.zeros(costs.size)
    np.divide(rise, run, out=slopes[1:], where=(rise > 0) & (run > 0))
    slopes[0] = np.inf
    slopes[1:][prompts[1:] != prompts[:-1]] = np.inf
    return slopes
