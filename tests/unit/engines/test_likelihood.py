"""The reward that is the policy's own likelihood, against the definition."""

import asyncio
import math

import pytest

from ttc.core.errors import EngineError
from ttc.core.types import Message, Problem, Prompt, Step
from ttc.engines.opening import open_reward

PROBLEM = Problem("p", "q", Prompt((Message("user", "q"),), (1, 2)))


def score(*responses):
    reward = open_reward("logprob")
    return asyncio.run(reward.score(PROBLEM, responses))


def test_each_prefix_has_the_geometric_mean_of_its_tokens_probabilities():
    steps = (Step((1, 2), "a", math.log(0.5 * 0.25)), Step((3,), "b", math.log(0.8)), Step((4, 5), "c", math.log(0.9)))
    (scores,), read = score(steps)
    assert read == 0
    assert scores == pytest.approx([(0.5 * 0.25) ** (1 / 2), (0.5 * 0.25 * 0.8) ** (1 / 3), (0.125 * 0.8 * 0.9) ** 0.2])


def test_an_engine_that_tells_nothing_is_an_error():
    with pytest.raises(EngineError, match="logprob"):
        score((Step((1,), "a"),))


def test_a_step_is_the_same_whatever_its_likelihood():
    assert Step((1,), "a", -1.0) == Step((1,), "a")
