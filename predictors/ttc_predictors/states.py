"""The moments a predictor learns from: a problem, and the first k samples of one order of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttc.core.curves import FloatArray, IntArray
from ttc.core.forecast import Outcomes, Sample
from ttc_predictors.pilot import FEATURES, MOST_ANSWERS, overtaking, pilot_features

PILOTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
MOST_STATES = 12_000
Pilots = dict[tuple[Sample, ...], NDArray[np.float32]]
PRIOR_SAMPLES = 2.0
"""Samples that the guess from the question is worth when a problem's own lengths are averaged with it."""


@dataclass(frozen=True)
class States:
    """s moments; arrays are (s,) where nothing else is said."""

    problem: IntArray
    """Position among the outcomes' problems."""
    drawn: IntArray
    spent: FloatArray
    """Tokens of what was drawn."""
    pilot: NDArray[np.float32]
    """(s, len(FEATURES))"""
    votes: NDArray[np.float32]
    """(s, MOST_ANSWERS)"""
    weight: FloatArray
    """All moments of a problem with equally many samples weigh one together."""
    member_state: IntArray
    """Draws that pass through a moment, as pairs of (moment, draw)."""
    member_draw: IntArray

    def take(self, chosen: NDArray[np.bool_]) -> States:
        """Return some of the moments."""
        number = np.cumsum(chosen) - 1
        kept = chosen[self.member_state]
        return States(
            self.problem[chosen], self.drawn[chosen], self.spent[chosen], self.pilot[chosen], self.votes[chosen],
            self.weight[chosen],
            number[self.member_state[kept]], self.member_draw[kept],
        )  # fmt: skip

    def mean(self, values: FloatArray) -> FloatArray:
        """Return the means over each moment's draws of `values`, (n, r, m): (s, m)."""
        chosen = values[self.problem[self.member_state], self.member_draw]
        sums = np.zeros((self.problem.size, chosen.shape[1]))
        np.add.at(sums, self.member_state, chosen)
        return np.asarray(sums / np.bincount(self.member_state, minlength=self.problem.size)[:, None])


