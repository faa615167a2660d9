"""Policies of grants in rounds: waves over everybody that is not finished, and windows of a stream.

Both ask a predictor at every barrier, with what was drawn so far, and split what is left of the total.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ttc.allocate.envelope import envelope
from ttc.allocate.online import Stream
from ttc.core.curves import Curves, IntArray
from ttc.core.forecast import Sample, Seen, Training, Unit
from ttc.core.protocols import Ask, needs
from ttc.core.types import Completion
from ttc.run.granting import Purse, Turn

if TYPE_CHECKING:
    from ttc.core.allocation import Allocation
    from ttc.core.forecast import Predictor


@dataclass(frozen=True, slots=True)
class Informed:
    """What a policy may ask, about one cell."""

    allocator: Any
    predictor: Predictor
    model: str
    strategy: str
    cap_tokens: int
    seed: int
    most_calls: int
    """Samples that a problem may have in all."""
    vectors: Mapping[str, Any]
    training: Training | None = None

    def seen(self, purse: Purse) -> Seen:
        """Return what may be known of a problem."""
        problem = purse.problem
        drawn = tuple(map(sample_of, purse.drawn))
        return Seen(problem.id, problem.question or None, self.vectors.get(problem.id), drawn)

    def curves(self, unit: Unit, purses: Sequence[Purse], options: IntArray | None = None) -> Curves:
        """Return predicted curves, in the order of `purses`."""
        return self.predictor.curves(self.model, self.strategy, unit, [self.seen(p) for p in purses], options)

    def ask(self, purses: Sequence[Purse], total_tokens: int, curves: Curves) -> Ask:
        """Return what the allocator is asked."""
        wanted = needs(self.allocator)
        return Ask(
            tuple(p.problem.id for p in purses),
            total_tokens,
            self.cap_tokens,
            self.seed,
            curves,
            self.predictor.success(self.model, [self.seen(p) for p in purses]) if "scores" in wanted else None,
            self.training,
        )


def sample_of(completion: Completion) -> Sample:
    """Return a drawn answer as a predictor may see it."""
    ended = completion.finish == "stop"
    return Sample(
        completion.answer if ended else None,
        completion.usage.completion,
        ended,
        completion.logprob,
        completion.score,
    )


class Waves:
    """A pilot for everybody, then the allocator's split of what is left: once, or again and again.

    Where options are whole calls (`unit = "calls"`), a wave grants the share `share` of what the allocator would give
    each problem, at least one call, and asks again when they are in. Where they are tokens, the first split is final.
    When nobody's next call is expected to fit any more, the one that gains most per token gets what is left.
    """

    def __init__(self, informed: Informed) -> None:
        allocator = informed.allocator
        self._informed = informed
        self._pilot: int = getattr(allocator, "pilot", 0)
        self._share: float = getattr(allocator, "share", 1.0)
        self._unit: Unit = getattr(allocator, "unit", "tokens")

    def turn(self, waiting: Sequence[Purse], free_tokens: int) -> Turn:
        """Decide on the next wave."""
        fresh = [p for p in waiting if not p.started]
        if self._pilot and fresh:
            return Turn(calls={p.problem.id: self._pilot for p in fresh})
        return self._final(waiting, free_tokens) if self._unit == "tokens" else self._wave(waiting, free_tokens)

    def _final(self, waiting: Sequence[Purse], free_tokens: int) -> Turn:
        """Split for good: what the pilot took is part of a grant."""
        predicted = self._informed.curves("tokens", waiting)
        spent = np.array([p.spent for p in waiting], dtype=np.int64)
        curves = Curves(
            np.maximum(predicted.costs, np.repeat(spent, predicted.sizes)),
            predicted.values,
            predicted.offsets,
            predicted.tokens,
        )
        split = self._split(waiting, free_tokens + int(spent.sum()), curves)
        return Turn(grants=dict(zip((p.problem.id for p in waiting), split.grants.tolist(), strict=True)))

    def _wave(self, waiting: Sequence[Purse], free_tokens: int) -> Turn:
        curves = self._informed.curves("calls", waiting, np.arange(self._informed.most_calls + 1, dtype=np.int64))
        split = self._split(waiting, free_tokens, curves)
        calls: dict[str, int] = {}
        for purse, choice in zip(waiting, split.choice.tolist(), strict=True):
            extra = min(choice, self._informed.most_calls - len(purse.drawn))
            if extra > 0:
                calls[purse.problem.id] = max(1, math.ceil(extra * self._share))
        return Turn(calls=calls or self._last(waiting, curves))

    def _last(self, waiting: Sequence[Purse], curves: Curves) -> dict[str, int]:
        """Give what is left to the problem whose next call gains most per token; to nobody where none gains."""
        open_ = [i for i, p in enumerate(waiting) if len(p.drawn) < self._informed.most_calls]
        starts = curves.offsets[:-1][open_]
        if not starts.size:
            return {}
        gains = (curves.values[starts + 1] - curves.values[starts]) / np.maximum(curves.costs[starts + 1], 1)
        best = int(gains.argmax())
        return {waiting[open_[best]].problem.id: 1} if gains[best] > 0 else {}

    def _split(self, waiting: Sequence[Purse], total_tokens: int, curves: Curves) -> Allocation:
        split: Allocation = self._informed.allocator.allocate(self._informed.ask(waiting, total_tokens, curves))
        for purse, said in zip(waiting, told(split, curves, self._unit), strict=True):
            spent = purse.spent if self._unit == "calls" else 0
            purse.told = {**said, "predicted_tokens": said["predicted_tokens"] + spent}
        return split


class Arrivals:
    """Problems come in an order drawn by seed, a window at a time; what a window did not need goes to later ones.

    Everybody's first call is set aside. A window is decided when the one before it has settled, so grants depend on
    what earlier problems cost and never on timing.
    """

    def __init__(self, informed: Informed) -> None:
        self._informed = informed
        self._stream: Stream | None = None
        self._queue: list[str] = []
        self._expected: dict[str, int] = {}
        self._bought: dict[str, tuple[list[float], list[int], list[int]]] = {}
        self._purses: dict[str, Purse] = {}

    def turn(self, waiting: Sequence[Purse], free_tokens: int) -> Turn:
        """Settle the last window, and decide on the next."""
        if self._stream is None:
            self._open(waiting, free_tokens)
        stream = self._stream
        if stream is None:
            return Turn()
        for name, expected in self._expected.items():
            stream = stream.settle(expected - self._purses[name].spent)
        self._expected = {}
        window = getattr(self._informed.allocator, "window", 1)
        calls: dict[str, int] = {}
        for name in self._queue[:window]:
            slopes, steps, counts = self._bought[name]
            level, stream = stream.offer(slopes[1:], steps[1:])
            calls[name] = counts[level]
            self._expected[name] = sum(steps[: level + 1])
            self._purses[name].told = {
                "option": f"{counts[level]} calls",
                "predicted_tokens": float(self._expected[name]),
                "predicted_value": None,
                "price": stream.threshold.price(stream.spent / stream.capacity if stream.capacity else 1.0),
            }
        self._queue = self._queue[window:]
        self._stream = stream
        return Turn(calls=calls, refused=frozenset(p.problem.id for p in waiting if p.started))

    def _open(self, waiting: Sequence[Purse], free_tokens: int) -> None:
        """Read everybody's curve; each depends on its own prompt alone, so reading them early changes nothing."""
        options = np.arange(1, self._informed.most_calls + 1, dtype=np.int64)
        curves = self._informed.curves("calls", waiting, options)
        hull = envelope(curves)
        first = hull.first_upgrades
        for i, purse in enumerate(waiting):
            upgrades = slice(int(first[i]), int(first[i]) + int(hull.offsets[i + 1] - hull.offsets[i]) - 1)
            points = hull.points[hull.offsets[i] : hull.offsets[i + 1]]
            base = int(curves.costs[points[0]])
            counts = (options[points - curves.offsets[i]]).tolist()
            slopes, steps = hull.slopes[upgrades].tolist(), hull.steps[upgrades].tolist()
            self._bought[purse.problem.id] = ([0.0, *slopes], [base, *steps], counts)
            self._purses[purse.problem.id] = purse
        names = [p.problem.id for p in waiting]
        order = np.random.default_rng(self._informed.seed).permutation(len(names))
        self._queue = [names[i] for i in order]
        base_tokens = sum(steps[0] for _, steps, _ in self._bought.values())
        threshold = self._informed.allocator.threshold(self._informed.training, free_tokens / len(names))
        self._stream = Stream(threshold, max(0, free_tokens - base_tokens), len(names))


def told(split: Allocation, curves: Curves, unit: Unit) -> list[dict[str, Any]]:
    """Return what the tables say of each problem's grant."""
    word = "tokens" if unit == "tokens" else "calls"
    flat = curves.offsets[:-1] + np.maximum(split.choice, 0)
    amounts = curves.costs[flat] if unit == "tokens" else np.maximum(split.choice, 0)
    return [
        {
            "option": None if choice < 0 else f"{amount} {word}",
            "predicted_value": value,
            "predicted_tokens": tokens,
            "price": split.price,
        }
        for choice, amount, value, tokens in zip(
            split.choice.tolist(),
            amounts.tolist(),
            split.predicted_values.tolist(),
            split.predicted_tokens.tolist(),
            strict=True,
        )
    ]
