"""Fits against curves whose parameters are known, another optimiser, and their own refusals."""

import numpy as np
import pytest
import scipy.optimize

from ttc.metrics.scaling import (
    difficulty_bins,
    extrapolation_error,
    fit_saturation,
    fit_scaling,
    saturation_point,
)

UNITS = np.array([1, 2, 4, 8, 16, 32, 64])


@pytest.mark.parametrize(
    ("ceiling", "rate", "gain", "expected"),
    [(1, 0.3, 0.01, 10), (0.8, 0.05, 0.001, 72), (0.9, 0.5, 0.02, 5), (0.7, 0.02, 0.001, 131), (0.5, 0.1, 0.2, 1),
     (1, 1, 0.5, 1)],
)  # fmt: skip
def test_saturation_point_published(ceiling, rate, gain, expected):
    assert saturation_point(ceiling, rate, gain) == expected


def test_saturation_point_is_the_first_small_gain():
    generator = np.random.default_rng(0)
    for _ in range(200):
        start, rate, gain = generator.uniform(0, 0.4), generator.uniform(0.01, 0.9), generator.uniform(1e-4, 0.05)
        ceiling = generator.uniform(start, 1)
        n = np.arange(1, 2000)
        gains = (ceiling - start) * rate * (1 - rate) ** n
        assert saturation_point(ceiling, rate, gain, start) == n[gains <= gain * (1 + 1e-12)][0]


@pytest.mark.parametrize(
    ("start", "ceiling", "rate"), [(0, 0.8, 0.1), (0.3, 0.7, 0.02), (0, 1.0, 0.6), (0.1, 0.9, 0.99)]
)
def test_known_curves_are_found(start, ceiling, rate):
    curve = start + (ceiling - start) * (1 - (1 - rate) ** UNITS)
    found = fit_saturation(UNITS, np.tile(curve, (5, 1)), start=np.full(5, start), resamples=10)
    assert found.ceiling.estimate == pytest.approx(ceiling, abs=1e-6)
    assert found.rate.estimate == pytest.approx(rate, rel=1e-5)
    assert found.predict(UNITS) == pytest.approx(curve, abs=1e-6)


def test_fit_is_no_worse_than_scipys():
    generator = np.random.default_rng(1)
    for _ in range(20):
        p, top = generator.uniform(0.02, 0.5), generator.uniform(0.3, 0.95)
        scores = (generator.random((60, 7)) < top * (1 - (1 - p) ** UNITS)).astype(float)
        found = fit_saturation(UNITS, scores, resamples=2)
        deviation = np.sqrt(np.maximum(scores.var(axis=0), 0.01 * scores.var(axis=0).max()))
        means = scores.mean(axis=0)

        def curve(n, ceiling, rate):
            return ceiling * (1 - (1 - rate) ** n)

        other, _ = scipy.optimize.curve_fit(
            curve, UNITS, means, p0=(means[-1], 0.1), sigma=deviation, bounds=([0, 1e-6], [1, 1 - 1e-6])
        )
        loss = [float(np.sum(((curve(UNITS, *v) - means) / deviation) ** 2))
                for v in ((found.ceiling.estimate, found.rate.estimate), other)]  # fmt: skip
        assert loss[0] <= loss[1] * (1 + 1e-6)


def test_intervals_of_the_fit_cover():
    generator = np.random.default_rng(5)
    hits = np.zeros(2)
    for run in range(150):
        # Each problem reaches the ceiling or does not, after a number of attempts of its own.
        able, needed = generator.random(120) < 0.7, generator.geometric(0.15, 120)
        scores = (able[:, None] & (needed[:, None] <= UNITS)).astype(float)
        found = fit_saturation(UNITS, scores, resamples=200, seed=run)
        hits += [found.ceiling.low <= 0.7 <= found.ceiling.high, found.rate.low <= 0.15 <= found.rate.high]
    assert (hits / 150 > 0.9).all()


def test_nothing_is_read_beyond_the_stated_range():
    curve = np.tile(0.8 * (1 - 0.98**UNITS), (4, 1))
    found = fit_saturation(UNITS, curve, resamples=5)
    assert (found.low, found.high) == (1, 64)
    assert found.stop_at(0.001) is None  # after 138 units, more than twice what was measured
    assert found.stop_at(0.005) == saturation_point(0.8, 0.02, 0.005) == 58
    with pytest.raises(ValueError, match="from 1 to 64, not at 65"):
        found.predict([8, 65])
    with pytest.raises(ValueError, match=r"not at 0\.5"):
        found.predict(0.5)
    far = fit_saturation(UNITS, curve, resamples=5, reach=4)
    assert far.predict(256) == pytest.approx(0.8 * (1 - 0.98**256))
    assert far.stop_at(0.001) == saturation_point(0.8, 0.02, 0.001)


