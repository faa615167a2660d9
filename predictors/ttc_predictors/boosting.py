"""A linear stage, and boosted trees on what it leaves: how strongly they are held back, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ttc.core.curves import FloatArray, IntArray
from ttc.core.errors import DataError
from ttc_predictors.blocks import rounded
from ttc_predictors.linear import PENALTIES, DesignName, Linear, Link, design, fit_linear
from ttc_predictors.trees import bare

Objective = Literal["cross_entropy", "regression", "gamma", "quantile"]
Features = NDArray[np.float32]
LINKS: Mapping[Objective, Link] = {
    "cross_entropy": "logit",
    "regression": "identity",
    "gamma": "log",
    "quantile": "identity",
}
ROUNDS = (0, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
"""Numbers of trees to choose from; none is one of them."""
TOLERANCE = 1.0
PATIENCE = 3
"""Numbers in a row that may be worse than the best before no more trees are tried."""


@dataclass(frozen=True)
class Growth:
    """How trees are grown."""

    most_rounds: int = 192
    learning_rate: float = 0.05
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Rows:
    """What one model learns from, and how. `x` gives the features as fold f sees them; -1 means all problems."""

    objective: Objective
    designs: tuple[DesignName, ...]
    """Those to choose from, by the loss of the linear stage out of fold."""
    names: tuple[str, ...]
    x: Callable[[int], Features]
    y: FloatArray
    weight: FloatArray
    problem: IntArray
    alpha: float = 0.5
    """The quantile, where the objective is that."""
    rising: tuple[str, ...] = ()
    """Features that trees may only rise with."""


@dataclass(frozen=True)
class Forest:
    """Trees as LightGBM's own text, parsed on first use."""

    text: str
    threads: int = field(default=1, compare=False)

    @cached_property
    def booster(self) -> Any:
        """Return LightGBM's object. Raises DataError where the text is no model."""
        import lightgbm

        try:
            return lightgbm.Booster(model_str=bare(self.text))
        except lightgbm.basic.LightGBMError as error:
            raise DataError(f"LightGBM cannot read a stored model: {error}") from error

    def sums(self, x: Features) -> FloatArray:
        """Return the sums of the leaves' values, (n,)."""
        return np.asarray(self.booster.predict(x, raw_score=True, num_threads=self.threads), dtype=np.float64)


@dataclass(frozen=True)
class Stack:
    """A linear stage with trees on top, or alone where trees did not help."""

    objective: Objective
    names: tuple[str, ...]
    linear: Linear
    forest: Forest | None

    def predict(self, x: Features) -> FloatArray:
        """Return one number a row, on the scale of the labels."""
        if not len(x):
            return np.zeros(0)
        sums = self.linear(self.names, x)
        if self.forest is not None:
            sums = sums + self.forest.sums(np.ascontiguousarray(x, dtype=np.float32))
        return inverse(self.objective, sums)

    def importances(self) -> dict[str, float]:
        """Return each feature's share of the trees' total gain, largest first; features that no tree uses are left out."""
        if self.forest is None:
            return {}
        booster = self.forest.booster
        gains = booster.feature_importance(importance_type="gain")
        named = zip(booster.feature_name(), (gains / (float(gains.sum()) or 1.0)).tolist(), strict=True)
        return dict(sorted(((n, g) for n, g in named if g > 0), key=lambda pair: -pair[1]))


@dataclass(frozen=True)
class Grown:
    """A trained model, those of the folds, and predictions of each row by the model that has not seen its problem."""

    stack: Stack
    folds: Mapping[int, Stack]
    """By fold, -1 being the model of all problems."""
    held_out: FloatArray


def inverse(objective: Objective, sums: FloatArray) -> FloatArray:
    """Return what sums mean on the scale of the labels."""
    if objective == "cross_entropy":
        return np.asarray(1 / (1 + np.exp(-np.clip(sums, -30.0, 30.0))))
    return np.asarray(np.exp(np.clip(sums, -30.0, 30.0))) if objective == "gamma" else sums


def losses_of(rows: Rows, predicted: FloatArray, chosen: NDArray[np.bool_]) -> FloatArray:
    """Return each problem's summed loss over the chosen rows, (problems,)."""
    y = rows.y[chosen]
    if rows.objective == "cross_entropy":
        p = np.clip(predicted, 1e-6, 1 - 1e-6)
        loss = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    elif rows.objective == "gamma":
        loss = y / predicted + np.log(predicted)
    elif rows.objective == "quantile":
        loss = np.maximum(rows.alpha * (y - predicted), (rows.alpha - 1) * (y - predicted))
    else:
        loss = (y - predicted) ** 2
    sums = np.bincount(rows.problem[chosen], rows.weight[chosen] * loss, minlength=int(rows.problem.max()) + 1)
    return np.asarray(sums, dtype=np.float64)


def simplest(losses: Sequence[FloatArray]) -> int:
    """Return the first of the candidates, simplest first, that the best one does not clearly beat.

    Clearly is by more than TOLERANCE standard errors of the difference, problems being what is independent (the
    one-standard-error rule of Breiman et al. 1984).
    """
    best = losses[int(np.argmin([loss.sum() for loss in losses]))]
    for i, loss in enumerate(losses):
        worse = loss - best
        if worse.sum() <= TOLERANCE * float(worse.std()) * worse.size**0.5:
            return i
    raise AssertionError("the best is no worse than itself")


