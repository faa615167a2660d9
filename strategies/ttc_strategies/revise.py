"""Let a model look at its answers and answer again (Snell et al. 2024, arXiv 2408.03314, section 6).

The paper trains a reviser. Here an ordinary model is shown its attempts and asked to correct them, which turns
right answers wrong more often: the choice is made over the whole chain, never its end alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Completion, Message, Problem
from ttc_strategies.drafts import all_settled
from ttc_strategies.pool import conclude, select_from, why
from ttc_strategies.prompting import visible

ATTEMPTS_SHOWN = 4
"""Earlier attempts that stay in context (section 6.1)."""
LONGEST_CHAIN = 4
UNFINISHED = "I did not come to an end."
REVISE = (
    "Your answer may contain an error. Look for it in the attempts above, and solve the problem again from the"
    " beginning. Give the final answer in the same form as before."
)


@dataclass(frozen=True, slots=True)
class Revise:
    """Draw chains of revisions side by side and select over all of their answers.

    About sqrt(N) chains of sqrt(N) attempts, at most 4 attempts a chain: N is what the grant pays for. A model that
    follows no instructions revises nothing: its chains are single samples.

    Attributes:
        n: most attempts in all.
        length: most attempts a chain.
        select: `majority` over all answers, `verifier` (by a reward model inside each chain, then over the chains'
            winners), or `auto`: `verifier` where there is a reward model. The paper's verifier sees earlier attempts too.
    """

    n: Annotated[int, Field(ge=1)] | None = None
    length: Annotated[int, Field(ge=1)] = LONGEST_CHAIN
    select: Literal["auto", "majority", "verifier"] = "auto"

    @property
    def requires(self) -> frozenset[Capability]:
        """Return what the chosen selection needs, and a model that can be asked again."""
        return frozenset({"live", "reward"}) if self.select == "verifier" else frozenset({"live"})

    def resolve(self, available: frozenset[Capability]) -> Revise:
        """Replace `auto` by what the run offers, so that the record names it."""
        if self.select != "auto":
            return self
        return replace(self, select="verifier" if "reward" in available else "majority")

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Start the chains, revise them in rounds, select."""
        if not ctx.profile.instructable:
            drawn = await ctx.sample(problem.prompt, self.n, ctx.sampling)
            return await self._select(ctx, [[c] for c in drawn])
        drawn = await ctx.sample(problem.prompt, 1, ctx.sampling)
        if not drawn:
            return conclude(drawn, None, why(ctx))
        typical = ctx.profile.sample_tokens or max(1, drawn[0].usage.completion)
        funded = 1 + ctx.remaining // typical
        total = funded if self.n is None else min(funded, self.n)
        length = max(1, min(self.length, math.isqrt(total)))
        drawn += await ctx.sample(problem.prompt, total // length - 1, ctx.sampling)
        chains = [[c] for c in drawn]
        branches = [ctx.branch(f"chain{i}") for i in range(len(chains))]
        for _ in range(length - 1):
            cap = ctx.remaining // len(chains)
            if cap < 1:
                break
            calls = [_revise(problem, b, chain, cap) for b, chain in zip(branches, chains, strict=True)]
            for chain, more in zip(chains, await all_settled(calls), strict=True):
                chain.extend(more)
        return await self._select(ctx, chains)

    async def _select(self, ctx: Context, chains: Sequence[Sequence[Completion]]) -> Answer:
        reason = why(ctx)
        pool = [replace(c, index=i) for i, c in enumerate(c for chain in chains for c in chain)]
        chain_of = [number for number, chain in enumerate(chains) for _ in chain]
        scored, choice = await select_from(ctx, pool, "verifier" if self.select == "verifier" else "majority", chain_of)
        return conclude(scored, choice, reason)


async def _revise(problem: Problem, ctx: Context, chain: Sequence[Completion], cap: int) -> list[Completion]:
    """Return the next attempt of a chain, or none where the grant or the context ends."""
    messages = list(problem.prompt.messages)
    for attempt in chain[-ATTEMPTS_SHOWN:]:
        messages += [Message("assistant", visible(attempt, ctx.profile) or UNFINISHED), Message("user", REVISE)]
    sampling = replace(ctx.sampling, max_tokens=min(ctx.sampling.max_tokens, cap))
    return await ctx.sample(ctx.render(messages), 1, sampling)
