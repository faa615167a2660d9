"""The upper bound of every selector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ttc.core.protocols import Context
from ttc.core.types import Answer, Problem
from ttc_strategies.pool import why


@dataclass(frozen=True, slots=True)
class Coverage:
    """Return every sample unselected; grading scores 1 if any is right: pass@k, an oracle's measure.

    Attributes:
        n: most samples to draw; None draws as many as the grant pays for.
    """

    n: Annotated[int, Field(ge=1)] | None = None

    oracle: ClassVar[bool] = True

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Draw and return them all."""
        drawn = await ctx.sample(problem.prompt, self.n, ctx.sampling)
        return Answer(tuple(drawn), None, why(ctx), any_of=True)
