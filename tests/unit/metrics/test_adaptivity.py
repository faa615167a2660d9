"""ARISE, regret, control and adaptiveness against published examples and plain loops."""

import math

import numpy as np
import pytest
import scipy.stats

from ttc.metrics.adaptivity import (
    adaptiveness,
    arise,
    arise_of_repeats,
    control,
    cumulative_regret,
    normalised_regret,
    repeats_needed,
)


def test_arise_published():
    found = arise([[0, 1, 1], [1, 0, 1]], [[100, 200, 400]] * 2)
    assert found == pytest.approx([0.5, -1.5])
    assert arise([[1, 0]], [[100, 300]]) == pytest.approx([-3])


def test_arise_by_its_formula():
    generator = np.random.default_rng(0)
    accuracy, tokens = generator.integers(0, 2, (50, 4)).astype(float), generator.uniform(10, 900, (50, 4))
    for found, a, t in zip(arise(accuracy, tokens), accuracy, tokens, strict=True):
        total = 0.0
        for j in range(1, 4):
            gain = a[j] - a[j - 1]
            total += gain * (t[j - 1] / t[j] if gain > 0 else t[j] / t[j - 1])
        assert found == pytest.approx(total)


def test_changes_within_one_run_count_as_none():
    # 0.7 to 0.5 is two of ten runs, 0.5 to 0.45 less than one.
    found = arise([[0.7, 0.5, 0.45]], [[100, 200, 2000]], repeats=10)
    assert found == pytest.approx([-0.2 * 2])
    # Exactly one run's worth counts, on the side with fewer runs.
    assert arise([[0.3, 0.2]], [[100, 200]], repeats=10) == pytest.approx([-0.2])
    assert arise([[0.3, 0.2]], [[100, 200]], repeats=[[10, 5]]) == pytest.approx([0])


def needed_one_by_one(accuracy, tokens, threshold, minimum):
    m = minimum
    while m < len(accuracy):
        spread = [np.std(v[:m]) / (np.mean(v[:m]) + 1e-8) for v in (accuracy, tokens)]
        if sum(spread) <= threshold:
            break
        m += 1
    return m


def test_repeats_are_added_until_they_agree():
    generator = np.random.default_rng(1)
    accuracy = (generator.random((40, 3, 10)) < generator.random((40, 3, 1))).astype(float)
    tokens = generator.lognormal(5, generator.uniform(0.01, 0.8, (40, 3, 1)), (40, 3, 10))
    found = repeats_needed(accuracy, tokens)
    expected = [[needed_one_by_one(accuracy[i, j], tokens[i, j], 0.5, 3) for j in range(3)] for i in range(40)]
    assert found.tolist() == expected
    assert len(set(found.ravel().tolist())) > 3
    # A hopeless sample has no spread in accuracy, and stops early.
    assert repeats_needed(np.zeros(10), np.full(10, 50.0)) == 3

    means = [
        [(accuracy[i, j, :m].mean(), tokens[i, j, :m].mean()) for j, m in enumerate(row)]
        for i, row in enumerate(expected)
    ]
    by_hand = arise(np.array(means)[:, :, 0], np.array(means)[:, :, 1], expected)
    assert arise_of_repeats(accuracy, tokens) == pytest.approx(by_hand)


def test_cumulative_regret():
    assert cumulative_regret([[0.2, 0.5, 0.5], [0.5, 0.5, 0.9]], [0.5, 0.6, 0.9]) == pytest.approx([0.8, 0.1])
    assert cumulative_regret([[0.2, 0.5]], [[0.4, 0.5]]) == pytest.approx([0.2])


def test_normalised_regret_published():
    tokens, accuracy = [1000, 2000, 4000], [0.2, 0.5, 0.6]
    assert normalised_regret(tokens, accuracy, 4000) == pytest.approx(0.6125)
    assert normalised_regret(tokens, accuracy, 8000) == pytest.approx(0.50625)


@pytest.mark.parametrize("horizon", [300, 1000, 1500, 3999, 20_000])
def test_normalised_regret_is_one_less_the_area(horizon):
    tokens, accuracy = [1000, 2000, 4000], [0.2, 0.5, 0.6]
    x = np.linspace(0, horizon, 400_001)
    area = np.interp(x, [0, *tokens], [0, *accuracy]).mean()
    assert normalised_regret(tokens, accuracy, horizon) == pytest.approx(1 - area, abs=1e-5)


def test_control():
    found = control([100, 100, 200, 50], [100, 90, 260, 10])
    assert (found.compliance, found.overshoot) == (0.75, 60)
    assert found.deviation == pytest.approx((0 + 0.1 + 0.3 + 0.8) / 4)
    assert control([10], [4]).overshoot == 0


def test_adaptiveness():
    generator = np.random.default_rng(2)
    difficulty = generator.integers(0, 10, 200) / 10
    tokens = 100 + 300 * difficulty + generator.normal(0, 10, 200)
    found = adaptiveness(tokens, difficulty)
    ranks = [scipy.stats.rankdata(v) for v in (tokens, difficulty)]
    assert found.correlation == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found.overthinking == 0
    assert adaptiveness(-tokens, difficulty).overthinking == 1
    # Two easy problems, one of them with more tokens than the mean of 30.
    known = adaptiveness([10, 50, 20, 40, 30], [0.1, 0.1, 0.5, 0.6, 0.9], easy=0.4)
    assert known.overthinking == 0.5
    assert adaptiveness([5, 5], [0.1, 0.2]).correlation is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: arise([[0, 1]], [[0, 100]]),
        lambda: arise([[1]], [[100]]),
        lambda: arise([[0, 1]], [[100]]),
        lambda: repeats_needed([0, 1], [5, 5]),
        lambda: normalised_regret([100, 100], [0.1, 0.2], 500),
        lambda: normalised_regret([100, 200], [0.1, 0.2], 0),
        lambda: control([0], [1]),
        lambda: control([], []),
        lambda: adaptiveness([], []),
    ],
)
def test_what_has_no_measure_is_refused(call):
    with pytest.raises(ValueError, match="needed"):
        call()


def test_regret_of_a_perfect_start_is_the_ramp_alone():
    assert normalised_regret([100], [1.0], 1000) == pytest.approx(0.05)
    assert math.isclose(normalised_regret([1e-6], [1.0], 1000), 0, abs_tol=1e-8)
