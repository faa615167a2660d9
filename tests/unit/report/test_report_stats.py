"""Intervals: against published formulas, another implementation, and their own coverage."""

import math

import numpy as np
import pytest
import scipy.stats

from ttc.report import stats
from ttc.report.stats import bootstrap_mean, paired_difference, wilson


def wilson_by_formula(k, n, z=1.959963984540054):
    centre = (k + z * z / 2) / (n + z * z)
    reach = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return centre - reach, centre + reach


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (700, 1319)])
def test_wilson_is_the_closed_form(k, n):
    assert wilson(k, n) == pytest.approx(wilson_by_formula(k, n), abs=1e-9)


def test_wilson_of_nothing_excludes_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("n", "p"), [(30, 0.5), (100, 0.9), (500, 0.3)])
def test_wilson_covers(n, p):
    inside = [k for k in range(n + 1) if wilson_by_formula(k, n)[0] <= p <= wilson_by_formula(k, n)[1]]
    also = [k for k in inside if wilson(k, n)[0] <= p <= wilson(k, n)[1]]
    assert 0.93 < scipy.stats.binom.pmf(also, n, p).sum() < 0.975


def test_bootstrap_of_nothing_and_of_constants():
    assert bootstrap_mean([]) is None
    assert bootstrap_mean(np.empty((0, 3))) is None
    for values in ([0.25], [0.25] * 50):
        interval = bootstrap_mean(values)
        assert interval is not None
        assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("values", [np.arange(40) % 3 / 2, np.random.default_rng(5).beta(0.5, 2, 300)])
def test_bootstrap_agrees_with_scipy(values):
    interval = bootstrap_mean(values, seed=1)
    other = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, batch=500, rng=np.random.default_rng(2)
    ).confidence_interval
    spread = values.std() / math.sqrt(values.size)
    assert interval.mean == pytest.approx(values.mean())
    # Quantiles of 10,000 resampled means scatter by about 0.03 standard errors.
    assert interval.low == pytest.approx(other.low, abs=0.15 * spread)
    assert interval.high == pytest.approx(other.high, abs=0.15 * spread)


def test_both_ways_of_resampling_have_one_distribution(monkeypatch):
    values = np.random.default_rng(3).integers(0, 5, 200) / 4
    counted = bootstrap_mean(values, seed=0)
    monkeypatch.setattr(stats, "FEW_VALUES", 1)
    monkeypatch.setattr(stats, "BLOCK", 7 * values.size)
    drawn = bootstrap_mean(values, seed=0)
    spread = values.std() / math.sqrt(values.size)
    assert counted.low == pytest.approx(drawn.low, abs=0.15 * spread)
    assert counted.high == pytest.approx(drawn.high, abs=0.15 * spread)


@pytest.mark.parametrize("discrete", [True, False])
def test_bootstrap_covers(discrete):
    generator = np.random.default_rng(11)
    hits = 0
    for trial in range(400):
        values = generator.binomial(4, 0.3, 120) / 4 if discrete else generator.beta(0.6, 1.4, 120)
        interval = bootstrap_mean(values, resamples=800, seed=trial)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.91 < hits / 400 < 0.98


def test_bootstrap_is_a_function_of_its_seed():
    values = np.random.default_rng(0).random(500)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, seed=4) != bootstrap_mean(values, seed=5)


def test_seeds_of_a_problem_are_no_further_problems():
    per_problem = np.random.default_rng(1).random(60)
    repeated = np.repeat(per_problem[:, None], 8, axis=1)
    assert bootstrap_mean(repeated) == bootstrap_mean(per_problem)


def test_difference_is_paired():
    generator = np.random.default_rng(2)
    difficulty = generator.random(300)
    better = difficulty + 0.02 + generator.normal(0, 0.01, 300)
    found = paired_difference(better, difficulty)
    assert found.significant
    assert found.n == 300
    assert found.mean == pytest.approx(0.02, abs=0.003)
    # Unpaired, the spread of the difficulties would bury it.
    assert not scipy.stats.ttest_ind(better, difficulty).pvalue < 0.05


def test_no_difference_is_not_significant():
    assert paired_difference([], []) is None
    same = paired_difference([0.1, 1.0, 0.0], [0.1, 1.0, 0.0])
    assert (same.mean, same.low, same.high, same.significant) == (0.0, 0.0, 0.0, False)


def test_a_handful_of_problems_proves_nothing():
    # The exact sign test: five of five has p = 0.0625, six of six 0.03125.
    for n in range(1, 12):
        found = paired_difference([1.0] * n, [0.0] * n)
        assert found.low > 0
        assert found.significant == (scipy.stats.binomtest(n, n).pvalue < 0.05)


def test_false_claims_are_rare():
    generator = np.random.default_rng(8)
    claims = sum(
        paired_difference(generator.random(150), generator.random(150), resamples=800, seed=trial).significant
        for trial in range(400)
    )
    assert claims / 400 < 0.09


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="1 and 2"):
        paired_difference([1.0], [1.0, 0.0])