def test_a_bin_that_is_never_solved_stops_at_once():
    found = fit_saturation(UNITS, np.zeros((10, 7)), resamples=5)
    assert found.ceiling.estimate == 0
    assert found.stop_at(0.001) == 1
    assert (found.predict(UNITS) == 0).all()


X = np.geomspace(100, 1e5, 9)
SIGMOID = 0.9 / (1 + (2000 / X) ** 0.8)
POWER = 0.9 - 3 * X**-0.5


def test_known_scaling_is_found():
    sigmoid = fit_scaling(X, SIGMOID, "sigmoid").parameters
    assert sigmoid == pytest.approx({"ceiling": 0.9, "midpoint": 2000, "slope": 0.8}, rel=1e-4)
    power = fit_scaling(X[::-1], POWER[::-1], "power-law").parameters
    assert power == pytest.approx({"ceiling": 0.9, "scale": 3, "exponent": 0.5}, rel=1e-4)


@pytest.mark.parametrize("form", ["sigmoid", "power-law"])
def test_scaling_is_read_only_in_its_range(form):
    found = fit_scaling(X, SIGMOID, form, reach=2)
    assert found.high == pytest.approx(2e5)
    assert found.predict(2e5) <= 1
    for x in (99, 2.01e5, np.nan):
        with pytest.raises(ValueError, match="holds from 100 to 200000"):
            found.predict(x)


def test_noisy_fits_are_no_worse_than_a_global_search():
    generator = np.random.default_rng(3)
    y = np.clip(SIGMOID + generator.normal(0, 0.03, X.size), 0, 1)
    found = fit_scaling(X, y, "sigmoid")

    def loss(v):
        return float(np.sum((v[0] / (1 + np.exp(-v[2] * (np.log(X) - v[1]))) - y) ** 2))

    other = scipy.optimize.differential_evolution(loss, [(0, 1), (0, 14), (0, 10)], rng=1, tol=1e-10)
    assert float(np.sum((found.predict(X) - y) ** 2)) <= other.fun * (1 + 1e-5)


def test_extrapolation_error_is_none_on_the_true_form_and_seen_on_the_wrong_one():
    right = extrapolation_error(X, POWER, "power-law")
    assert right.n == 5 + 4 + 3 + 2 + 1
    assert right.worst < 1e-4
    wrong = extrapolation_error(X, SIGMOID, "power-law")
    assert 0.02 < wrong.mean <= wrong.worst
    # By hand, with the last point alone left out.
    last = extrapolation_error(X, SIGMOID, "power-law", minimum=8)
    by_hand = fit_scaling(X[:8], SIGMOID[:8], "power-law", reach=10).predict(X[8])
    assert (last.n, last.mean) == (1, pytest.approx(abs(float(by_hand) - SIGMOID[8])))


def test_bins_have_equal_numbers():
    difficulty = np.random.default_rng(4).random(23)
    bins = difficulty_bins(difficulty)
    assert sorted(np.bincount(bins)[1:].tolist()) == [4, 4, 5, 5, 5]
    for b in range(1, 5):
        assert difficulty[bins == b].max() < difficulty[bins == b + 1].min()
    assert difficulty_bins([0.5] * 4, bins=2).tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "call",
    [
        lambda: difficulty_bins([0.1, 0.2], bins=5),
        lambda: saturation_point(0.8, 0.1, 0),
        lambda: saturation_point(0.8, 0, 0.1),
        lambda: saturation_point(0.2, 0.1, 0.01, start=0.3),
        lambda: fit_saturation([1], [[0.5]]),
        lambda: fit_saturation([1, 2], [[0.5, 0.6, 0.7]]),
        lambda: fit_saturation([1, 2], [[0.5, 0.6]], reach=0.5),
        lambda: fit_scaling([1, 2, 3], [0.1, 0.2, 0.3], "sigmoid"),
        lambda: fit_scaling([0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4], "sigmoid"),
        lambda: fit_scaling(X, SIGMOID, "sigmoid", reach=0.9),
        lambda: extrapolation_error(X[:4], SIGMOID[:4], "sigmoid"),
    ],
)
def test_what_cannot_be_fitted_is_refused(call):
    with pytest.raises(ValueError, match=r"needed|split|leave"):
        call()
