"""What one strategy makes of more tokens: the level where a problem stands, and the gain over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ttc.core.curves import FloatArray, IntArray
from ttc.core.forecast import Unit
from ttc_predictors.boosting import Features, Stack
from ttc_predictors.calibration import Calibration
from ttc_predictors.states import OPTION_FEATURES, option_features, sample_tokens

LEVEL_FEATURES = OPTION_FEATURES
GAIN_FEATURES = ("rate", "level", "closed_gain", "from_samples", *OPTION_FEATURES, "log_option")
SPEND_FEATURES = (*OPTION_FEATURES, "log_option")
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
    concentration: float

    def take(self, rows: IntArray) -> Standing:
        """Return some of the rows, which may repeat."""
        return Standing(
            self.moments[rows], self.votes[rows], self.drawn[rows], self.spent[rows], self.prior_log_tokens[rows],
            self.bare[rows], self.rate[rows], self.concentration,
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
        closed = self._closed_gain(level, start, end)
        columns = np.column_stack([self.rate, level, closed, start]).astype(np.float32)
        return np.hstack([self.moments, columns, option_features(self.votes, self.drawn, end), _size(options)])

    def _closed_gain(self, level: FloatArray, start: FloatArray, end: FloatArray) -> FloatArray:
        """Return what coverage gains between two numbers of further samples, rates being beta distributed around `bare`.

        (1 - level) * (1 - E[(1 - p)^b]), the mean over the rates that remain likely when no sample so far was right.
        """
        from scipy.special import gammaln

        more, p = np.maximum(0.0, end - start), np.clip(self.bare, 1e-4, 1 - 1e-4)
        a, b = self.concentration * p, self.concentration * (1 - p) + self.drawn + start
        missed = np.exp(gammaln(b + more) + gammaln(a + b) - gammaln(b) - gammaln(a + b + more))
        return np.asarray((1 - level) * (1 - missed))


def _size(options: FloatArray) -> Features:
    return np.log2(np.maximum(1.0, options)).astype(np.float32)[:, None]


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
    gain: Stack
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
        values = self.calibration(raw)[rows]
        features = standing.take(rows[more]).gain_features(self.unit, bases[rows[more]], reach[more], raw[rows[more]])
        gains = self.gain.predict(features)
        values[more] += np.maximum(0.0, gains) if self.rising else gains
        below = (standing.drawn[rows] == 0) & (reach < bases[rows])
        values[below] *= reach[below] / bases[rows[below]]
        table = np.clip(values, 0.0, 1.0).reshape(n, m)
        return np.maximum.accumulate(table, axis=1) if self.rising else table

    def spends_of(self, standing: Standing, options: FloatArray) -> FloatArray | None:
        """Return the tokens expected to be spent of grants (n, m), None where that is all of them."""
        if self.spend is None:
            return None
        n, m = options.shape
        repeated, flat = standing.take(np.repeat(np.arange(n), m)), options.reshape(-1)
        shares = self.spend.predict(repeated.spend_features(flat))
        spent = np.maximum(np.clip(shares, 0.0, 1.0) * flat, np.minimum(flat, repeated.spent))
        return np.asarray(spent.reshape(n, m))
