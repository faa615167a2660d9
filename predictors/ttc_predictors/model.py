"""One model's problems: the prior of each, its success rate and what a sample costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttc.core.curves import FloatArray, IntArray
from ttc.core.forecast import Outcomes, Sample, Seen
from ttc_predictors.blocks import BlockName, rounded
from ttc_predictors.boosting import Features, Growth, Rows, Stack, grow
from ttc_predictors.calibration import Calibration, Forecasts, fit_calibration
from ttc_predictors.folds import folds as make_folds
from ttc_predictors.folds import groups as make_groups
from ttc_predictors.pilot import FEATURES as PILOT_FEATURES
from ttc_predictors.pilot import MOST_ANSWERS, pilot_features
from ttc_predictors.posterior import FEATURES as POSTERIOR_FEATURES
from ttc_predictors.posterior import Habits, fit_habits
from ttc_predictors.prior import Prior, Wanted, fit_prior
from ttc_predictors.states import Pilots, States, following, following_tokens, states_of

FOLDS, INNER_FOLDS = 5, 5
RUN_SAMPLES = 8.0
"""Samples that a score of a finished run is taken for where a rate is smoothed."""
MOST_LENGTHS = 20_000


@dataclass(frozen=True)
class ModelPart:
    """All that was learned of one model's single samples."""

    prior: Prior
    habits: Habits
    success: Stack
    calibration: Calibration
    tokens: Stack
    tokens_scale: float
    upper: Stack
    """The upper quantile of the logarithm of a sample's tokens."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the features of a moment."""
        return moment_names(self.prior)

    def mean_tokens(self, moments: Features) -> FloatArray:
        """Return the expected tokens of a sample at each moment."""
        return np.asarray(np.maximum(1.0, self.tokens.predict(moments) * self.tokens_scale))

    def upper_tokens(self, moments: Features) -> FloatArray:
        """Return the upper quantile of a sample's tokens at each moment."""
        return np.asarray(np.maximum(1.0, np.exp(self.upper.predict(moments))))


def moment_names(prior: Prior) -> tuple[str, ...]:
    """Return the names of the features of a moment: of the question, of the pilot, of what its answers mean."""
    return (*prior.names, *PILOT_FEATURES, *POSTERIOR_FEATURES)


def moment_features(table: Features, pilot: Features, votes: Features, habits: Habits) -> Features:
    """Return the features of moments, (s, len(moment_names)); `table` are those of their questions."""
    guess = 1 / (1 + np.exp(-table[:, 0].astype(np.float64)))
    drawn = pilot[:, PILOT_FEATURES.index("drawn")].astype(np.float64)
    return np.hstack([table, pilot, habits.features(guess, drawn, votes)])


def bare_features(table: Features, habits: Habits) -> Features:
    """Return the features of moments at which nothing was drawn."""
    nothing = np.broadcast_to(pilot_features(()), (len(table), len(PILOT_FEATURES) + MOST_ANSWERS))
    pilot, votes = np.split(nothing, [len(PILOT_FEATURES)], axis=1)
    return moment_features(table, pilot, votes, habits)


@dataclass(frozen=True)
class Ground:
    """One model's training problems, with what each fold may know of them; fold -1 knows all."""

    problems: tuple[Seen, ...]
    position: Mapping[str, int]
    folds: IntArray
    tables: Mapping[int, Features]
    """Features of the questions; the guesses in them are cross-fitted where a fold learns from them."""
    habits: Mapping[int, Habits]
    prior: Prior
    growth: Growth
    pilots: Pilots
    """Features of pilots that were met before."""

    def places(self, outcomes: Outcomes) -> IntArray:
        """Return where the problems of outcomes stand here."""
        return np.array([self.position[seen.problem_id] for seen in outcomes.problems], dtype=np.int64)

    def moments(self, states: States, places: IntArray, fold: int) -> Features:
        """Return the features of moments as a fold sees them, (s, len(moment_names))."""
        table = self.tables[fold][places[states.problem]]
        return moment_features(table, states.pilot, states.votes, self.habits[fold])


