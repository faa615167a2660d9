"""What strategies share once they hold a pool of finished answers: scoring it, and selecting from it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Literal

from ttc.core.protocols import Context
from ttc.core.types import Answer, Completion, Step, StopReason
from ttc.core.vote import best, majority, tally

Select = Literal["majority", "weighted", "reward", "verifier"]
"""How one answer is selected from a pool.

majority: the most frequent; weighted: the one with the largest summed score (Snell et al. 2024, section 2.2);
reward: that of the best single score; verifier: the reward model reads every whole response once more, and its
scores vote inside each group (chain, subtree), then over the groups' winners (Snell et al. 2024, section 6).
"""


async def with_scores(ctx: Context, completions: Sequence[Completion]) -> list[Completion]:
    """Give every finished completion a score: the recorded one, else the reward model's for the whole answer.

    A completion cut by its cap is not scored: it cannot compete. Raises ConfigError without a reward model.
    """
    todo = [c for c in completions if c.score is None and c.finish == "stop"]
    scores = await ctx.score([(Step(c.tokens, c.text, c.logprob),) for c in todo]) if todo else []
    found = {c.index: s[-1] for c, s in zip(todo, scores, strict=False)}
    return [replace(c, score=found[c.index]) if c.index in found else c for c in completions]


def answers_of(completions: Sequence[Completion]) -> list[str | None]:
    """Return the answers of finished completions, None for the others."""
    return [c.answer if c.finish == "stop" else None for c in completions]


def why(ctx: Context) -> StopReason:
    """Return why drawing ended: the grant, the pool, or the strategy itself."""
    return ctx.ended or "finished"


def conclude(completions: Sequence[Completion], choice: int | None, stop_reason: StopReason) -> Answer:
    """Return the answer of a pool."""
    return Answer(tuple(completions), choice, stop_reason)


async def select_from(
    ctx: Context, completions: Sequence[Completion], select: Select, groups: Sequence[Hashable] | None = None
) -> tuple[list[Completion], int | None]:
    """Return the pool, scored anew where a verifier selects, and the position of the chosen completion.

    `groups` says which completions belong together; without it, all do. Completions without an answer or cut by
    their cap are never chosen, and nobody votes for them.
    """
    pool = list(completions)
    if select == "verifier":
        pool = await with_scores(ctx, [replace(c, score=None) for c in pool])
    return pool, chosen(pool, select, groups)


def chosen(completions: Sequence[Completion], select: Select, groups: Sequence[Hashable] | None = None) -> int | None:
    """Return the position that a selector picks among scored completions; ties go to the first."""
    answers = answers_of(completions)
    scores = [c.score or 0.0 for c in completions]
    match select:
        case "majority":
            return majority(answers)
        case "weighted":
            return majority(answers, scores)
        case "reward":
            return best([c.score for c in completions], answers)
        case "verifier":
            return hierarchical(answers, scores, groups or [None] * len(answers))


def hierarchical(answers: Sequence[str | None], weights: Sequence[float], groups: Sequence[Hashable]) -> int | None:
    """Vote by weight inside each group, then over the groups' winners, each with the weight it won by."""
    winners: list[tuple[int, float]] = []
    for group in dict.fromkeys(groups):
        members = [i for i, g in enumerate(groups) if g == group]
        theirs, heavy = [answers[i] for i in members], [weights[i] for i in members]
        won = majority(theirs, heavy)
        if won is not None:
            winners.append((members[won], max(tally(theirs, heavy).values())))
    first = majority([answers[i] for i, _ in winners], [weight for _, weight in winners])
    return None if first is None else winners[first][0]
