"""How the curves of one strategy are learned from its outcomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ttc.core.curves import FloatArray, IntArray
from ttc.core.forecast import Outcomes
from ttc_predictors.blocks import rounded
from ttc_predictors.boosting import Grown, Rows, Stack, grow
from ttc_predictors.calibration import Forecasts, fit_calibration
from ttc_predictors.model import Ground, HeldOut, bare_features, moment_names
from ttc_predictors.quality import of_value
from ttc_predictors.states import States, states_of
from ttc_predictors.value import (
    GAIN_FEATURES,
    LEVEL_FEATURES,
    RISING,
    SPEND_FEATURES,
    Fresh,
    Standing,
    ValuePart,
    fit_fresh,
)

GAIN_STATES, GAIN_OPTIONS = 4_000, 6
"""Moments with a pilot, and options of each, that gains are learned from: more of one moment teach little."""
MOST_OPTIONS = 12
"""Options that gains are learned of where nothing was drawn; those between them are interpolated."""
SPEND_ROWS = 12_000
LEAST_VARIANCE = 0.05
"""Of gains, as a share of the mean: some never vary where few problems are known."""
WHOLE_SHARE = 0.995
"""A strategy that spends more than this of its grants is taken to spend all."""


@dataclass(frozen=True)
class Learned:
    """What was learned of one strategy, and how well."""

    value: ValuePart
    held_out: FloatArray
    """Values of the training problems before anything is drawn, predicted out of fold, (n, m)."""
    quality: dict[str, Any]


def fit_value(outcomes: Outcomes, ground: Ground, held: HeldOut) -> Learned:
    """Learn one strategy's curves."""
    fit = _Fit(outcomes, ground, held)
    level = fit.level()
    gain = fit.gain(level)
    row_fold = ground.folds[fit.places[fit.states.problem]]
    calibration = fit_calibration(
        Forecasts(level.held_out, fit.level_labels, fit.states.weight, row_fold, fit.states.drawn)
    )
    held_gains = np.zeros(0) if gain is None else gain.held_out
    fresh, gains = fit.fresh(held_gains)
    value = ValuePart(
        outcomes.model, outcomes.strategy, outcomes.unit, outcomes.options, fit.rising, level.stack, calibration,
        None if gain is None else gain.stack, fresh, fit.spend(), rounded(fit.scores), rounded(outcomes.scores.mean(axis=1)),
        rounded(outcomes.tokens.mean(axis=1)), tuple(seen.problem_id for seen in outcomes.problems),
    )  # fmt: skip
    key = (outcomes.model, outcomes.strategy, outcomes.unit)
    quality = of_value(key, level, gain, fresh, fit.explained(held_gains))
    return Learned(value, fit.curves(calibration(level.held_out, fit.states.drawn), gains), quality)


