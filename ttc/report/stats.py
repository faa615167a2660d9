"""Intervals and paired comparisons. The unit is always the problem, never the sample or the draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
RESAMPLES = 10_000
# Elements of one block of resampled values: 2**22 doubles are 32 MB, whatever the number of problems.
BLOCK = 1 << 22
# Up to here, counting how often each value was drawn beats drawing problem by problem (measured at 1,319 problems).
FEW_VALUES = 32


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over problems and its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean paired difference over `n` problems, its interval, and whether it can be told from zero."""

    mean: float
    low: float
    high: float
    n: int
    significant: bool


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion; (0, 1) where nothing was tried.

    Source: Wilson 1927, without continuity correction.
    """
    if n == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_mean(
    values: ArrayLike, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Return the mean over problems and its percentile bootstrap interval, None without problems.

    `values` holds one number a problem, or one row a problem with a column for each seed: a problem's seeds
    are averaged first, because they share its difficulty and are no independent evidence. Where all problems
    have the same value (one problem included) the interval is that point. Too narrow for a handful of
    problems, like every percentile bootstrap.
    """
    import numpy as np

    per_problem = np.asarray(values, dtype=np.float64)
    if per_problem.ndim == 2 and per_problem.shape[1]:
        per_problem = per_problem.mean(axis=1)
    if per_problem.size == 0:
        return None
    means = _resampled_means(per_problem, resamples, np.random.default_rng(seed))
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(per_problem.mean()), float(low), float(high))


def _resampled_means(
    values: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.floating[Any]]:
    import numpy as np

    n = values.size
    distinct, counts = np.unique(values, return_counts=True)
    if distinct.size == 1:
        return np.full(resamples, distinct[0])
    if distinct.size <= FEW_VALUES:
        # How often each value comes up among n draws with replacement is multinomial: the same bootstrap.
        return np.asarray(generator.multinomial(n, counts / n, size=resamples) @ distinct / n)
    means = np.empty(resamples)
    block = max(1, BLOCK // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        means[start : start + size] = values[generator.integers(0, n, size=(size, n), dtype=np.uint32)].mean(axis=1)
    return means


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Difference | None:
    """Compare two scores of the same problems: the mean of a - b with its bootstrap interval, None without problems.

    Significant where the interval leaves out 0 and enough problems differ at all: with m differing problems no
    sign-flip test can reach a two-sided p below 2 * 0.5**m, while a bootstrap of two or three of them would
    claim certainty.

    Raises:
        ValueError: the lengths differ.
    """
    import numpy as np

    if len(a) != len(b):
        raise ValueError(f"paired scores need equal lengths, not {len(a)} and {len(b)}")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    # Interpolated scores of equal problems may differ in the last bit, which is no difference.
    differences[np.abs(differences) < 1e-12] = 0.0
    interval = bootstrap_mean(differences, level=level, resamples=resamples, seed=seed)
    if interval is None:
        return None
    differing = int(np.count_nonzero(differences))
    enough = 2 * 0.5**differing <= 1 - level
    apart = interval.low > 0 or interval.high < 0
    return Difference(interval.mean, interval.low, interval.high, differences.size, enough and apart)
