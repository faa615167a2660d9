"""The seam between recorded outcomes, predictors and allocators: what each is told, and what it says.

Outcomes of recorded samples are what a predictor learns from; `Seen` is all it may know of a new problem; curves are
what it says, and what an allocator splits a total by. Nothing here holds a reference answer, and whether a sample is
right stands in `Outcomes` alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ttc.core.curves import Curves, FloatArray, IntArray
from ttc.core.errors import DataError, did_you_mean
from ttc.core.registry import load, names

PREDICTOR_FILE = "predictor.json"
"""What every kind of predictor writes; its key `kind` is the name it is registered by."""

Unit = Literal["tokens", "calls"]
"""What an option grants.

tokens: a hard grant in tokens, spent by the rule of `Context.sample`: its last call may be cut. calls: so many whole
calls, each paid from the run's pool at what it really costs; only strategies that draw whole answers have such options.
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One drawn answer, as a predictor may see it."""

    answer: str | None
    """Spelled as the first equivalent answer of the same problem; None where there is none."""
    completion_tokens: int
    finished: bool
    """False where its cap cut it."""
    logprob: float | None = None
    """Sum over its tokens, in nats."""
    score: float | None = None
    """A reward model's, in [0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """All that may be known of a problem while it is being solved."""

    problem_id: str
    text: str | None = None
    """The question; None where a bank does not hold it."""
    vector: NDArray[np.float32] | None = None
    """The policy's last hidden state of the prompt, (width,)."""
    drawn: tuple[Sample, ...] = ()
    """What was drawn so far, by sample index."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What one strategy made of recorded samples of one model: n problems, r draws, m options.

    In draw d the samples of problem i were dealt in the order `orders[i][d]`, so the first k of them are what a pilot
    of k would have seen, and `scores[i, d]` is what came of the whole draw under each option. Where only finished
    runs are known (no samples), `orders` and `right` hold empty tuples and r is the number of runs.

    Raises:
        DataError: shapes that do not fit.
    """

    model: str
    strategy: str
    unit: Unit
    options: IntArray
    """Tokens or calls, rising, (m,)."""
    problems: tuple[Seen, ...]
    """Without anything drawn, (n,)."""
    orders: tuple[tuple[tuple[Sample, ...], ...], ...]
    right: tuple[tuple[tuple[bool, ...], ...], ...]
    """Whether each sample of `orders` is right: for labels only."""
    scores: FloatArray
    """In [0, 1], (n, r, m)."""
    tokens: FloatArray
    """Completion tokens spent, (n, r, m)."""

    def __post_init__(self) -> None:
        n, m = len(self.problems), self.options.size
        shapes = {"scores": self.scores.shape, "tokens": self.tokens.shape}
        if any(s[0] != n or s[2] != m or s != self.scores.shape for s in shapes.values()) or len(self.orders) != n:
            raise DataError(f"outcomes of {n} problems and {m} options do not fit {shapes}")

    def of(self, rows: Sequence[int]) -> Outcomes:
        """Return the outcomes of some of the problems, by position."""
        chosen = list(rows)
        return Outcomes(
            self.model,
            self.strategy,
            self.unit,
            self.options,
            tuple(self.problems[i] for i in chosen),
            tuple(self.orders[i] for i in chosen),
            tuple(self.right[i] for i in chosen),
            self.scores[chosen],
            self.tokens[chosen],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """Problems with recorded outcomes, for allocators that learn a table: none of them is allocated to."""

    scores: FloatArray
    """Predicted out of fold: the chance that a single sample is right, (n,)."""
    curves: Curves
    """Means over draws of recorded scores and spends, the same options for all."""
    problem_ids: tuple[str, ...] = ()
    """Empty where they are not known."""


class Predictor(Protocol):
    """Predicts from a prompt, and from what was drawn so far, what more tokens buy."""

    fingerprint: str
    """Changes whenever equal questions could get other answers."""
    wants_vectors: bool
    """It was fitted with hidden states, and needs them."""

    def known(self) -> list[tuple[str, str, Unit]]:
        """Return what it has curves of: (model, strategy label, unit)."""

    def options(self, model: str, strategy: str, unit: Unit) -> IntArray:
        """Return the options that it was fitted on, rising."""

    def curves(
        self, model: str, strategy: str, unit: Unit, problems: Sequence[Seen], options: IntArray | None = None
    ) -> Curves:
        """Return each problem's curve.

        tokens: costs are the grants themselves, whatever was drawn. calls: options are further calls after those
        drawn, from none on; costs are the tokens they are expected to take.

        Raises:
            ConfigError: a model or strategy it has no curves of, naming those it has.
        """

    def success(self, model: str, problems: Sequence[Seen]) -> FloatArray:
        """Return the predicted chance that a single sample is right, (n,)."""

    def training(self, model: str, strategy: str, unit: Unit) -> Training:
        """Return the problems it was fitted on, with recorded outcomes."""


class PredictorKind(Protocol):
    """A class of predictors: what stands behind an entry point of `ttc.predictors`."""

    def fit(self, outcomes: Sequence[Outcomes]) -> Predictor:
        """Learn from the outcomes of several strategies and models at once, and return itself."""

    @staticmethod
    def folds(problems: Sequence[Seen], count: int, seed: int) -> IntArray:
        """Return a fold a problem, (n,), so that no problem's near-duplicate is in another fold."""

    def save(self, folder: Path) -> None:
        """Write text and JSON files; `load` executes nothing in them. Raises StorageError."""

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Read what `save` wrote. Raises DataError where it is none, or damaged."""


def load_predictor(folder: Path) -> Predictor:
    """Read a stored predictor with the registered class that wrote it.

    Raises:
        DataError: there is none, it is damaged, or its kind is not installed.
    """
    file = folder / PREDICTOR_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not whole JSON"
        raise DataError(f"{folder} holds no predictor: {file.name}: {reason}", "make one: ttc fit") from error
    kind = content.get("kind") if isinstance(content, dict) else None
    # Only what is installed is loaded: a file that names a module of its own would else be run.
    if not isinstance(kind, str) or kind not in names("predictors"):
        raise DataError(
            f"{file} names an unknown kind of predictor: {kind!r}", did_you_mean(str(kind), names("predictors"))
        )
    return cast("PredictorKind", load("predictors", kind)).load(folder)
