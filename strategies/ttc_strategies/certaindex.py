"""Stop where more compute is unlikely to change the answer (Fu et al. 2024, arXiv 2412.20993).

Early exit is blind to a later self-correction: measure it on the model in hand before trusting it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from ttc.core.protocols import Capability, Context
from ttc.core.types import Answer, Completion, Problem, Sampling
from ttc.core.vote import majority, tally
from ttc_strategies.budget_forcing import start_thinking, thinking
from ttc_strategies.drafts import force_answer, lengths, only_sample, within
from ttc_strategies.pool import answers_of, conclude, why

HESITATION = re.compile(r"\b(?:wait|hold|but|okay|no|hmm)\b", re.IGNORECASE)
"""Whole words: as a part of words, "no" is in "know" and "but" in "distribution". An answer may be one of them."""
PROBE_TEMPERATURE = 0.6
"""Of the authors' released probes."""


class Probe(NamedTuple):
    """A forced answer in the middle of a response."""

    answer: str | None
    certain: bool
    """Without words of hesitation after it."""


def certaindex(answers: Sequence[str | None]) -> float:
    """Return 1 minus the entropy of the answers relative to its largest value; 0 for fewer than two answers.

    A sample without an answer agrees with none: it is a class of its own.
    """
    n = len(answers)
    if n < 2:
        return 0.0
    counts = [*tally(answers).values(), *[1.0] * sum(answer is None for answer in answers)]
    entropy = -sum(count / n * math.log(count / n) for count in counts)
    return (math.log(n) - entropy) / math.log(n)


def agreement(probes: Sequence[Probe], window: int) -> float:
    """Return the share of the last `window` probes that are certain and agree with the last one.

    0 where the last probe has no answer; probes not made yet agree with nothing.
    """
    if not probes or probes[-1].answer is None:
        return 0.0
    return sum(p.certain and p.answer == probes[-1].answer for p in probes[-window:]) / window


@dataclass(frozen=True, slots=True)
class Certaindex:
    """End a response when its probes agree, or a vote when its first samples do.

    Attributes:
        exit: `probe` ends one response when its last `window` forced answers are certain and agree; `entropy`
            looks once at the first `detect` samples of a vote, and ends it when their certaindex reaches
            `threshold`; `auto` is `probe` where the engine can continue a prefix, else `entropy`.
        window: probes that must agree; fewer than 3 lose later corrections.
        chunk: tokens between probes; None is an eighth of a typical sample, from 8 to 64.
        probe_tokens: most tokens of a probe.
        min_tokens: tokens of a response before which it is not ended; None is a quarter of a typical sample.
        detect: samples after which a vote is looked at.
        threshold: of the certaindex; .7 at 5 samples means that all agree.
        n: most samples of a vote; None draws as many as the grant pays for.
    """

    exit: Literal["auto", "probe", "entropy"] = "auto"
    window: Annotated[int, Field(ge=1)] = 3
    chunk: Annotated[int, Field(ge=1)] | None = None
    probe_tokens: Annotated[int, Field(ge=1)] = 20
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    detect: Annotated[int, Field(ge=2)] = 5
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    n: Annotated[int, Field(ge=1)] | None = None

    @property
    def requires(self) -> frozenset[Capability]:
        """Return what the chosen exit needs."""
        return frozenset({"live", "extends", "temperature"}) if self.exit == "probe" else frozenset()

    def resolve(self, available: frozenset[Capability]) -> Certaindex:
        """Replace `auto` by what the run offers, so that the record names it."""
        if self.exit != "auto":
            return self
        return replace(self, exit="probe" if {"live", "extends", "temperature"} <= available else "entropy")

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Spend until certain, or until the grant ends."""
        if self.exit == "probe":
            return await self._probing(problem, ctx)
        return await self._voting(problem, ctx)

    async def _voting(self, problem: Problem, ctx: Context) -> Answer:
        first = self.detect if self.n is None else min(self.detect, self.n)
        drawn = await ctx.sample(problem.prompt, first, ctx.sampling)
        answers = answers_of(drawn)
        if len(drawn) == self.detect and certaindex(answers) >= self.threshold:
            return conclude(drawn, majority(answers), "confident")
        if len(drawn) == first:
            drawn += await ctx.sample(problem.prompt, None if self.n is None else self.n - first, ctx.sampling)
        return conclude(drawn, majority(answers_of(drawn)), why(ctx))

    async def _probing(self, problem: Problem, ctx: Context) -> Answer:
        typical, cap = lengths(ctx)[0], ctx.sampling.max_tokens
        chunk = self.chunk or min(64, max(8, typical // 8))
        least = typical // 4 if self.min_tokens is None else self.min_tokens
        if min(ctx.remaining, cap) < chunk + self.probe_tokens:
            return await only_sample(ctx, problem.prompt)
        close, probing = ctx.profile.think_close, ctx.branch("probes")
        draft = start_thinking(ctx, problem)
        probes: list[Probe] = []
        latest: Completion | None = None
        while (room := min(ctx.remaining, cap - draft.usage.completion) - self.probe_tokens) > 0:
            drawn = await ctx.sample(draft.prompt, 1, thinking(ctx, min(chunk, room)))
            if not drawn:
                break
            piece = drawn[0]
            if close and piece.stop_reason == close:
                draft = draft.then(piece)
                drawn = await ctx.sample(draft.prompt, 1, within(ctx, draft.usage.completion))
                return _one([*(draft.closed(c) for c in drawn), latest], ctx)
            if piece.finish == "stop":
                return _one([draft.closed(piece), latest], ctx)
            draft = draft.then(piece)
            forced = await force_answer(probing, draft, self._probe(ctx, self.probe_tokens))
            probes.append(_read(forced, len(draft.text)))
            latest = forced if probes[-1].answer is not None else latest
            if forced and draft.usage.completion >= least and agreement(probes, self.window) >= 1:
                return conclude([forced], 0, "confident")
        if latest is None:  # no probe was answered: what is left goes to one that must do
            left = min(ctx.remaining, cap - draft.usage.completion)
            latest = await force_answer(probing, draft, self._probe(ctx, max(1, left)))
        return _one([latest], ctx)

    def _probe(self, ctx: Context, cap: int) -> Sampling:
        return replace(ctx.sampling, kind="probe", temperature=PROBE_TEMPERATURE, max_tokens=cap, stop=())


def _read(forced: Completion | None, start: int) -> Probe:
    if forced is None or forced.finish == "length":
        return Probe(None, certain=False)
    return Probe(forced.answer, certain=HESITATION.search(_after_answer(forced.text[start:])) is None)


def _after_answer(said: str) -> str:
    """Return what follows the brace that closes a forced answer; empty where nothing does."""
    depth = 0
    for i, character in enumerate(said):
        depth += (character == "{") - (character == "}")
        if character == "}" and depth == 0:
            return said[i + 1 :]
    return ""


def _one(found: Sequence[Completion | None], ctx: Context) -> Answer:
    """Return the first response with an answer: the whole one, else that of the latest probe."""
    responses = [c for c in found if c is not None]
    answered = [c for c in responses if answers_of([c])[0] is not None]
    return conclude((answered or responses)[:1], 0 if answered else None, why(ctx))
