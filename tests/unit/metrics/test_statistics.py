"""Intervals: against published formulas, another implementation, enumeration, and their own coverage."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from ttc.metrics import statistics
from ttc.metrics.statistics import (
    benjamini_hochberg,
    bootstrap_mean,
    bootstrap_statistic,
    mcnemar,
    mcnemar_interval,
    minimum_detectable_difference,
    paired_difference,
    paired_differences,
    per_problem_means,
    resampled_means,
    wilson,
)


def wilson_by_formula(k, n, z=1.959963984540054):
    centre = (k + z * z / 2) / (n + z * z)
    reach = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return centre - reach, centre + reach


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (700, 1319)])
def test_wilson_is_the_closed_form(k, n):
    assert wilson(k, n) == pytest.approx(wilson_by_formula(k, n), abs=1e-9)


def test_wilson_of_nothing_excludes_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="k"):
        wilson(3, 2)


@pytest.mark.parametrize("n", [40, 200, 1000])
def test_wilson_covers(n):
    ends = np.array([wilson(k, n) for k in range(n + 1)])
    covered = [
        scipy.stats.binom.pmf(np.arange(n + 1), n, p) @ ((ends[:, 0] <= p) & (p <= ends[:, 1]))
        for p in np.linspace(0.1, 0.9, 17)
    ]
    assert 0.93 < np.mean(covered) < 0.97


def test_bootstrap_of_nothing_and_of_constants():
    assert bootstrap_mean([]) is None
    assert bootstrap_mean(np.empty((0, 3))) is None
    for values in ([0.1], [0.1] * 50):
        interval = bootstrap_mean(values)
        assert interval.low == interval.estimate == interval.high == pytest.approx(0.1)


@pytest.mark.parametrize("values", [np.arange(40) % 3 / 2, np.random.default_rng(5).beta(0.5, 2, 300)])
def test_bootstrap_is_scipys_at_the_expanded_level(values):
    n = values.size
    interval = bootstrap_mean(values, seed=1)
    tail = scipy.stats.norm.cdf(math.sqrt(n / (n - 1)) * scipy.stats.t.ppf(0.025, n - 1))
    other = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, batch=500, confidence_level=1 - 2 * tail,
        rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    spread = values.std() / math.sqrt(n)
    assert interval.estimate == pytest.approx(values.mean())
    # Quantiles of 10,000 resampled means scatter by about 0.03 standard errors.
    tolerance = max(0.13 * spread, 0.0126)  # the first's means are multiples of 1/80
    assert interval.low == pytest.approx(other.low, abs=tolerance)
    assert interval.high == pytest.approx(other.high, abs=tolerance)


def test_few_problems_get_the_width_of_students_t():
    # Normal scores: the interval is then nearly that of the t-test.
    for n in (8, 15):
        values = scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)
        interval = bootstrap_mean(values, resamples=40_000)
        exact = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert interval.high - interval.low == pytest.approx(exact.high - exact.low, rel=0.06)


def test_resampled_means_are_exact_over_all_resamples():
    values = np.array([[0.0, 1.0], [0.5, -2.0], [3.0, 0.25]])
    every = np.array([values[list(rows)].mean(axis=0) for rows in itertools.product(range(3), repeat=3)])
    found = resampled_means(values, resamples=60_000, seed=3)
    assert found.mean(axis=0) == pytest.approx(every.mean(axis=0), abs=0.02)
    assert np.cov(found.T) == pytest.approx(np.cov(every.T, bias=True), abs=0.015)
    kinds, counts = np.unique(found[:, 0].round(9), return_counts=True)
    expected = {k: c / 27 for k, c in zip(*np.unique(every[:, 0].round(9), return_counts=True), strict=True)}
    assert dict(zip(kinds, counts / 60_000, strict=True)) == pytest.approx(expected, abs=0.01)


def test_resampled_means_leave_out_what_is_missing():
    generator = np.random.default_rng(1)
    values = generator.random((30, 2))
    missing = values.copy()
    missing[:10, 1] = np.nan
    whole, part = resampled_means(values, resamples=500), resampled_means(missing, resamples=500)
    assert part[:, 0] == pytest.approx(whole[:, 0])
    drawn = np.random.default_rng(0).integers(0, 30, size=(500, 30))
    assert part[:, 1] == pytest.approx(np.nanmean(missing[drawn, 1], axis=1))


def test_the_same_problems_are_drawn_whatever_the_blocks(monkeypatch):
    values = np.random.default_rng(3).random((70, 3))
    before = resampled_means(values, resamples=200, seed=9)
    monkeypatch.setattr(statistics, "BLOCK", 100)
    assert resampled_means(values, resamples=200, seed=9) == pytest.approx(before, abs=1e-12)
    assert resampled_means(values[:, :1], resamples=200, seed=9)[:, 0] == pytest.approx(before[:, 0], abs=1e-12)


@pytest.mark.parametrize("n", [40, 200])
def test_bootstrap_covers_with_clustered_seeds(n):
    hits, runs = 0, 0
    generator = np.random.default_rng(11)
    for p in (0.1, 0.3, 0.5, 0.7, 0.9):
        for trial in range(120):
            difficulty = generator.beta(2 * p, 2 * (1 - p), n)
            scores = generator.random((n, 4)) < difficulty[:, None]
            interval = bootstrap_mean(scores, resamples=800, seed=trial)
            hits += interval.low <= p <= interval.high
            runs += 1
    assert 0.93 <= hits / runs <= 0.97


def test_pooled_seeds_would_be_overconfident():
    per_problem = np.random.default_rng(1).random(60)
    repeated = np.repeat(per_problem[:, None], 8, axis=1)
    clustered, alone, pooled = bootstrap_mean(repeated), bootstrap_mean(per_problem), bootstrap_mean(repeated.ravel())
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high))
    assert pooled.high - pooled.low < 0.5 * (clustered.high - clustered.low)


def test_bootstrap_is_a_function_of_its_seed():
    values = np.random.default_rng(0).random(500)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, seed=4) != bootstrap_mean(values, seed=5)


def test_any_statistic_of_paired_columns():
    generator = np.random.default_rng(4)
    first = 1 + generator.random(400)
    table = np.column_stack([2 * first, first])
    ratio = bootstrap_statistic(table, lambda means: means[:, 0] / means[:, 1])
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    mean = bootstrap_statistic(table, lambda means: means[:, 1], seed=7)
    alone = bootstrap_mean(first, seed=7)
    assert (mean.estimate, mean.low, mean.high) == pytest.approx((alone.estimate, alone.low, alone.high))
    with pytest.raises(ValueError, match="undefined"):
        bootstrap_statistic(table, lambda means: means[:, 0] * math.nan)
    with pytest.raises(ValueError, match="table"):
        bootstrap_statistic(np.empty((0, 2)), lambda means: means[:, 0])


def test_difference_is_paired():
    generator = np.random.default_rng(2)
    difficulty = generator.random(300)
    better = difficulty + 0.02 + generator.normal(0, 0.01, 300)
    found = paired_difference(better, difficulty)
    assert found.significant
    assert (found.n, found.wins + found.losses) == (300, 300)
    assert found.mean == pytest.approx(0.02, abs=0.003)
    # Unpaired, the spread of the difficulties would bury it.
    assert not scipy.stats.ttest_ind(better, difficulty).pvalue < 0.05


def test_p_value_is_that_of_the_t_test_where_scores_are_normal():
    generator = np.random.default_rng(6)
    for shift in (0.05, 0.15, 0.2):
        values = generator.normal(shift, 1, 100)
        found = paired_difference(values, np.zeros(100), resamples=40_000)
        assert found.p_value == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, rel=0.25)


def test_interval_and_p_value_agree_at_every_level():
    generator = np.random.default_rng(7)
    for trial in range(40):
        n = int(generator.integers(8, 60))
        a, b = generator.binomial(3, 0.5, n) / 3, generator.binomial(3, 0.35, n) / 3
        for level in (0.8, 0.95):
            found = paired_difference(a, b, level=level, resamples=2000, seed=trial)
            assert found.significant == (found.p_value < 1 - level)
            assert found.significant == (found.low > 0 or found.high < 0)


def test_no_difference_is_not_significant():
    assert paired_difference([], []) is None
    same = paired_difference([0.1, 1.0, 0.0], [0.1, 1.0, 0.0])
    assert (same.mean, same.p_value, same.significant) == (0.0, 1.0, False)
    assert same.low < 0 < same.high  # three equal problems do not show that two methods are equal


def test_a_handful_of_problems_proves_nothing():
    # The exact sign test: five of five has p = 0.0625, six of six 0.03125.
    for score in (1.0, 0.5):
        for n in range(1, 12):
            found = paired_difference([score] * n, [0.0] * n)
            assert found.significant == (scipy.stats.binomtest(n, n).pvalue < 0.05)


def test_few_discordant_pairs_get_the_exact_interval():
    a, b = np.zeros(50), np.zeros(50)
    a[:7] = 1
    b[7] = 1
    found = paired_difference(a, b)
    assert (found.method, found.wins, found.losses) == ("mcnemar", 7, 1)
    assert (found.low, found.high) == mcnemar_interval(7, 1, 50)
    assert found.p_value == scipy.stats.binomtest(7, 8).pvalue
    b[7:12] = 1
    assert paired_difference(a, b).method == "bootstrap"
    assert paired_difference(a / 2, np.zeros(50)).method == "bootstrap"


def test_columns_with_missing_problems_are_compared_on_the_rest():
    generator = np.random.default_rng(5)
    column = generator.normal(0.1, 1, 80)
    gaps = np.where(np.arange(80) < 20, np.nan, column)
    found = paired_differences(np.column_stack([column, gaps, np.full(80, np.nan)]))
    assert found[2] is None
    alone = paired_difference(column[20:], np.zeros(60))
    assert (found[1].n, found[1].mean) == (60, alone.mean)
    assert (found[1].low, found[1].high) == pytest.approx((alone.low, alone.high), abs=0.03)
    whole = paired_difference(column, np.zeros(80))
    assert (found[0].low, found[0].high, found[0].p_value) == pytest.approx((whole.low, whole.high, whole.p_value))
    assert paired_differences(np.empty((0, 2))) == [None, None]


def test_mcnemar_by_enumeration():
    for wins, losses in [(0, 0), (3, 0), (7, 2), (5, 5), (12, 4)]:
        m = wins + losses
        as_far = [math.comb(m, k) / 2**m for k in range(m + 1) if abs(2 * k - m) >= abs(wins - losses)]
        assert mcnemar(wins, losses) == pytest.approx(sum(as_far))


def test_mcnemar_interval_excludes_zero_where_the_test_rejects():
    for wins, losses in itertools.product(range(14), repeat=2):
        low, high = mcnemar_interval(wins, losses, 40)
        assert low <= (wins - losses) / 40 <= high
        assert (low > 0 or high < 0) == (mcnemar(wins, losses) < 0.05)
    assert mcnemar_interval(0, 0, 0) == (-1.0, 1.0)
    for wins, losses, n in [(3, 3, 5), (-1, 2, 5)]:
        with pytest.raises(ValueError, match="do not fit"):
            mcnemar_interval(wins, losses, n)


@pytest.mark.parametrize("n", [40, 200])
def test_mcnemar_interval_covers_by_enumeration(n):
    most = 36
    counts = [(w, m - w) for m in range(most + 1) for w in range(m + 1)]
    ends = np.array([mcnemar_interval(w, x, n) for w, x in counts])
    rows = np.array([[w, x, n - w - x] for w, x in counts])
    for expected in (0.5, 2, 6, 12):
        for share in (0.5, 0.75, 1.0):
            won, lost = expected / n * share, expected / n * (1 - share)
            chance = scipy.stats.multinomial.pmf(rows, n, [won, lost, 1 - won - lost])
            assert chance @ ((ends[:, 0] <= won - lost) & (won - lost <= ends[:, 1])) > 0.97


@pytest.mark.parametrize("n", [40, 200, 1000])
def test_paired_difference_covers_where_pairs_are_discordant(n):
    generator = np.random.default_rng(n)
    covered = []
    for won, lost in [(0.05, 0.05), (0.15, 0.05), (0.15, 0.15), (0.3, 0.2), (0.25, 0.25)]:
        if n * (won + lost) >= 10:
            draws = generator.random((n, 300))
            table = (draws < won).astype(float) - (draws > 1 - lost)
            found = paired_differences(table, resamples=1000)
            covered.append(np.mean([d.low <= won - lost <= d.high for d in found]))
    assert 0.93 <= np.mean(covered) <= 0.97


def test_false_claims_are_rare():
    generator = np.random.default_rng(8)
    found = paired_differences(generator.random((150, 400)) - generator.random((150, 400)), resamples=800)
    assert sum(d.significant for d in found) / 400 < 0.085


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match=r"1,.*2,"):
        paired_difference([1.0], [1.0, 0.0])
    for bad in ([0.5, math.nan], [0.5, math.inf]):
        with pytest.raises(ValueError, match="finite"):
            bootstrap_mean(bad)
    with pytest.raises(ValueError, match="3 axes"):
        per_problem_means(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="table"):
        resampled_means([1.0, 2.0])
    with pytest.raises(ValueError, match="table"):
        paired_differences([[math.inf]])


def test_benjamini_hochberg_by_definition():
    generator = np.random.default_rng(3)
    for _ in range(50):
        p_values = generator.random(int(generator.integers(1, 12))) ** 3
        adjusted = benjamini_hochberg(p_values)
        for rate in (0.01, 0.05, 0.2, 0.5):
            # The largest k with p_(k) <= k rate / m: the k smallest are discoveries.
            ordered = np.sort(p_values)
            passing = np.flatnonzero(ordered <= (np.arange(ordered.size) + 1) * rate / ordered.size)
            limit = ordered[passing[-1]] if passing.size else -1.0
            assert ((adjusted <= rate) == (p_values <= limit)).all()


def test_comparisons_that_were_not_made_count_for_nothing():
    table = np.array([[0.01, math.nan], [0.04, 0.03]])
    adjusted = benjamini_hochberg(table)
    assert adjusted[0, 0] == pytest.approx(0.03)
    assert adjusted[1].tolist() == pytest.approx([0.04, 0.04])
    assert math.isnan(adjusted[0, 1])
    assert np.isnan(benjamini_hochberg([math.nan])).all()
    with pytest.raises(ValueError, match="p"):
        benjamini_hochberg([1.2])


@pytest.mark.parametrize(("n", "share"), [(200, 0.3), (1000, 0.2), (1319, 0.1)])
def test_the_detectable_difference_is_detected_with_its_power(n, share):
    gain = minimum_detectable_difference(n, share)
    won, lost = (share + gain) / 2, (share - gain) / 2
    draws = np.random.default_rng(1).multinomial(n, [won, lost, 1 - share], size=40_000)
    difference = (draws[:, 0] - draws[:, 1]) / n
    z = difference / np.sqrt((draws[:, 0] + draws[:, 1]) / n**2)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.025)


def test_detectable_difference_of_too_small_a_run():
    assert minimum_detectable_difference(3, 0.5) is None
    assert minimum_detectable_difference(100, 0.0) is None
    assert minimum_detectable_difference(10, 0.1) > 0.1  # more than there are discordant pairs
    with pytest.raises(ValueError, match="shares"):
        minimum_detectable_difference(100, 1.5)
