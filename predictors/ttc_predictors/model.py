"""One model's problems: the prior of each, its success rate and what a sample costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ttc.core.curves import FloatArray, IntArray
from ttc.core.forecast import Outcomes, Seen
from ttc_predictors.blocks import BlockName, rounded
from ttc_predictors.boosting import Features, Forest, Growth, Rows, grow
from ttc_predictors.calibration import Calibration, fit_calibration
from ttc_predictors.folds import folds as make_folds
from ttc_predictors.folds import groups as make_groups
from ttc_predictors.pilot import FEATURES
from ttc_predictors.prior import Prior, Wanted, fit_prior
from ttc_predictors.states import States, following, following_tokens, states_of

FOLDS, INNER_FOLDS = 5, 5
RUN_SAMPLES = 8.0
"""Samples that a score of a finished run is taken for where a rate is smoothed."""
MOST_LENGTHS = 20_000
CONCENTRATIONS = tuple(float(c) for c in np.logspace(0, 3, 31))


@dataclass(frozen=True)
class ModelPart:
    """All that was learned of one model's single samples."""

    prior: Prior
    success: Forest
    calibration: Calibration
    concentration: float
    """Of the beta distribution of true rates around a guess that has seen no sample."""
    tokens: Forest
    tokens_scale: float
    upper: Forest
    """The upper quantile of the logarithm of a sample's tokens."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the features of a moment."""
        return (*self.prior.names, *FEATURES)

    def rate(self, moments: Features) -> FloatArray:
        """Return the calibrated chance that a single sample is right at each moment."""
        return self.calibration(self.success.predict(moments))

    def mean_tokens(self, moments: Features) -> FloatArray:
        """Return the expected tokens of a sample at each moment."""
        return np.maximum(1.0, self.tokens.predict(moments) * self.tokens_scale)

    def upper_tokens(self, moments: Features) -> FloatArray:
        """Return the upper quantile of a sample's tokens at each moment."""
        return np.maximum(1.0, np.exp(self.upper.predict(moments)))


@dataclass(frozen=True)
class Ground:
    """One model's training problems, with what each fold may know of their questions."""

    problems: tuple[Seen, ...]
    position: Mapping[str, int]
    folds: IntArray
    tables: Mapping[int, NDArray[np.float32]]
    """Prior features as a fold sees them, cross-fitted where it learns from them; -1: all problems learned from."""
    prior: Prior
    growth: Growth

    def places(self, outcomes: Outcomes) -> IntArray:
        """Return where the problems of outcomes stand here."""
        return np.array([self.position[seen.problem_id] for seen in outcomes.problems], dtype=np.int64)

    def moments(self, states: States, places: IntArray) -> Callable[[int], Features]:
        """Return what gives the features of moments as fold f sees them, (s, len(names))."""
        return lambda fold: np.hstack([self.tables[fold][places[states.problem]], states.pilot])


@dataclass(frozen=True)
class HeldOut:
    """Predictions of problems by models that have not seen them."""

    states: States
    success: FloatArray
    """(s,), calibrated."""
    rates: FloatArray
    """Share right of the samples that follow, (s,)."""
    samples: FloatArray
    tokens: FloatArray
    """(s,), predicted."""
    lengths: FloatArray
    """(s,), recorded."""

    def bare(self) -> NDArray[np.bool_]:
        """Say which moments have seen no sample, (s,)."""
        return self.states.drawn == 0


def survey(outcomes: Sequence[Outcomes]) -> Outcomes:
    """Return one model's problems, each once, with the samples where any of the outcomes has them."""
    best: dict[str, tuple[Outcomes, int]] = {}
    for one in outcomes:
        for i, seen in enumerate(one.problems):
            if seen.problem_id not in best or (one.orders[i] and not _orders(best[seen.problem_id])):
                best[seen.problem_id] = (one, i)
    first = outcomes[0]
    scores = np.array([[[one.scores[i, :, 0].mean()]] for one, i in best.values()])
    tokens = np.array([[[one.tokens[i, :, 0].mean()]] for one, i in best.values()])
    return Outcomes(
        first.model,
        first.strategy,
        first.unit,
        first.options[:1],
        tuple(one.problems[i] for one, i in best.values()),
        tuple(one.orders[i] for one, i in best.values()),
        tuple(one.right[i] for one, i in best.values()),
        scores,
        tokens,
    )


def _orders(place: tuple[Outcomes, int]) -> object:
    one, i = place
    return one.orders[i]


