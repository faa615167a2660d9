"""What every allocator eats: each prompt's options, an option being a grant in tokens and what it buys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttc.core.closed_forms import coverage
from ttc.core.errors import DataError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
A = TypeVar("A", IntArray, FloatArray)


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Options of n prompts as flat arrays, one prompt after another, in any order within a prompt.

    `costs` are grants in whole tokens, `values` the expected score under such a grant: they may fall as the grant
    grows. Prompt i owns the positions `offsets[i]:offsets[i + 1]`, at least one. `tokens` is what each option is
    expected to spend of its grant, None where that is all of it. Arrays are not copied. Every prompt may abstain at
    no cost where the total pays for less than everyone's cheapest option, so abstaining is listed only where it is
    always allowed.

    Raises:
        DataError: shapes that do not fit, a prompt without options, a negative cost, a value that is not finite.
    """

    costs: IntArray
    values: FloatArray
    offsets: IntArray
    tokens: FloatArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "costs", _frozen(_whole(self.costs)))
        object.__setattr__(self, "values", _frozen(np.asarray(self.values, dtype=np.float64)))
        object.__setattr__(self, "offsets", _frozen(np.asarray(self.offsets, dtype=np.int64)))
        if self.tokens is not None:
            object.__setattr__(self, "tokens", _frozen(np.asarray(self.tokens, dtype=np.float64)))
        self._check()

    def _check(self) -> None:
        sizes, count = np.diff(self.offsets), self.costs.size
        flat = [a for a in (self.costs, self.values, self.tokens) if a is not None]
        if any(a.shape != (count,) for a in flat) or not self.offsets.size or self.offsets[0] != 0:
            raise DataError(f"curves need flat arrays of one length, found {[a.shape for a in flat]}")
        if self.offsets[-1] != count or (sizes < 1).any():
            raise DataError("every prompt needs at least one option", "offsets must rise from 0 to the options' number")
        if count and self.costs.min() < 0:
            raise DataError(f"a cost is negative: {self.costs.min()}")
        if not all(np.isfinite(a).all() for a in flat[1:]):
            raise DataError("a value or an expected spend is not a finite number")

    @classmethod
    def from_table(cls, costs: ArrayLike, values: ArrayLike, tokens: ArrayLike | None = None) -> Curves:
        """Take a table with one row a prompt and one column an option.

        `values` is (n, m); `costs` and `tokens` are (n, m), or (m,) where all prompts share them. Costs that are no
        whole tokens are rounded up.
        """
        table = np.asarray(values, dtype=np.float64)
        if table.ndim != 2:
            raise DataError(f"values need one row a prompt and one column an option, found shape {table.shape}")
        n, m = table.shape
        return cls(
            np.broadcast_to(_whole(costs), table.shape).reshape(-1),
            table.reshape(-1),
            np.arange(n + 1, dtype=np.int64) * m,
            None if tokens is None else np.broadcast_to(np.asarray(tokens, np.float64), table.shape).reshape(-1),
        )

    @classmethod
    def from_options(cls, options: Sequence[Sequence[tuple[float, float]]]) -> Curves:
        """Take a list of (cost, value) pairs a prompt; prompts may have different numbers of them."""
        flat = np.array([pair for row in options for pair in row], dtype=np.float64).reshape(-1, 2)
        return cls(_whole(flat[:, 0]), flat[:, 1], np.cumsum([0, *map(len, options)]))

    @classmethod
    def from_success(cls, rates: ArrayLike, sample_tokens: ArrayLike, samples: ArrayLike) -> Curves:
        """Take success probabilities of a single sample, under a selector that knows a right answer when it sees one.

        `rates` is (n,), `sample_tokens` the tokens of one sample, one number or (n,), and `samples` the numbers of
        samples on offer, (m,): start at 1 for at least one sample each, at 0 where abstaining is free to choose.
        """
        rates = np.atleast_1d(np.asarray(rates, dtype=np.float64))
        return cls.from_table(sample_costs(samples, sample_tokens, rates.size), coverage(rates, samples))

    def __len__(self) -> int:
        return self.offsets.size - 1

    @property
    def sizes(self) -> IntArray:
        """Return each prompt's number of options, (n,)."""
        return np.diff(self.offsets)

    @property
    def prompts(self) -> IntArray:
        """Return each option's prompt, (options,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def cheapest(self) -> IntArray:
        """Return each prompt's smallest cost, (n,)."""
        return np.minimum.reduceat(self.costs, self.offsets[:-1]) if len(self) else np.zeros(0, dtype=np.int64)

    def affordable(self, grants: ArrayLike) -> IntArray:
        """Return the option a grant buys, (n,): the dearest that fits, of equals the best; -1 where none fits."""
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        starts, limits = self.offsets[:-1], np.repeat(np.asarray(grants, dtype=np.int64), self.sizes)
        reach = np.where(self.costs <= limits, self.costs, -1)
        most = np.maximum.reduceat(reach, starts)
        best = np.where((reach >= 0) & (reach == np.repeat(most, self.sizes)), self.values, -np.inf)
        top = np.repeat(np.maximum.reduceat(best, starts), self.sizes)
        place = np.arange(self.costs.size) - np.repeat(starts, self.sizes)
        chosen = np.minimum.reduceat(np.where(best == top, place, self.costs.size), starts)
        return np.where(most >= 0, chosen, -1)

    def with_abstention(self) -> Curves:
        """Return the curves with an option of no cost and no value in front of each prompt's own."""
        offsets = self.offsets + np.arange(len(self) + 1)
        own = np.ones(offsets[-1], dtype=bool)
        own[offsets[:-1]] = False
        costs, values, tokens = np.zeros(own.size, dtype=np.int64), np.zeros(own.size), None
        costs[own], values[own] = self.costs, self.values
        if self.tokens is not None:
            tokens = np.zeros(own.size)
            tokens[own] = self.tokens
        return Curves(costs, values, offsets, tokens)

    def after(self, choice: ArrayLike) -> Curves:
        """Return what is on offer once each prompt has had option `choice`, (n,); options keep their numbers.

        To stay there costs nothing, a larger grant costs the difference, and there is no way back. A prompt that has
        had nothing (-1) keeps its curve, and so its claim to a cheapest option. Solved again with what is left of a
        total, this hands the tokens of early finishers to whoever gains most from them: rollover by shadow price.
        """
        had = np.asarray(choice, dtype=np.int64)
        flat = self.offsets[:-1] + np.maximum(had, 0)
        served = np.repeat(had >= 0, self.sizes)
        paid = np.where(served, np.repeat(self.costs[flat], self.sizes), 0)
        gone = served & (self.costs <= paid)
        gone[flat[had >= 0]] = False
        # Below everything on offer at no cost: never chosen.
        values = np.where(gone, self._least() - 1.0, self.values)
        tokens = None
        if self.tokens is not None:
            tokens = np.maximum(self.tokens - np.where(served, np.repeat(self.tokens[flat], self.sizes), 0.0), 0.0)
        return Curves(np.maximum(self.costs - paid, 0), values, self.offsets, tokens)

    def capped(self, caps: ArrayLike) -> Curves:
        """Return the curves with nothing to gain beyond a cost of `caps` tokens, (n,); options keep their numbers."""
        limits = np.repeat(np.maximum(np.asarray(caps, dtype=np.int64), self.cheapest()), self.sizes)
        values = np.where(self.costs <= limits, self.values, self._least())
        return Curves(self.costs, values, self.offsets, self.tokens)

    def _least(self) -> FloatArray:
        """Return for each option the smallest value of its prompt, (options,)."""
        if not len(self):
            return self.values
        return np.repeat(np.minimum.reduceat(self.values, self.offsets[:-1]), self.sizes)


