"""Curves fitted to score against compute, which refuse to be read beyond the range they state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttc.metrics.statistics import LEVEL, Interval, resampled_means

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Form = Literal["sigmoid", "power-law"]


@dataclass(frozen=True, slots=True)
class Saturation:
    """F(N) = start + (ceiling - start) (1 - (1 - rate)^N), fitted to P problems at N in [low, high] units.

    A unit is an independent attempt (start 0) or a round of rethinking.
    """

    start: float
    ceiling: Interval
    rate: Interval
    low: float
    high: float
    """Nothing is read above this: the largest N measured, times the reach that was asked for."""
    n_problems: int

    def predict(self, units: ArrayLike) -> Floats:
        """Return the score at so many units.

        Raises:
            ValueError: outside [low, high].
        """
        n = _within(units, self.low, self.high)
        solved = 1 - (1 - self.rate.estimate) ** n
        return np.asarray(self.start + (self.ceiling.estimate - self.start) * solved)

    def stop_at(self, gain: float) -> int | None:
        """Return the units after which one more adds at most `gain`, None where that is above `high`."""
        if self.ceiling.estimate <= self.start:
            return 1
        point = saturation_point(self.ceiling.estimate, self.rate.estimate, gain, self.start)
        return point if point <= self.high else None


@dataclass(frozen=True, slots=True)
class Scaling:
    """A curve of score against compute, fitted on [low, high]: `parameters` as `fit_scaling` names them."""

    form: Form
    parameters: Mapping[str, float]
    low: float
    high: float

    def predict(self, compute: ArrayLike) -> Floats:
        """Return the score at this much compute.

        Raises:
            ValueError: outside [low, high].
        """
        return _CURVES[self.form](_within(compute, self.low, self.high), **self.parameters)


@dataclass(frozen=True, slots=True)
class ExtrapolationError:
    """How far fits to the cheaper points were from the dearer ones that they had not seen."""

    mean: float
    """Mean absolute error, in the unit of the score."""
    worst: float
    n: int
    """Predictions made."""


def difficulty_bins(difficulty: ArrayLike, bins: int = 5) -> Ints:
    """Return each problem's bin (P,), 1 for the easiest: equal numbers of problems, ties by position.

    Source: Snell et al. 2024 (arXiv 2408.03314), section 3.2. Measure difficulty on other samples than those the bins
    are used on, else regression to the mean bends every curve.

    Raises:
        ValueError: fewer problems than bins.
    """
    hard = np.asarray(difficulty, dtype=np.float64)
    if not 1 <= bins <= hard.size:
        raise ValueError(f"{hard.size} problems cannot be split into {bins} bins")
    ranks = np.empty(hard.size, dtype=np.int64)
    ranks[np.argsort(hard, kind="stable")] = np.arange(hard.size)
    return np.asarray(ranks * bins // hard.size + 1)


def saturation_point(ceiling: float, rate: float, gain: float, start: float = 0.0) -> int:
    """Return the units after which one more adds at most `gain`: at least 1.

    Source: Wang et al. 2025 (arXiv 2505.20522): ceil(ln(gain / ((ceiling - start) rate)) / ln(1 - rate)).

    Raises:
        ValueError: `gain` is not above 0, `rate` is not in (0, 1], or not start <= ceiling <= 1.
    """
    if gain <= 0 or not 0 < rate <= 1 or not start <= ceiling <= 1:
        raise ValueError("gain > 0, 0 < rate <= 1 and start <= ceiling <= 1 are needed")
    first = (ceiling - start) * rate
    if gain >= first or rate == 1:
        return 1
    return max(1, math.ceil(math.log(gain / first) / math.log1p(-rate)))


def fit_saturation(
    units: ArrayLike,
    scores: ArrayLike,
    *,
    start: ArrayLike | None = None,
    reach: float = 1.0,
    level: float = LEVEL,
    resamples: int = 1000,
    seed: int = 0,
) -> Saturation:
    """Fit the saturating curve to the mean scores of one difficulty bin, with intervals by resampling its problems.

    `units` (K,) are the numbers of attempts or rounds, `scores` (P, K) each problem's score after them, `start` (P,) its
    score before the first, 0 by default. Least squares, weighted by one over the variance of each mean. A mixture of
    problems of different difficulty does not have this form: fit bins, not the pooled curve. The rate means nothing
    where the ceiling is the start.

    Source: Wang et al. 2025 (arXiv 2505.20522); the non-zero start is ours.

    Raises:
        ValueError: fewer than two different numbers of units, shapes that do not fit, or `reach` below 1.
    """
    n, table = np.asarray(units, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] == 0 or n.shape != table.shape[1:] or np.unique(n).size < 2 or (n <= 0).any():
        raise ValueError(f"problems x two or more numbers of units are needed, not {n.shape} and {table.shape}")
    if reach < 1 or not np.isfinite(table).all():
        raise ValueError(f"finite scores and a reach of at least 1 are needed, not {reach}")
    origin = np.zeros(len(table)) if start is None else np.asarray(start, dtype=np.float64)
    columns = np.column_stack([origin, table])
    variance = table.var(axis=0)
    # A point where all problems agree would else have all the weight.
    weights = 1 / np.maximum(variance, 0.01 * variance.max()) if variance.max() > 0 else np.ones(n.size)
    means = np.vstack([columns.mean(axis=0), resampled_means(columns, resamples=resamples, seed=seed)])
    ceilings, rates = _fit_rows(n, means[:, 1:], means[:, 0], weights)
    tail = (1 - level) / 2
    found = [
        Interval(float(v[0]), *(float(end) for end in np.quantile(v[1:], [tail, 1 - tail]))) for v in (ceilings, rates)
    ]
    return Saturation(float(means[0, 0]), found[0], found[1], float(n.min()), float(n.max()) * reach, len(table))


def fit_scaling(compute: ArrayLike, scores: ArrayLike, form: Form, *, reach: float = 1.0) -> Scaling:
    """Fit a curve of score against compute, each (C,), by least squares.

    `sigmoid`: ceiling / (1 + (midpoint / x)^slope), a logistic curve in log compute. `power-law`:
    ceiling - scale * x^-exponent. The result is read up to `reach` times the largest compute.

    Raises:
        ValueError: fewer than four different computes, one that is not above 0, or `reach` below 1.
    """
    x, y = np.asarray(compute, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or np.unique(x).size < 4 or (x <= 0).any() or not np.isfinite(y).all():
        raise ValueError(f"scores at four or more computes above 0 are needed, not {y.shape} at {np.unique(x).size}")
    if reach < 1:
        raise ValueError(f"a reach of {reach} would leave out what was measured")
    middle = float(np.exp(np.log(x).mean()))
    values = _least_squares(form, x / middle, y)
    # Fitted in units of the middle compute, where parameters are near 1; told in the caller's units.
    named = dict(zip(_PARAMETERS[form], values, strict=True))
    if form == "sigmoid":
        named["midpoint"] *= middle
    else:
        named["scale"] *= middle ** named["exponent"]
    return Scaling(form, named, float(x.min()), float(x.max()) * reach)


def extrapolation_error(compute: ArrayLike, scores: ArrayLike, form: Form, *, minimum: int = 4) -> ExtrapolationError:
    """Return how well fits to the cheapest m points predict all dearer ones, m from `minimum` to one less than all.

    Raises:
        ValueError: no point is left to predict, or as in `fit_scaling`.
    """
    x, y = np.asarray(compute, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    errors: list[float] = []
    for m in range(max(4, minimum), x.size):
        if x[m] > x[m - 1]:  # else the cut would split one compute
            fitted = fit_scaling(x[:m], y[:m], form, reach=float(x[-1] / x[m - 1]))
            errors += np.abs(fitted.predict(x[m:]) - y[m:]).tolist()
    if not errors:
        raise ValueError(f"{x.size} points leave none to predict after the first {minimum}")
    return ExtrapolationError(math.fsum(errors) / len(errors), max(errors), len(errors))


def _within(values: ArrayLike, low: float, high: float) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    # The upper end is a product, and may be rounded below what the caller computes.
    outside = (x < low * (1 - 1e-9)) | (x > high * (1 + 1e-9)) | np.isnan(x)
    if outside.any():
        raise ValueError(f"the curve holds from {low:g} to {high:g}, not at {x[outside].flat[0]:g}")
    return x


def _fit_rows(n: Floats, means: Floats, start: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return ceilings and rates (R,) for rows of means (R, K), by a search that narrows the rate for all rows at once.

    For a given rate the best ceiling has a closed form, so that only one dimension is searched: first a grid
    of odds from 1e-6 to 1e6, then ever finer ones around the best of the last.
    """
    rows = np.arange(len(means))
    heights, room = means - start[:, None], 1 - start
    centre, reach = np.zeros(len(means)), math.log(1e6)
    steps = np.linspace(-1, 1, 81)
    for _ in range(10):
        log_odds = centre[:, None] + reach * steps
        # (1 - rate)^n with the rate's odds: log(1 - rate) = -log(1 + odds)
        solved = -np.expm1(-n * np.logaddexp(0, log_odds)[:, :, None])
        top = np.einsum("k,rgk,rk->rg", weights, solved, heights)
        gain = np.clip(top / np.einsum("k,rgk,rgk->rg", weights, solved, solved), 0, room[:, None])
        loss = np.einsum("k,rgk->rg", weights, (gain[:, :, None] * solved - heights[:, None, :]) ** 2)
        best = loss.argmin(axis=1)
        centre, reach = log_odds[rows, best], reach * 0.05
    return start + gain[rows, best], 1 / (1 + np.exp(-centre))