def prepare(outcomes: Outcomes, wanted: Wanted, growth: Growth) -> Ground:
    """Split one model's problems into folds and fit the prior for each of them, and for all."""
    problems, members = outcomes.problems, make_groups(outcomes.problems)
    n, targets = len(problems), _targets(outcomes)
    split = make_folds(members, min(FOLDS, n), growth.seed)
    prior, table = fit_prior(problems, targets, make_folds(members, min(INNER_FOLDS, n), growth.seed + 1), wanted)
    tables = {-1: table}
    for fold in range(FOLDS):
        out = split == fold
        if not out.any() or out.all():
            continue
        chosen = [problems[i] for i in np.flatnonzero(~out)]
        _, regrouped = np.unique(members[~out], return_inverse=True)
        inner = make_folds(regrouped.reshape(-1), min(INNER_FOLDS, len(chosen)), growth.seed + 2 + fold)
        learned, inside = fit_prior(chosen, targets[~out], inner, replace(wanted, raw=prior.raw))
        tables[fold] = np.empty_like(table)
        tables[fold][~out] = inside
        tables[fold][out] = learned.features([problems[i] for i in np.flatnonzero(out)])
    return Ground(problems, {seen.problem_id: i for i, seen in enumerate(problems)}, split, tables, prior, growth)


def fit_model(outcomes: Outcomes, ground: Ground, quantile: float) -> tuple[ModelPart, HeldOut]:
    """Learn success rates and token costs of single samples, and predict the training problems out of fold.

    `outcomes` is a survey, whose problems are those of `ground`. Where a model was seen in finished runs alone, the
    score and the spend at their smallest grant stand in for a sample's.
    """
    states = states_of(outcomes, ground.growth.seed)
    names = (*ground.prior.names, *FEATURES)
    x = ground.moments(states, np.arange(len(outcomes.problems)))
    rates, samples = _rates(outcomes, states)
    success = Rows("cross_entropy", names, x, rates, states.weight * samples, states.problem)
    forest, raw = grow(success, ground.folds, ground.growth)
    calibration = fit_calibration(raw, rates, success.weight, ground.folds[states.problem])
    means, lengths, of = _lengths(outcomes, states, ground.growth.seed)
    costs = Rows("gamma", names, x, np.maximum(1.0, means), success.weight, states.problem)
    tokens, guess = grow(costs, ground.folds, ground.growth)
    scale = float(np.sum(costs.weight * costs.y) / np.sum(costs.weight * guess))
    tails = Rows(
        "quantile", names, lambda fold: x(fold)[of], np.log(np.maximum(1.0, lengths)), states.weight[of],
        states.problem[of], alpha=quantile,
    )  # fmt: skip
    upper, _ = grow(tails, ground.folds, replace(ground.growth, most_rounds=ground.growth.most_rounds // 2))
    calibrated = calibration(raw)
    held = HeldOut(states, calibrated, rates, samples, guess * scale, means)
    bare = held.bare()
    concentration = _concentration(calibrated[bare], rates[bare], samples[bare])
    return ModelPart(ground.prior, forest, calibration, concentration, tokens, scale, upper), held


def _targets(outcomes: Outcomes) -> FloatArray:
    """Return each problem's smoothed log-odds of success and logarithm of its mean tokens, (n, 2)."""
    rows = []
    for i, right in enumerate(outcomes.right):
        if right and right[0]:
            total, wins = float(len(right[0])), float(sum(right[0]))
            tokens = float(np.mean([sample.completion_tokens for sample in outcomes.orders[i][0]]))
        else:
            total, wins = RUN_SAMPLES, RUN_SAMPLES * float(outcomes.scores[i, :, 0].mean())
            tokens = float(outcomes.tokens[i, :, 0].mean())
        rows.append((np.log((wins + 0.5) / (total - wins + 0.5)), np.log(max(1.0, tokens))))
    return np.array(rows, dtype=np.float64)


def _rates(outcomes: Outcomes, states: States) -> tuple[FloatArray, FloatArray]:
    known = np.array([bool(right and right[0]) for right in outcomes.right])[states.problem]
    if known.all():
        return following(outcomes.right, states)
    scores = outcomes.scores[:, :, 0].mean(axis=1)[states.problem]
    return scores, np.full(scores.size, RUN_SAMPLES)


def _lengths(outcomes: Outcomes, states: States, seed: int) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return the mean tokens that follow each moment, some single lengths, and the moments of those."""
    if not all(orders and orders[0] for orders in outcomes.orders):
        means = outcomes.tokens[:, :, 0].mean(axis=1)[states.problem]
        return means, means, np.arange(means.size)
    means, after = following_tokens(outcomes.orders, states)
    chosen = np.arange(after.size)
    if after.size > MOST_LENGTHS:
        chosen = np.sort(np.random.default_rng(seed).choice(after.size, MOST_LENGTHS, replace=False))
    return means, after[chosen], states.member_state[chosen]


def _concentration(guess: FloatArray, rates: FloatArray, samples: FloatArray) -> float:
    """Return the concentration of the beta distribution around the guesses under which the counts are likeliest."""
    from scipy.stats import betabinom

    p, n = np.clip(guess, 1e-3, 1 - 1e-3), np.round(samples)
    wins = np.round(rates * n)
    likely = [float(betabinom.logpmf(wins, n, c * p, c * (1 - p)).sum()) for c in CONCENTRATIONS]
    return float(rounded(CONCENTRATIONS[int(np.argmax(likely))]))


BLOCKS: Mapping[str, tuple[BlockName, ...]] = {
    "auto": ("statistics", "words", "vector"),
    "text": ("statistics", "words"),
    "hidden": ("vector",),
}