def joined(parts: Sequence[Curves]) -> Curves:
    """Return curves in which each prompt has the options of all `parts`: one a strategy, model or configuration.

    `origin` tells of a chosen option which part it came from.

    Raises:
        DataError: parts of different prompts, or none.
    """
    if not parts or len({len(part) for part in parts}) > 1:
        raise DataError(f"joined curves need the same prompts in each part, found {[len(p) for p in parts]}")
    sizes = np.sum([part.sizes for part in parts], axis=0)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    costs, values, tokens = np.empty(offsets[-1], dtype=np.int64), np.empty(offsets[-1]), np.empty(offsets[-1])
    start = offsets[:-1]
    for part in parts:
        places = np.repeat(start - part.offsets[:-1], part.sizes) + np.arange(part.costs.size)
        costs[places], values[places] = part.costs, part.values
        tokens[places] = part.costs if part.tokens is None else part.tokens
        start = start + part.sizes
    return Curves(costs, values, offsets, None if all(part.tokens is None for part in parts) else tokens)


def origin(parts: Sequence[Curves], choice: IntArray) -> tuple[IntArray, IntArray]:
    """Return the part and the option in it of each prompt's choice in `joined(parts)`, both (n,); -1 for abstained."""
    ends = np.cumsum([part.sizes for part in parts], axis=0)
    which = (choice >= ends).sum(axis=0)
    before = np.concatenate([np.zeros((1, choice.size), dtype=np.int64), ends])[which, np.arange(choice.size)]
    return np.where(choice < 0, -1, which), np.where(choice < 0, -1, choice - before)


def sample_costs(samples: ArrayLike, sample_tokens: ArrayLike, prompts: int) -> IntArray:
    """Return what each number of samples costs each prompt, (prompts, samples), rounded up to whole tokens.

    `sample_tokens` is the tokens of one sample, one number or (prompts,).
    """
    each = np.broadcast_to(np.asarray(sample_tokens, dtype=np.float64), (prompts,))
    return _whole(each[:, None] * np.atleast_1d(np.asarray(samples, dtype=np.float64)))


def _whole(costs: ArrayLike) -> IntArray:
    given = np.asarray(costs)
    if given.dtype.kind in "iu":
        return given.astype(np.int64, copy=False)
    given = given.astype(np.float64)
    if not np.isfinite(given).all():
        raise DataError("a cost is not a finite number")
    # Three samples of 0.1 are 0.30000000000000004: rounding noise costs no token.
    return np.ceil(np.round(given, 6)).astype(np.int64)


def _frozen(array: A) -> A:
    view = array.view()
    view.flags.writeable = False
    return view