def _sigmoid(x: Floats, ceiling: float, midpoint: float, slope: float) -> Floats:
    from scipy.special import expit

    return np.asarray(ceiling * expit(slope * np.log(x / midpoint)))


def _power_law(x: Floats, ceiling: float, scale: float, exponent: float) -> Floats:
    return np.asarray(ceiling - scale * x**-exponent)


_CURVES: Mapping[Form, Callable[..., Floats]] = {"sigmoid": _sigmoid, "power-law": _power_law}
_PARAMETERS: Mapping[Form, tuple[str, str, str]] = {
    "sigmoid": ("ceiling", "midpoint", "slope"),
    "power-law": ("ceiling", "scale", "exponent"),
}


def _least_squares(form: Form, x: Floats, y: Floats) -> list[float]:
    """Return the parameters of the best of several local fits; a score has a ceiling of at most 1."""
    from scipy.optimize import least_squares

    top = min(1.0, max(1e-3, float(y.max())))
    if form == "sigmoid":
        starts = [(c, m, k) for c in (top, (1 + top) / 2) for m in (0.1, 1.0, 10.0) for k in (0.3, 1.0, 3.0)]
        bounds = ([0.0, 1e-6, 0.0], [1.0, 1e6, 50.0])
    else:
        starts = [
            (c, max(1e-3, c - float(y.min())), b) for c in (top, (1 + top) / 2, 1.0) for b in (0.1, 0.3, 1.0, 3.0)
        ]
        bounds = ([0.0, 0.0, 1e-3], [1.0, 10.0, 10.0])

    def residuals(values: Floats) -> Floats:
        return np.asarray(_CURVES[form](x, *values) - y)

    fits = [least_squares(residuals, np.clip(start, *bounds), bounds=bounds, x_scale="jac") for start in starts]
    best = min(fits, key=lambda found: float(found.cost))
    return [float(value) for value in best.x]