def states_of(outcomes: Outcomes, seed: int, known: Pilots | None = None) -> States:
    """Return the moments of recorded outcomes: all draws without a pilot, as many as MOST_STATES allows with one.

    Draws that begin with the same samples share a moment, so that its labels are means over what may follow. `known`
    holds features of pilots that were met before, and takes up new ones.
    """
    n, runs = len(outcomes.problems), outcomes.scores.shape[1]
    lengths = [min((len(order) for order in orders), default=0) for orders in outcomes.orders]
    pilots = [k for k in PILOTS if k and k < max(lengths, default=0)]
    widest = max(map(len, outcomes.orders), default=0)
    draws = min(widest, max(1, MOST_STATES // max(1, n * len(pilots))))
    order = np.random.default_rng(seed).permutation(widest)[:draws].tolist()
    found: dict[tuple[int, tuple[Sample, ...]], list[int]] = {}
    for i, orders in enumerate(outcomes.orders):
        found[i, ()] = list(range(len(orders) or runs))
        for k in pilots:
            if k < lengths[i]:
                for d in (d for d in order if d < len(orders)):
                    found.setdefault((i, orders[d][:k]), []).append(d)
    return _table(found, {} if known is None else known)


def _table(found: dict[tuple[int, tuple[Sample, ...]], list[int]], known: Pilots) -> States:
    for _, samples in found:
        if samples not in known:
            known[samples] = pilot_features(samples)
    problem = np.array([i for i, _ in found], dtype=np.int64)
    drawn = np.array([len(samples) for _, samples in found], dtype=np.int64)
    counts = np.array([len(draws) for draws in found.values()], dtype=np.int64)
    width = int(drawn.max(initial=0)) + 1
    rows = np.array([known[samples] for _, samples in found], dtype=np.float32)
    pilot, votes = np.split(rows.reshape(-1, len(FEATURES) + MOST_ANSWERS), [len(FEATURES)], axis=1)
    totals = np.bincount(problem * width + drawn, weights=counts)
    return States(
        problem,
        drawn,
        np.array([sum(s.completion_tokens for s in samples) for _, samples in found], dtype=np.float64),
        pilot,
        votes,
        counts / totals[problem * width + drawn],
        np.repeat(np.arange(counts.size), counts),
        np.array([d for draws in found.values() for d in draws], dtype=np.int64),
    )


def sample_tokens(prior_log_tokens: FloatArray, drawn: FloatArray, spent: FloatArray) -> FloatArray:
    """Return a rough mean of a sample's tokens, (s,): the question's guess and the pilot's lengths together."""
    guess = np.exp(np.asarray(prior_log_tokens, dtype=np.float64))
    return np.asarray(np.maximum(1.0, (PRIOR_SAMPLES * guess + spent) / (PRIOR_SAMPLES + drawn)))


_RADIX, _MOST_VOTES = 1 << 12, 512
OPTION_FEATURES = ("further_samples", "log_further_samples", "samples_in_all", "overtaking")


def option_features(votes: NDArray[np.float32], drawn: FloatArray, further: FloatArray) -> NDArray[np.float32]:
    """Return what `further` samples (need not be whole) mean at each moment, (rows, len(OPTION_FEATURES)).

    Where nothing was drawn, overtaking is that of the first sample's answer.
    """
    first = np.where(drawn > 0, votes[:, 0], 1.0)
    calls = np.clip(np.round(further - (drawn == 0)), 0, _MOST_VOTES)
    # Three small numbers in one: few combinations are different, and one number sorts fast.
    keys = (first.astype(np.int64) * _RADIX + votes[:, 1].astype(np.int64)) * _RADIX + calls.astype(np.int64)
    unique, place = np.unique(keys, return_inverse=True)
    pairs = [(*divmod(key // _RADIX, _RADIX), key % _RADIX) for key in unique.tolist()]
    chances = np.array([overtaking(a, b, e) for a, b, e in pairs])
    return np.column_stack([further, np.log2(1.0 + np.maximum(0.0, further)), drawn + further, chances[place]]).astype(
        np.float32
    )


def following(right: Sequence[Sequence[Sequence[bool]]], states: States) -> tuple[FloatArray, FloatArray]:
    """Return, of the samples after each moment's own, the share that is right and their number, both (s,).

    The moment's own samples are left out: a feature may depend on them.
    """
    sums, counts = np.zeros(states.problem.size), np.zeros(states.problem.size)
    for s, d in zip(states.member_state.tolist(), states.member_draw.tolist(), strict=True):
        rest = right[states.problem[s]][d][states.drawn[s] :]
        sums[s] += sum(rest)
        counts[s] += len(rest)
    members = np.bincount(states.member_state, minlength=states.problem.size)
    return sums / np.maximum(1.0, counts), counts / np.maximum(1, members)


def following_tokens(orders: Sequence[Sequence[Sequence[Sample]]], states: States) -> tuple[FloatArray, FloatArray]:
    """Return the mean tokens of the samples after each moment's own, (s,), and of each member's next one, (members,)."""
    tails: dict[tuple[int, int], FloatArray] = {}
    sums, after = np.zeros(states.problem.size), np.zeros(states.member_state.size)
    for row, (s, d) in enumerate(zip(states.member_state.tolist(), states.member_draw.tolist(), strict=True)):
        i, k = int(states.problem[s]), int(states.drawn[s])
        if (i, d) not in tails:
            lengths = np.array([sample.completion_tokens for sample in orders[i][d]], dtype=np.float64)
            tails[i, d] = np.cumsum(lengths[::-1])[::-1]
        tail = tails[i, d]
        sums[s] += tail[k] / (tail.size - k)
        after[row] = tail[k] - (tail[k + 1] if k + 1 < tail.size else 0.0)
    return sums / np.bincount(states.member_state, minlength=states.problem.size), after
