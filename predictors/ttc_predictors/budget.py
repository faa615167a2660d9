"""The budget predictor: boosted trees that say what tokens will buy on a problem."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator

from ttc.core.curves import Curves, FloatArray, IntArray
from ttc.core.errors import ConfigError, DataError, did_you_mean
from ttc.core.forecast import Outcomes, Sample, Seen, Training, Unit
from ttc_predictors import files, storing
from ttc_predictors.boosting import Features, Growth
from ttc_predictors.fitting import fit_value
from ttc_predictors.folds import folds as make_folds
from ttc_predictors.folds import groups as make_groups
from ttc_predictors.model import BLOCKS, ModelPart, bare_features, fit_model, moment_features, prepare, survey
from ttc_predictors.pilot import FEATURES, MOST_ANSWERS, pilot_features
from ttc_predictors.prior import Wanted
from ttc_predictors.quality import draw_reliability, of_model
from ttc_predictors.value import Standing, ValuePart

Key = tuple[str, str, Unit]
LEAST_PROBLEMS = 10
MOST_CACHED = 200_000


class BudgetPredictor(BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Predicts what tokens buy on problems it has not seen, from recorded outcomes of others (implements `Predictor`).

    Parameters:
        features: `auto` uses text and hidden states where they are known, `text` and `hidden` one of them alone.
        quantile: which upper quantile of a sample's tokens is learned.
        most_rounds: most trees of a model; grouped folds choose how many of them are used.
        learning_rate: of each tree.
        threads: of LightGBM; results do not depend on it.
        seed: of folds, row samples and trees.

    Attributes:
        models_: what was learned of each model's single samples.
        values_: what was learned of each (model, strategy, unit).
        held_out_: values (n, m) of the training problems predicted out of fold; not stored.
        notes_: what was missing, one sentence each.
        report_: quality out of fold, as JSON values.
        fingerprint: a hash of all that was learned.
    """

    kind = "lightgbm"

    def __init__(
        self,
        features: Literal["auto", "text", "hidden"] = "auto",
        *,
        quantile: float = 0.9,
        most_rounds: int = 192,
        learning_rate: float = 0.05,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        self.features = features
        self.quantile = quantile
        self.most_rounds = most_rounds
        self.learning_rate = learning_rate
        self.threads = threads
        self.seed = seed

    def fit(self, outcomes: Sequence[Outcomes]) -> BudgetPredictor:
        """Learn from outcomes of any number of models and strategies; each (model, strategy, unit) once.

        Raises:
            ConfigError: a parameter that does not fit.
            DataError: nothing to learn from, or one thing twice.
        """
        self._validate(outcomes)
        growth = Growth(self.most_rounds, self.learning_rate, self.seed, self.threads)
        self.models_: dict[str, ModelPart] = {}
        self.values_: dict[Key, ValuePart] = {}
        self.held_out_: dict[Key, FloatArray] = {}
        self.notes_: list[str] = []
        self.report_: dict[str, Any] = {"success": [], "values": []}
        for model in dict.fromkeys(one.model for one in outcomes):
            mine = [one for one in outcomes if one.model == model]
            whole = survey(mine)
            self.notes_ += _notes(model, whole, self.features)
            ground = prepare(whole, Wanted(BLOCKS[self.features], seed=self.seed), growth)
            part, held = fit_model(whole, ground, self.quantile)
            self.models_[model] = part
            self.report_["success"].append(of_model(model, part, held, ground.folds))
            for one in mine:
                key = (one.model, one.strategy, one.unit)
                learned = fit_value(one, ground, held)
                self.values_[key], self.held_out_[key] = learned.value, learned.held_out
                self.report_["values"].append(learned.quality)
        self._ready()
        return self

    @property
    def wants_vectors(self) -> bool:
        """Say whether it was fitted with hidden states."""
        return any("vector" in part.prior.blocks for part in self.models_.values())

    def known(self) -> list[Key]:
        """Return what it has curves of: (model, strategy label, unit)."""
        return sorted(self.values_)

    def options(self, model: str, strategy: str, unit: Unit) -> IntArray:
        """Return the options that it was fitted on, rising."""
        return self._value(model, strategy, unit).options

    def curves(
        self, model: str, strategy: str, unit: Unit, problems: Sequence[Seen], options: IntArray | None = None
    ) -> Curves:
        """Return each problem's curve, all with the same options; without `options`, those it was fitted on.

        tokens: costs are the grants, whatever was drawn. calls: options are further calls, and none is always the
        first of those it offers by itself; costs are the tokens that they are expected to take.

        Raises:
            ConfigError: a model or strategy that it has no curves of.
        """
        value = self._value(model, strategy, unit)
        standing = self._standing(model, problems)
        if options is None:
            options = value.options if unit == "tokens" else np.unique(np.append(value.options, 0))
        asked = np.broadcast_to(np.asarray(options, dtype=np.float64), (len(problems), len(options)))
        if unit == "tokens":
            values = value.values(standing, asked)
            return Curves.from_table(np.asarray(options), values, value.spends_of(standing, asked))
        each = self.models_[model].mean_tokens(standing.moments)
        return Curves.from_table(each[:, None] * asked, value.values(standing, asked + standing.drawn[:, None]))

    def success(self, model: str, problems: Sequence[Seen]) -> FloatArray:
        """Return the predicted chance that a single sample is right, (n,)."""
        standing = self._standing(model, problems)
        return self._model(model).calibration(standing.rate, standing.drawn)

    def sample_tokens(self, model: str, problems: Sequence[Seen]) -> tuple[FloatArray, FloatArray]:
        """Return the expected tokens of a single sample, and their upper quantile, both (n,)."""
        part, moments = self._model(model), self._standing(model, problems).moments
        return part.mean_tokens(moments), part.upper_tokens(moments)

    def training(self, model: str, strategy: str, unit: Unit) -> Training:
        """Return the problems it was fitted on, with recorded outcomes; calls cost what was spent on them."""
        value = self._value(model, strategy, unit)
        if unit == "calls":
            return Training(value.scores, Curves.from_table(value.spends, value.means), value.problem_ids)
        curves = Curves.from_table(value.options, value.means, value.spends)
        return Training(value.scores, curves, value.problem_ids)

    @staticmethod
    def folds(problems: Sequence[Seen], count: int, seed: int) -> IntArray:
        """Return a fold a problem, (n,): near-duplicates are in one, and folds are of about equal size."""
        return make_folds(make_groups(problems), count, seed)

    def save(self, folder: Path) -> None:
        """Write text and JSON files, and a figure of its reliability. Raises StorageError."""
        content, shelf = storing.pack(self)
        files.write(folder, content, shelf, self.report_)
        draw_reliability(self.report_, folder / "reliability.png")

    @classmethod
    def load(cls, folder: Path) -> BudgetPredictor:
        """Read what `save` wrote. Raises DataError where it is none, or damaged."""
        content, shelf, report = files.read(folder)
        if content.get("kind") != cls.kind:
            raise DataError(f"{folder} holds a predictor of kind {content.get('kind')!r}, not {cls.kind!r}")
        try:
            predictor = cls(**content["parameters"])
            predictor.models_, predictor.values_ = storing.unpack(content, shelf, predictor.threads)
            predictor.notes_ = [str(note) for note in content["notes"]]
            predictor.held_out_, predictor.report_ = {}, report
            predictor._ready()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{folder} is damaged: {type(error).__name__}: {error}", files.AGAIN) from error
        return predictor

    def _ready(self) -> None:
        self.fingerprint: str = files.sealed(*storing.pack(self))["fingerprint"]
        self._priors: dict[tuple[str, str], tuple[Seen, Features, float]] = {}
        self._pilots: dict[tuple[Sample, ...], Features] = {(): pilot_features(())}

    def _validate(self, outcomes: Sequence[Outcomes]) -> None:
        if self.features not in BLOCKS:
            raise ConfigError(f"unknown features {self.features!r}", did_you_mean(str(self.features), BLOCKS))
        if not 0 < self.quantile < 1 or self.most_rounds < 1 or self.learning_rate <= 0:
            raise ConfigError("quantile must lie between 0 and 1, most_rounds and learning_rate above 0")
        if not outcomes:
            raise DataError("there are no outcomes to learn from")
        seen: set[Key] = set()
        for one in outcomes:
            key = (one.model, one.strategy, one.unit)
            if key in seen:
                raise DataError(f"outcomes of {one.strategy} on {one.model} in {one.unit} are given twice")
            seen.add(key)
            if len(one.problems) < LEAST_PROBLEMS:
                raise DataError(f"{len(one.problems)} problems are too few to learn from", f"at least {LEAST_PROBLEMS}")
            if not one.options.size or (np.diff(one.options) <= 0).any() or not one.scores.shape[1]:
                raise DataError(f"outcomes of {one.strategy} on {one.model} need rising options and one draw or more")

    def _value(self, model: str, strategy: str, unit: Unit) -> ValuePart:
        try:
            return self.values_[model, strategy, unit]
        except KeyError:
            raise ConfigError(
                f"the predictor has no curves of {strategy} on {model} in {unit}",
                "it has " + "; ".join(f"{s} on {m} in {u}" for m, s, u in self.known()),
            ) from None

    def _model(self, model: str) -> ModelPart:
        if model not in self.models_:
            raise ConfigError(f"the predictor does not know the model {model!r}", did_you_mean(model, self.models_))
        return self.models_[model]

    def _standing(self, model: str, problems: Sequence[Seen]) -> Standing:
        part = self._model(model)
        table, bare = self._prior_rows(model, part, problems)
        rows = np.array([self._pilot_row(seen) for seen in problems], dtype=np.float32)
        pilot, votes = np.split(rows.reshape(-1, len(FEATURES) + MOST_ANSWERS), [len(FEATURES)], axis=1)
        moments = moment_features(table, pilot, votes, part.habits)
        spent = np.array([sum([s.completion_tokens for s in seen.drawn]) for seen in problems], dtype=np.float64)
        return Standing(
            moments, votes, pilot[:, 0].astype(np.float64), spent, table[:, 1].astype(np.float64), bare,
            part.success.predict(moments), part.habits,
        )  # fmt: skip

    def _prior_rows(self, model: str, part: ModelPart, problems: Sequence[Seen]) -> tuple[Features, FloatArray]:
        """Return the features of the questions, and the success guessed from them alone; computed once a problem."""
        cache = self._priors
        if len(cache) > MOST_CACHED:
            cache.clear()
        new = [seen for seen in problems if not _same(cache.get((model, seen.problem_id)), seen)]
        if new:
            rows = part.prior.features(new)
            rates = part.success.predict(bare_features(rows, part.habits))
            for seen, row, rate in zip(new, rows, rates.tolist(), strict=True):
                cache[model, seen.problem_id] = (seen, row, rate)
        found = [cache[model, seen.problem_id] for seen in problems]
        table = np.array([row for _, row, _ in found], dtype=np.float32).reshape(-1, len(part.prior.names))
        return table, np.array([rate for _, _, rate in found], dtype=np.float64)

    def _pilot_row(self, seen: Seen) -> Features:
        row = self._pilots.get(seen.drawn)
        if row is None:
            if len(self._pilots) > MOST_CACHED:
                self._pilots = {(): self._pilots[()]}
            row = self._pilots[seen.drawn] = pilot_features(seen.drawn)
        return row


def _same(cached: tuple[Seen, Any, float] | None, seen: Seen) -> bool:
    return cached is not None and cached[0].text == seen.text and cached[0].vector is seen.vector


def _notes(model: str, outcomes: Outcomes, features: str) -> Iterable[str]:
    n = len(outcomes.problems)
    texts = sum(seen.text is not None for seen in outcomes.problems)
    vectors = sum(seen.vector is not None for seen in outcomes.problems)
    if texts < n and features != "hidden":
        yield f"{model}: {n - texts} of {n} problems have no text; its features are missing values there"
    if vectors < n and features != "text":
        yield f"{model}: {n - vectors} of {n} problems have no hidden state; its features are missing values there"
    if not all(orders and orders[0] for orders in outcomes.orders):
        yield f"{model}: without recorded samples, success is the score of the smallest option, and no pilot is understood"
