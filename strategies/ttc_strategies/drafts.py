"""Responses in the making, for strategies that stop, insert text and go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ttc.core.protocols import Context
from ttc.core.types import Answer, Completion, Prompt, Sampling, Tokens, Usage
from ttc_strategies.pool import conclude, why

T = TypeVar("T")

STEPS = 8
"""Steps of a solution where nothing is known."""
MOST_PIECES = 8
"""Calls for one forced answer: each may close one inner pair of braces, as in a fraction."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An immutable prefix, the text after the prompt, and what generating it moved."""

    prompt: Prompt
    text: str = ""
    usage: Usage = field(default_factory=Usage)
    logprob: float | None = 0.0

    def then(self, piece: Completion) -> Draft:
        """Return this draft with a completion after it, the string that stopped it included."""
        stop = piece.stop_reason if isinstance(piece.stop_reason, str) else ""
        return replace(
            self,
            prompt=self.prompt.extend(piece.tokens),
            text=self.text + piece.text + stop,
            usage=self.usage + piece.usage,
            logprob=_sum(self.logprob, piece.logprob),
        )

    def put(self, ctx: Context, text: str) -> Draft:
        """Return this draft with a text after it that the policy did not write."""
        if not text:
            return self
        return replace(self, prompt=self.prompt.extend(ctx.encode(text)), text=self.text + text)

    def closed(self, last: Completion) -> Completion:
        """Return the whole response that ends with `last`, as one candidate."""
        whole = self.then(last)
        return replace(
            last,
            index=0,
            text=whole.text,
            tokens=whole.prompt.generated,
            usage=whole.usage,
            logprob=whole.logprob,
            token_logprobs=None,
            token_confidences=None,
        )


def without_end(ctx: Context, piece: Completion) -> Completion:
    """Return a completion without the end token or the stop string that ended it, to be continued.

    Tokens are cut where the end is spelled by tokens of its own; else the text is tokenised anew.
    """
    if piece.finish == "length":
        return piece
    tokens: Tokens
    if piece.stop_reason is None:
        tokens = piece.tokens if piece.tokens == ctx.encode(piece.text) else piece.tokens[:-1]
    elif isinstance(piece.stop_reason, int):
        tokens = piece.tokens[:-1]
    else:
        end = ctx.encode(piece.stop_reason)
        own = piece.tokens[-len(end) :] == end
        tokens = piece.tokens[: -len(end)] if own else ctx.encode(piece.text)
    return replace(piece, tokens=tokens, stop_reason=None)


async def force_answer(ctx: Context, draft: Draft, sampling: Sampling) -> Completion | None:
    """Put the profile's answer text after a draft and let the model fill it in; None where nothing was generated.

    `sampling.max_tokens` is the most tokens of the answer. Where the answer is to end at a brace, it ends at the
    one that balances.
    """
    profile = ctx.profile
    suffix = profile.answer_suffix
    own_line = draft.text and not draft.text.endswith("\n") and not suffix.startswith("\n")
    draft = draft.put(ctx, ("\n" if own_line else "") + suffix)
    sampling = replace(sampling, stop=tuple(dict.fromkeys((*sampling.stop, *profile.answer_stop))))
    start, left = len(draft.text) - len(suffix), sampling.max_tokens
    last: Completion | None = None
    for _ in range(MOST_PIECES):
        drawn = await ctx.sample(draft.prompt, 1, replace(sampling, max_tokens=left))
        if not drawn:
            break
        last = drawn[0]
        left -= last.usage.completion
        opened = draft.then(last).text[start:]
        if last.stop_reason != "}" or opened.count("{") <= opened.count("}") or left < 1:
            return draft.closed(last)
        draft = draft.then(last)
    return None if last is None else _cut(draft, last)


def _cut(draft: Draft, last: Completion) -> Completion:
    """Return an answer that was never closed: it is no answer."""
    return replace(
        last,
        text=draft.text,
        tokens=draft.prompt.generated,
        usage=draft.usage,
        logprob=draft.logprob,
        finish="length",
        stop_reason=None,
        answer=None,
    )


async def only_sample(ctx: Context, prompt: Prompt) -> Answer:
    """Draw one plain sample: what a method does where the grant or the model cannot carry it."""
    drawn = await ctx.sample(prompt, 1, ctx.sampling)
    answered = bool(drawn) and drawn[0].finish == "stop" and drawn[0].answer is not None
    return conclude(drawn, 0 if answered else None, why(ctx))


def lengths(ctx: Context) -> tuple[int, int, int]:
    """Return typical tokens of a sample and of a step, and typical steps, of the profile or as a cautious guess."""
    profile = ctx.profile
    sample = profile.sample_tokens or ctx.sampling.max_tokens
    steps = profile.steps or STEPS
    return sample, profile.step_tokens or max(1, sample // steps), steps


def within(ctx: Context, written: int, sampling: Sampling | None = None) -> Sampling:
    """Return a sampling, the run's own by default, for a response of which the policy has `written` some tokens.

    The cap of a completion is that of a whole response, however many calls write it.
    """
    sampling = sampling or ctx.sampling
    return replace(sampling, max_tokens=max(1, min(sampling.max_tokens, ctx.sampling.max_tokens - written)))


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


async def all_settled(calls: Sequence[Awaitable[T]]) -> list[T]:
    """Wait for calls on branches of one grant; the first failure is raised once all have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
