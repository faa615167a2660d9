"""Draft and double-check: a strategy that extends a prefix, scores nothing, and fits in one file.

Each response is written up to its last step; that last step is then drawn several times, and the votes of all of them
count. Run it with `ttc sweep --strategies examples/verify_last_step.py:VerifyLastStep ...`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Completion, Problem
from ttc.core.vote import majority


@dataclass(frozen=True)
class VerifyLastStep:
    """Draw the last step of every response several times, and vote.

    Attributes:
        drafts: responses that are begun.
        endings: times that each of them is ended.
    """

    drafts: Annotated[int, Field(ge=1)] = 4
    endings: Annotated[int, Field(ge=1)] = 3

    requires: ClassVar[frozenset[Capability]] = frozenset({"live", "extends"})

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Write step by step; where the next step ends the response, draw that step again."""
        pool: list[Completion] = []
        for number in range(self.drafts):
            pool += await self._one_draft(problem, ctx.branch(f"draft{number}"))
            if ctx.ended is not None:
                break
        pool = [replace(c, index=i) for i, c in enumerate(pool)]
        votes = [c.answer if c.finish == "stop" else None for c in pool]
        return Answer(tuple(pool), majority(votes), ctx.ended or "finished")

    async def _one_draft(self, problem: Problem, ctx: Context) -> list[Completion]:
        one_step = ctx.profile.step_sampling(ctx.sampling)
        prefix = problem.prompt
        while drawn := await ctx.sample(prefix, 1, one_step):
            step = drawn[0]
            if ctx.profile.is_end(step):
                return drawn + await ctx.sample(prefix, self.endings - 1, one_step)
            if step.finish == "length":
                break
            prefix = prefix.extend(step.tokens)
        return drawn
