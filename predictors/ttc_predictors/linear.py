"""Linear first stages: what few problems can teach; trees then learn what they leave.

The columns of a design are fixed products of features. With 150 problems a logistic regression on them predicts far
better than trees alone; with thousands the trees take over what is not linear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ttc.core.curves import FloatArray
from ttc_predictors.blocks import rounded

DesignName = Literal["moment", "gain", "rising", "voted"]
"""Three kinds of gain: of anything, of what more samples never hurt, and of votes. Where little is known, the last two are
drawn towards the closed forms of a perfect verifier and of a vote."""
Link = Literal["logit", "identity", "log"]
PENALTIES = (30.0, 3.0, 0.3)
"""Simplest first: weights of the squared coefficients of standardised columns, with all rows of a problem counting as one."""
_CONSTANT = 1e300
"""The spread of a column that is always the same: it then counts for nothing."""
_NEWTON_STEPS = 30
_PILOT = (
    "unanswered_share", "leader_share", "second_share", "distinct_answers", "agreement", "margin", "stability",
    "since_lead", "leader_is_whole", "leader_size", "cut_share", "log_length", "length_spread", "leader_log_length",
    "logprob", "worst_logprob", "leader_logprob", "leader_logprob_lead", "score", "best_score", "leader_score",
    "leader_score_lead", "leader_score_share", "posterior_rate", "posterior_leader", "posterior_second",
    "posterior_unseen",
)  # fmt: skip


def design(name: DesignName, names: Sequence[str], x: NDArray[np.float32]) -> FloatArray:
    """Return the columns of a design, (n, width); what is not known is not a number."""
    column = {feature: x[:, i].astype(np.float64) for i, feature in enumerate(names)}
    return _moment(column) if name == "moment" else _gain(column, votes=name == "voted")


def _moment(column: Mapping[str, FloatArray]) -> FloatArray:
    drawn = column["drawn"]
    more = np.log1p(drawn)
    seen = np.where(drawn > 0, 1.0, np.nan)
    columns = [column["prior_success"], column["prior_tokens"], more, more * column["prior_success"]]
    for name in _PILOT:
        columns += [column[name] * seen, column[name] * seen * more]
    if "log_further_samples" in column:
        further = column["log_further_samples"]
        columns += [further, further * column["prior_success"]]
    return np.stack(columns, axis=1)


def _gain(column: Mapping[str, FloatArray], *, votes: bool) -> FloatArray:
    p, q, start, end = (column[name] for name in ("rate", "level", "from_samples", "further_samples"))
    seen, closed, voted = (column["drawn"] > 0).astype(np.float64), column["closed_gain"], column["voted_gain"]
    fresh, over, second = 1 - seen, column["overtaking"], column["posterior_second"]
    if votes:
        columns = [voted, voted * p, voted * seen, voted * seen * q]
    else:
        columns = [closed, closed * p, closed * seen, closed * seen * q]
    columns += [over * fresh, over * fresh * p, over * fresh * p * p, over * seen * column["posterior_unseen"]]
    columns += [over * seen, over * seen * p, over * seen * q, over * seen * p * (1 - q), over * seen * second]
    # Votes that are too few to turn the lead change nothing; the first answer leads by one.
    turn = np.where(seen > 0, column["margin"], 1.0) if votes else np.zeros_like(p)
    for pace in (1.0, 4.0, 16.0):
        shape = _saturating(end - start - turn, pace) if votes else _saturating(end, pace) - _saturating(start, pace)
        columns += [shape * fresh, shape * fresh * p, shape * fresh * p * p]
        columns += [shape * seen, shape * seen * p, shape * seen * q, shape * seen * p * q, shape * seen * q * q]
    return np.stack(columns, axis=1)


def _saturating(samples: FloatArray, pace: float) -> FloatArray:
    s = np.maximum(0.0, samples)
    return np.asarray(s / (s + pace))


@dataclass(frozen=True)
class Linear:
    """A weighted sum of standardised columns."""

    design: DesignName
    mean: FloatArray
    scale: FloatArray
    weights: FloatArray
    """The last one is the intercept."""

    def __call__(self, names: Sequence[str], x: NDArray[np.float32]) -> FloatArray:
        """Return the sums, (n,)."""
        return np.asarray(self.standardised(design(self.design, names, x)) @ self.weights)

    def standardised(self, columns: FloatArray) -> FloatArray:
        """Return standardised columns with a constant one; what is not known counts as the mean."""
        z = np.nan_to_num((columns - self.mean) / self.scale, nan=0.0, posinf=0.0, neginf=0.0)
        return np.column_stack([np.clip(z, -8.0, 8.0), np.ones(len(z))])

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        arrays = {key: getattr(self, key).tolist() for key in ("mean", "scale", "weights")}
        return {"design": self.design, **arrays}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Linear:
        """Return what `to_json` described. Raises KeyError, TypeError or ValueError where it is none."""
        mean, scale, weights = (np.array(value[key], dtype=np.float64) for key in ("mean", "scale", "weights"))
        if value["design"] not in get_args(DesignName) or mean.shape != scale.shape or weights.size != mean.size + 1:
            raise ValueError("a linear stage's arrays do not fit each other")
        return cls(value["design"], mean, scale, weights)


def fit_linear(name: DesignName, columns: FloatArray, y: FloatArray, weight: FloatArray, link: Link) -> list[Linear]:
    """Fit the weights under each of PENALTIES; a gain is nothing where nothing is added, so it has no intercept.

    `weight` sums to the number of problems. What is known little of is drawn towards what the design's name says.
    """
    known = np.isfinite(columns)
    count = np.maximum(1, known.sum(axis=0))
    mean = np.zeros(columns.shape[1]) if name != "moment" else np.where(known, columns, 0.0).sum(axis=0) / count
    spread = np.sqrt((np.where(known, columns - mean, 0.0) ** 2).sum(axis=0) / count)
    empty = Linear(name, rounded(mean), rounded(np.where(spread > 1e-9, spread, _CONSTANT)), np.zeros(0))
    z = empty.standardised(columns)
    centre = np.zeros(z.shape[1])
    if name in ("rising", "voted") and empty.scale[0] < _CONSTANT:
        centre[0] = empty.scale[0]
    last = 1e-6 if name == "moment" else 1e9
    held = [np.append(np.full(z.shape[1] - 1, penalty), last) for penalty in PENALTIES]
    if link == "logit":
        weights = [logistic(z, y, weight, penalty, centre) for penalty in held]
    else:
        target = np.log(np.maximum(y, 1e-9)) if link == "log" else y
        gram, slope = (z * weight[:, None]).T @ z, z.T @ (weight * (target - z @ centre))
        weights = [centre + np.linalg.solve(gram + np.diag(penalty), slope) for penalty in held]
    return [Linear(name, empty.mean, empty.scale, rounded(w)) for w in weights]


def logistic(z: FloatArray, y: FloatArray, weight: FloatArray, penalty: FloatArray, centre: FloatArray) -> FloatArray:
    """Return the coefficients of a logistic regression on shares y in [0, 1], by Newton's method.

    `penalty` weighs half the squared distance of each coefficient from `centre`.
    """
    theta = centre.copy()
    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.clip(z @ theta, -30.0, 30.0)))
        gradient = z.T @ (weight * (p - y)) + penalty * (theta - centre)
        curvature = np.maximum(p * (1 - p), 1e-6) * weight
        step = np.linalg.solve((z * curvature[:, None]).T @ z + np.diag(penalty), gradient)
        theta = theta - step * min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-6:
            break
    return theta
