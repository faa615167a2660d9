"""Intervals and paired comparisons. The unit is always the problem, never the sample, the draw or the seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 10_000
# Elements of one block of resampled counts for each column, up to 32 columns. For one column, a megabyte that stays in
# the processor's cache is four times as fast as 32; for many, the threads of small products wait for one another.
BLOCK = 1 << 17
FEW_DISCORDANT = 10
"""With fewer discordant pairs than this, a bootstrap interval of a difference of 0/1 scores covers too rarely
(`benchmarks/interval_coverage.py`), and the exact one is taken instead."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence interval, in the unit of the estimate."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean paired difference a - b over `n` problems, its interval, and whether it can be told from zero."""

    mean: float
    low: float
    high: float
    n: int
    significant: bool
    """Whether `p_value` is below one minus the level, uncorrected for other comparisons."""
    p_value: float
    """Two-sided, of the same method as the interval."""
    wins: int
    """Problems on which a scores more than b."""
    losses: int
    """Problems on which a scores less than b."""
    method: Literal["bootstrap", "mcnemar"]
    """`mcnemar` where each problem is won, drawn or lost as a whole and fewer than FEW_DISCORDANT are not drawn."""


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion; (0, 1) where nothing was tried.

    Source: Wilson 1927, without continuity correction. Only for independent problems: not for several seeds or
    draws of the same ones.

    Raises:
        ValueError: not 0 <= successes <= n.
    """
    if n == 0 and successes == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_mean(
    values: ArrayLike, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Return the mean over problems and its expanded percentile bootstrap interval, None without problems.

    `values` holds one number a problem (P,), or one row a problem with a column for each seed (P, S): a problem's
    seeds are averaged first, because they share its difficulty and are no independent evidence. Where all problems
    have the same value (one problem included) the interval is that point.

    Source: percentile bootstrap (Efron 1979), its tails widened by sqrt(n / (n - 1)) and Student's t, without which
    it is too narrow for few problems (Hesterberg 2015, "What teachers should know about the bootstrap").

    Raises:
        ValueError: a value is not finite, or there are more than two axes.
    """
    per_problem = per_problem_means(values)
    if per_problem.size == 0:
        return None
    mean = float(per_problem.mean())
    if np.ptp(per_problem) == 0:
        return Interval(mean, mean, mean)
    means = resampled_means(per_problem[:, None], resamples=resamples, seed=seed)[:, 0]
    return _interval(mean, means, per_problem.size, level)


def bootstrap_statistic(
    values: ArrayLike,
    statistic: Callable[[Floats], Floats],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return a statistic of column means and its expanded percentile bootstrap interval over problems.

    `values` is (P, M): one row a problem, one column a quantity; all columns are resampled together, so that
    comparisons between them are paired. `statistic` maps means (R, M) to (R,); where it gives infinities they are
    ordered like any other value, so that an end of the interval may be infinite.

    Raises:
        ValueError: no problems, a value that is not finite, or a statistic that is NaN.
    """
    columns = _finite(values)
    if columns.ndim != 2 or columns.shape[0] == 0:
        raise ValueError(f"a table of problems x quantities is needed, not one of shape {columns.shape}")
    estimate = float(statistic(columns.mean(axis=0, keepdims=True))[0])
    resampled = statistic(resampled_means(columns, resamples=resamples, seed=seed))
    if math.isnan(estimate) or np.isnan(resampled).any():
        raise ValueError("the statistic is undefined on some resamples of the problems")
    return _interval(estimate, resampled, columns.shape[0], level)


def resampled_means(values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return the column means (R, M) of `values` (P, M) under R resamplings of its rows with replacement.

    A NaN leaves its column's mean; a resample in which a column has nothing else is NaN there. Calls with the same
    numbers of rows and resamples and the same seed draw the same problems, so that their results are paired as well.

    Raises:
        ValueError: not a table with at least one row, or a value is infinite.
    """
    columns = np.asarray(values, dtype=np.float64)
    if columns.ndim != 2 or columns.shape[0] == 0 or np.isinf(columns).any():
        raise ValueError(f"a table of finite values, problems x quantities, is needed; its shape is {columns.shape}")
    n = columns.shape[0]
    known = ~np.isnan(columns)
    weighted = columns if known.all() else np.hstack([np.where(known, columns, 0.0), known])
    generator = np.random.default_rng(seed)
    sums = np.empty((resamples, weighted.shape[1]))
    block = max(1, BLOCK * min(weighted.shape[1], 32) // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        # How often each problem is drawn; the sums are then one matrix product for all columns.
        drawn = generator.integers(0, n, size=(size, n), dtype=np.int64)
        drawn += (np.arange(size) * n)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        sums[start : start + size] = times.astype(np.float64) @ weighted
    if weighted is columns:
        return np.asarray(sums / n)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[:, : columns.shape[1]] / sums[:, columns.shape[1] :])


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Difference | None:
    """Compare two sets of scores of the same problems: the mean of a - b with its interval, None without problems.

    `a` and `b` are (P,), or (P, S) with a column for each seed, which are averaged first. See `paired_differences`.

    Raises:
        ValueError: the shapes differ, or a score is not finite.
    """
    first, second = _finite(a), _finite(b)
    if first.shape != second.shape:
        raise ValueError(f"paired scores need equal shapes, not {first.shape} and {second.shape}")
    column = per_problem_means(first - second)[:, None]
    return paired_differences(column, level=level, resamples=resamples, seed=seed)[0]


def paired_differences(
    differences: ArrayLike, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference | None]:
    """Return what each column of paired differences (P, M) shows, from one resample of the problems for all columns.

    NaN marks a problem that a comparison leaves out; a column without problems gives None. Scores of several seeds are
    averaged before they are subtracted.

    A column whose problems are all won (1), drawn (0) or lost (-1) as a whole, with fewer than FEW_DISCORDANT won or
    lost, gets the exact interval and p-value (`mcnemar_interval`, `mcnemar`). Every other gets the bootstrap of
    `bootstrap_mean`, with the p-value at which that interval would just touch 0. With m differing problems no
    sign-flip test can reach a two-sided p below 2 * 0.5**m, so neither does this one, where a bootstrap of two or three
    problems would claim certainty. P-values are not corrected for one another: `benjamini_hochberg`.

    Raises:
        ValueError: not a table, or a difference is infinite.
    """
    table = np.array(differences, dtype=np.float64)
    if table.ndim != 2 or np.isinf(table).any():
        raise ValueError(
            f"a table of finite differences, problems x comparisons, is needed; its shape is {table.shape}"
        )
    # Interpolated scores of equal problems may differ in the last bit, which is no difference.
    table[np.abs(table) < 1e-12] = 0.0
    exact = np.isin(table, (-1.0, 0.0, 1.0)) | np.isnan(table)
    discordant = (table != 0) & ~np.isnan(table)
    by_counts = exact.all(axis=0) & (discordant.sum(axis=0) < FEW_DISCORDANT)
    drawn = np.empty((resamples, table.shape[1]))
    if table.shape[0] and not by_counts.all():
        drawn[:, ~by_counts] = resampled_means(table[:, ~by_counts], resamples=resamples, seed=seed)
    return [_difference(table[:, i], None if by_counts[i] else drawn[:, i], level) for i in range(table.shape[1])]


def _difference(column: Floats, drawn: Floats | None, level: float) -> Difference | None:
    known = column[~np.isnan(column)]
    n = known.size
    if n == 0:
        return None
    wins, losses, mean = int((known > 0).sum()), int((known < 0).sum()), float(known.mean())
    if drawn is None:
        low, high = mcnemar_interval(wins, losses, n, level)
        p_value = mcnemar(wins, losses)
    else:
        drawn = drawn[~np.isnan(drawn)]
        drawn[np.abs(drawn) < 1e-12] = 0.0
        interval = _interval(mean, drawn, n, level)
        low, high = interval.low, interval.high
        p_value = min(1.0, max(_bootstrap_p_value(drawn, n), 2 * 0.5 ** (wins + losses)))
    method: Literal["bootstrap", "mcnemar"] = "mcnemar" if drawn is None else "bootstrap"
    return Difference(mean, low, high, n, p_value < 1 - level, p_value, wins, losses, method)


def mcnemar(wins: int, losses: int) -> float:
    """Return the two-sided p-value of McNemar's exact test from the two counts of discordant pairs; 1 without any.

    Source: McNemar 1947; the exact form is the sign test, Binomial(wins + losses, 1/2).
    """
    if wins + losses == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue)


def mcnemar_interval(wins: int, losses: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return an exact interval of the difference of two paired proportions, (wins - losses) / n at its middle.

    The difference is (2t - 1) q, with q the share of discordant pairs and t the share of wins among them. Both get
    Clopper and Pearson's exact interval at `level`, so that 0 is outside exactly where McNemar's exact p is below
    1 - level, and so that without a discordant pair there is still an interval. Conservative: at 95 % it covers at
    least 97 % where at most 12 discordant pairs are expected (by enumeration, n = 40 and 200).

    Raises:
        ValueError: more discordant pairs than `n`, or a negative count.
    """
    if min(wins, losses) < 0 or wins + losses > n:
        raise ValueError(f"{wins} wins and {losses} losses do not fit into {n} pairs")
    if n == 0:
        return -1.0, 1.0
    discordant = wins + losses
    share = _clopper_pearson(discordant, n, level)
    won = _clopper_pearson(wins, discordant, level)
    low, high = 2 * won[0] - 1, 2 * won[1] - 1
    return low * share[low < 0], high * share[high > 0]


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Return p-values adjusted so that those below a rate have at most this expected share of false discoveries.

    `p_values` is a table of comparisons of any shape; NaN marks one that was not made, counts for nothing and stays NaN.

    Source: Benjamini and Hochberg 1995. Valid for independent or positively dependent comparisons, which those
    against a common baseline are (Benjamini and Yekutieli 2001).

    Raises:
        ValueError: a p-value is outside [0, 1].
    """
    from scipy.stats import false_discovery_control

    given = np.asarray(p_values, dtype=np.float64)
    adjusted = given.copy()
    made = ~np.isnan(given)
    if made.any():
        adjusted[made] = false_discovery_control(given[made])
    return adjusted


def minimum_detectable_difference(
    n: int, mean_square: float, *, power: float = 0.8, level: float = LEVEL
) -> float | None:
    """Return the smallest mean paired difference that `n` problems show with the given power, None if there is none.

    `mean_square` is the mean squared difference of a problem's two scores: for 0/1 scores the share of discordant
    pairs. A difference larger than that share cannot exist, so a result above it means that the run is too small.

    Source: Connor 1987 (two-sided, normal approximation): sqrt(n) d = z_a sqrt(q) + z_b sqrt(q - d^2).

    Raises:
        ValueError: `mean_square` outside [0, 1], or `power` or `level` outside (0, 1).
    """
    if not 0 <= mean_square <= 1 or not 0 < power < 1 or not 0 < level < 1:
        raise ValueError(f"mean_square {mean_square}, power {power} and level {level} must be shares")
    from scipy.optimize import brentq
    from scipy.special import ndtri

    z_level, z_power = float(ndtri((1 + level) / 2)), float(ndtri(power))
    if n <= z_level**2 or mean_square == 0:
        return None

    def excess(share: float) -> float:
        return math.sqrt(n) * share - z_level - z_power * math.sqrt(max(0.0, 1 - share**2))

    # In units of sqrt(q) the equation knows only n.
    return float(brentq(excess, 0.0, 1.0)) * math.sqrt(mean_square)


def per_problem_means(values: ArrayLike) -> Floats:
    """Return one number a problem (P,): itself, or the mean over its seeds where `values` is (P, S).

    Raises:
        ValueError: a value is not finite, or there are more than two axes.
    """
    array = _finite(values)
    if array.ndim > 2:
        raise ValueError(f"one row a problem is needed, not an array of {array.ndim} axes")
    if array.ndim == 2 and array.shape[1]:
        return np.asarray(array.mean(axis=1))
    return array.reshape(-1)


def _finite(values: ArrayLike) -> Floats:
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("scores and costs must be finite: leave problems without one out, on both sides of a pair")
    return array


def _interval(estimate: float, resampled: Floats, n: int, level: float) -> Interval:
    tail = _expanded_tail(n, level)
    # Order statistics, not interpolated ones: between a number and an infinity there is nothing.
    low, high = np.quantile(resampled, [tail, 1 - tail], method="inverted_cdf")
    return Interval(estimate, float(low), float(high))


def _expanded_tail(n: int, level: float) -> float:
    """Return the tail of the bootstrap distribution that stands for a tail of (1 - level) / 2."""
    from scipy.special import ndtr, stdtrit

    if n < 2:
        return (1 - level) / 2
    return float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - level) / 2)))


def _bootstrap_p_value(means: Floats, n: int) -> float:
    """Return one minus the largest level at which the interval of `_interval` leaves out 0."""
    from scipy.special import ndtri, stdtr

    tail = min(float((means <= 0).mean()), float((means >= 0).mean()), 0.5)
    tail = max(tail, 1 / (means.size + 1))  # so many resamples cannot tell a smaller one
    return float(2 * stdtr(n - 1, ndtri(tail) / math.sqrt(n / (n - 1)))) if n > 1 else 1.0


def _clopper_pearson(successes: int, n: int, level: float) -> tuple[float, float]:
    if n == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)
