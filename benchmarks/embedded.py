"""Start-up seconds and tokens a second of the shipped pair.

    python benchmarks/embedded.py [--problems 128] [--samples 8]

Whole samples are drawn of both families at temperature 0.7, then every line of every sample is scored.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from ttc.core.identity import sample_seed
from ttc.core.protocols import Engine, RewardModel
from ttc.core.specs import ModelSpec
from ttc.core.types import Completion, GenRequest, Problem, Sampling, Step, Steps
from ttc.engines.opening import open_engine, open_reward
from ttc_evals import arithmetic, countdown


def problems(engine: Engine, count: int) -> list[Problem]:
    """Return test problems of both families, their difficulties in turn."""
    examples = [*arithmetic.generate("test", count // 2, 0), *countdown.generate("test", count - count // 2, 0)]
    return [Problem(e.id, e.question, engine.render(e.messages)) for e in examples]


async def draw(engine: Engine, asked: list[Problem], samples: int) -> list[Completion]:
    """Draw whole samples, all at once."""
    sampling = Sampling(temperature=0.7, max_tokens=192)
    requests = [
        GenRequest(p.id, p.prompt, sampling, 192, sample_seed(0, p.id, "", i), i)
        for p in asked for i in range(samples)
    ]  # fmt: skip
    return await engine.generate(requests)


def steps_of(engine: Engine, completion: Completion, newline: int) -> Steps:
    """Return a sample's lines."""
    steps, line = [], []
    for token in completion.tokens:
        line.append(token)
        if token == newline:
            steps.append(Step(tuple(line), engine.decode(line)))
            line = []
    return (*steps, Step(tuple(line), engine.decode(line))) if line else tuple(steps)


async def measure(count: int, samples: int) -> None:
    """Print the figures."""
    engine, reward = open_engine(ModelSpec(path="embedded")), open_reward("embedded")
    started = time.perf_counter()
    await engine.start()
    print(f"policy: started in {time.perf_counter() - started:.1f} s")
    await measure_policy(engine, reward, count, samples)


async def measure_policy(engine: Engine, reward: RewardModel | None, count: int, samples: int) -> None:
    """Print the figures of a started policy, then those of the reward model."""
    try:
        asked = problems(engine, count)
        await draw(engine, asked[:8], 2)  # the first steps allocate
        started = time.perf_counter()
        drawn = await draw(engine, asked, samples)
        seconds = time.perf_counter() - started
        tokens = sum(c.usage.completion for c in drawn)
        print(
            f"policy: {tokens:,} tokens of {len(drawn):,} samples in {seconds:.1f} s, {tokens / seconds:,.0f} a second"
        )
        if reward is None:
            return
        started = time.perf_counter()
        await reward.start()
        print(f"reward model: started in {time.perf_counter() - started:.1f} s")
        try:
            newline = engine.encode("\n")[0]
            started = time.perf_counter()
            scored = await asyncio.gather(
                *(
                    reward.score(p, [steps_of(engine, c, newline) for c in drawn[i * samples : (i + 1) * samples]])
                    for i, p in enumerate(asked)
                )
            )
            seconds = time.perf_counter() - started
            prefixes = sum(len(steps) for scores, _ in scored for steps in scores)
            read = sum(tokens for _, tokens in scored)
            print(
                f"reward model: {prefixes:,} prefixes, {read:,} tokens read in {seconds:.1f} s,"
                f" {prefixes / seconds:,.0f} prefixes a second"
            )
        finally:
            await reward.close()
    finally:
        await engine.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--samples", type=int, default=8)
    given = parser.parse_args()
    asyncio.run(measure(given.problems, given.samples))