@dataclass(frozen=True)
class _Fit:
    outcomes: Outcomes
    ground: Ground
    held: HeldOut

    @cached_property
    def places(self) -> IntArray:
        """Return where the outcomes' problems stand in the ground."""
        return self.ground.places(self.outcomes)

    @cached_property
    def states(self) -> States:
        """Return the moments whose level was recorded."""
        states = states_of(self.outcomes, self.ground.growth.seed, self.ground.pilots)
        options, calls = self.outcomes.options, self.outcomes.unit == "calls"
        base = np.searchsorted(options, np.maximum(1, states.drawn if calls else states.spent), side="left")
        usable = (states.drawn == 0) | (base < options.size)
        if calls:
            usable &= (states.drawn == 0) | (options[np.minimum(base, options.size - 1)] == states.drawn)
        return states.take(usable)

    @cached_property
    def base(self) -> IntArray:
        """Return the position of each moment's level among the options."""
        held = self.states.drawn if self.outcomes.unit == "calls" else self.states.spent
        return np.searchsorted(self.outcomes.options, np.maximum(1, held), side="left").astype(np.int64)

    @cached_property
    def labels(self) -> FloatArray:
        """Return each moment's mean scores, (s, m)."""
        return self.states.mean(self.outcomes.scores)

    @cached_property
    def level_labels(self) -> FloatArray:
        """Return each moment's score at its level, (s,)."""
        return np.asarray(self.labels[np.arange(self.base.size), self.base])

    @cached_property
    def rising(self) -> bool:
        """Say whether no draw ever scored less with more."""
        return bool((np.diff(self.outcomes.scores, axis=2) >= -1e-9).all())

    @cached_property
    def scores(self) -> FloatArray:
        """Return the success rates guessed out of fold from the questions of the outcomes' problems, (n,)."""
        bare = self.held.states.drawn == 0
        guess = np.zeros(len(self.ground.problems))
        guess[self.held.states.problem[bare]] = self.held.success[bare]
        return np.asarray(guess[self.places])

    @cached_property
    def rows(self) -> tuple[IntArray, IntArray, FloatArray]:
        """Return moments, options above their level, and weights, of what gains are learned from."""
        rng = np.random.default_rng(self.ground.growth.seed)
        states, m = self.states, self.outcomes.options.size
        grid = np.unique(np.round(np.geomspace(1, m, MOST_OPTIONS)).astype(np.int64)) - 1
        later = np.flatnonzero(states.drawn > 0)
        kept = rng.permutation(later)[:GAIN_STATES]
        moments, options, weights = [], [], []
        for s in [*np.flatnonzero(states.drawn == 0).tolist(), *np.sort(kept).tolist()]:
            above = np.arange(self.base[s] + 1, m) if states.drawn[s] else grid[grid > self.base[s]]
            if states.drawn[s] and above.size > GAIN_OPTIONS:
                above = rng.choice(above, GAIN_OPTIONS, replace=False)
            share = (later.size / kept.size if states.drawn[s] else 1.0) / max(1, above.size)
            moments += [s] * above.size
            options += above.tolist()
            weights += [float(states.weight[s]) * share] * above.size
        chosen = np.array(moments, dtype=np.int64), np.array(options, dtype=np.int64)
        return *chosen, np.array(weights) * (self._precision(*chosen) if weights else 1.0)

    def _precision(self, moments: IntArray, above: IntArray) -> FloatArray:
        """Return what a row's gain tells, as the inverse of how much such gains vary, (rows,).

        Gains of few samples are small and vary little, and it is they that decisions hang on: unweighted, large ones
        would drown them.
        """
        gains, cell, mean = self._cells(moments, above)
        variance = np.bincount(cell, (gains - mean[cell]) ** 2) / np.bincount(cell)
        return np.asarray(1.0 / (variance[cell] + LEAST_VARIANCE * max(float(variance.mean()), 1e-9)))

    def _cells(self, moments: IntArray, above: IntArray) -> tuple[FloatArray, IntArray, FloatArray]:
        """Return recorded gains, the (samples drawn, option) that each is of, and the mean of each of those."""
        gains = self.labels[moments, above] - self.level_labels[moments]
        _, cell = np.unique(self.states.drawn[moments] * self.outcomes.options.size + above, return_inverse=True)
        cell = cell.reshape(-1)
        return gains, cell, np.bincount(cell, gains) / np.bincount(cell)

    def explained(self, predicted: FloatArray) -> float:
        """Return the share of the gains' variance around their cells' means that predictions out of fold explain."""
        moments, above, weights = self.rows
        gains, cell, mean = self._cells(moments, above)
        total = float(np.sum(weights * (gains - mean[cell]) ** 2))
        return 1.0 - float(np.sum(weights * (gains - predicted) ** 2)) / total if total > 0 else 0.0

    @cached_property
    def standings(self) -> dict[int, Standing]:
        """Return all moments as each fold sees them."""
        return {fold: self._standing(fold) for fold in self.ground.tables}

    def _standing(self, fold: int) -> Standing:
        success, states = self.held.folds[fold if fold in self.held.folds else -1], self.states
        moments = self.ground.moments(states, self.places, fold)
        table, habits = self.ground.tables[fold], self.ground.habits[fold]
        bare = success.predict(bare_features(table, habits))[self.places[states.problem]]
        tokens = table[self.places[states.problem], 1].astype(np.float64)
        return Standing(
            moments, states.votes, states.drawn.astype(np.float64), states.spent, tokens, bare,
            success.predict(moments), habits,
        )  # fmt: skip

    def level(self) -> Grown:
        """Learn what problems score where they stand."""
        bases = self.outcomes.options.astype(np.float64)[self.base]
        rows = Rows(
            "cross_entropy", ("moment",), (*moment_names(self.ground.prior), *LEVEL_FEATURES),
            lambda fold: self.standings[fold].level_features(self.outcomes.unit, bases), self.level_labels,
            self.states.weight, self.places[self.states.problem],
        )  # fmt: skip
        return grow(rows, self.ground.folds, self.ground.growth)

    def gain(self, level: Grown) -> Grown | None:
        """Learn what more adds to a level, None where there is nothing more than the level."""
        options, (moments, above, weights) = self.outcomes.options.astype(np.float64), self.rows
        if not moments.size:
            return None
        unit, bases = self.outcomes.unit, options[self.base]
        levels = {
            fold: level.folds[fold if fold in level.folds else -1].predict(standing.level_features(unit, bases))
            for fold, standing in self.standings.items()
        }
        rows = Rows(
            "regression", ("rising", "gain") if self.rising else ("voted", "gain"), (*moment_names(self.ground.prior), *GAIN_FEATURES),
            lambda fold: self.standings[fold].take(moments).gain_features(
                unit, bases[moments], options[above], levels[fold][moments]
            ),
            self.labels[moments, above] - self.level_labels[moments], weights,
            self.places[self.states.problem[moments]], rising=RISING if self.rising else (),
        )  # fmt: skip
        return grow(rows, self.ground.folds, self.ground.growth)

    def spend(self) -> Stack | None:
        """Learn which share of a grant is spent."""
        options, (moments, above, weights) = self.outcomes.options.astype(np.float64), self.rows
        shares = np.clip(self.states.mean(self.outcomes.tokens) / np.maximum(1.0, options), 0.0, 1.0)
        if self.outcomes.unit == "calls" or shares.mean() > WHOLE_SHARE:
            return None
        bare = np.flatnonzero(self.states.drawn == 0)
        moments, above = np.append(moments, bare), np.append(above, np.zeros_like(bare))
        weights = np.append(self.states.weight[moments[: weights.size]], self.states.weight[bare]) / options.size
        if moments.size > SPEND_ROWS:
            few = np.random.default_rng(self.ground.growth.seed).choice(moments.size, SPEND_ROWS, replace=False)
            moments, above, weights = moments[few], above[few], weights[few]
        rows = Rows(
            "cross_entropy", ("moment",), (*moment_names(self.ground.prior), *SPEND_FEATURES),
            lambda fold: self.standings[fold].take(moments).spend_features(options[above]),
            shares[moments, above], weights, self.places[self.states.problem[moments]],
        )  # fmt: skip
        growth = replace(self.ground.growth, most_rounds=self.ground.growth.most_rounds // 2)
        return grow(rows, self.ground.folds, growth).stack

    def fresh(self, gains: FloatArray) -> tuple[Fresh, FloatArray]:
        """Measure how far gains predicted out of fold are to be believed where nothing was drawn; return them so, (n, m)."""
        moments, above, _ = self.rows
        options = self.outcomes.options.astype(np.float64)
        table = np.zeros((self.states.problem.size, options.size))
        table[moments, above] = gains
        bare = np.flatnonzero(self.states.drawn == 0)
        base = int(self.base[bare[0]])
        known = np.append(base, np.unique(above[self.states.drawn[moments] == 0]))
        recorded = self.labels[bare] - self.level_labels[bare][:, None]
        fitted = fit_fresh(recorded[:, known], table[bare][:, known])
        between = np.array([np.interp(options, options[known], row) for row in np.eye(known.size)])
        everywhere = Fresh(
            rounded(np.maximum(0.0, recorded.mean(axis=0)) if self.rising else recorded.mean(axis=0)),
            rounded(fitted.predicted @ between),
            fitted.trust,
        )
        predicted = table[bare][:, known] @ between
        believed = everywhere(options, np.tile(options, bare.size), predicted.reshape(-1)).reshape(predicted.shape)
        return everywhere, np.where(np.arange(options.size) > base, believed, 0.0)

    def curves(self, levels: FloatArray, gains: FloatArray) -> FloatArray:
        """Return the values out of fold of problems that nothing was drawn of, (n, m)."""
        bare = np.flatnonzero(self.states.drawn == 0)
        below = np.arange(gains.shape[1]) < self.base[bare][:, None]
        values = np.clip(np.where(below, 0.0, levels[bare][:, None] + gains), 0.0, 1.0)
        return np.maximum.accumulate(values, axis=1) if self.rising else values
