"""What a record keeps of a search: its KV tokens and its tree."""

import asyncio
import json
from dataclasses import dataclass

from scripted import Scripted, attempt

from ttc.core.tree import Trace, TraceNode, from_columns
from ttc.core.types import Answer
from ttc.run.solve import record, solve

TRACE = Trace((TraceNode(None, 0, 1, 5, 0.25, "first", "kept"), TraceNode(0, 1, 1, 3, 0.5, "then", "finished")), 10)


@dataclass(frozen=True)
class Traced:
    trace: Trace | None = TRACE

    async def solve(self, problem, ctx):
        drawn = await ctx.sample(problem.prompt, 1, ctx.sampling)
        return Answer(tuple(drawn), 0, trace=self.trace)


def line(strategy, *, draws=1, store_text=True):
    asked = attempt(strategy, Scripted([("right", 8)]), draws=draws)
    outcomes = asyncio.run(solve(asked))
    return json.loads(json.dumps(record(asked, outcomes, store_text), allow_nan=False))


def test_a_search_is_recorded_with_its_tree_and_kv_tokens():
    row = line(Traced())
    assert row["kv_token_steps"] == 5 + 8
    assert from_columns(row["trace"]) == TRACE


def test_texts_stay_out_where_they_may_not_be_stored():
    assert "first" not in json.dumps(line(Traced(), store_text=False))


def test_several_draws_have_a_mean_and_no_tree():
    row = line(Traced(), draws=3)
    assert row["kv_token_steps"] == 13
    assert "trace" not in row


def test_a_strategy_without_a_tree_has_neither():
    row = line(Traced(trace=None))
    assert row["kv_token_steps"] is None
    assert "trace" not in row
