"""One answer, no choice to make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Problem
from ttc_strategies.pool import answers_of, conclude, why


@dataclass(frozen=True, slots=True)
class Greedy:
    """Decode once at temperature 0: the baseline that spends no extra compute."""

    requires: ClassVar[frozenset[Capability]] = frozenset({"temperature"})

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Return the most likely continuation's answer."""
        drawn = await ctx.sample(problem.prompt, 1, replace(ctx.sampling, temperature=0.0))
        return conclude(drawn, 0 if drawn and answers_of(drawn)[0] is not None else None, why(ctx))
