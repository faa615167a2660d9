"""One question answered from Python: what was started is closed."""

import pytest

import ttc.api
from ttc.core.specs import parse_config
from ttc.engines.fake import FakeEngine, FakeReward


def test_a_reward_model_that_cannot_be_closed_leaves_no_policy_running(monkeypatch):
    class Policy(FakeEngine):
        closed = False

        async def close(self):
            self.closed = True

    class Stuck(FakeReward):
        async def close(self):
            raise OSError("stuck")

    policy = Policy()
    monkeypatch.setattr(ttc.api, "open_engine", lambda _: policy)
    monkeypatch.setattr(ttc.api, "open_reward", lambda _: Stuck())
    config = parse_config({"model": "fake", "prm": "fake", "strategies": "greedy", "budgets": [50]}, "test")
    with pytest.raises(OSError, match="stuck"):
        ttc.api.solve_question(config, "What is 1 + 1?")
    assert policy.closed
