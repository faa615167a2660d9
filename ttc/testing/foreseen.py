"""A predictor for tests of allocators: it knows a rate for each problem, and nothing that is drawn changes its mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ttc.core.closed_forms import coverage
from ttc.core.curves import Curves, FloatArray, IntArray
from ttc.core.forecast import Seen, Training, Unit

TRAINING_PROBLEMS = 40


class Foreseen:
    """Implements `ttc.core.forecast.Predictor` for any model and strategy.

    Curves are those of a selector that knows a right answer when it sees one, at the given rates. `asked` keeps how many
    samples each problem had whenever curves were asked for.
    """

    wants_vectors = False

    def __init__(self, rates: Mapping[str, float], sample_tokens: int = 40, most: int = 16) -> None:
        self.rates, self.sample_tokens, self.most = dict(rates), sample_tokens, most
        self.fingerprint = f"foreseen {sorted(self.rates.items())} {sample_tokens} {most}"
        self.asked: list[dict[str, int]] = []

    def known(self) -> list[tuple[str, str, Unit]]:
        """Return nothing: no (model, strategy) was learned, any is answered."""
        return []

    def options(self, model: str, strategy: str, unit: Unit) -> IntArray:
        """Return 1 to `most` samples, in tokens or calls."""
        counts = np.arange(1, self.most + 1, dtype=np.int64)
        return counts if unit == "calls" else counts * self.sample_tokens

    def curves(
        self, model: str, strategy: str, unit: Unit, problems: Sequence[Seen], options: IntArray | None = None
    ) -> Curves:
        """Return 1 - (1 - rate)^samples for each problem."""
        self.asked.append({seen.problem_id: len(seen.drawn) for seen in problems})
        options = self.options(model, strategy, unit) if options is None else np.asarray(options)
        rates = self.success(model, problems)
        if unit == "tokens":
            return Curves.from_table(options, coverage(rates, options / self.sample_tokens), options)
        each = zip(rates, problems, strict=True)
        values = [coverage([rate], options + len(seen.drawn))[0] for rate, seen in each]
        return Curves.from_table(options * self.sample_tokens, np.stack(values))

    def success(self, model: str, problems: Sequence[Seen]) -> FloatArray:
        """Return the rates."""
        return np.array([self.rates[seen.problem_id] for seen in problems])

    def training(self, model: str, strategy: str, unit: Unit) -> Training:
        """Return problems of evenly spread rates."""
        rates, options = np.linspace(0.05, 0.95, TRAINING_PROBLEMS), self.options(model, strategy, unit)
        costs = options if unit == "tokens" else options * self.sample_tokens
        return Training(rates, Curves.from_table(costs, coverage(rates, costs / self.sample_tokens)))
