"""What one strategy makes of more tokens: the level where a problem stands, and the gain over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ttc.core.curves import FloatArray, IntArray
from ttc.core.forecast import Unit
from ttc_predictors.blocks import rounded
from ttc_predictors.boosting import Features, Stack
from ttc_predictors.calibration import Calibration
from ttc_predictors.posterior import FEATURES as POSTERIOR_FEATURES
from ttc_predictors.posterior import Habits, Polls
from ttc_predictors.states import OPTION_FEATURES, option_features, sample_tokens

LEVEL_FEATURES = OPTION_FEATURES
GAIN_FEATURES = ("rate", "level", "closed_gain", "voted_gain", "from_samples", *OPTION_FEATURES, "log_option")
SPEND_FEATURES = (*OPTION_FEATURES, "log_option")
POSTERIOR_SECOND = POSTERIOR_FEATURES.index("posterior_second")
RISING = ("closed_gain", "further_samples", "log_further_samples", "samples_in_all", "log_option")


@dataclass(frozen=True)
class Standing:
    """Where problems stand: one row each."""

    moments: Features
    votes: Features
    drawn: FloatArray
    spent: FloatArray
    """Tokens of what was drawn."""
    prior_log_tokens: FloatArray
    bare: FloatArray
    """The chance that a sample is right as guessed before any was seen, not calibrated."""
    rate: FloatArray
    """The same with what was seen."""
    habits: Habits

    def take(self, rows: IntArray) -> Standing:
        """Return some of the rows, which may repeat."""
        return Standing(
            self.moments[rows], self.votes[rows], self.drawn[rows], self.spent[rows], self.prior_log_tokens[rows],
            self.bare[rows], self.rate[rows], self.habits,
        )  # fmt: skip

    def further(self, unit: Unit, options: FloatArray) -> FloatArray:
        """Return how many samples lie between what was drawn and an option a row: calls in all, or tokens in all."""
        if unit == "calls":
            return np.asarray(options - self.drawn)
        return np.asarray((options - self.spent) / sample_tokens(self.prior_log_tokens, self.drawn, self.spent))

    def base(self, unit: Unit, options: IntArray) -> IntArray:
        """Return the position of the first option that holds what was drawn, options.size where none does."""
        held = np.maximum(1, self.drawn if unit == "calls" else self.spent)
        return np.searchsorted(options, held, side="left").astype(np.int64)

    def level_features(self, unit: Unit, bases: FloatArray) -> Features:
        """Return the features of the level at an option a row."""
        return np.hstack([self.moments, option_features(self.votes, self.drawn, self.further(unit, bases))])

    def spend_features(self, options: FloatArray) -> Features:
        """Return the features of what is spent of a grant a row."""
        means = option_features(self.votes, self.drawn, self.further("tokens", options))
        return np.hstack([self.moments, means, _size(options)])

    def gain_features(self, unit: Unit, bases: FloatArray, options: FloatArray, level: FloatArray) -> Features:
        """Return the features of the gain from one option to another, a row each; `level` is the value of the first."""
        start, end = np.maximum(0.0, self.further(unit, bases)), self.further(unit, options)
        more = np.maximum(0.0, end - start)
        closed = self.habits.closed_gain(self.bare, level, self.drawn + start, more)
        columns = np.column_stack([self.rate, level, closed, self._voted_gain(level, more), start]).astype(np.float32)
        return np.hstack([self.moments, columns, option_features(self.votes, self.drawn, end), _size(options)])

    def _voted_gain(self, level: FloatArray, further: FloatArray) -> FloatArray:
        """Return what votes gain; where nothing was drawn, the first answer is taken to be in."""
        fresh = self.drawn == 0
        first, second = (self.votes[:, i].astype(np.float64) for i in range(2))
        second_chance = self.moments[:, POSTERIOR_SECOND - len(POSTERIOR_FEATURES)].astype(np.float64)
        polls = Polls(
            np.where(fresh, 1.0, self.drawn),
            np.where(fresh, 1.0, self.votes.sum(axis=1)),
            np.where(fresh, 1.0, first),
            second,
            level,
            np.minimum(np.where(second > 0, second_chance, 0.0), 1 - level),
        )
        return self.habits.voted_gain(self.bare, polls, further)


def _size(options: FloatArray) -> Features:
    return np.asarray(np.log2(np.maximum(1.0, options))[:, None], dtype=np.float32)


@dataclass(frozen=True)
class Fresh:
    """How far predicted gains are believed where nothing was drawn: around the mean gain, as far as they proved right."""

    recorded: FloatArray
    """Mean recorded gain of each option over the level, (m,)."""
    predicted: FloatArray
    """Mean predicted gain, (m,)."""
    trust: float
    """In [0, 1]; with 0 all problems have the mean curve, and a total is split evenly."""

    def __call__(self, known: FloatArray, options: FloatArray, gains: FloatArray) -> FloatArray:
        """Return gains at `options`, (rows,), drawn towards the mean; `known` are the options of the means."""
        mean, guess = (np.interp(options, known, values) for values in (self.recorded, self.predicted))
        return np.asarray(mean + self.trust * (gains - guess))


def fit_fresh(recorded: FloatArray, predicted: FloatArray) -> Fresh:
    """Measure the trust in gains predicted out of fold, both (n, m).

    It is the slope of recorded on predicted gains around their means, less what chance alone may have made of it:
    max(0, slope - variance / slope), at most 1; problems are what is independent.
    """
    truth, guess = recorded - recorded.mean(axis=0), predicted - predicted.mean(axis=0)
    shared, spread = (truth * guess).sum(axis=1), (guess**2).sum(axis=1)
    total = float(spread.sum())
    slope = float(shared.sum()) / total if total > 1e-12 else 0.0
    variance = float(((shared - slope * spread) ** 2).sum()) / total**2 if total > 1e-12 else 0.0
    trust = min(1.0, max(0.0, slope - variance / slope)) if slope > 0 else 0.0
    return Fresh(rounded(recorded.mean(axis=0)), rounded(predicted.mean(axis=0)), float(rounded(trust)))


@dataclass(frozen=True)
class ValuePart:
    """Curves of one (model, strategy, unit)."""

    model: str
    strategy: str
    unit: Unit
    options: IntArray
    rising: bool
    """No recorded draw ever scored less with more: more never hurts."""
    level: Stack
    calibration: Calibration
    """Of the level."""
    gain: Stack | None
    """None where there is one option only."""
    fresh: Fresh
    spend: Stack | None
    """Share of a grant that is spent; None where that is all of it."""
    scores: FloatArray
    """The chance that a sample is right, predicted of the training problems out of fold, (n,)."""
    means: FloatArray
    """Recorded scores of the training problems, (n, m)."""
    spends: FloatArray
    """Recorded tokens of the training problems, (n, m)."""
    problem_ids: tuple[str, ...]
    """Of the training problems, (n,)."""

    def values(self, standing: Standing, options: FloatArray) -> FloatArray:
        """Return expected scores, (n, m), under `options` (n, m), in all: what was drawn counts.

        An option below what was drawn is worth what was drawn, one above the largest known option no more than that.
        """
        n, m = options.shape
        known = self.options.astype(np.float64)
        bases = known[np.minimum(standing.base(self.unit, self.options), known.size - 1)]
        if self.unit == "calls":  # a pilot may end between two options
            bases = np.where(standing.drawn > 0, standing.drawn, bases)
        raw = self.level.predict(standing.level_features(self.unit, bases))
        rows = np.repeat(np.arange(n), m)
        reach = np.minimum(options.reshape(-1), np.maximum(known[-1], bases[rows]))
        more = np.flatnonzero(reach > bases[rows])
        values = self.calibration(raw, standing.drawn)[rows]
        values[more] += self._gains(standing.take(rows[more]), bases[rows[more]], reach[more], raw[rows[more]])
        below = (standing.drawn[rows] == 0) & (reach < bases[rows])
        values[below] *= reach[below] / bases[rows[below]]
        table = np.clip(values, 0.0, 1.0).reshape(n, m)
        return np.maximum.accumulate(table, axis=1) if self.rising else table

    def _gains(self, standing: Standing, bases: FloatArray, options: FloatArray, level: FloatArray) -> FloatArray:
        """Return what each row gains from its first option to its second."""
        if self.gain is None:
            return np.zeros(bases.size)
        gains = self.gain.predict(standing.gain_features(self.unit, bases, options, level))
        fresh = standing.drawn == 0
        gains[fresh] = self.fresh(self.options.astype(np.float64), options[fresh], gains[fresh])
        return np.maximum(0.0, gains) if self.rising else gains

    def spends_of(self, standing: Standing, options: FloatArray) -> FloatArray | None:
        """Return the tokens expected to be spent of grants (n, m), None where that is all of them."""
        if self.spend is None:
            return None
        n, m = options.shape
        repeated, flat = standing.take(np.repeat(np.arange(n), m)), options.reshape(-1)
        shares = self.spend.predict(repeated.spend_features(flat))
        spent = np.maximum(np.clip(shares, 0.0, 1.0) * flat, np.minimum(flat, repeated.spent))
        return np.asarray(spent.reshape(n, m))
