"""How many tokens the generated ones attend to, counted as a sum over single tokens."""

import asyncio
import dataclasses
import random

import pytest
from scripted import Scripted, attempt

from ttc.core.types import Answer
from ttc.run.solve import record, solve


def one_by_one(prefix, lengths):
    attended = sum(prefix + t for length in lengths for t in range(length))
    read = 0
    for t in range(max(lengths)):
        running = sum(length > t for length in lengths)
        read += prefix + t * running  # what they share is read once, what each wrote itself for itself
    return attended, read


@dataclasses.dataclass(frozen=True)
class Twice:
    """Draws n at once, then goes on from the first of them."""

    n: int

    async def solve(self, problem, ctx):
        drawn = await ctx.sample(problem.prompt, self.n, ctx.sampling)
        more = await ctx.branch("on").sample(problem.prompt.extend(drawn[0].tokens), 1, ctx.sampling)
        return Answer((*drawn, *more), 0, "finished")


@pytest.mark.parametrize("cached", [0, 7])
def test_calls_made_together_share_their_prefix(cached):
    dice = random.Random(cached)
    lengths = [dice.randrange(1, 40) for _ in range(5)]
    engine = Scripted([("right", length) for length in lengths], prompt_tokens=10, cached=cached)
    tried = attempt(Twice(5), engine)
    row = record(tried, asyncio.run(solve(tried)), store_text=False)
    first, second = one_by_one(10, lengths), one_by_one(10 + lengths[0], lengths[:1])
    assert row["attended_tokens"] == first[0] + second[0]
    assert row["kv_read_tokens"] == first[1] + second[1]
    assert row["completion_tokens"] == sum(lengths) + lengths[0]
