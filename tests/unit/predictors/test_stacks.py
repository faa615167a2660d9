"""The linear stage, the trees on it, and the calibration of what they say."""

import numpy as np
import pytest

from ttc_predictors.boosting import Growth, Rows, grow, simplest
from ttc_predictors.calibration import Forecasts, fit_map
from ttc_predictors.linear import Linear, design, logistic
from ttc_predictors.pilot import FEATURES
from ttc_predictors.posterior import FEATURES as POSTERIOR

NAMES = ("prior_success", "prior_tokens", "extra", *FEATURES, *POSTERIOR)


def made(n, rows_each, truth, seed=0):
    """Return rows of n problems: a guess, an extra feature, nothing drawn, and soft labels of a true rate."""
    rng = np.random.default_rng(seed)
    guess, extra = rng.normal(size=n), rng.normal(size=n)
    rate = 1 / (1 + np.exp(-truth(guess, extra)))
    problem = np.repeat(np.arange(n), rows_each)
    x = np.full((n * rows_each, len(NAMES)), np.nan, dtype=np.float32)
    x[:, 0], x[:, 1], x[:, 2], x[:, 3] = guess[problem], 0.0, extra[problem], 0.0
    labels = rng.binomial(8, rate)[problem] / 8
    rows = Rows("cross_entropy", ("moment",), NAMES, lambda _: x, labels, np.ones(len(labels)), problem)
    return rows, rate[problem], np.arange(n) % 5


def test_trees_do_no_harm_where_a_line_says_it_all():
    bare = 0
    for seed in range(4):
        rows, rate, folds = made(150, 4, lambda guess, _: 1.2 * guess - 0.5, seed)
        grown = grow(rows, folds, Growth(most_rounds=64))
        linear = 1 / (1 + np.exp(-grown.stack.linear(NAMES, rows.x(-1))))
        bare += grown.stack.forest is None
        assert np.abs(grown.held_out - rate).mean() < np.abs(linear - rate).mean() + 0.02
    assert bare >= 2


def test_trees_learn_what_a_line_cannot():
    rows, rate, folds = made(800, 2, lambda guess, extra: 0.5 * guess + 3.0 * (np.abs(extra) > 0.7) - 1.5)
    grown = grow(rows, folds, Growth(most_rounds=128))
    assert grown.stack.forest is not None
    linear = 1 / (1 + np.exp(-grown.stack.linear(NAMES, rows.x(-1))))
    assert np.abs(grown.held_out - rate).mean() < 0.5 * np.abs(linear - rate).mean()
    assert next(iter(grown.stack.importances())) == "extra"


def test_a_problem_is_not_predicted_from_its_own_rows():
    """A feature that names the problem, and labels without any pattern: whoever peeks predicts them."""
    rows, _, folds = made(200, 10, lambda guess, _: 0 * guess)
    labels = np.random.default_rng(3).integers(0, 2, 200).astype(float)[rows.problem]
    peeked = Rows("cross_entropy", ("moment",), NAMES, rows.x, labels, rows.weight, rows.problem)
    grown = grow(peeked, folds, Growth(most_rounds=64))
    assert abs(np.corrcoef(grown.held_out, labels)[0, 1]) < 0.2


def test_the_simplest_is_taken_unless_it_is_clearly_worse():
    rng = np.random.default_rng(0)
    best = rng.normal(size=100) ** 2
    assert simplest([best + rng.normal(size=100) * 0.5 + 0.01, best]) == 0
    assert simplest([best + 0.2, best]) == 1


def test_the_quantile_holds_out_of_fold():
    rng = np.random.default_rng(1)
    rows, _, folds = made(300, 5, lambda guess, _: guess)
    lengths = rng.normal(size=rows.y.size) + rows.x(-1)[:, 0]
    tails = Rows("quantile", ("moment",), NAMES, rows.x, lengths, rows.weight, rows.problem, alpha=0.9)
    held_out = grow(tails, folds, Growth(most_rounds=32)).held_out
    assert (lengths <= held_out).mean() == pytest.approx(0.9, abs=0.03)


def test_a_logistic_regression_agrees_with_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    z = np.column_stack([rng.normal(size=(400, 3)), np.ones(400)])
    y = (rng.random(400) < 1 / (1 + np.exp(-z @ [1.0, -2.0, 0.0, 0.5]))).astype(float)
    ours = logistic(z, y, np.ones(400), np.array([1.0, 1.0, 1.0, 1e-9]), np.zeros(4))
    theirs = LogisticRegression(C=1.0, tol=1e-10).fit(z[:, :3], y)
    assert np.allclose(ours[:3], theirs.coef_[0], atol=1e-4)
    assert ours[3] == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_a_gain_is_nothing_where_nothing_is_added():
    names = ("drawn", "rate", "level", "closed_gain", "voted_gain", "from_samples", "further_samples", "overtaking", "margin",
             "posterior_second", "posterior_unseen")  # fmt: skip
    x = np.random.default_rng(0).uniform(0.1, 0.9, (50, len(names))).astype(np.float32)
    x[:, 3:5], x[:, 6], x[:, 7] = 0.0, x[:, 5], 0.0
    for name in ("gain", "rising"):
        columns = design(name, names, x)
        width = columns.shape[1]
        weights = np.append(np.random.default_rng(1).normal(size=width), 0.0)
        assert np.abs(Linear(name, np.zeros(width), np.ones(width), weights)(names, x)).max() < 1e-6


def forecasts(n, warp, seed=0):
    rng = np.random.default_rng(seed)
    rate = rng.beta(0.7, 1.3, n)
    labels = rng.binomial(16, rate) / 16
    return Forecasts(warp(rate), labels, np.ones(n), np.arange(n) % 5, np.zeros(n, dtype=np.int64)), rate


@pytest.mark.parametrize("warp", [lambda p: p**3, lambda p: 0.3 + 0.4 * p, np.sqrt])
def test_calibration_undoes_a_warp(warp):
    warped, _ = forecasts(800, warp)
    fitted = fit_map(warped)
    again, truth = forecasts(800, warp, seed=9)
    assert np.abs(fitted(again.predicted) - truth).mean() < 0.5 * np.abs(again.predicted - truth).mean()
    assert (np.diff(fitted(np.linspace(0, 1, 200))) >= -1e-12).all()


def test_good_predictions_are_left_alone():
    right, rate = forecasts(400, lambda p: p)
    assert np.abs(fit_map(right)(rate) - rate).mean() < 0.02


def test_near_zero_order_without_truth_is_drawn_to_the_level_of_the_bin():
    rng = np.random.default_rng(4)
    n = 600
    low = np.arange(n) < n // 4
    predicted = np.where(low, rng.uniform(0.0, 0.2, n), rng.uniform(0.3, 0.9, n))
    rate = np.where(low, 0.1, predicted)
    labels = rng.binomial(32, rate) / 32
    fitted = fit_map(Forecasts(predicted, labels, np.ones(n), np.arange(n) % 5, np.zeros(n, dtype=np.int64)))
    assert fitted(predicted[low]).std() < 0.7 * predicted[low].std()
    assert fitted(predicted[low]).mean() == pytest.approx(0.1, abs=0.03)
