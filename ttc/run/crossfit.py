"""What allocators are told by: fitted predictors, read from their folders, or fitted on a bank's other problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ttc.core.curves import Curves, FloatArray, IntArray
from ttc.core.errors import ConfigError
from ttc.core.forecast import Outcomes, Predictor, PredictorKind, Seen, Training, Unit
from ttc.core.identity import identity
from ttc.core.protocols import Strategy
from ttc.core.registry import load
from ttc.run.outcomes import Recorded, outcomes

KIND = "lightgbm"
FOLDS = 5
DRAWS = 16
"""Orders of a problem's samples that are learned from."""


@dataclass(slots=True)
class CrossFitted:
    """A predictor that learns from the bank it is asked about, never from the problem it is asked about.

    Problems are dealt into five folds, near-duplicates into one; what is said of a problem comes from the model of
    the four folds it is not in. A strategy is learned when it is first asked for. Implements `Predictor`.

    Args:
        recorded: the bank's configuration.
        strategies: the sweep's, by label.
        seed: of the folds and the orders.
        note: is told what takes time.
    """

    recorded: Recorded
    strategies: dict[str, Strategy]
    seed: int
    note: Callable[[str], None] = lambda _: None
    wants_vectors: bool = field(init=False)
    fingerprint: str = field(init=False)
    _folds: dict[str, int] = field(init=False, default_factory=dict)
    _fitted: dict[str, list[Predictor]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.wants_vectors = bool(self.recorded.vectors)
        vectors = sorted(self.recorded.vectors or ())
        self.fingerprint = identity(["cross-fitted", KIND, FOLDS, DRAWS, self.recorded.bank.fingerprint, vectors])

    def known(self) -> list[tuple[str, str, Unit]]:
        """Return the sweep's strategies, by tokens and by calls."""
        units: tuple[Unit, ...] = ("tokens", "calls")
        return [(self.recorded.config, label, unit) for label in self.strategies for unit in units]

    def prepare(self, strategy: str) -> None:
        """Learn a strategy now, before anybody waits for what is said of it."""
        self._fit(strategy)

    def options(self, model: str, strategy: str, unit: Unit) -> IntArray:
        """Return what the bank has samples for."""
        return self.recorded.options(unit)

    def curves(
        self, model: str, strategy: str, unit: Unit, problems: Sequence[Seen], options: IntArray | None = None
    ) -> Curves:
        """Return each problem's curve, from the model of the other folds."""
        parts: list[tuple[IntArray, Curves]] = []
        for predictor, places in self._shared_out(strategy, problems):
            asked = [problems[i] for i in places]
            parts.append((places, predictor.curves(model, strategy, unit, asked, options)))
        width = int(parts[0][1].sizes[0])
        costs, values, tokens = (np.zeros((len(problems), width)) for _ in range(3))
        for places, part in parts:
            costs[places], values[places] = part.costs.reshape(-1, width), part.values.reshape(-1, width)
            tokens[places] = (part.costs if part.tokens is None else part.tokens).reshape(-1, width)
        return Curves.from_table(costs.astype(np.int64), values, tokens)

    def success(self, model: str, problems: Sequence[Seen]) -> FloatArray:
        """Return the chance that one sample is right, from the model of the other folds."""
        found = np.zeros(len(problems))
        for predictor, places in self._shared_out(next(iter(self.strategies)), problems):
            found[places] = predictor.success(model, [problems[i] for i in places])
        return found

    def training(self, model: str, strategy: str, unit: Unit) -> Training:
        """Refuse: every problem of the bank is also allocated to."""
        raise ConfigError(
            "an allocator that learns a table from other problems needs a predictor of its own",
            "ttc fit ANOTHER-BANK --out PREDICTOR, then --predictor PREDICTOR",
        )

    def _shared_out(self, strategy: str, problems: Sequence[Seen]) -> list[tuple[Predictor, IntArray]]:
        fitted = self._fit(strategy)
        member = np.array([self._folds[seen.problem_id] for seen in problems], dtype=np.int64)
        places = [np.flatnonzero(member == fold) for fold in range(FOLDS)]
        return [(fitted[fold], rows) for fold, rows in enumerate(places) if rows.size]

    def _fit(self, strategy: str) -> list[Predictor]:
        if strategy not in self._fitted:
            self.note(f"fitting {FOLDS} predictors of {strategy} on {self.recorded.config}")
            solver = self.strategies[strategy]
            units: tuple[Unit, ...] = ("tokens", "calls")
            found = [outcomes(self.recorded, solver, strategy, unit, DRAWS) for unit in units]
            kind = load("predictors", KIND)
            if not self._folds:
                seen = found[0].problems
                member = kind.folds(seen, FOLDS, self.seed).tolist()
                self._folds = {s.problem_id: fold for s, fold in zip(seen, member, strict=True)}
            self._fitted[strategy] = [self._without(fold, found, kind()) for fold in range(FOLDS)]
        return self._fitted[strategy]

    def _without(self, fold: int, found: Sequence[Outcomes], kind: PredictorKind) -> Predictor:
        rows = [i for i, seen in enumerate(found[0].problems) if self._folds[seen.problem_id] != fold]
        if not rows:
            raise ConfigError(
                f"{len(found[0].problems)} problems are too few to fit on some and predict the others",
                "give --predictor, fitted on another bank",
            )
        return kind.fit([each.of(rows) for each in found])


def vectors_in(bank_folder: Path, config: str) -> dict[str, Any] | None:
    """Return the hidden states that were recorded with a bank's samples, None where none were."""
    from ttc.store.features import read_features

    return read_features(bank_folder).get(config)
