"""Value curves that follow from one number a prompt: the probability that a single sample is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

NLL_SCALE = 0.2
"""Nats; from the published code of UAB (arXiv 2605.26849)."""


def coverage(rates: ArrayLike, samples: ArrayLike) -> FloatArray:
    """Return the probability that any of b samples is right, 1 - (1 - p)^b, (n, m).

    `rates` is p, (n,), and `samples` is b, (m,). It is what best-of-n reaches under a perfect verifier: an oracle's
    curve. Source: Damani et al. 2024 (arXiv 2410.04707), section 3.
    """
    p, b = _grid(rates, samples)
    return np.asarray(1.0 - (1.0 - p) ** b, dtype=np.float64)


def majority(rates: ArrayLike, samples: ArrayLike) -> FloatArray:
    """Return the probability that a vote of b samples is right where all wrong ones agree, (n, m).

    Ties are split evenly; without a sample nothing is right. With wrong answers that differ it is a lower bound. It
    falls with b where p < 1/2.
    """
    from scipy.special import bdtr, bdtrc

    p, b = _grid(rates, samples)
    whole, half = b.astype(np.int64), np.floor(b / 2)
    above = bdtrc(half, whole, p)  # more than half are right
    tie = np.where(b % 2 == 0, bdtr(half, whole, p) - np.where(half > 0, bdtr(half - 1, whole, p), 0.0), 0.0)
    return np.asarray(np.where(b > 0, above + 0.5 * tie, 0.0), dtype=np.float64)


def informativeness(rates: ArrayLike, samples: ArrayLike) -> FloatArray:
    """Return what b rollouts of a prompt teach a policy, (1 - p^b - (1 - p)^b) * p * (1 - p)^2, (n, m).

    The chance of a mixed outcome times the gain from it: zero for prompts that are always or never solved. Source:
    Knapsack RL (Li et al. 2025, arXiv 2509.25849).
    """
    p, b = _grid(rates, samples)
    return np.asarray((1.0 - p**b - (1.0 - p) ** b) * p * (1.0 - p) ** 2, dtype=np.float64)


def success_from_nll(mean_nll: ArrayLike) -> FloatArray:
    """Return exp(-nll / 0.2), UAB's guess at a success probability from one probe sample.

    `mean_nll` is the mean negative log-likelihood of the sampled tokens, in nats. With `Curves.from_success` and
    `knapsack` it is the whole of UAB (arXiv 2605.26849).
    """
    return np.exp(-np.asarray(mean_nll, dtype=np.float64) / NLL_SCALE)


def smoothed_rates(correct: ArrayLike, samples: ArrayLike, weight: float = 0.5) -> FloatArray:
    """Return (c + a) / (n + 2a): success rates that are never 0 or 1, `weight` being a.

    A rate of 0 hides what is rarely solved, a rate of 1 hides what sometimes fails.
    """
    c, n = np.asarray(correct, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    return np.asarray((c + weight) / (n + 2 * weight), dtype=np.float64)


def _grid(rates: ArrayLike, samples: ArrayLike) -> tuple[FloatArray, FloatArray]:
    p = np.clip(np.atleast_1d(np.asarray(rates, dtype=np.float64)), 0.0, 1.0)
    return p[:, None], np.atleast_1d(np.asarray(samples, dtype=np.float64))[None, :]
