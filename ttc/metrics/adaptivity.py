"""How well spending follows need: ARISE, regret, and whether a method obeys and uses its freedom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Control:
    """Controllability (L1): how a method keeps to the tokens it was granted."""

    compliance: float
    """Share of problems that used at most their grant."""
    deviation: float
    """Mean of |used - granted| / granted."""
    overshoot: float
    """Largest number of tokens used above a grant, 0 if none was."""


@dataclass(frozen=True, slots=True)
class Adaptiveness:
    """Adaptiveness (L2): how a method's spending follows difficulty."""

    correlation: float | None
    """Spearman's rank correlation of tokens and difficulty, None where either is constant."""
    overthinking: float
    """Share of the easy problems that got more tokens than the mean problem."""


def arise(accuracy: ArrayLike, tokens: ArrayLike, repeats: ArrayLike = 1) -> Floats:
    """Return each sample's ARISE (P,): gains between compute levels at a discount for tokens, losses at a surcharge.

    `accuracy` (0 to 1) and `tokens` (above 0) are (P, J), levels in the order of intended compute; `repeats` says how many
    runs each entry is the mean of. A change of less than one run's worth, 1 / repeats of the smaller side, counts as none: a
    tiny loss would else take the full ratio of tokens. Not bounded below. The metric is the mean over samples.

    Source: Yin et al. 2025 (arXiv 2510.06014); the dead zone is ours, and without effect for single runs.

    Raises:
        ValueError: the shapes differ, fewer than two levels, or tokens that are not above 0.
    """
    score, spent = _paired(accuracy, tokens)
    if score.ndim != 2 or score.shape[1] < 2 or (spent <= 0).any():
        raise ValueError(f"problems x two or more levels, with tokens above 0, are needed, not {score.shape}")
    runs = np.broadcast_to(np.asarray(repeats, dtype=np.float64), score.shape)
    change = np.diff(score, axis=1)
    # Differences of means may fall short of one run's worth by rounding.
    change[np.abs(change) < 1 / np.minimum(runs[:, 1:], runs[:, :-1]) - 1e-9] = 0.0
    return np.asarray((change * (spent[:, :-1] / spent[:, 1:]) ** np.sign(change)).sum(axis=1))


def repeats_needed(accuracy: ArrayLike, tokens: ArrayLike, *, threshold: float = 0.5, minimum: int = 3) -> Ints:
    """Return how many of the recorded repeats (..., m) dynamic sampling takes: (...,).

    Repeats are added from `minimum` on until the coefficients of variation of accuracy and tokens sum to at most
    `threshold`, or m is reached (10 in the paper).

    Source: Yin et al. 2025 (arXiv 2510.06014), adaptive sampling; population standard deviations.

    Raises:
        ValueError: the shapes differ, or there are fewer repeats than `minimum`.
    """
    score, spent = _paired(accuracy, tokens)
    most = score.shape[-1] if score.ndim else 0
    if not 1 <= minimum <= most:
        raise ValueError(f"there are {most} repeats, at least {minimum} are needed")
    enough = [
        sum(v[..., :m].std(axis=-1) / (v[..., :m].mean(axis=-1) + 1e-8) for v in (score, spent)) <= threshold
        for m in range(minimum, most)
    ]
    enough.append(np.ones(score.shape[:-1], dtype=np.bool_))
    return np.asarray(minimum + np.argmax(enough, axis=0), dtype=np.int64)


def arise_of_repeats(accuracy: ArrayLike, tokens: ArrayLike, *, threshold: float = 0.5, minimum: int = 3) -> Floats:
    """Return each sample's ARISE (P,) from recorded repeats (P, J, m), as many of each as `repeats_needed` says."""
    score, spent = _paired(accuracy, tokens)
    taken = repeats_needed(score, spent, threshold=threshold, minimum=minimum)
    used = np.arange(score.shape[-1]) < taken[..., None]
    return arise((score * used).sum(axis=-1) / taken, (spent * used).sum(axis=-1) / taken, taken)


def cumulative_regret(accuracy: ArrayLike, best: ArrayLike) -> Floats:
    """Return the summed shortfall (P,) against the best accuracy at each budget: `accuracy` (P, K), `best` (K,) or (P, K).

    Source: Qu et al. 2025 (arXiv 2503.07572), definition of cumulative regret over episodes.
    """
    return np.asarray((np.asarray(best, dtype=np.float64) - np.asarray(accuracy, dtype=np.float64)).sum(axis=1))


def normalised_regret(tokens: ArrayLike, accuracy: ArrayLike, horizon: float) -> float:
    """Return one minus the mean accuracy over [0, horizon] tokens, in [0, 1]; 0 is perfect at no cost.

    `tokens` (increasing) and `accuracy` are (K,), averaged over problems. The curve starts at (0, 0), is linear between points
    and flat after the last. Against an oracle's curve, take the difference of the two.

    Source: Qu et al. 2025 (arXiv 2503.07572), evaluation. It depends on the horizon and on the first measured point.

    Raises:
        ValueError: tokens that do not increase from above 0, or a horizon that is not above 0.
    """
    score, spent = _paired(accuracy, tokens)
    if spent.ndim != 1 or spent.size == 0 or spent[0] <= 0 or (np.diff(spent) <= 0).any() or horizon <= 0:
        raise ValueError("tokens that increase from above 0 and a horizon above 0 are needed")
    spent, score = np.concatenate([[0.0], spent]), np.concatenate([[0.0], score])
    knots = np.concatenate([spent[spent < horizon], [horizon]])
    return float(1 - np.trapezoid(np.interp(knots, spent, score), knots) / horizon)


def control(granted: ArrayLike, used: ArrayLike) -> Control:
    """Return how the tokens used (P,) keep to those granted (P,).

    Source: levels of Alomrani et al. 2025 (arXiv 2507.02076); the three measures are ours.

    Raises:
        ValueError: the shapes differ, no problems, or a grant that is not above 0.
    """
    grant, spent = _paired(granted, used)
    if grant.size == 0 or (grant <= 0).any():
        raise ValueError("at least one problem and grants above 0 are needed")
    over = spent - grant
    return Control(float((over <= 0).mean()), float((np.abs(over) / grant).mean()), float(max(0.0, over.max())))


def adaptiveness(tokens: ArrayLike, difficulty: ArrayLike, *, easy: float = 0.2) -> Adaptiveness:
    """Return how the tokens (P,) follow difficulty (P,), larger being harder (one minus the pass rate, say).

    Easy problems are those in the lowest share `easy` of the difficulties, ties included. Measure difficulty on other
    samples than those whose tokens are counted.

    Source: levels of Alomrani et al. 2025 (arXiv 2507.02076); the measures are ours.

    Raises:
        ValueError: the shapes differ, or no problems.
    """
    spent, hard = _paired(tokens, difficulty)
    if spent.size == 0:
        raise ValueError("at least one problem is needed")
    from scipy.stats import spearmanr

    varied = np.ptp(spent) > 0 and np.ptp(hard) > 0
    correlation = float(spearmanr(spent, hard).statistic) if varied else None
    lowest = hard <= np.quantile(hard, easy, method="inverted_cdf")
    return Adaptiveness(correlation, float((spent[lowest] > spent.mean()).mean()))


def _paired(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"equal shapes are needed, not {a.shape} and {b.shape}")
    return a, b