@dataclass(frozen=True)
class HeldOut:
    """Predictions of the training problems by models that have not seen them, and the folds' own models."""

    states: States
    success: FloatArray
    """(s,), calibrated."""
    rates: FloatArray
    """Share right of the samples that follow, (s,)."""
    tokens: FloatArray
    """(s,), predicted."""
    lengths: FloatArray
    """(s,), recorded."""
    folds: Mapping[int, Stack]
    """Success, by fold."""


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
    """Split one model's problems into folds, and learn for each of them, and for all, what questions say."""
    problems, members = outcomes.problems, make_groups(outcomes.problems)
    n, targets = len(problems), _targets(outcomes)
    split = make_folds(members, min(FOLDS, n), growth.seed)
    prior, table = fit_prior(problems, targets, make_folds(members, min(INNER_FOLDS, n), growth.seed + 1), wanted)
    graded = [
        list(zip(o[0], r[0], strict=True)) if o else [] for o, r in zip(outcomes.orders, outcomes.right, strict=True)
    ]
    tables, habits = {-1: table}, {-1: _habits(table, graded, np.arange(n))}
    for fold in np.unique(split).tolist():
        inside = np.flatnonzero(split != fold)
        if not inside.size:
            continue
        chosen = [problems[i] for i in inside]
        _, regrouped = np.unique(members[inside], return_inverse=True)
        inner = make_folds(regrouped.reshape(-1), min(INNER_FOLDS, len(chosen)), growth.seed + 2 + fold)
        learned, own = fit_prior(chosen, targets[inside], inner, replace(wanted, raw=prior.raw))
        tables[fold] = np.empty_like(table)
        tables[fold][inside] = own
        out = np.flatnonzero(split == fold)
        tables[fold][out] = learned.features([problems[i] for i in out])
        habits[fold] = _habits(tables[fold], graded, inside)
    position = {seen.problem_id: i for i, seen in enumerate(problems)}
    return Ground(problems, position, split, tables, habits, prior, growth, {})


def _habits(table: Features, graded: Sequence[Sequence[tuple[Sample, bool]]], inside: IntArray) -> Habits:
    guess = 1 / (1 + np.exp(-table[inside, 0].astype(np.float64)))
    return fit_habits(guess, [graded[i] for i in inside])


def fit_model(outcomes: Outcomes, ground: Ground, quantile: float) -> tuple[ModelPart, HeldOut]:
    """Learn success rates and token costs of single samples, and predict the training problems out of fold.

    `outcomes` is a survey, whose problems are those of `ground`. Where a model was seen in finished runs alone, the
    score and the spend at their smallest grant stand in for a sample's.
    """
    states, growth = states_of(outcomes, ground.growth.seed, ground.pilots), ground.growth
    names, places = moment_names(ground.prior), np.arange(len(outcomes.problems))
    tables = {fold: ground.moments(states, places, fold) for fold in ground.tables}
    rates, samples = _rates(outcomes, states)
    weight = states.weight * samples
    success = grow(
        Rows("cross_entropy", ("moment",), names, tables.__getitem__, rates, weight, states.problem),
        ground.folds,
        growth,
    )
    calibration = fit_calibration(
        Forecasts(success.held_out, rates, weight, ground.folds[states.problem], states.drawn)
    )
    means, lengths, of = _lengths(outcomes, states, growth.seed)
    costs = Rows("gamma", ("moment",), names, tables.__getitem__, np.maximum(1.0, means), weight, states.problem)
    tokens = grow(costs, ground.folds, growth)
    scale = float(np.sum(weight * costs.y) / np.sum(weight * tokens.held_out))
    upper = grow(
        Rows(
            "quantile", ("moment",), names, lambda fold: tables[fold][of], np.log(np.maximum(1.0, lengths)),
            states.weight[of], states.problem[of], alpha=quantile,
        ),
        ground.folds,
        replace(growth, most_rounds=growth.most_rounds // 2),
    )  # fmt: skip
    part = ModelPart(
        ground.prior, ground.habits[-1], success.stack, calibration, tokens.stack, float(rounded(scale)), upper.stack
    )
    held = HeldOut(
        states,
        calibration(success.held_out, states.drawn),
        rates,
        tokens.held_out * scale,
        means,
        success.folds,
    )
    return part, held


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


BLOCKS: Mapping[str, tuple[BlockName, ...]] = {
    "auto": ("statistics", "words", "vector"),
    "text": ("statistics", "words"),
    "hidden": ("vector",),
}
