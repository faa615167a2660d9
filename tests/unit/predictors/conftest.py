"""One world to learn from, one to predict, and the predictor fitted on the first."""

import pytest
from made_up_problems import outcomes, world

from ttc.predictors import BudgetPredictor

ROUNDS = 32


@pytest.fixture(scope="session")
def made():
    return world(150, seed=1)


@pytest.fixture(scope="session")
def fresh():
    return world(300, seed=2)


@pytest.fixture(scope="session")
def fitted(made):
    kinds = [("self-consistency", "calls"), ("coverage", "calls"), ("self-consistency", "tokens")]
    return BudgetPredictor(most_rounds=ROUNDS).fit([outcomes(made, s, u, draws=5) for s, u in kinds])