def grow(rows: Rows, folds: IntArray, growth: Growth) -> Grown:
    """Train on all rows. `folds` is the fold of each problem; penalty and number of trees are chosen out of fold."""
    row_fold = folds[rows.problem]
    parts = [f for f in np.unique(folds).tolist() if 0 < (row_fold == f).sum() < row_fold.size]
    everything = np.ones(row_fold.size, dtype=bool)
    if not parts:
        stack = Stack(rows.objective, rows.names, _linears(rows, rows.x(-1), everything)[0], None)
        constant = np.full(rows.y.size, np.average(rows.y, weights=rows.weight))
        return Grown(stack, {-1: stack}, constant)
    tables = {fold: rows.x(fold) for fold in parts}
    tried = {f: _linears(rows, tables[f], row_fold != f) for f in parts}
    losses = [
        np.sum(
            [_losses_out(rows, tried[f][c](rows.names, tables[f][row_fold == f]), row_fold == f) for f in parts], axis=0
        )
        for c in range(len(PENALTIES) * len(rows.designs))
    ]
    best = int(np.argmin([loss.sum() for loss in losses]))
    rounds, boosters = _rounds(rows, tables, row_fold, {f: tried[f][best] for f in parts}, growth)
    stacks = {f: Stack(rows.objective, rows.names, tried[f][best], _forest(boosters[f], rounds, growth)) for f in parts}
    held_out = np.full(rows.y.size, np.nan)
    for f in parts:
        held_out[row_fold == f] = stacks[f].predict(tables[f][row_fold == f])
    whole = rows.x(-1)
    linear = _linears(rows, whole, everything)[best]
    forest = None
    if rounds:
        booster = _booster(rows, whole, everything, linear, growth)
        for _ in range(rounds):
            booster.update()
        forest = _forest(booster, rounds, growth)
    stack = Stack(rows.objective, rows.names, linear, forest)
    return Grown(stack, {-1: stack, **stacks}, held_out)


def _losses_out(rows: Rows, sums: FloatArray, out: NDArray[np.bool_]) -> FloatArray:
    return losses_of(rows, inverse(rows.objective, sums), out)


def _rounds(
    rows: Rows, tables: Mapping[int, Features], row_fold: IntArray, linears: Mapping[int, Linear], growth: Growth
) -> tuple[int, dict[int, Any]]:
    """Return the best number of trees, and a booster a fold that has at least as many."""
    candidates = [r for r in ROUNDS if r <= growth.most_rounds]
    outs = {fold: row_fold == fold for fold in tables}
    boosters = {fold: _booster(rows, x, ~outs[fold], linears[fold], growth) for fold, x in tables.items()}
    held = {fold: np.ascontiguousarray(x[outs[fold]]) for fold, x in tables.items()}
    sums = {fold: linears[fold](rows.names, held[fold]) for fold in tables}
    losses: list[FloatArray] = []
    for before, count in zip([0, *candidates], candidates, strict=False):
        for fold, booster in boosters.items():
            for _ in range(count - before):
                booster.update()
            if count > before:
                sums[fold] = sums[fold] + booster.predict(
                    held[fold], raw_score=True, start_iteration=before, num_iteration=count - before,
                    num_threads=growth.threads,
                )  # fmt: skip
        losses.append(np.sum([_losses_out(rows, sums[f], outs[f]) for f in tables], axis=0))
        totals = [float(loss.sum()) for loss in losses]
        if len(totals) > PATIENCE and min(totals[-PATIENCE:]) > min(totals):
            break
    return candidates[simplest(losses)], boosters


def _linears(rows: Rows, x: Features, chosen: NDArray[np.bool_]) -> list[Linear]:
    """Return the linear stages to choose from, simplest first: every penalty, and of each every design."""
    problems = np.unique(rows.problem[chosen]).size
    y, weight = rows.y[chosen], rows.weight[chosen] * (problems / float(rows.weight[chosen].sum()))
    found = []
    for name in rows.designs:
        fitted = fit_linear(name, design(name, rows.names, x[chosen]), y, weight, LINKS[rows.objective])
        if rows.objective == "quantile":
            fitted = [_shifted(linear, y - linear(rows.names, x[chosen]), rows.alpha) for linear in fitted]
        found.append(fitted)
    return [linear for same_penalty in zip(*found, strict=True) for linear in same_penalty]


def _shifted(linear: Linear, residuals: FloatArray, alpha: float) -> Linear:
    """Return a linear stage whose constant makes the share `alpha` of the residuals negative."""
    weights = linear.weights.copy()
    weights[-1] += float(np.quantile(residuals, alpha))
    return replace(linear, weights=rounded(weights))


def _forest(booster: Any, rounds: int, growth: Growth) -> Forest | None:
    if not rounds:
        return None
    return Forest(booster.model_to_string(num_iteration=rounds, importance_type="gain"), growth.threads)


def _booster(rows: Rows, x: Features, chosen: NDArray[np.bool_], linear: Linear, growth: Growth) -> Any:
    """Return a booster without trees that starts from the linear stage."""
    import lightgbm

    settings = _settings(rows, chosen, growth)
    data = lightgbm.Dataset(
        x[chosen],
        rows.y[chosen],
        weight=rows.weight[chosen] / (float(rows.weight[chosen].mean()) or 1.0),
        init_score=linear(rows.names, x[chosen]),
        feature_name=list(rows.names),
        params=settings,
    )
    return lightgbm.Booster(settings, data)


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
