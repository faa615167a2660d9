"""Draw answers and keep the one that looks best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Completion, Problem
from ttc.core.vote import best
from ttc_strategies.pool import answers_of, conclude, why, with_scores

Select = Literal["auto", "reward", "logprob", "confidence"]
_NEEDS: dict[Select, frozenset[Capability]] = {
    "auto": frozenset(),
    "reward": frozenset({"score"}),
    "logprob": frozenset(),
    "confidence": frozenset({"live", "top_logprobs"}),
}
CONFIDENCE_TOP = 20
"""Log-probabilities a position for `confidence`: the most that vLLM returns by default."""


@dataclass(frozen=True, slots=True)
class BestOfN:
    """Return the best of n samples by one measure.

    Attributes:
        n: most samples to draw; None draws as many as the grant pays for.
        select: `reward` (a reward model's score), `logprob` (completion log-probability divided by its tokens),
            `confidence` (minus the mean log-probability of the top 20 tokens at each position, averaged over
            positions: a bounded stand-in for self-certainty, which needs the whole vocabulary), or `auto`:
            `reward` where every sample has a score, else `logprob`.
    """

    n: Annotated[int, Field(ge=1)] | None = None
    select: Select = "auto"

    @property
    def requires(self) -> frozenset[Capability]:
        """Return what the chosen measure needs."""
        return _NEEDS[self.select]

    def resolve(self, available: frozenset[Capability]) -> BestOfN:
        """Replace `auto` by what the run offers, so that the record names it."""
        if self.select != "auto":
            return self
        return replace(self, select="reward" if "score" in available else "logprob")

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Draw, measure, keep the best; ties go to the sample seen first."""
        sampling = ctx.sampling
        if self.select == "confidence":
            sampling = replace(sampling, top_logprobs=CONFIDENCE_TOP)
        drawn = await ctx.sample(problem.prompt, self.n, sampling)
        reason = why(ctx)
        if self.select == "reward":
            drawn = await with_scores(ctx, drawn)
        return conclude(drawn, best([_value(c, self.select) for c in drawn], answers_of(drawn)), reason)


def _value(completion: Completion, select: Select) -> float | None:
    if select == "reward":
        return completion.score
    if select == "confidence":
        return completion.confidence
    if completion.logprob is None:
        return None
    return completion.logprob / max(1, completion.usage.completion)
