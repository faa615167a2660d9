"""How fast search runs: all problems at once against one at a time, and against raw vLLM generating as many tokens.

    python benchmarks/search_speed.py [--model FOLDER [--data GSM8K.jsonl]] [--problems 100] [--beams 4,16] [--rounds 3] [--alone 10]

Without --model the shipped pair searches arithmetic, once with its reward model and once with the policy's own
log-probabilities as scores (`logprob`, no second model), and once with hashed noise (`noise`), which costs nothing: what is
then left of the difference to raw is the price of going in steps. With --model, a folder of a larger model, GSM8K with
`logprob`.
The rows of one table come from one process and one engine; rounds alternate, and the median is told. Problems one at a
time take one in ten of the problems (--alone), as they take so long; how many of these get the answer alone that they get
among all is told, since a model's kernels may depend on the batch. Raw vLLM draws whole samples of the same problems, as
many as give the tokens of the search, all at once. The cache of generations is off throughout; prefix caches are warm.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ttc.api import make_plan
from ttc.core.identity import sample_seed
from ttc.core.types import GenRequest, Problem
from ttc.engines.fake import FakeReward
from ttc.run.bench import Bench
from ttc.run.context import World
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, solve
from ttc_strategies.beam import Beam

NOISE = "noise"
T = TypeVar("T")
Found = dict[tuple[str, str | None], int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for every kind of score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--beams", default="4,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", type=int, default=10, help="one in so many problems is searched alone")
    args = parser.parse_args(arguments)
    for prm in ("embedded", "logprob", NOISE) if args.model is None else ("logprob",):
        task: dict[str, Any] = {"name": "arithmetic" if args.model is None else "gsm8k"}
        config = {
            "tasks": [task if args.data is None else {**task, "data": args.data}],
            "models": ["embedded" if args.model is None else args.model],
            "prm": "logprob" if prm == NOISE else prm, "strategies": ["beam"], "budgets": [1], "limit": args.problems,
        }  # fmt: skip
        beams = [int(b) for b in args.beams.split(",")]
        bench = make_plan(config).benches[0]
        if prm == NOISE:
            bench = replace(bench, reward=FakeReward())
        asyncio.run(measure(bench, prm, beams, args.rounds, args.alone))


async def measure(bench: Bench, prm: str, beams: Sequence[int], rounds: int, every: int) -> None:
    """Alternate the ways of drawing as many tokens, and print their medians."""
    if bench.reward is not None:
        await bench.reward.start()
    await bench.engine.start()
    try:
        problems = bench.problems()
        few = problems[::every]
        print(f"\n## {bench.subject.model}, {bench.subject.task}, {len(problems)} problems, scores: {prm}\n")
        print(
            "| n_beams | tokens | tokens/s, all at once | one at a time | ratio | raw, as many tokens | share of raw"
            " | same answer alone |"
        )
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for n in beams:
            await search(bench, few, n)  # warm
            rows, same = [], 0
            for _ in range(rounds):
                found, together_s = await timed(search(bench, problems, n))
                apart, alone_s = await timed(one_by_one(bench, few, n))
                tokens = sum(found.values())
                drawn, raw_s = await timed(whole_samples(bench, problems, tokens))
                rows.append((tokens, tokens / together_s, sum(apart.values()) / alone_s, drawn / raw_s))
                same += len(found.keys() & apart.keys())
            tokens, together, alone, raw = (statistics.median(column) for column in zip(*rows, strict=True))
            ratio, part = (statistics.median(r[1] / r[k] for r in rows) for k in (2, 3))
            print(
                f"| {n} | {tokens:,.0f} | {together:,.0f} | {alone:,.0f} | {ratio:.1f} | {raw:,.0f} | {part:.2f}"
                f" | {same} of {len(few) * rounds} |",
                flush=True,
            )
    finally:
        await bench.engine.close()
        if bench.reward is not None:
            await bench.reward.close()


async def timed(work: Awaitable[T]) -> tuple[T, float]:
    """Return what a piece of work gave and its seconds."""
    started = time.perf_counter()
    done = await work
    return done, time.perf_counter() - started


async def search(bench: Bench, problems: Sequence[Problem], n_beams: int) -> Found:
    """Search all problems at once; returns each problem with its answer, and the completion tokens it took."""
    sampling = bench.subject.sampling
    judge = bench.judge()
    grant = n_beams * sampling.max_tokens * 2
    world = World(bench.engine, judge, sampling, 0, bench.min_call_tokens, bench.reward, profile=bench.profile)
    granter = Fixed(Ledger(grant * len(problems)), {p.id: grant for p in problems})
    attempts = [Attempt(Beam(n_beams=n_beams), p, (granter,), world, judge, 3600.0) for p in problems]
    try:
        outcomes = await asyncio.gather(*(solve(attempt) for attempt in attempts))
    finally:
        await judge.close()
    return {
        (p.id, None if outcome.answer is None else outcome.answer.text): outcome.meter.usage.completion
        for p, (outcome,) in zip(problems, outcomes, strict=True)
    }


async def one_by_one(bench: Bench, problems: Sequence[Problem], n_beams: int) -> Found:
    """Search one problem after the other; returns what `search` does."""
    found: Found = {}
    for problem in problems:
        found |= await search(bench, [problem], n_beams)
    return found


async def whole_samples(bench: Bench, problems: Sequence[Problem], tokens: int) -> int:
    """Draw whole samples of the problems in turn, as raw requests, until they are expected to have so many tokens."""
    cap = bench.subject.sampling.max_tokens
    drawn, total, index = 0, 0, 0
    while total < tokens:
        each = total / drawn if drawn else cap / 2
        wanted = max(1, round((tokens - total) / each))
        requests = [
            GenRequest(p.id, p.prompt, bench.subject.sampling, cap, sample_seed(1, p.id, "", index + i), index + i)
            for i, p in ((i, problems[i % len(problems)]) for i in range(wanted))
        ]
        done = await bench.engine.generate(requests)
        drawn, total, index = drawn + len(done), total + sum(len(c.tokens) for c in done), index + wanted
    return total


if __name__ == "__main__":
    main()
