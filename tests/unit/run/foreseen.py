"""A predictor for tests: it knows a rate for each problem, and nothing that is drawn changes its mind."""

import numpy as np

from ttc.core.closed_forms import coverage
from ttc.core.curves import Curves
from ttc.core.forecast import Training


class Foreseen:
    """Implements `ttc.core.forecast.Predictor`; `asked` keeps what was drawn whenever it was asked."""

    wants_vectors = False

    def __init__(self, rates, tokens=40, most=16, strategies=("self-consistency", "coverage")):
        self.rates, self.tokens, self.most, self.strategies = dict(rates), tokens, most, strategies
        self.fingerprint = f"foreseen {sorted(self.rates.items())} {tokens} {most}"
        self.asked = []

    def known(self):
        return [(model, s, unit) for model in ("m", "fake") for s in self.strategies for unit in ("tokens", "calls")]

    def options(self, model, strategy, unit):
        counts = np.arange(1, self.most + 1, dtype=np.int64)
        return counts if unit == "calls" else counts * self.tokens

    def curves(self, model, strategy, unit, problems, options=None):
        self.asked.append({seen.problem_id: len(seen.drawn) for seen in problems})
        options = self.options(model, strategy, unit) if options is None else np.asarray(options)
        rates = np.array([self.rates[seen.problem_id] for seen in problems])
        if unit == "tokens":
            return Curves.from_table(options, coverage(rates, options / self.tokens), options)
        drawn = np.array([len(seen.drawn) for seen in problems])
        values = np.stack([coverage([r], options + d)[0] for r, d in zip(rates, drawn, strict=True)])
        return Curves.from_table(options * self.tokens, values)

    def success(self, model, problems):
        return np.array([self.rates[seen.problem_id] for seen in problems])

    def training(self, model, strategy, unit):
        rates, options = np.linspace(0.05, 0.95, 40), self.options(model, strategy, unit)
        costs = options if unit == "tokens" else options * self.tokens
        return Training(rates, Curves.from_table(costs, coverage(rates, costs / self.tokens)))
