"""A reward that needs no model: how likely the policy found what it wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ttc.core.errors import EngineError
from ttc.core.identity import identity
from ttc.core.types import Problem, Steps, StepScores


class LikelihoodReward:
    """Scores a prefix by the geometric mean of its tokens' probabilities: implements `ttc.core.protocols.RewardModel`.

    The log-probabilities are those that the engine told when it sampled (vLLM's are of the model, before the temperature).
    They say what the policy is sure of, not what is right; lengths are normalised, so that long responses do not lose
    by being long. Nothing is read.
    """

    label = "logprob"
    fingerprint = identity(["likelihood-reward", 1])
    parameters: int | None = 0

    async def start(self) -> None:
        """Do nothing: there is no model."""

    async def close(self) -> None:
        """Do nothing: there is no process."""

    def count_tokens(self, problem: Problem, responses: Sequence[Steps]) -> int:
        """Return 0: nothing is read."""
        return 0

    async def score(self, problem: Problem, responses: Sequence[Steps]) -> tuple[list[StepScores], int]:
        """Return exp(mean log-probability of all tokens so far) at each step, and 0 tokens read.

        Raises:
            EngineError: the engine tells no log-probabilities.
        """
        return [self._scores(steps) for steps in responses], 0

    def _scores(self, steps: Steps) -> StepScores:
        total, tokens, found = 0.0, 0, []
        for step in steps:
            if step.logprob is None:
                raise EngineError(
                    "this engine tells no log-probabilities, which the reward model 'logprob' needs",
                    "use a process reward model: --prm MODEL",
                )
            total, tokens = total + step.logprob, tokens + len(step.tokens)
            found.append(math.exp(min(0.0, total / tokens)) if tokens else 1.0)
        return tuple(found)
