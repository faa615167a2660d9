"""What k samples would have scored, from n >= k recorded ones: exact where there is a closed form, else with its error.

All are expectations over subsets of size k without replacement. Ties are broken uniformly; a strategy at run time lets the
lowest index win, whose expectation over random orders is the same for votes and for scores. The variance grows as k
approaches n: keep n >= 2k for reported points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Problems whose majority curves are worked out together: their intermediate values then stay in the caches.
BLOCK = 256


@dataclass(frozen=True, slots=True)
class Votes:
    """How the samples of P problems vote."""

    correct: Ints
    """(P,) samples with the correct answer."""
    wrong: Ints
    """(P, U) samples of each wrong answer, 0 where a problem has fewer of them."""
    none: Ints
    """(P,) samples without an answer."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Means (P,) over random subsets, and their standard errors (P,)."""

    value: Floats
    standard_error: Floats


@dataclass(frozen=True, slots=True)
class Stopped:
    """Where a stopping rule ended R runs."""

    drawn: Ints
    """(R,) samples drawn."""
    answer: Ints
    """(R,) label of the answer returned, -1 for none."""


StoppingRule = Callable[[Ints], Stopped]
"""Reads labels (R, n), one run a row in the order of drawing, -1 for a sample without an answer."""


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """A stopping rule on P problems: means over random orders of their samples, with standard errors."""

    accuracy: Estimate
    tokens: Estimate
    samples: Estimate


def count_votes(answers: Sequence[Sequence[str | None]], correct: Sequence[Sequence[bool]]) -> Votes:
    """Count the votes of each problem's samples; rows may differ in length.

    Equal strings are equivalent answers; all correct answers of a problem are one, since each equals the reference.
    """
    if [len(row) for row in answers] != [len(row) for row in correct]:
        raise ValueError("each answer needs to be marked right or wrong")
    rows = [list(zip(given, marks, strict=True)) for given, marks in zip(answers, correct, strict=True)]
    wrong = [sorted(Counter(a for a, right in row if a is not None and not right).values()) for row in rows]
    table = np.zeros((len(wrong), max(map(len, wrong), default=0)), dtype=np.int64)
    for line, counts in zip(table, wrong, strict=True):
        line[: len(counts)] = counts
    right = [sum(right for a, right in row if a is not None) for row in rows]
    none = [sum(a is None for a, _ in row) for row in rows]
    return Votes(np.asarray(right, dtype=np.int64), table, np.asarray(none, dtype=np.int64))


def pass_at_k(n: ArrayLike, correct: ArrayLike, k: ArrayLike) -> Floats:
    """Return the chance that k of n samples, `correct` of them right, hold a right one: 1 - C(n-c, k) / C(n, k).

    All three are integers, broadcast against each other.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1; unbiased, unlike 1 - (1 - c/n)^k.

    Raises:
        ValueError: not 0 <= correct <= n or not 1 <= k <= n.
    """
    total, right, size = np.broadcast_arrays(*(np.asarray(value, dtype=np.int64) for value in (n, correct, k)))
    if (right < 0).any() or (right > total).any() or (size < 1).any() or (size > total).any():
        raise ValueError("0 <= correct <= n and 1 <= k <= n are needed")
    missed = np.ones(total.shape)
    for i in range(int(size.max(initial=0))):
        # The i-th draw misses again: a product of shares, which no number of samples can overflow.
        share = np.clip(total - right - i, 0, None) / np.maximum(total - i, 1)
        missed = np.where(i < size, missed * share, missed)
    return np.asarray(1.0 - missed)


def maj_at_k(votes: Votes, k: int) -> Floats:
    """Return the chance (P,) that the correct answer wins a majority vote of k samples.

    Samples without an answer never win and do not compete. Exact; a problem whose samples are fewer than k is an error.

    Raises:
        ValueError: k is below 1 or above a problem's number of samples.
    """
    table = np.column_stack([votes.correct, votes.none, -np.sort(-votes.wrong, axis=1)])
    if (table < 0).any() or k < 1 or (table.sum(axis=1) < k).any():
        raise ValueError(f"k is {k}: it must be 1 to the number of samples of every problem")
    # Many problems are alike (all samples right, say), and the chance depends on the counts alone.
    distinct, where = np.unique(table, axis=0, return_inverse=True)
    chances = np.empty(len(distinct))
    for start in range(0, len(distinct), BLOCK):
        rows = slice(start, start + BLOCK)
        chances[rows] = _maj_at_k(distinct[rows], k)
    return np.asarray(chances[where.reshape(-1)])


