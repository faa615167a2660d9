"""The same tokens through best-of-n and through raw `AsyncLLM.generate`, alternating in one process.

    python benchmarks/overhead.py --model FOLDER [--problems 64] [--samples 8] [--max-tokens 100] [--rounds 7]

Both paths send the same requests (prompt ids, seeds, caps, log-probabilities) to the same engine; the toolkit's path
adds metering, answer reading, selection and grading. The generation cache is off. Without --model, a random
two-layer model of 0.4 M parameters is made: its tokens are nonsense and the overhead is at its largest.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ttc.core.identity import sample_seed
from ttc.core.types import Message, Problem, Sampling
from ttc.engines.vllm_engine import VLLMEngine
from ttc.engines.vllm_profile import VLLMOptions
from ttc.run.bench import TaskJudge
from ttc.run.context import World
from ttc.run.grading import CheckerGrader
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, solve
from ttc.testing.tiny_model import build_tiny_model
from ttc_evals.numeric import NumericChecker
from ttc_strategies.best_of_n import BestOfN

SEED = 0


def problems(engine: VLLMEngine, count: int) -> list[Problem]:
    """Return short arithmetic questions; what the model makes of them does not matter."""
    texts = [f"What is {i} + {i * 37 % 101}? Put the answer within \\boxed{{}}." for i in range(count)]
    return [Problem(f"p{i}", text, engine.render([Message("user", text)])) for i, text in enumerate(texts)]


async def through_ttc(engine: VLLMEngine, asked: list[Problem], samples: int, sampling: Sampling) -> int:
    """Run best-of-n on every problem at once; returns the completion tokens."""
    judge = TaskJudge(CheckerGrader(NumericChecker(), {p.id: "0" for p in asked}, 1, 10.0))
    world = World(engine, judge, sampling, SEED, 16)
    grant = samples * sampling.max_tokens
    granter = Fixed(Ledger(grant * len(asked)), {p.id: grant for p in asked})
    strategy = BestOfN(n=samples, select="logprob")
    attempts = [Attempt(strategy, p, (granter,), world, judge, 600.0) for p in asked]
    outcomes = await asyncio.gather(*(solve(attempt) for attempt in attempts))
    return sum(o.meter.usage.completion for rows in outcomes for o in rows)


async def through_vllm(engine: VLLMEngine, asked: list[Problem], samples: int, sampling: Sampling) -> int:
    """Send the same requests to the same AsyncLLM by hand; returns the completion tokens."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    llm: Any = engine._alive().loaded.engine

    async def one(problem: Problem, index: int) -> int:
        params = SamplingParams(
            temperature=sampling.temperature,
            seed=sample_seed(SEED, problem.id, "", index),
            max_tokens=sampling.max_tokens,
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final: Any = None
        async for output in llm.generate(
            {"prompt_token_ids": list(problem.prompt.ids)}, params, f"{problem.id}-{index}"
        ):
            final = output
        return len(final.outputs[0].token_ids)

    return sum(await asyncio.gather(*(one(p, i) for p in asked for i in range(samples))))


async def measure(args: argparse.Namespace, folder: str) -> None:
    """Alternate the two paths and print a row a round."""
    engine = VLLMEngine(VLLMOptions(model=folder))
    await engine.start()
    try:
        asked = problems(engine, args.problems)
        sampling = Sampling(temperature=1.0, max_tokens=args.max_tokens)
        paths = {"ttc": through_ttc, "vllm": through_vllm}
        for path in paths.values():  # both warm: prefix cache, code paths
            await path(engine, asked, args.samples, sampling)
        print("| round | tokens (ttc, vllm) | ttc tokens/s | vllm tokens/s | ratio |\n|---|---|---|---|---|")
        ratios = []
        for number in range(args.rounds):
            speed, tokens = {}, {}
            order = list(paths) if number % 2 == 0 else list(reversed(paths))
            for name in order:
                started = time.perf_counter()
                tokens[name] = await paths[name](engine, asked, args.samples, sampling)
                speed[name] = tokens[name] / (time.perf_counter() - started)
            ratios.append(speed["ttc"] / speed["vllm"])
            print(f"| {number + 1} | {tokens['ttc']}, {tokens['vllm']} | {speed['ttc']:,.0f} | {speed['vllm']:,.0f}"
                  f" | {ratios[-1]:.3f} |", flush=True)  # fmt: skip
        print(f"\nmedian ratio {statistics.median(ratios):.3f}, lowest {min(ratios):.3f}, highest {max(ratios):.3f}")
    finally:
        await engine.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if args.model is None:
            build_tiny_model(Path(made))
        asyncio.run(measure(args, args.model or made))


if __name__ == "__main__":
    main()
