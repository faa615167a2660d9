"""One mix of configurations (models, temperatures, prompts) for every problem."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ttc.core.curves import FloatArray, IntArray
from ttc.core.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """How many samples of each configuration every problem is given."""

    counts: IntArray
    tokens: int
    """What the mix costs a problem."""
    value: float
    """Expected share of problems solved, on the rates it was fitted on."""


def mixed(rates: ArrayLike, sample_tokens: ArrayLike, tokens_per_problem: int, most: ArrayLike | None = None) -> Mix:
    """Return the mix with the best expected share of problems that any sample solves.

    `rates` is (configurations, problems), success rates of a single sample on training problems, best smoothed
    (`smoothed_rates`); `sample_tokens` is (configurations,), whole tokens a sample; `most`, (configurations,), limits the
    samples of each where a bank holds no more. Adds the sample that gains most per token for as long as one fits, from
    nothing and from each single configuration, then exchanges samples while that helps. Never worse than the best
    single configuration; with equal costs at least 1 - 1/e of the optimum. The objective and the exchange are OSCA's
    (Zhang et al. 2024, arXiv 2410.22480).

    Raises:
        DataError: shapes that do not fit, a rate outside [0, 1], a sample that costs nothing.
    """
    p, costs = (
        np.asarray(rates, dtype=np.float64),
        np.ceil(np.asarray(sample_tokens, dtype=np.float64)).astype(np.int64),
    )
    if p.ndim != 2 or costs.shape != p.shape[:1] or not p.size or costs.min() < 1 or p.min() < 0 or p.max() > 1:
        raise DataError("a mix needs rates in [0, 1] (configurations, problems) and at least 1 token a sample of each")
    limits = tokens_per_problem // costs if most is None else np.minimum(tokens_per_problem // costs, most)
    room = _Room(p, costs, tokens_per_problem, limits.astype(np.int64))
    starts = [np.zeros(costs.size, dtype=np.int64), *np.diag(room.most)]
    counts = _climbed(room, max((_filled(room, start) for start in starts), key=room.value))
    return Mix(counts, int(counts @ costs), room.value(counts))


@dataclass(frozen=True, slots=True, eq=False)
class _Room:
    """What a mix is made of, and within which limits."""

    rates: FloatArray
    costs: IntArray
    tokens: int
    most: IntArray

    def value(self, counts: IntArray) -> float:
        return expected_coverage(self.rates, counts)


def _filled(room: _Room, counts: IntArray) -> IntArray:
    """Add the sample that gains most per token for as long as one fits."""
    p, costs = room.rates, room.costs
    counts, unsolved = counts.copy(), np.prod((1 - p) ** counts[:, None], axis=0)
    left = room.tokens - int(counts @ costs)
    while (fits := (costs <= left) & (counts < room.most)).any():
        best = int(np.where(fits, (p @ unsolved) / costs, -1.0).argmax())
        counts[best] += 1
        unsolved = unsolved * (1 - p[best])
        left -= int(costs[best])
    return counts


def _climbed(room: _Room, counts: IntArray) -> IntArray:
    """Exchange samples of one configuration for one of another, until no exchange gains anything."""
    best = room.value(counts)
    while True:
        others = [_exchanged(room, counts, out, into) for out, into in itertools.permutations(range(counts.size), 2)]
        top = max((o for o in others if o is not None), key=room.value, default=counts)
        if room.value(top) <= best + 1e-12:
            return counts
        counts, best = top, room.value(top)


def _exchanged(room: _Room, counts: IntArray, out: int, into: int) -> IntArray | None:
    """Take out of one configuration what one more sample of another needs, and fill what room is left over."""
    over = int(counts @ room.costs + room.costs[into]) - room.tokens
    removed = max(1, -(-over // int(room.costs[out])))
    if counts[out] < removed or counts[into] >= room.most[into]:
        return None
    other = counts.copy()
    other[out] -= removed
    other[into] += 1
    return _filled(room, other)


def expected_coverage(rates: ArrayLike, counts: ArrayLike) -> float:
    """Return the mean over problems of 1 - prod (1 - p)^count, given success rates (configurations, problems)."""
    p, c = np.asarray(rates, dtype=np.float64), np.asarray(counts)
    return float(1 - np.prod((1 - p) ** c[:, None], axis=0).mean())


def unbiased_coverage(correct: ArrayLike, samples: ArrayLike, counts: ArrayLike) -> float:
    """Return the share of problems that a mix solves, estimated without bias from recorded samples.

    `correct` and `samples` are (configurations, problems): right ones among those recorded, at least `counts`. A
    problem fails where all drawn samples of all configurations do: prod C(n - c, k) / C(n, k).

    Raises:
        DataError: fewer recorded samples than the mix draws.
    """
    from scipy.special import gammaln

    c, n = np.asarray(correct, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    k = np.asarray(counts, dtype=np.float64)[:, None]
    if (k > n).any():
        raise DataError(f"the mix draws up to {int(k.max())} samples, but only {int(n.min())} are recorded")
    wrong = n - c
    room = np.maximum(wrong - k, 0)  # where fewer are wrong than drawn, one of the drawn is right
    log = gammaln(wrong + 1) - gammaln(room + 1) - gammaln(n + 1) + gammaln(n - k + 1)
    return float(1 - np.where(wrong >= k, np.exp(log), 0.0).prod(axis=0).mean())