def best_of_n_at_k(scores: ArrayLike, correct: ArrayLike, k: int) -> Floats:
    """Return the chance (P,) that the best-scored of k samples is correct.

    `scores` and `correct` are (P, n); a NaN score marks a sample without an answer, which is chosen by nobody. Equal scores
    share their outcome.

    Raises:
        ValueError: the shapes differ, or not 1 <= k <= n.
    """
    values, right = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if values.shape != right.shape or values.ndim != 2 or not 1 <= k <= values.shape[1]:
        raise ValueError(f"scores {values.shape} and correct {right.shape} must be problems x n, and k, {k}, 1 to n")
    answered = ~np.isnan(values)
    values, right = np.where(answered, values, -np.inf), np.where(answered, right, 0.0)
    order = np.argsort(-values, axis=1, kind="stable")
    values, right = np.take_along_axis(values, order, axis=1), np.take_along_axis(right, order, axis=1)
    # Equal scores of a problem are one block, and each of them counts as the block's mean.
    starts = np.ones(values.shape, dtype=np.int64)
    starts[:, 1:] = values[:, 1:] != values[:, :-1]
    block = starts.cumsum().reshape(values.shape) - 1
    means = np.bincount(block.ravel(), right.ravel()) / np.bincount(block.ravel())
    # The chance that rank i is the best of k, C(n-1-i, k-1) / C(n, k), from one rank to the next.
    n = values.shape[1]
    first, left = np.zeros(n), 1.0
    for i in range(n - k + 1):
        first[i] = left * k / (n - i)
        left -= first[i]
    return np.asarray(means[block] @ first)


def weighted_vote_at_k(
    labels: ArrayLike,
    weights: ArrayLike,
    correct: ArrayLike,
    k: int,
    *,
    subsets: int = 400,
    seed: int = 0,
) -> Estimate:
    """Return the chance that the answer with the largest summed weight of k samples is correct, by random subsets.

    `labels` (P, n) are integers, equal for equal answers of one problem, -1 for none; `weights` and `correct` are (P, n).
    There is no closed form.

    Source: weighted best-of-N, Snell et al. 2024 (arXiv 2408.03314).

    Raises:
        ValueError: the shapes differ, not 1 <= k <= n, fewer than 2 subsets, or a weight is negative or not finite.
    """
    groups, weight, right = _samples(labels, weights, correct)
    n = groups.shape[1]
    if not 1 <= k <= n or subsets < 2:
        raise ValueError(f"k is {k} of {n} samples, with {subsets} subsets: 1 to n and at least 2 are needed")
    if not (weight >= 0).all() or not np.isfinite(weight).all():
        raise ValueError("weights must be finite and not negative")
    generator = np.random.default_rng(seed)
    wins = np.empty((len(groups), subsets))
    for i, row in enumerate(groups):
        chosen = _orders(n, subsets, generator)[:, :k]
        wins[i] = _weighted_wins(row[chosen], weight[i][chosen], np.unique(row[right[i]]))
    return _estimate(wins)


def early_stopping(
    labels: ArrayLike,
    correct: ArrayLike,
    tokens: ArrayLike,
    rule: StoppingRule,
    *,
    permutations: int = 100,
    seed: int = 0,
) -> EarlyStopping:
    """Replay a stopping rule on random orders of the recorded samples.

    `labels`, `correct` and `tokens` are (P, n), labels as in `weighted_vote_at_k`.

    Raises:
        ValueError: the shapes differ, or fewer than 2 permutations.
    """
    groups, cost, right = _samples(labels, tokens, correct)
    problems, n = groups.shape
    if permutations < 2:
        raise ValueError(f"{permutations} permutations give no standard error: at least 2 are needed")
    generator = np.random.default_rng(seed)
    won, spent, drawn = (np.empty((problems, permutations)) for _ in range(3))
    for i, row in enumerate(groups):
        order = _orders(n, permutations, generator)
        stopped = rule(row[order])
        won[i] = np.isin(stopped.answer, row[right[i] & (row >= 0)])
        spent[i] = np.take_along_axis(cost[i][order].cumsum(axis=1), stopped.drawn[:, None] - 1, axis=1)[:, 0]
        drawn[i] = stopped.drawn
    return EarlyStopping(_estimate(won), _estimate(spent), _estimate(drawn))


