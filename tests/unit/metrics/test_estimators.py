"""Estimators against enumeration of every subset or order, published values, and the strategies themselves."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from ttc.core import vote
from ttc.metrics.estimators import (
    Votes,
    adaptive_consistency,
    best_of_n_at_k,
    count_votes,
    early_stopping,
    early_stopping_consistency,
    expected_window_samples,
    maj_at_k,
    pass_at_k,
    weighted_vote_at_k,
)


def votes(correct, wrong, none=0):
    return Votes(np.array([correct]), np.array([list(wrong)], dtype=int), np.array([none]))


def pool(correct, wrong, none=0):
    """Return the labels behind the counts: 0 is correct, -1 no answer."""
    return [0] * correct + [i + 1 for i, m in enumerate(wrong) for _ in range(m)] + [-1] * none


def majority_chance(labels):
    counts = Counter(label for label in labels if label >= 0)
    top = max(counts.values(), default=0)
    return Fraction(int(counts[0] == top > 0), max(1, sum(c == top for c in counts.values())))


def over_subsets(n, k, outcome):
    subsets = list(itertools.combinations(range(n), k))
    return float(sum((Fraction(outcome(s)) for s in subsets), Fraction(0)) / len(subsets))


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"), [(10, 3, 5, 0.916667), (16, 2, 4, 0.45), (8, 0, 3, 0), (8, 6, 3, 1)]
)
def test_pass_at_k_published(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-6)


def test_pass_at_k_is_the_ratio_of_binomials():
    for n in range(1, 9):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k))
    n, c, k = np.array([[10_000], [64]]), np.array([[17], [3]]), np.array([1, 7, 60])
    exact = [
        [1 - Fraction(math.comb(a - b, x), math.comb(a, x)) for x in k.tolist()] for a, b in ((10_000, 17), (64, 3))
    ]
    assert pass_at_k(n, c, k) == pytest.approx(np.array(exact, dtype=float), abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "k", "expected"),
    [((3, [2, 2, 1]), 4, 0.5), ((5, [3, 2]), 5, 0.678571), ((2, [5, 1]), 3, 0.166667), ((6, [2]), 4, 0.892857),
     ((2, [2, 1], 3), 4, 0.421429)],
)  # fmt: skip
def test_maj_at_k_published(counts, k, expected):
    assert maj_at_k(votes(*counts), k)[0] == pytest.approx(expected, abs=1e-6)


def test_maj_at_k_by_enumeration_of_subsets():
    generator = np.random.default_rng(0)
    for _ in range(25):
        wrong = generator.integers(0, 3, 3).tolist()
        correct, none = int(generator.integers(0, 4)), int(generator.integers(0, 3))
        labels = pool(correct, wrong, none)[:9]
        none = labels.count(-1)
        for k in range(1, len(labels) + 1):
            expected = over_subsets(len(labels), k, lambda s, labels=labels: majority_chance([labels[i] for i in s]))
            assert maj_at_k(votes(labels.count(0), Counter(x for x in labels if x > 0).values(), none), k)[0] == (
                pytest.approx(expected, abs=1e-12)
            )


def test_maj_at_k_of_large_pools():
    counts = (90, [80, 40, 30, 10, 3, 1, 1, 1], 44)
    drawn = np.random.default_rng(1).multivariate_hypergeometric([90, *counts[1], 44], 40, size=20_000)[:, :-1]
    tied = (drawn == drawn.max(axis=1, keepdims=True)).sum(axis=1)
    mean = np.mean((drawn[:, 0] == drawn.max(axis=1)) / tied)
    assert maj_at_k(votes(*counts), 40)[0] == pytest.approx(mean, abs=0.012)
    # A thousand samples and more overflow nothing.
    assert maj_at_k(votes(600, [400], 500), 1)[0] == pytest.approx(0.4)
    assert maj_at_k(votes(5, [2], 1493), 1500)[0] == pytest.approx(1)
    assert maj_at_k(votes(3, [3], 1494), 1500)[0] == pytest.approx(0.5)


def test_many_problems_at_once_are_each_their_own():
    table = [(3, [2, 2, 1], 0), (0, [4, 0, 0], 4), (8, [0, 0, 0], 0), (3, [1, 2, 2], 0), (2, [2, 2, 2], 1)]
    together = Votes(*(np.array(column) for column in zip(*table, strict=True)))
    alone = [maj_at_k(votes(*row), 3)[0] for row in table]
    assert maj_at_k(together, 3) == pytest.approx(alone)
    assert alone[1:3] == pytest.approx([0, 1])


def test_counting_votes():
    found = count_votes([["7", "3", "3", None], ["1", None, "1"]], [[True, False, False, False], [False] * 3])
    assert (found.correct.tolist(), found.none.tolist()) == ([1, 0], [1, 1])
    assert found.wrong.sum(axis=1).tolist() == [2, 2]
    assert maj_at_k(found, 3) == pytest.approx([1 / 4, 0])  # {7,3,none} is tied, and so for both threes: 2 of 4 halves
    assert count_votes([], []).wrong.shape == (0, 0)
    with pytest.raises(ValueError, match="right or wrong"):
        count_votes([["1"]], [[]])


def test_best_of_n_published():
    scores, right = [[0.9, 0.8, 0.7, 0.6]], [[0, 1, 1, 0]]
    assert best_of_n_at_k(scores, right, 2)[0] == pytest.approx(0.5)
    assert best_of_n_at_k(scores, right, 3)[0] == pytest.approx(0.25)


def test_best_of_n_by_enumeration_of_subsets():
    generator = np.random.default_rng(2)
    scores = generator.integers(0, 4, (20, 6)).astype(float)  # many ties
    scores[generator.random(scores.shape) < 0.2] = np.nan
    right = generator.random(scores.shape) < 0.4

    def outcome(row, marks, subset):
        known = [i for i in subset if not math.isnan(row[i])]
        best = [i for i in known if row[i] == max(row[j] for j in known)]
        return Fraction(sum(int(marks[i]) for i in best), max(1, len(best)))

    for k in range(1, 7):
        expected = [
            over_subsets(6, k, lambda s, r=r, m=m: outcome(r, m, s)) for r, m in zip(scores, right, strict=True)
        ]
        assert best_of_n_at_k(scores, right, k) == pytest.approx(expected)


def test_weighted_vote_within_its_standard_error_of_enumeration():
    generator = np.random.default_rng(3)
    labels = generator.integers(-1, 4, (12, 7))
    weights = generator.integers(0, 4, labels.shape) / 4  # ties, and weights of nothing
    right = labels == 2

    def outcome(row, weight, subset):
        answers = [None if row[i] < 0 else str(row[i]) for i in subset]
        totals = vote.tally(answers, [weight[i] for i in subset])
        best = [a for a, total in totals.items() if total == max(totals.values())]
        return Fraction(int("2" in best), max(1, len(best)))

    for k in (1, 3, 5, 7):
        exact = np.array(
            [over_subsets(7, k, lambda s, r=r, w=w: outcome(r, w, s)) for r, w in zip(labels, weights, strict=True)]
        )
        found = weighted_vote_at_k(labels, weights, right, k, subsets=2000, seed=k)
        assert (np.abs(found.value - exact) <= 4 * found.standard_error + 1e-9).all()
        if k == 3:
            assert found.standard_error == pytest.approx(np.sqrt(exact * (1 - exact) / 2000), abs=0.003)
    assert (found.standard_error < 1e-12).all()  # one subset of all seven


def test_equal_weights_are_the_majority():
    counts = (3, [2, 2, 1], 2)
    labels = np.array([pool(*counts)])
    found = weighted_vote_at_k(labels, np.ones(labels.shape), labels == 0, 5, subsets=20_000)
    assert found.value[0] == pytest.approx(maj_at_k(votes(*counts), 5)[0], abs=0.012)


@pytest.mark.parametrize(
    ("chances", "window", "cap", "expected"),
    [((0.8, 0.2), 5, 40, 14.6100), ((0.5, 0.5), 5, 40, 32.2624), ((0.9, 0.1), 8, 64, 18.3787), ((1.0,), 5, 40, 5)],
)
def test_expected_window_samples_published_and_simulated(chances, window, cap, expected):
    assert expected_window_samples(chances, window, cap) == pytest.approx(expected, abs=1e-4)
    labels = np.random.default_rng(4).choice(len(chances), p=chances, size=(2000, cap))
    drawn = early_stopping_consistency(labels, window=window, cap=cap).drawn
    assert drawn.mean() == pytest.approx(expected, abs=4 * drawn.std() / math.sqrt(2000) + 1e-9)


def windows_one_by_one(labels, window, cap):
    labels = labels[:cap]
    for end in range(window, len(labels) + 1, window):
        if len(set(labels[end - window : end])) == 1 and labels[end - 1] >= 0:
            return end, labels[end - 1]
    winner = vote.majority([None if label < 0 else str(label) for label in labels])
    return len(labels), -1 if winner is None else labels[winner]


def beta_one_by_one(labels, threshold, cap):
    labels = labels[:cap]
    for end in range(1, len(labels) + 1):
        counts = sorted(Counter(label for label in labels[:end] if label >= 0).values(), reverse=True)
        a, b = ([*counts, 0, 0])[:2]
        # P(p > 1/2) of Beta(a + 1, b + 1) is a binomial tail: at most a successes in a + b + 1 fair trials.
        if sum(math.comb(a + b + 1, i) for i in range(a + 1)) / 2 ** (a + b + 1) >= threshold or end == len(labels):
            winner = vote.majority([None if label < 0 else str(label) for label in labels[:end]])
            return end, -1 if winner is None else labels[winner]
    raise AssertionError


@pytest.mark.parametrize("most", [1, 2, 4])
def test_stopping_rules_one_run_at_a_time(most):
    generator = np.random.default_rng(5)
    labels = generator.integers(-1, most, (300, 13))
    labels[0] = -1
    for window, cap in ((2, 12), (3, 15), (5, 10)):
        found = early_stopping_consistency(labels, window=window, cap=cap)
        expected = [windows_one_by_one(row, window, cap) for row in labels.tolist()]
        assert list(zip(found.drawn, found.answer, strict=True)) == expected
    for threshold, cap in ((0.95, 13), (0.8, 9)):
        found = adaptive_consistency(labels, threshold=threshold, cap=cap)
        expected = [beta_one_by_one(row, threshold, cap) for row in labels.tolist()]
        assert list(zip(found.drawn, found.answer, strict=True)) == expected


@pytest.mark.parametrize(("b", "least"), list(enumerate([4, 6, 8, 9, 11, 12, 14])))
def test_beta_rule_stops_at_the_published_counts(b, least):
    labels = np.array([[0, 1] * b + [0] * 20])
    found = adaptive_consistency(labels)
    assert (found.drawn[0], found.answer[0]) == (b + least, 0)


def test_early_stopping_over_all_orders():
    labels, cost = np.array([[0, 0, 1, -1, 0]]), np.array([[5.0, 1.0, 7.0, 2.0, 4.0]])
    runs = []
    for order in itertools.permutations(range(5)):
        drawn, answer = windows_one_by_one(labels[0][list(order)].tolist(), 2, 4)
        runs.append((answer == 0, cost[0][list(order[:drawn])].sum(), drawn))
    expected = np.mean(runs, axis=0)

    def rule(rows):
        return early_stopping_consistency(rows, window=2, cap=4)

    found = early_stopping(labels, labels == 0, cost, rule, permutations=20_000)
    for estimate, value in zip((found.accuracy, found.tokens, found.samples), expected, strict=True):
        assert estimate.standard_error[0] < 0.05
        assert estimate.value[0] == pytest.approx(value, abs=4 * estimate.standard_error[0])


@pytest.mark.parametrize(
    "call",
    [
        lambda: pass_at_k(4, 5, 1),
        lambda: pass_at_k(4, 1, 5),
        lambda: pass_at_k(4, 1, 0),
        lambda: maj_at_k(votes(2, [1]), 4),
        lambda: maj_at_k(votes(2, [1]), 0),
        lambda: best_of_n_at_k([[0.1, 0.2]], [[1, 0]], 3),
        lambda: best_of_n_at_k([[0.1, 0.2]], [[1, 0, 1]], 1),
        lambda: weighted_vote_at_k([[0, 1]], [[1.0, -1.0]], [[True, False]], 1),
        lambda: weighted_vote_at_k([[0, 1]], [[1.0, 1.0]], [[True, False]], 3),
        lambda: weighted_vote_at_k([[0, 1]], [[1.0]], [[True, False]], 1),
        lambda: early_stopping([[0, 1]], [[True, False]], [[1, 1]], adaptive_consistency, permutations=1),
        lambda: expected_window_samples([0.5], 5, 12),
        lambda: expected_window_samples([0.9, 0.2], 5, 10),
    ],
)
def test_what_cannot_be_estimated_is_refused(call):
    with pytest.raises(ValueError, match=r"k|samples|weights|shapes|permutations|cap|probabilities"):
        call()
