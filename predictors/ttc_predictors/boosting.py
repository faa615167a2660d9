"""Boosted trees: how strongly they are held back, how many there are, and how they are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ttc.core.curves import FloatArray, IntArray
from ttc.core.errors import DataError

Objective = Literal["cross_entropy", "regression", "gamma", "quantile"]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Growth:
    """How trees are grown."""

    most_rounds: int = 200
    learning_rate: float = 0.05
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Rows:
    """What one model learns from, and how. `x` gives the features as fold f sees them; -1 means all problems."""

    objective: Objective
    names: tuple[str, ...]
    x: Callable[[int], Features]
    y: FloatArray
    weight: FloatArray
    problem: IntArray
    alpha: float = 0.5
    """The quantile, where the objective is that."""
    rising: tuple[str, ...] = ()
    """Features that predictions may only rise with."""


@dataclass(frozen=True)
class Forest:
    """A trained model: LightGBM's own text, parsed on first use."""

    text: str
    threads: int = field(default=1, compare=False)

    @cached_property
    def booster(self) -> Any:
        """Return LightGBM's object. Raises DataError where the text is no model."""
        import lightgbm

        try:
            return lightgbm.Booster(model_str=self.text)
        except lightgbm.basic.LightGBMError as error:
            raise DataError(f"LightGBM cannot read a stored model: {error}") from error

    def predict(self, x: Features) -> FloatArray:
        """Return one number a row, on the scale of the labels."""
        if not len(x):
            return np.zeros(0)
        predicted = self.booster.predict(np.ascontiguousarray(x, dtype=np.float32), num_threads=self.threads)
        return np.asarray(predicted, dtype=np.float64)

    def importances(self) -> dict[str, float]:
        """Return each feature's share of the total gain, largest first; features that no tree uses are left out."""
        gains = self.booster.feature_importance(importance_type="gain")
        total = float(gains.sum()) or 1.0
        named = zip(self.booster.feature_name(), (gains / total).tolist(), strict=True)
        return dict(sorted(((n, g) for n, g in named if g > 0), key=lambda pair: -pair[1]))


def grow(rows: Rows, folds: IntArray, growth: Growth) -> tuple[Forest, FloatArray]:
    """Train on all rows; return the model and out-of-fold predictions, one a row.

    `folds` is the fold of each problem. The number of trees is the one with the least loss out of fold.
    """
    row_fold = folds[rows.problem]
    boosters, losses = [], []
    for fold in np.unique(folds):
        out = row_fold == fold
        if not out.any() or out.all():
            continue
        x = rows.x(int(fold))
        booster, loss = _train(rows, x, ~out, growth, held_out=out)
        boosters.append((out, booster, x[out]))
        losses.append(np.asarray(loss) * float(rows.weight[out].sum()))
    rounds = int(np.argmin(np.sum(losses, axis=0))) + 1 if losses else growth.most_rounds // 4
    held_out = np.full(rows.y.size, np.nan)
    for out, booster, x in boosters:
        held_out[out] = booster.predict(x, num_iteration=rounds, num_threads=growth.threads)
    whole, _ = _train(rows, rows.x(-1), np.ones(rows.y.size, dtype=bool), growth, rounds=rounds)
    if not boosters:
        held_out[:] = np.average(rows.y, weights=rows.weight)
    return Forest(whole.model_to_string(importance_type="gain"), growth.threads), held_out


def _train(
    rows: Rows, x: Features, chosen: NDArray[np.bool_], growth: Growth, *,
    rounds: int | None = None, held_out: NDArray[np.bool_] | None = None,
) -> tuple[Any, Sequence[float]]:  # fmt: skip
    import lightgbm

    settings = _settings(rows, chosen, growth)
    scale = float(rows.weight[chosen].mean()) or 1.0
    names = list(rows.names)
    train = lightgbm.Dataset(
        x[chosen], rows.y[chosen], weight=rows.weight[chosen] / scale, feature_name=names, params=settings
    )
    history: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    if held_out is not None:
        valid = train.create_valid(x[held_out], rows.y[held_out], weight=rows.weight[held_out] / scale)
        extra = {"valid_sets": [valid], "valid_names": ["out"], "callbacks": [lightgbm.record_evaluation(history)]}
    booster = lightgbm.train(settings, train, num_boost_round=rounds or growth.most_rounds, **extra)
    return booster, next(iter(history["out"].values())) if held_out is not None else ()


def _settings(rows: Rows, chosen: NDArray[np.bool_], growth: Growth) -> dict[str, Any]:
    problems = np.unique(rows.problem[chosen]).size
    # A leaf should speak for several problems: rows of one problem are no independent witnesses.
    leaf_problems = max(4.0, problems**0.5 / 2)
    least = int(np.ceil(leaf_problems * chosen.sum() / max(1, problems)))
    settings: dict[str, Any] = {
        "objective": rows.objective,
        "learning_rate": growth.learning_rate,
        "num_leaves": 7 if problems < 400 else 15,
        "min_data_in_leaf": max(1, min(least, int(chosen.sum()) // 4)),
        "min_sum_hessian_in_leaf": 1e-3,
        "lambda_l2": 2.0,
        "path_smooth": float(least),
        "feature_fraction": 0.5,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "max_bin": 63,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": growth.threads,
        "seed": growth.seed,
        "verbosity": -1,
    }
    if rows.objective == "quantile":
        settings["alpha"] = rows.alpha
    if rows.rising:
        settings["monotone_constraints"] = [int(name in rows.rising) for name in rows.names]
    return settings
