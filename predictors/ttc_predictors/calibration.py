"""Make predicted probabilities mean what they say, on predictions of problems that were not learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ttc.core.curves import FloatArray, IntArray
from ttc_predictors.blocks import rounded
from ttc_predictors.linear import logistic

Method = Literal["none", "platt", "isotonic"]
METHODS: tuple[Method, ...] = ("none", "platt", "isotonic")
LEAST, MOST = 1e-4, 1 - 1e-4
LOW_BINS, LOW_SHARE = 8, 0.25
KNOTS = 65
SHRINKAGES = (0.0, 0.5, 0.9)
"""How far the lowest predictions are drawn towards the mean of their bin."""


@dataclass(frozen=True)
class Map:
    """A rising map of probabilities, piecewise linear between its knots."""

    raw: FloatArray
    calibrated: FloatArray
    method: str

    def __call__(self, values: FloatArray) -> FloatArray:
        """Return calibrated probabilities."""
        return np.asarray(np.interp(values, self.raw, self.calibrated))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"raw": self.raw.tolist(), "calibrated": self.calibrated.tolist(), "method": self.method}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Map:
        """Return what `to_json` described. Raises KeyError, TypeError or ValueError where it is none."""
        raw, calibrated = (np.array(value[key], dtype=np.float64) for key in ("raw", "calibrated"))
        if raw.shape != calibrated.shape or not raw.size or (np.diff(raw) < 0).any():
            raise ValueError("a calibration's knots do not rise")
        return cls(raw, calibrated, str(value["method"]))


@dataclass(frozen=True)
class Calibration:
    """One map for guesses from the question alone, one for those that have seen samples."""

    fresh: Map
    seen: Map

    def __call__(self, values: FloatArray, drawn: FloatArray | IntArray) -> FloatArray:
        """Return calibrated probabilities, (n,); `drawn` says how many samples each has seen."""
        return np.where(drawn > 0, self.seen(values), self.fresh(values))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"fresh": self.fresh.to_json(), "seen": self.seen.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """Return what `to_json` described. Raises KeyError, TypeError or ValueError where it is none."""
        return cls(Map.from_json(value["fresh"]), Map.from_json(value["seen"]))


@dataclass(frozen=True)
class Forecasts:
    """Probabilities predicted out of fold, and what came of them, arrays of (rows,)."""

    predicted: FloatArray
    labels: FloatArray
    """Shares in [0, 1]."""
    weights: FloatArray
    folds: IntArray
    drawn: IntArray

    def take(self, rows: Any) -> Forecasts:
        """Return some of the rows."""
        return Forecasts(
            self.predicted[rows], self.labels[rows], self.weights[rows], self.folds[rows], self.drawn[rows]
        )


def fit_calibration(forecasts: Forecasts) -> Calibration:
    """Fit both maps; without rows that have seen samples, the second is the first."""
    fresh = fit_map(forecasts.take(forecasts.drawn == 0))
    seen = forecasts.take(forecasts.drawn > 0)
    return Calibration(fresh, fit_map(seen) if seen.labels.size else fresh)


def fit_map(forecasts: Forecasts) -> Map:
    """Choose Platt's or the isotonic map or neither, and how far to shrink the low end, by the loss over grouped folds.

    An impossible problem predicted at 0.02 draws a large share of a large budget (Damani et al. 2024): near zero the
    level of a bin may be known far better than the order within it. If so, shrinking wins.
    """
    parts = [forecasts.folds == fold for fold in np.unique(forecasts.folds)]
    best, least = ("none", 0.0), np.inf
    for method in METHODS:
        for shrinkage in SHRINKAGES:
            guess = np.empty_like(forecasts.predicted)
            for out in parts:
                # With one fold there is nobody else to learn from.
                fitted = _fitted(forecasts.take(out if out.all() else ~out), method, shrinkage)
                guess[out] = fitted(forecasts.predicted[out])
            loss = _loss(guess, forecasts.labels, forecasts.weights)
            if loss < least:
                best, least = (method, shrinkage), loss
    return _fitted(forecasts, *best)


def _fitted(forecasts: Forecasts, method: str, shrinkage: float) -> Map:
    p, y, w = forecasts.predicted, forecasts.labels, forecasts.weights
    raw, values = {"none": _identity, "platt": _platt, "isotonic": _isotonic}[method](p, y, w)
    if shrinkage:
        # The low end has knots of its own, where the shrinkage bends.
        knots = np.unique(np.concatenate([raw, np.quantile(p, np.linspace(0.0, LOW_SHARE, LOW_BINS))]))
        shrunk = _shrink(np.interp(p, raw, values), y, w, shrinkage)
        raw, values = knots, np.interp(np.interp(knots, raw, values), *shrunk)
    return Map(rounded(raw), rounded(np.clip(values, LEAST, MOST)), method)


def _identity(_p: FloatArray, _y: FloatArray, _w: FloatArray) -> tuple[FloatArray, FloatArray]:
    return np.array([0.0, 1.0]), np.array([0.0, 1.0])


def _platt(p: FloatArray, y: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Fit a logistic regression on log-odds, held a little to slope 1 and offset 0."""
    design = np.stack([_log_odds(p), np.ones_like(p)], axis=1)
    slope, offset = logistic(design, y, w / w.mean(), np.ones(2), np.array([1.0, 0.0]))
    knots = 1 / (1 + np.exp(-np.linspace(-9.0, 9.0, KNOTS)))
    return knots, 1 / (1 + np.exp(-(max(slope, 0.0) * _log_odds(knots) + offset)))


def _isotonic(p: FloatArray, y: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit(p, y, sample_weight=w)
    return np.asarray(fitted.X_thresholds_, dtype=np.float64), np.asarray(fitted.y_thresholds_, dtype=np.float64)


def _shrink(p: FloatArray, y: FloatArray, w: FloatArray, shrinkage: float) -> tuple[FloatArray, FloatArray]:
    """Return knots of a map that draws the lowest quarter of the predictions towards their mean label."""
    edge = float(np.quantile(p, LOW_SHARE))
    low = p <= edge
    if edge <= LEAST:
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    mean, target = float(np.average(p[low], weights=w[low])), float(np.average(y[low], weights=w[low]))
    bottom = min(shrinkage * target, edge)
    middle = float(np.clip((1 - shrinkage) * mean + shrinkage * target, bottom, edge))
    return np.array([0.0, mean, edge, 1.0]), np.array([bottom, middle, edge, 1.0])


def _loss(predicted: FloatArray, labels: FloatArray, weights: FloatArray) -> float:
    p = np.clip(predicted, LEAST, MOST)
    return float(np.average(-labels * np.log(p) - (1 - labels) * np.log(1 - p), weights=weights))


def _log_odds(p: FloatArray) -> FloatArray:
    clipped = np.clip(p, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(clipped / (1 - clipped)))
