"""Let a model hand parts of its work to child threads and go on with what they return (after APR, Pan et al. 2025).

arXiv 2504.15466 trains models to spawn and join. Here an ordinary model is asked for the briefs, which works less well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Completion, Message, Problem
from ttc_strategies.drafts import all_settled, lengths, only_sample
from ttc_strategies.prompting import asked, directly, read_json, strings, visible

NO_SOLUTION = "no solution"
LONGEST_MESSAGE = 1000
"""Characters of a child's message to its parent."""

_SPAWN = (
    "Before you solve this, you may hand work to helpers who run at the same time and know nothing but what you write"
    " to them. Sub Call Budget: {children}. Write the briefs of at most that many helpers, each complete in itself and"
    " each trying another approach or part. Answer with one JSON list of strings, and nothing else."
)
_CHILD = "{brief}\n\nEnd with one line 'Conclusion: ...' that says what you found, or 'Conclusion: no solution'."
_JOIN = "The helpers returned:\n{messages}\n\nNow solve the problem. {again}"


@dataclass(frozen=True, slots=True)
class SpawnJoin:
    """Ask for briefs, run them as parallel child threads, and answer with their conclusions in sight.

    A child sees its brief alone, and only its conclusion comes back. Half the grant is the parent's.

    Attributes:
        children: most child threads.
    """

    children: Annotated[int, Field(ge=1)] = 4

    requires: ClassVar[frozenset[Capability]] = frozenset({"live"})

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Spawn, join, answer; one plain sample where the grant is too small or the model cannot be asked."""
        typical = lengths(ctx)[0]
        children = min(self.children, ctx.remaining // (2 * typical))
        if children < 1 or not ctx.profile.instructable:
            return await only_sample(ctx, problem.prompt)
        half = ctx.remaining // 2
        *before, last = problem.prompt.messages
        opening = Message(last.role, f"{last.content}\n\n{_SPAWN.format(children=children)}")
        prompt = directly(ctx, ctx.render([*before, opening]), think=False)
        sampling = replace(ctx.sampling, max_tokens=max(1, min(ctx.sampling.max_tokens, half // 4)))
        drawn = await ctx.branch("spawn").sample(prompt, 1, sampling)
        said = visible(drawn[0], ctx.profile) if drawn else ""
        briefs = strings(read_json(said))[:children]
        if not briefs:
            return await only_sample(ctx, problem.prompt)
        messages = await _run_children(ctx, briefs, half)
        listed = "\n".join(f"{i}. {message}" for i, message in enumerate(messages, 1))
        joined = Message("user", _JOIN.format(messages=listed, again=last.content))
        return await only_sample(ctx, ctx.render([*before, opening, Message("assistant", said), joined]))


async def _run_children(ctx: Context, briefs: Sequence[str], tokens: int) -> list[str]:
    """Run the briefs at once on equal shares, and return what each sends back."""
    cap = max(1, min(ctx.sampling.max_tokens, tokens // len(briefs)))
    sampling = replace(ctx.sampling, max_tokens=cap)
    calls = [
        ctx.branch(f"child{i}").sample(asked(ctx, _CHILD.format(brief=brief)), 1, sampling)
        for i, brief in enumerate(briefs)
    ]
    return [_message(ctx, drawn) for drawn in await all_settled(calls)]


def _message(ctx: Context, drawn: Sequence[Completion]) -> str:
    """Return a child's conclusion; one that was cut, or concludes nothing, found no solution."""
    if not drawn or drawn[0].finish == "length":
        return NO_SOLUTION
    _, stated, conclusion = visible(drawn[0], ctx.profile).rpartition("Conclusion:")
    return (" ".join(conclusion.split())[-LONGEST_MESSAGE:] if stated else "") or NO_SOLUTION
