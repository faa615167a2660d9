import numpy as np
import pytest
from made_up_problems import outcomes, world
from scipy.stats import spearmanr
from sklearn.base import clone

from ttc.core.errors import ConfigError
from ttc.core.forecast import load_predictor
from ttc.predictors import BudgetPredictor


@pytest.fixture(scope="module")
def made():
    return world(150, seed=1)


@pytest.fixture(scope="module")
def fitted(made):
    both = [outcomes(made, draws=6), outcomes(made, "coverage", draws=6), outcomes(made, unit="tokens", draws=6)]
    return BudgetPredictor(most_rounds=64).fit(both)


@pytest.fixture(scope="module")
def fresh():
    return world(400, seed=2)


def test_predicted_success_follows_the_truth_of_unseen_problems(fitted, fresh):
    guess = fitted.success("toy", fresh.problems)
    assert spearmanr(guess, fresh.rates).statistic > 0.65
    assert abs(guess.mean() - fresh.rates.mean()) < 0.05


def test_a_stored_predictor_says_the_same(fitted, fresh, tmp_path):
    fitted.save(tmp_path / "p")
    again = load_predictor(tmp_path / "p")
    assert again.fingerprint == fitted.fingerprint
    for key in fitted.known():
        ours, theirs = fitted.curves(*key, fresh.problems), again.curves(*key, fresh.problems)
        assert np.array_equal(ours.values, theirs.values)
        assert np.array_equal(ours.costs, theirs.costs)
        assert np.array_equal(fitted.training(*key).scores, again.training(*key).scores)
    assert np.array_equal(fitted.success("toy", fresh.problems), again.success("toy", fresh.problems))


def test_it_is_a_scikit_learn_estimator():
    made = BudgetPredictor(seed=3, quantile=0.8)
    assert clone(made).get_params() == made.get_params()
    assert made.set_params(seed=4).seed == 4


def test_what_it_does_not_know_is_refused_by_name(fitted, fresh):
    with pytest.raises(ConfigError, match="no curves of beam") as caught:
        fitted.curves("toy", "beam", "calls", fresh.problems)
    assert "self-consistency on toy in calls" in caught.value.hint
