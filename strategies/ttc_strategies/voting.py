"""Draw answers and let them vote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Problem
from ttc_strategies.pool import chosen, conclude, why, with_scores


@dataclass(frozen=True, slots=True)
class SelfConsistency:
    """Sample chains and return the most frequent answer (X. Wang et al. 2022, arXiv 2203.11171).

    Attributes:
        n: most samples to draw; None draws as many as the grant pays for.
    """

    n: Annotated[int, Field(ge=1)] | None = None

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Vote; ties go to the answer seen first."""
        drawn = await ctx.sample(problem.prompt, self.n, ctx.sampling)
        return conclude(drawn, chosen(drawn, "majority"), why(ctx))


@dataclass(frozen=True, slots=True)
class WeightedVote:
    """Sample chains and return the answer with the largest summed reward (Snell et al. 2024, section 2.2).

    Attributes:
        n: most samples to draw; None draws as many as the grant pays for.
    """

    n: Annotated[int, Field(ge=1)] | None = None

    requires: ClassVar[frozenset[Capability]] = frozenset({"score"})

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Vote by reward; an answer without a score weighs nothing."""
        drawn = await ctx.sample(problem.prompt, self.n, ctx.sampling)
        reason = why(ctx)
        scored = await with_scores(ctx, drawn)
        return conclude(scored, chosen(scored, "weighted"), reason)
