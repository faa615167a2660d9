"""What strategies that draw whole answers share: scoring a pool, and selecting from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ttc.core.protocols import Context
from ttc.core.types import Answer, Completion, Step, StopReason


async def with_scores(ctx: Context, completions: Sequence[Completion]) -> list[Completion]:
    """Give every finished completion a score: the recorded one, else the reward model's for the whole answer.

    A completion cut by its cap is not scored: it cannot compete. Raises ConfigError without a reward model.
    """
    todo = [c for c in completions if c.score is None and c.finish == "stop"]
    scores = await ctx.score([(Step(c.tokens, c.text),) for c in todo]) if todo else []
    found = {c.index: s[-1] for c, s in zip(todo, scores, strict=False)}
    return [replace(c, score=found[c.index]) if c.index in found else c for c in completions]


def answers_of(completions: Sequence[Completion]) -> list[str | None]:
    """Return the answers of finished completions, None for the others."""
    return [c.answer if c.finish == "stop" else None for c in completions]


def why(ctx: Context, otherwise: StopReason = "finished") -> StopReason:
    """Return why drawing ended: the grant, the pool, or the strategy's own reason."""
    return ctx.ended or otherwise


def conclude(completions: Sequence[Completion], choice: int | None, stop_reason: StopReason) -> Answer:
    """Return the answer of a pool."""
    return Answer(tuple(completions), choice, stop_reason)