def adaptive_consistency(labels: Ints, *, threshold: float = 0.95, cap: int = 40) -> Stopped:
    """Draw until the leading answer is likely to stay so: 1 - I_{1/2}(a + 1, b + 1) >= threshold, or `cap` samples.

    a and b count the first and second most frequent answers. Returns the first seen of the most frequent answers.

    Source: Aggarwal et al. 2023 (arXiv 2305.11860), Beta rule.
    """
    from scipy.special import betainc

    counts, leader = _running_votes(labels[:, :cap])
    ordered = np.sort(counts, axis=2)
    # 1 - I_x(a, b) = I_{1-x}(b, a)
    stop = betainc(ordered[:, :, -2] + 1.0, ordered[:, :, -1] + 1.0, 0.5) >= threshold
    stop[:, -1] = True
    last = stop.argmax(axis=1)
    return Stopped(last + 1, leader[np.arange(len(labels)), last])


def early_stopping_consistency(labels: Ints, *, window: int = 5, cap: int = 40) -> Stopped:
    """Draw windows until one is unanimous, or `cap` samples; then return the window's answer, else the majority's.

    Source: Li et al. 2024 (arXiv 2401.10480).

    Raises:
        ValueError: `cap` is no multiple of `window`.
    """
    _check_windows(window, cap)
    length = min(cap, labels.shape[1])
    whole = length // window
    windows = labels[:, : whole * window].reshape(len(labels), whole, window)
    unanimous = (windows == windows[:, :, :1]).all(axis=2) & (windows[:, :, 0] >= 0)
    drawn = np.full(len(labels), length)
    answer = _running_votes(labels[:, :length])[1][:, -1]
    found = np.flatnonzero(unanimous.any(axis=1))
    at = unanimous[found].argmax(axis=1)
    drawn[found], answer[found] = (at + 1) * window, windows[found, at, 0]
    return Stopped(drawn, answer)


