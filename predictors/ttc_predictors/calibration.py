"""Make predicted probabilities mean what they say, on predictions of problems that were not learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ttc.core.curves import FloatArray, IntArray
from ttc_predictors.blocks import rounded

LEAST, MOST = 1e-4, 1 - 1e-4
LOW_BINS, LOW_SHARE = 8, 0.25
KNOTS = 65


@dataclass(frozen=True)
class Calibration:
    """A rising map of probabilities, piecewise linear between its knots."""

    raw: FloatArray
    calibrated: FloatArray
    method: str

    def __call__(self, values: ArrayLike) -> FloatArray:
        """Return calibrated probabilities."""
        given = np.asarray(values, dtype=np.float64)
        return np.asarray(np.interp(given, self.raw, self.calibrated)) if self.raw.size else np.clip(given, 0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"raw": self.raw.tolist(), "calibrated": self.calibrated.tolist(), "method": self.method}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """Return what `to_json` described. Raises KeyError, TypeError or ValueError where it is none."""
        raw, calibrated = (np.array(value[key], dtype=np.float64) for key in ("raw", "calibrated"))
        if raw.shape != calibrated.shape or (np.diff(raw) < 0).any():
            raise ValueError("a calibration's knots do not rise")
        return cls(raw, calibrated, str(value["method"]))


def fit_calibration(predicted: FloatArray, labels: FloatArray, weights: FloatArray, folds: IntArray) -> Calibration:
    """Choose Platt's or the isotonic map, or neither, by grouped folds, and shrink the low end towards bin means.

    `predicted` are out-of-fold predictions, `labels` shares in [0, 1], `folds` the fold of each row.
    """
    candidates = {"none": _identity, "platt": _platt, "isotonic": _isotonic}
    losses = {}
    for name, fit in candidates.items():
        guess = np.empty_like(predicted)
        for fold in np.unique(folds):
            out = folds == fold
            # With one fold there is nobody else to learn from.
            inside = ~out if not out.all() else out
            guess[out] = fit(predicted[inside], labels[inside], weights[inside])(predicted[out])
        losses[name] = _loss(guess, labels, weights)
    method = min(losses, key=losses.__getitem__)
    fitted = candidates[method](predicted, labels, weights)
    shrunk = _shrink(fitted(predicted), labels, weights)
    raw = fitted.raw if fitted.raw.size else np.linspace(0.0, 1.0, KNOTS)
    # The low end has knots of its own, where the shrinkage bends.
    low = np.quantile(predicted, np.linspace(0.0, LOW_SHARE, LOW_BINS))
    knots = np.unique(np.concatenate([raw, low]))
    values = np.interp(fitted(knots), *shrunk)
    return Calibration(rounded(knots), rounded(np.clip(values, LEAST, MOST)), method)


def _identity(_predicted: FloatArray, _labels: FloatArray, _weights: FloatArray) -> Calibration:
    return Calibration(np.zeros(0), np.zeros(0), "none")


def _platt(predicted: FloatArray, labels: FloatArray, weights: FloatArray) -> Calibration:
    """Fit a logistic regression on log-odds by Newton's method, slightly held to slope 1 and offset 0."""
    x = _log_odds(predicted)
    design = np.stack([x, np.ones_like(x)], axis=1)
    theta, prior = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    w = weights / weights.mean()
    for _ in range(25):
        p = 1 / (1 + np.exp(-(design @ theta)))
        gradient = design.T @ (w * (p - labels)) + (theta - prior)
        hessian = (design * (w * p * (1 - p))[:, None]).T @ design + np.eye(2)
        theta = theta - np.linalg.solve(hessian, gradient)
    theta[0] = max(theta[0], 0.0)
    knots = 1 / (1 + np.exp(-np.linspace(-9.0, 9.0, KNOTS)))
    return Calibration(knots, 1 / (1 + np.exp(-(theta[0] * _log_odds(knots) + theta[1]))), "platt")


def _isotonic(predicted: FloatArray, labels: FloatArray, weights: FloatArray) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit(predicted, labels, sample_weight=weights)
    return Calibration(
        np.asarray(fitted.X_thresholds_, dtype=np.float64),
        np.asarray(fitted.y_thresholds_, dtype=np.float64),
        "isotonic",
    )


def _shrink(calibrated: FloatArray, labels: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return knots that pull the lowest quarter of the predictions half way towards their bin's mean label.

    An impossible problem predicted at 0.02 draws a large share of a large budget (Damani et al. 2024): near zero the
    level of a bin is known far better than the order within it.
    """
    edge = float(np.quantile(calibrated, LOW_SHARE))
    low = calibrated <= edge
    if low.sum() < 2 or edge <= LEAST:
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    mean = float(np.average(calibrated[low], weights=weights[low]))
    target = float(np.average(labels[low], weights=weights[low]))
    bottom = min(0.5 * target, edge)
    middle = float(np.clip(0.5 * (mean + target), bottom, edge))
    return np.array([0.0, mean, edge, 1.0]), np.array([bottom, middle, edge, 1.0])


def _loss(predicted: FloatArray, labels: FloatArray, weights: FloatArray) -> float:
    p = np.clip(predicted, LEAST, MOST)
    return float(np.average(-labels * np.log(p) - (1 - labels) * np.log(1 - p), weights=weights))


def _log_odds(p: FloatArray) -> FloatArray:
    clipped = np.clip(p, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(clipped / (1 - clipped)))
