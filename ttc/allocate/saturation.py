"""Where further samples stop paying: caps for the knapsack from a fitted ceiling and rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ttc.core.curves import FloatArray, IntArray
from ttc.core.errors import DataError

LEAST_RATE = 1e-4
"""A rate of 0 would never saturate."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """The curve F(N) = start + (ceiling - start) * (1 - (1 - rate)^N) of N samples or rounds.

    Source: TTSPM (Wang et al. 2025, arXiv 2505.20522); `start` is the score before the first round, 0 for samples.
    """

    ceiling: float
    rate: float
    start: float = 0.0

    def score(self, samples: ArrayLike) -> FloatArray:
        """Return F(N)."""
        solved = 1 - (1 - self.rate) ** np.asarray(samples, dtype=np.float64)
        return np.asarray(self.start + (self.ceiling - self.start) * solved, dtype=np.float64)

    def point(self, least_gain: float) -> int:
        """Return the first N at which one more gains at most `least_gain`."""
        return int(saturation_point(self.ceiling - self.start, self.rate, least_gain))


def saturation_point(ceiling: ArrayLike, rate: ArrayLike, least_gain: ArrayLike) -> IntArray:
    """Return the first N >= 1 with ceiling * rate * (1 - rate)^N <= least_gain, where the first gain is above it.

    ceil(ln(least_gain / (ceiling * rate)) / ln(1 - rate)), else 1. `least_gain` is a score a sample, above 0; divided
    by the tokens of one it is a shadow price. Rates are clipped to [1e-4, 1 - 1e-9].

    Raises:
        DataError: a least gain of 0 or below.
    """
    p = np.clip(np.asarray(rate, dtype=np.float64), LEAST_RATE, 1 - 1e-9)
    gain, least = np.asarray(ceiling, dtype=np.float64) * p, np.asarray(least_gain, dtype=np.float64)
    if (least <= 0).any():
        raise DataError("the least gain worth a sample must be above 0")
    with np.errstate(divide="ignore"):
        points = np.ceil(np.log(least / np.maximum(gain, 1e-300)) / np.log1p(-p))
    return np.asarray(np.where(gain > least, np.maximum(points, 1), 1), dtype=np.int64)


def fit_saturation(
    samples: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, start: float = 0.0
) -> Saturation:
    """Fit ceiling and rate to a mean curve by bounded least squares.

    `samples` is (m,), `scores` is (m,), `weights` is (m,), 1 / variance. Fit one difficulty bin at a time: a mixture
    of such curves is not such a curve.
    """
    from scipy.optimize import least_squares

    n, y = np.asarray(samples, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    root = np.ones(n.size) if weights is None else np.sqrt(np.asarray(weights, dtype=np.float64))

    def residuals(x: FloatArray) -> FloatArray:
        return np.asarray(root * (Saturation(float(x[0]), float(x[1]), start).score(n) - y), dtype=np.float64)

    ceiling = float(np.clip(y[-1], start + 1e-6, 1 - 1e-6))
    rate = float(np.clip((y[0] - start) / (ceiling - start), 2 * LEAST_RATE, 0.999))
    done = least_squares(residuals, [ceiling, rate], bounds=([start, LEAST_RATE], [1.0, 1 - 1e-9]), x_scale=[1.0, 0.1])
    return Saturation(float(done.x[0]), float(done.x[1]), start)


def saturation_points(difficulty: ArrayLike, samples: ArrayLike, scores: ArrayLike, least_gain: float) -> IntArray:
    """Return the saturation point of each difficulty bin, (bins,), from training problems.

    `difficulty` is (n,), bins counted from 0, `samples` is (m,), `scores` is (n, m), each problem's curve. The cap of a
    new problem is its bin's point times its tokens a sample; `knapsack(curves.capped(caps), total)` then splits.

    Raises:
        DataError: a bin without problems.
    """
    bins, table = np.asarray(difficulty, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    members = np.bincount(bins)
    if not members.size or (members == 0).any():
        raise DataError(f"every difficulty bin needs problems, found {members.tolist()} in bins 0 and up")
    fits = [fit_saturation(samples, table[bins == g].mean(axis=0)) for g in range(members.size)]
    return np.array([fit.point(least_gain) for fit in fits], dtype=np.int64)
