"""Decide how long a model thinks: an upper bound, a forced answer, and "Wait" where it wanted to stop.

The thinking of a model with think tags is what stands between them; that of the embedded model is its lines; that of
an ordinary model is its whole response, which is then continued after its end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field

from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Completion, Problem, Sampling
from ttc_strategies.drafts import Draft, force_answer, lengths, only_sample, without_end
from ttc_strategies.pool import answers_of, conclude, why

ANSWER_RESERVE = 512
"""Most tokens kept for the answer; at most a quarter of the response's."""
LEAST_WAIT = 256
"""Room for thinking below which no "Wait" is added; at most half a typical sample."""


@dataclass(frozen=True, slots=True)
class BudgetForcing:
    """Bound the thinking from above and from below (Muennighoff et al. 2025, arXiv 2501.19393, section 3).

    Inserted text counts against the thinking cap, and the thinking is closed explicitly before the answer. The cap of
    a completion is that of the whole response, thinking and answer.

    Attributes:
        thinking_tokens: most tokens of thinking; None leaves it to the grant and to the cap.
        waits: how often the model is told to go on where it wanted to stop; too many make it loop.
    """

    thinking_tokens: Annotated[int, Field(ge=1)] | None = None
    waits: Annotated[int, Field(ge=0)] = 2

    requires: ClassVar[frozenset[Capability]] = frozenset({"live", "extends"})

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Think, go on while there is room, answer."""
        tokens = min(ctx.remaining, ctx.sampling.max_tokens)
        return await _think_and_answer(problem, ctx, tokens, self.thinking_tokens, self.waits)


@dataclass(frozen=True, slots=True)
class Effort:
    """Spend a relative effort: about r times the usual length of a response (after Kleinman et al. 2025, 2510.27042).

    A trained model follows such a dial by itself. Here a cap of r times the typical length, on thinking and answer
    together, is enforced by budget forcing, which cuts thinking short and does not make it shorter.

    Attributes:
        effort: wanted tokens, relative to the typical ones.
        typical_tokens: typical tokens of a response (t_hat); None takes the profile's, else the cap of one completion.
        least: smallest cap in tokens.
        curve: measured pairs of (requested effort, realised relative tokens), as `fit_effort` returns them: the
            request is corrected so that it is realised. Empty: the request is taken as it is.
    """

    effort: Annotated[float, Field(gt=0)] = 1.0
    typical_tokens: Annotated[int, Field(ge=1)] | None = None
    least: Annotated[int, Field(ge=1)] = 8
    curve: tuple[tuple[float, float], ...] = ()

    requires: ClassVar[frozenset[Capability]] = frozenset({"live", "extends"})

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Think and answer within the cap that the effort stands for."""
        typical = self.typical_tokens or lengths(ctx)[0]
        cap = max(self.least, round(request_for(self.effort, self.curve) * typical))
        return await _think_and_answer(problem, ctx, min(cap, ctx.remaining, ctx.sampling.max_tokens), None, 0)


def fit_effort(measured: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Fit a monotone curve to (requested effort, realised relative tokens) by isotonic regression.

    Returns:
        One pair for each different request, both in rising order: what `Effort.curve` takes.
    """
    from scipy.optimize import isotonic_regression

    requests = sorted({request for request, _ in measured})
    found = [[realised for request, realised in measured if request == wanted] for wanted in requests]
    if not requests:
        return ()
    means = [sum(values) / len(values) for values in found]
    fitted = isotonic_regression(means, weights=[len(values) for values in found]).x
    return tuple(zip(requests, map(float, fitted), strict=True))


def request_for(wanted: float, curve: Sequence[tuple[float, float]]) -> float:
    """Return the request that realises a wanted effort, by inverting a rising curve; beyond its ends, the end.

    Where the curve is flat, the smallest request that reaches the value.
    """
    if not curve:
        return wanted
    if wanted <= curve[0][1]:
        return curve[0][0]
    for (r0, y0), (r1, y1) in pairwise(curve):
        if y0 < wanted <= y1:
            return r0 + (r1 - r0) * (wanted - y0) / (y1 - y0)
    return curve[-1][0]


async def _think_and_answer(problem: Problem, ctx: Context, tokens: int, most: int | None, waits: int) -> Answer:
    """Write a response of at most `tokens`, of them at most `most` of thinking, with up to `waits` extensions."""
    thinking_tokens = tokens - min(ANSWER_RESERVE, tokens // 4)
    if thinking_tokens < 1:
        return await only_sample(ctx, problem.prompt)
    cap = min(thinking_tokens, most or thinking_tokens)
    draft, last = await _think(ctx, start_thinking(ctx, problem), cap, waits)
    candidate = await _answer(ctx, draft, last, tokens)
    if candidate is None:
        return conclude([], None, why(ctx))
    return conclude([candidate], 0 if answers_of([candidate])[0] is not None else None, why(ctx))


def start_thinking(ctx: Context, problem: Problem) -> Draft:
    """Return a draft whose thinking is open, where the model has a tag for it."""
    profile = ctx.profile
    opening = "" if profile.opens_thinking or not profile.think_open else f"{profile.think_open}\n"
    return Draft(problem.prompt).put(ctx, opening)


def thinking(ctx: Context, cap: int) -> Sampling:
    """Return the run's sampling with a cap, stopped where the thinking closes."""
    close = ctx.profile.think_close
    own = ctx.sampling
    return replace(own, stop=(*own.stop, close) if close else own.stop, max_tokens=max(1, cap))


async def _think(ctx: Context, draft: Draft, cap: int, waits: int) -> tuple[Draft, Completion | None]:
    """Return the last piece of thinking and what stands before it; no piece where the grant ended."""
    least = min(LEAST_WAIT, lengths(ctx)[0] // 2)
    for left in range(waits if ctx.profile.wait else 0, -1, -1):
        drawn = await ctx.sample(draft.prompt, 1, thinking(ctx, cap - len(draft.prompt.generated)))
        if not drawn:
            return draft, None
        last = drawn[0]
        nothing = not last.text and draft.text.endswith(ctx.profile.wait)  # another "Wait" would get no more
        if not left or last.finish == "length" or nothing:
            break
        longer = draft.then(without_end(ctx, last)).put(ctx, f"\n{ctx.profile.wait}")
        if cap - len(longer.prompt.generated) <= least:
            break
        draft = longer
    return draft, last


async def _answer(ctx: Context, draft: Draft, last: Completion | None, tokens: int) -> Completion | None:
    """Return the whole response, of at most `tokens`; None where nothing is left for its answer."""
    close = ctx.profile.think_close
    closes = last is not None and bool(close) and last.stop_reason == close
    if last is not None and not closes and last.finish == "stop" and last.answer is not None:
        return draft.closed(last)
    if last is not None:
        draft = draft.then(last if closes else without_end(ctx, last))
    left = tokens - draft.usage.completion
    if left < 1:
        return None
    rest = replace(ctx.sampling, max_tokens=left)
    if not closes:
        return await force_answer(ctx, draft, rest)
    drawn = await ctx.sample(draft.prompt, 1, rest)
    return draft.closed(drawn[0]) if drawn else None