def expected_window_samples(probabilities: ArrayLike, window: int, cap: int) -> float:
    """Return how many samples `early_stopping_consistency` draws on average, given the answers' probabilities.

    Where some samples have no answer the probabilities sum to less than 1.

    Source: closed form of Li et al. 2024 (arXiv 2401.10480): the windows before a unanimous one are geometric.
    """
    _check_windows(window, cap)
    chances = np.asarray(probabilities, dtype=np.float64)
    if (chances < 0).any() or chances.sum() > 1 + 1e-9:
        raise ValueError("probabilities must not be negative nor sum to more than 1")
    disagree = 1.0 - float((chances**window).sum())
    # A window is drawn where all before it disagreed.
    return window * sum(disagree**i for i in range(cap // window))


def _maj_at_k(table: Ints, k: int) -> Floats:
    """Return the chances (P,) for rows of counts: correct, none, then the wrong answers from the most frequent on.

    The votes in a random subset are independent binomials, given that they sum to k. For each number j of correct votes,
    answers with fewer than j samples cannot compete, and are one binomial together with the abstentions; each
    of the others has fewer than j votes, or j and is tied. With s tied the correct answer wins with chance 1 / (s + 1),
    the integral of y^s over [0, 1], which Gauss-Legendre nodes give exactly.
    """
    share = k / table.sum(axis=1)
    wrong = table[:, 2:]
    total = np.zeros(len(table))
    for j in range(1, min(k, int(table[:, 0].max(initial=0))) + 1):
        rest = k - j
        rivals = wrong >= j
        most = int(rivals.sum(axis=1).max(initial=0))
        nodes, node_weights = np.polynomial.legendre.leggauss(min(rest // j, most) // 2 + 1)
        tied = (nodes + 1) / 2
        others = table[:, 1] + np.where(rivals, 0, wrong).sum(axis=1)
        state = np.repeat(_thinned(others, rest, share)[:, None, :], tied.size, axis=1)
        for u in range(most):
            rows = np.flatnonzero(rivals[:, u])
            votes = _thinned(wrong[rows, u], min(j, rest), share[rows])[:, None, :]
            before = state[rows]
            after = before * votes[:, :, :1]
            for a in range(1, min(j, rest) + 1):
                height = tied[:, None] if a == j else 1.0
                after[:, :, a:] += before[:, :, : rest + 1 - a] * votes[:, :, a : a + 1] * height
            state[rows] = after
        total += _thinned(table[:, 0], j, share)[:, j] * (state[:, :, rest] @ (node_weights / 2))
    return np.asarray(total / _thinned(table.sum(axis=1), k, share)[:, k])


def _thinned(counts: Ints, most: int, share: Floats) -> Floats:
    """Return the binomial chances (P, most + 1) of 0 to `most` out of each count, at each row's share."""
    from scipy.special import gammaln, xlog1py, xlogy

    votes = np.arange(most + 1)
    left = counts[:, None] - votes
    kept = np.maximum(left, 0)
    ways = gammaln(counts + 1.0)[:, None] - gammaln(votes + 1.0) - gammaln(kept + 1.0)
    chances = np.exp(ways + xlogy(votes, share[:, None]) + xlog1py(kept, -share[:, None]))
    return np.where(left >= 0, chances, 0.0)


def _weighted_wins(labels: Ints, weights: Floats, right: Ints) -> Floats:
    """Return what each subset scores (S,): labels and weights (S, k), and which labels are right."""
    names, groups = np.unique(labels, return_inverse=True)
    rows = np.arange(len(labels))[:, None] * names.size + groups.reshape(labels.shape)
    size = len(labels) * names.size
    totals = np.bincount(rows.ravel(), weights.ravel(), size).reshape(len(labels), names.size)
    totals[np.bincount(rows.ravel(), minlength=size).reshape(totals.shape) == 0] = -1.0
    totals[:, names < 0] = -1.0
    # Sums in another order may differ in the last bits, and are tied all the same.
    tied = (totals >= 0) & (totals >= totals.max(axis=1, keepdims=True) * (1 - 1e-12))
    return np.asarray((tied & np.isin(names, right)).sum(axis=1) / np.maximum(tied.sum(axis=1), 1))


def _running_votes(labels: Ints) -> tuple[Ints, Ints]:
    """Return the votes of at least two answers after each draw (R, n, G), and the label that leads (R, n).

    The first seen of the most frequent answers leads; before anybody has voted it is -1.
    """
    names = np.unique(labels[labels >= 0])
    names = np.concatenate([names, np.full(max(0, 2 - names.size), -1)])
    said = (labels[:, :, None] == names) & (names >= 0)
    counts = said.cumsum(axis=1)
    n = labels.shape[1]
    first = np.where(said.any(axis=1), said.argmax(axis=1), n)
    ahead = (counts * (n + 1) - first[:, None, :]).argmax(axis=2)
    return counts, np.where(counts.max(axis=2) > 0, names[ahead], -1)


def _orders(n: int, rows: int, generator: np.random.Generator) -> Ints:
    return generator.permuted(np.tile(np.arange(n), (rows, 1)), axis=1)


def _estimate(values: Floats) -> Estimate:
    return Estimate(values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(values.shape[1]))


def _samples(labels: ArrayLike, numbers: ArrayLike, correct: ArrayLike) -> tuple[Ints, Floats, Bools]:
    groups, values = np.asarray(labels, dtype=np.int64), np.asarray(numbers, dtype=np.float64)
    right = np.asarray(correct, dtype=np.bool_)
    if groups.ndim != 2 or groups.shape[1] == 0 or not groups.shape == values.shape == right.shape:
        raise ValueError(f"equal shapes, problems x samples, are needed: {groups.shape}, {values.shape}, {right.shape}")
    return groups, values, right


def _check_windows(window: int, cap: int) -> None:
    if window < 1 or cap < window or cap % window:
        raise ValueError(f"the cap of {cap} samples is no multiple of the window of {window}")
