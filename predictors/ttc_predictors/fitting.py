"""How the curves of one strategy are learned from its outcomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ttc.core.curves import FloatArray, IntArray
from ttc.core.forecast import Outcomes
from ttc_predictors.blocks import rounded
from ttc_predictors.boosting import Forest, Rows, grow
from ttc_predictors.calibration import Calibration, fit_calibration
from ttc_predictors.model import Ground, HeldOut, ModelPart
from ttc_predictors.states import States, states_of
from ttc_predictors.value import GAIN_FEATURES, LEVEL_FEATURES, RISING, Standing, ValuePart, closed_gain

GAIN_STATES, GAIN_OPTIONS = 4_000, 8
"""Moments with a pilot, and options of each, that gains are learned from: more of one moment teach little."""
CLOSED_SHARES = (0.0, 0.5, 1.0)
WHOLE_SHARE = 0.995
"""A strategy that spends more than this of its grants is taken to spend all."""


def fit_value(outcomes: Outcomes, ground: Ground, part: ModelPart, held: HeldOut) -> tuple[ValuePart, FloatArray]:
    """Learn one strategy's curves; return them, and the values of the training problems predicted out of fold, (n, m).

    The latter are of problems that nothing was drawn of.
    """
    fit = _Fit(outcomes, ground, part, held)
    level, calibration, levels = fit.level()
    gain, gains = fit.gain()
    closed_share, gains = fit.blend(gains, levels)
    bare = np.flatnonzero(fit.states.drawn == 0)
    scores = fit.bare_guess[bare]
    value = ValuePart(
        outcomes.model, outcomes.strategy, outcomes.unit, outcomes.options, fit.rising, level, calibration, gain,
        closed_share, part.concentration, fit.spend(), rounded(scores), rounded(outcomes.scores.mean(axis=1)),
        rounded(outcomes.tokens.mean(axis=1)),
    )  # fmt: skip
    return value, fit.curves(levels, gains)


@dataclass(frozen=True)
class _Fit:
    outcomes: Outcomes
    ground: Ground
    part: ModelPart
    held: HeldOut

    @cached_property
    def places(self) -> IntArray:
        return self.ground.places(self.outcomes)

    @cached_property
    def states(self) -> States:
        """Return the moments whose level was recorded."""
        states = states_of(self.outcomes, self.ground.growth.seed)
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
        return self.states.mean(self.outcomes.scores)

    @cached_property
    def rising(self) -> bool:
        return bool((np.diff(self.outcomes.scores, axis=2) >= -1e-9).all())

    @cached_property
    def bare_guess(self) -> FloatArray:
        """Return the success rate guessed out of fold from each moment's question, (s,)."""
        bare = self.held.bare()
        guess = np.zeros(len(self.ground.problems))
        guess[self.held.states.problem[bare]] = self.held.success[bare]
        return np.asarray(guess[self.places[self.states.problem]])

    @cached_property
    def rows(self) -> tuple[IntArray, IntArray, FloatArray]:
        """Return moments, options above their level, and weights, of what gains are learned from."""
        rng = np.random.default_rng(self.ground.growth.seed)
        states, m = self.states, self.outcomes.options.size
        later = np.flatnonzero(states.drawn > 0)
        kept = rng.permutation(later)[:GAIN_STATES]
        moments, options, weights = [], [], []
        for s in [*np.flatnonzero(states.drawn == 0).tolist(), *np.sort(kept).tolist()]:
            above = np.arange(self.base[s] + 1, m)
            if states.drawn[s] and above.size > GAIN_OPTIONS:
                above = rng.choice(above, GAIN_OPTIONS, replace=False)
            share = (later.size / kept.size if states.drawn[s] else 1.0) / max(1, above.size)
            moments += [s] * above.size
            options += above.tolist()
            weights += [float(states.weight[s]) * share] * above.size
        return np.array(moments, dtype=np.int64), np.array(options, dtype=np.int64), np.array(weights)

    def standing(self, fold: int) -> Standing:
        """Return all moments as a fold sees them."""
        table = self.ground.tables[fold][self.places[self.states.problem]]
        drawn, spent = self.states.drawn.astype(np.float64), self.states.spent
        moments = np.hstack([table, self.states.pilot])
        return Standing(moments, self.states.pilot, drawn, spent, table[:, 1].astype(np.float64), self.bare_guess)

    def level(self) -> tuple[Forest, Calibration, FloatArray]:
        options = self.outcomes.options.astype(np.float64)
        y = self.labels[np.arange(self.base.size), self.base]
        unit, states = self.outcomes.unit, self.states
        rows = Rows(
            "cross_entropy", (*self.part.names, *LEVEL_FEATURES),
            lambda fold: self.standing(fold).level_features(unit, options[self.base]), y, states.weight,
            self.places[states.problem],
        )  # fmt: skip
        forest, raw = grow(rows, self.ground.folds, self.ground.growth)
        calibration = fit_calibration(raw, y, states.weight, self.ground.folds[self.places[states.problem]])
        return forest, calibration, calibration(raw)

    def gain(self) -> tuple[Forest, FloatArray]:
        options, (moments, above, weights) = self.outcomes.options.astype(np.float64), self.rows
        bases = options[self.base[moments]]
        unit = self.outcomes.unit
        rows = Rows(
            "regression", (*self.part.names, *GAIN_FEATURES),
            lambda fold: self.standing(fold).take(moments).gain_features(unit, bases, options[above]),
            self.labels[moments, above] - self.labels[moments, self.base[moments]], weights,
            self.places[self.states.problem[moments]], rising=RISING if self.rising else (),
        )  # fmt: skip
        return grow(rows, self.ground.folds, self.ground.growth)

    def blend(self, gains: FloatArray, levels: FloatArray) -> tuple[float, FloatArray]:
        """Choose how much of the closed form to believe, by the loss out of fold; only where more never hurts."""
        if not self.rising:
            return 0.0, gains
        moments, above, weights = self.rows
        options, unit = self.outcomes.options.astype(np.float64), self.outcomes.unit
        closed = np.empty_like(gains)
        row_fold = self.ground.folds[self.places[self.states.problem[moments]]]
        for fold in np.unique(row_fold):
            out = row_fold == fold
            standing = self.standing(int(fold) if int(fold) in self.ground.tables else -1).take(moments[out])
            start = np.maximum(0.0, standing.further(unit, options[self.base[moments[out]]]))
            further = standing.further(unit, options[above[out]]) - start
            closed[out] = closed_gain(standing, self.part.concentration, levels[moments[out]], further)
        label = self.labels[moments, above] - self.labels[moments, self.base[moments]]
        learned = np.maximum(0.0, gains)
        mixes = [(1 - share) * learned + share * closed for share in CLOSED_SHARES]
        losses = [float(np.sum(weights * (mix - label) ** 2)) for mix in mixes]
        best = int(np.argmin(losses))
        return CLOSED_SHARES[best], mixes[best]

    def spend(self) -> Forest | None:
        options, (moments, above, weights) = self.outcomes.options.astype(np.float64), self.rows
        tokens = self.states.mean(self.outcomes.tokens)
        shares = np.clip(tokens / options, 0.0, 1.0)
        if self.outcomes.unit == "calls" or shares.mean() > WHOLE_SHARE:
            return None
        bare = np.flatnonzero(self.states.drawn == 0)
        moments, above = np.append(moments, bare), np.append(above, np.zeros_like(bare))
        weights = np.append(weights, self.states.weight[bare] / options.size)
        rows = Rows(
            "cross_entropy", (*self.part.names, *GAIN_FEATURES),
            lambda fold: self.standing(fold).take(moments).gain_features("tokens", options[above], options[above]),
            shares[moments, above], weights, self.places[self.states.problem[moments]],
        )  # fmt: skip
        growth = replace(self.ground.growth, most_rounds=self.ground.growth.most_rounds // 2)
        return grow(rows, self.ground.folds, growth)[0]

    def curves(self, levels: FloatArray, gains: FloatArray) -> FloatArray:
        """Return the values out of fold of problems that nothing was drawn of, (n, m)."""
        moments, above, _ = self.rows
        table = np.zeros((self.states.problem.size, self.outcomes.options.size))
        table[np.arange(self.base.size), self.base] = levels
        table[moments, above] = levels[moments] + gains
        bare = np.flatnonzero(self.states.drawn == 0)
        values = np.empty((len(self.outcomes.problems), table.shape[1]))
        values[self.states.problem[bare]] = np.clip(table[bare], 0.0, 1.0)
        return np.maximum.accumulate(values, axis=1) if self.rising else values
