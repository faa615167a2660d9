"""One reward model for plans and one for executions (Cui et al. 2025, arXiv 2509.25420, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from ttc.core.identity import identity
from ttc.core.profiles import PROFILES
from ttc.core.protocols import RewardModel
from ttc.core.types import Problem, Steps, StepScores

PLAN_ENDS = tuple(dict.fromkeys(end for profile in PROFILES.values() for end in profile.plan_stop))
"""What a plan ends with in any built-in profile; no step and no response does. `add_plan_ends` adds a profile's own."""


class PhasedReward:
    """Hands a response that ends in a plan to one model and every other to another.

    Implements `ttc.core.protocols.RewardModel`. All scores of a response come from the model that judges its end.
    """

    def __init__(self, plan: RewardModel, execution: RewardModel) -> None:
        self._plan, self._execution = plan, execution
        self.parts = (plan, execution)
        self._ends = PLAN_ENDS
        self.label = f"{plan.label}+{execution.label}"
        self.fingerprint = identity(["phased", plan.fingerprint, execution.fingerprint])
        # Tokens are counted over both: with two sizes nobody knows how many were whose.
        self.parameters = plan.parameters if plan.parameters == execution.parameters else None

    def add_plan_ends(self, ends: Sequence[str]) -> None:
        """Take also what ends in one of these for a plan: a model's `plan_stop`."""
        self._ends = tuple(dict.fromkeys((*self._ends, *ends)))

    async def start(self) -> None:
        """Load both. Raises EngineError with its cause."""
        await self._plan.start()
        await self._execution.start()

    async def close(self) -> None:
        """Stop both."""
        try:
            await self._plan.close()
        finally:
            await self._execution.close()

    def count_tokens(self, problem: Problem, responses: Sequence[Steps]) -> int:
        """Return the tokens that scoring these would read at most."""
        plans, others = self._apart(responses)
        return self._plan.count_tokens(problem, [responses[i] for i in plans]) + self._execution.count_tokens(
            problem, [responses[i] for i in others]
        )

    async def score(self, problem: Problem, responses: Sequence[Steps]) -> tuple[list[StepScores], int]:
        """Return the scores in the order given, and the tokens that both models read."""
        found: dict[int, StepScores] = {}
        tokens = 0
        for model, places in zip((self._plan, self._execution), self._apart(responses), strict=True):
            if places:
                scores, read = await model.score(problem, [responses[i] for i in places])
                found.update(zip(places, scores, strict=True))
                tokens += read
        return [found[i] for i in range(len(responses))], tokens

    def _apart(self, responses: Sequence[Steps]) -> tuple[list[int], list[int]]:
        """Return the positions of the responses that end in a plan, and of the others."""
        plans = [i for i, steps in enumerate(responses) if steps and steps[-1].text.endswith(self._ends)]
        return plans, [i for i in range(len(responses)) if i not in set(plans)]
