"""How fast search runs: all problems at once against one at a time, and against raw vLLM generating as many tokens.

    python benchmarks/search_speed.py [--model FOLDER [--data GSM8K.jsonl]] [--problems 100] [--beams 4,16] [--rounds 3]

Without --model the shipped pair searches arithmetic, once with its reward model and once with the policy's own
log-probabilities as scores (`logprob`, no second model). With --model, a folder of a larger model, GSM8K with `logprob`.
The rows of one table come from one process and one engine; rounds alternate, and the median is told. Problems one at a
time take a tenth of the problems, as they take so long; their seconds are a problem's. Raw vLLM draws whole samples of
the same problems, as many as give the tokens of the search, all at once. The cache of generations is off throughout;
prefix caches are warm.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ttc.api import make_plan
from ttc.core.identity import sample_seed
from ttc.core.types import GenRequest, Problem
from ttc.run.bench import Bench
from ttc.run.context import World
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, solve
from ttc_strategies.beam import Beam

ALONE = 10
"""One in so many problems is searched alone."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for every kind of score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--beams", default="4,16")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(arguments)
    for prm in ("embedded", "logprob") if args.model is None else ("logprob",):
        task: dict[str, Any] = {"name": "arithmetic" if args.model is None else "gsm8k"}
        config = {
            "tasks": [task if args.data is None else {**task, "data": args.data}],
            "models": ["embedded" if args.model is None else args.model],
            "prm": prm, "strategies": ["beam"], "budgets": [1], "limit": args.problems,
        }  # fmt: skip
        asyncio.run(measure(make_plan(config).benches[0], prm, [int(b) for b in args.beams.split(",")], args.rounds))


async def measure(bench: Bench, prm: str, beams: Sequence[int], rounds: int) -> None:
    """Alternate the ways of drawing as many tokens, and print their medians."""
    if bench.reward is not None:
        await bench.reward.start()
    await bench.engine.start()
    try:
        problems = bench.problems()
        print(f"\n## {bench.subject.model}, {bench.subject.task}, {len(problems)} problems, scores: {prm}\n")
        print(
            "| n_beams | tokens | tokens/s, all at once | one at a time | ratio | raw, as many tokens | share of raw |"
        )
        print("|---|---|---|---|---|---|---|", flush=True)
        for n in beams:
            await search(bench, problems[::ALONE], n)  # warm
            rows = []
            for _ in range(rounds):
                tokens, together = await timed(search(bench, problems, n))
                few, alone = await timed(one_by_one(bench, problems[::ALONE], n))
                drawn, raw = await timed(whole_samples(bench, problems, tokens))
                rows.append((tokens, tokens / together, few / alone, drawn / raw))
            tokens, together, alone, raw = (statistics.median(column) for column in zip(*rows, strict=True))
            ratio, part = (statistics.median(r[1] / r[k] for r in rows) for k in (2, 3))
            print(
                f"| {n} | {tokens:,.0f} | {together:,.0f} | {alone:,.0f} | {ratio:.1f} | {raw:,.0f} | {part:.2f} |",
                flush=True,
            )
    finally:
        await bench.engine.close()
        if bench.reward is not None:
            await bench.reward.close()


async def timed(work: Any) -> tuple[int, float]:
    """Return the tokens of a piece of work and its seconds."""
    started = time.perf_counter()
    tokens = await work
    return tokens, time.perf_counter() - started


async def search(bench: Bench, problems: Sequence[Problem], n_beams: int) -> int:
    """Search all problems at once; returns the completion tokens."""
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
    return sum(outcome.meter.usage.completion for rows in outcomes for outcome in rows)


async def one_by_one(bench: Bench, problems: Sequence[Problem], n_beams: int) -> int:
    """Search one problem after the other; returns the completion tokens."""
    return sum([await search(bench, [problem], n_beams) for problem in problems])


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
