"""Endpoint pools: throughput by the number of servers, a server killed in the middle, and what prefix affinity is worth.

    python benchmarks/pool.py dealing           # servers in this process, a second a request on average: what the dealing alone does
    python benchmarks/pool.py stubs             # servers of a fixed delay behind real connections: does dispatch scale?
    python benchmarks/pool.py vllm [--problems 48] [--samples 8] [--max-tokens 64]     # two vLLM servers of the shipped policy

Stubs answer a request in half a second, eight at a time, in processes of their own. vLLM servers share this machine's
cores, so that a second one cannot double the throughput; they show what a real prefix cache and a real death do.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from ttc.core.errors import EngineError
from ttc.core.identity import sample_seed
from ttc.core.types import GenRequest, Message, Sampling
from ttc.engines.openai_http import OpenAIEngine, OpenAIOptions
from ttc.engines.pool import Pool, PoolOptions
from ttc.engines.server_pools import PoolEngine
from ttc.testing.stub_server import Stub, serving_stub

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))
from vllm_server import serving

DELAY_S, SLOTS = 0.5, 8
STUB_REQUESTS = 320
BRANCHES = 4
FLAGS = "--no-enable-chunked-prefill --max-num-batched-tokens 2048 --enable-prompt-tokens-details --max-num-seqs 64"


def pool_of(urls: Sequence[str], name: str, *, affinity: bool = True) -> PoolEngine:
    """Return a pool of servers that is not started yet."""
    servers = [OpenAIEngine(OpenAIOptions(url, name, max_retries=0)) for url in urls]
    return PoolEngine(servers, name, PoolOptions(affinity=affinity, health_s=1.0))


async def draw(
    urls: Sequence[str],
    name: str,
    questions: Sequence[str],
    samples: int,
    max_tokens: int,
    *,
    affinity: bool = True,
    after: tuple[int, Callable[[], None]] | None = None,
) -> None:
    """Draw samples of every question, one round after the other as a search does, and print what it took.

    `after` is a number of answers, and what is done when there are so many.
    """
    engine = pool_of(urls, name, affinity=affinity)
    await engine.start()
    try:
        problems = [(f"{i}", engine.render([Message("user", text)])) for i, text in enumerate(questions)]
        done = tokens = 0
        longest_s = 0.0
        started = last = time.perf_counter()

        async def one(number: str, prompt: object, index: int) -> None:
            nonlocal done, tokens, last, longest_s
            request = GenRequest(number, prompt, Sampling(1.0), max_tokens, sample_seed(0, number, "", index), index)  # type: ignore[arg-type]
            (completion,) = await engine.generate([request])
            done, tokens = done + 1, tokens + completion.usage.completion
            now = time.perf_counter()
            longest_s, last = max(longest_s, now - last), now
            if after is not None and done == after[0]:
                await asyncio.to_thread(after[1])

        async def branches(number: str, prompt: object) -> None:
            for index in range(samples):
                await one(number, prompt, index)

        await asyncio.gather(*(branches(number, prompt) for number, prompt in problems))
        wall_s = time.perf_counter() - started
        rows = engine.endpoints()
        prompt, cached = sum(r["prompt"] for r in rows), sum(r["cached"] for r in rows)
        print(
            f"{len(urls)} servers, {'affinity' if affinity else 'least loaded'}{', one killed' if after else ''}:"
            f" {done} of {len(questions) * samples} answered, {tokens} tokens in {wall_s:.1f} s"
            f" = {done / wall_s:.1f} requests/s, {tokens / wall_s:.0f} tokens/s; longest pause {longest_s:.1f} s;"
            f" prompt tokens from the cache {cached / max(1, prompt + cached):.1%};"
            + "".join(
                f" {said} {[r[key] for r in rows]}"
                for said, key in (("answered by", "requests"), ("moved", "moved"), ("lost", "losses"))
            ),
            flush=True,
        )
    finally:
        await engine.close()


def _serve(told: Connection) -> None:
    with serving_stub(Stub(delay_s=DELAY_S, slots=SLOTS)) as stub:
        told.send(stub.address)
        signal.pause()


@contextmanager
def stub_processes(count: int) -> Iterator[tuple[list[str], list[int]]]:
    """Run stubs in processes of their own; gives their addresses and process ids."""
    context = multiprocessing.get_context("spawn")
    processes, urls = [], []
    for _ in range(count):
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,), daemon=True)
        process.start()
        processes.append(process)
        urls.append(here.recv())
    try:
        yield urls, [process.pid or 0 for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def stubs() -> None:
    """Measure dispatch: what servers of a fixed capacity give together."""
    print(f"stubs: {SLOTS} requests at once, {DELAY_S} s each: {SLOTS / DELAY_S:g} requests/s a server", flush=True)
    questions = [f"What is {i} + {i}?" for i in range(STUB_REQUESTS // 2)]
    for count in (1, 2, 4):
        with stub_processes(count) as (urls, _):
            asyncio.run(draw(urls, "fake", questions, 2, 200))
    with stub_processes(2) as (urls, pids):
        kill = (STUB_REQUESTS // 2, lambda: os.kill(pids[1], signal.SIGKILL))
        asyncio.run(draw(urls, "fake", questions, 2, 200, after=kill))


class Modelled:
    """A server in this process: eight requests at once, half a second to one and a half each, 12 prefixes in its cache."""

    offer, version = (), ""
    at_once, kept = 8, 12

    def __init__(self, number: int) -> None:
        self.host = self.fingerprint = f"server {number}"
        self.alive, self.hits, self.done = True, 0, 0
        self._slots = asyncio.Semaphore(self.at_once)
        self._seen: dict[str, None] = {}
        self._lengths = random.Random(number)  # noqa: S311 - lengths, no secrets

    async def start(self) -> None:
        """Be there, or not."""
        if not self.alive:
            raise EngineError("gone", retryable=True, fatal=True)

    async def healthy(self) -> bool:
        """Say whether it lives."""
        return self.alive

    async def close(self) -> None:
        """Do nothing."""

    async def answer(self, problem: str) -> None:
        """Take a second on average, in turn; equal lengths would have the rounds in step, and a home by chance."""
        async with self._slots:
            hit = self._seen.pop(problem, 0) is None
            self._seen[problem] = None
            if len(self._seen) > self.kept:
                del self._seen[next(iter(self._seen))]
            await asyncio.sleep(0.5 + self._lengths.random())
            if not self.alive:
                raise EngineError("gone", retryable=True, fatal=True)
            self.hits, self.done = self.hits + hit, self.done + 1


async def deal(servers: int, *, affinity: bool = True, kill: bool = False, problems: int = 20, rounds: int = 4) -> None:
    """Have every problem grow four branches a step at a time, as a search does, and print what it took."""
    calls = problems * rounds * BRANCHES
    some = [Modelled(number) for number in range(servers)]
    pool = Pool(some, "modelled", PoolOptions(affinity=affinity, health_s=1.0))
    await pool.start()
    started = time.perf_counter()

    async def asks(number: int) -> None:
        for _ in range(rounds):
            branches = (pool.call(str(number), lambda server: server.answer(str(number))) for _ in range(BRANCHES))
            await asyncio.gather(*branches)
            if kill and sum(server.done for server in some) >= calls // 2:
                some[-1].alive = False

    await asyncio.gather(*(asks(number) for number in range(problems)))
    wall_s = time.perf_counter() - started
    await pool.close()
    done, hits = sum(s.done for s in some), sum(s.hits for s in some)
    moved = sum(member.statistics.moved for member in pool.members)
    print(
        f"{servers} servers, {'affinity' if affinity else 'least loaded'}{', one killed half way' if kill else ''}:"
        f" {done} of {calls} answered in {wall_s:.1f} s = {done / wall_s:.1f} requests/s;"
        f" prefixes found {hits / done:.1%}; sent again {moved}; by server {[s.done for s in some]}",
        flush=True,
    )


def dealing() -> None:
    """Measure what the dealing alone does."""
    for servers in (1, 2, 4):
        asyncio.run(deal(servers))
    asyncio.run(deal(2, kill=True))
    asyncio.run(deal(2, affinity=False))
    asyncio.run(deal(4, affinity=False))


def kill_server(url: str) -> None:
    """Kill a server of this process, with all that it started."""
    port = url.rpartition(":")[2].removesuffix("/v1")
    for child in psutil.Process().children():
        if port in child.cmdline():
            for process in [child, *child.children(recursive=True)]:
                process.kill()


def chains(problems: int, first: int) -> list[str]:
    """Return questions of about 200 characters, all different from the first word on."""
    tails = [" + ".join(str((n * 37 + k * 11) % 90 + 10) for k in range(40)) for n in range(first, first + problems)]
    return [f"{first + i} + {tail}" for i, tail in enumerate(tails)]


def vllm(problems: int, samples: int, max_tokens: int) -> None:
    """Measure two vLLM servers of the shipped policy. Every part asks other questions, so that its caches are cold."""
    policy = Path(str(files("ttc.embedded") / "policy"))
    with ExitStack() as stack, ThreadPoolExecutor(2) as starting:
        contexts = [serving(policy, "policy", *FLAGS.split()) for _ in range(2)]
        urls = list(starting.map(stack.enter_context, contexts))
        parts: list[tuple[list[str], bool]] = [(urls[:1], True), (urls, True), (urls, False)] * 2
        asyncio.run(draw(urls, "policy", chains(problems, 9000), 1, max_tokens))
        for number, (some, affinity) in enumerate(parts):
            asked = chains(problems, number * problems)
            asyncio.run(draw(some, "policy", asked, samples, max_tokens, affinity=affinity))
        kill = (problems * samples // 2, lambda: kill_server(urls[1]))
        asyncio.run(draw(urls, "policy", chains(problems, 7000), samples, max_tokens, after=kill))


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("dealing", "stubs", "vllm"))
    parser.add_argument("--problems", type=int, default=48)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    args = parser.parse_args()
    if args.what == "dealing":
        dealing()
    elif args.what == "stubs":
        stubs()
    else:
        vllm(args.problems, args.samples, args.max_tokens)


if __name__ == "__main__":
    main()
