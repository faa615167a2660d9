"""The shipped pair through real vLLM: one policy and one reward model for all of these tests."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import pytest
from engine_loop import EngineLoop

from ttc.core import registry
from ttc.core.identity import sample_seed
from ttc.core.parameters import build
from ttc.core.profiles import PROFILES
from ttc.core.protocols import Checker, Engine, Resolvable, RewardModel
from ttc.core.specs import ModelSpec
from ttc.core.types import Completion, Example, GenRequest, Problem, Sampling, Step, Steps
from ttc.engines.opening import open_engine, open_reward
from ttc.run.bench import TaskJudge
from ttc.run.context import World
from ttc.run.grading import CheckerGrader
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, record, solve
from ttc_evals import arithmetic, countdown

pytestmark = pytest.mark.engine

FAMILIES = {"arithmetic": arithmetic, "countdown": countdown}
FOLDER = Path(str(files("ttc.embedded")))


class Pair(NamedTuple):
    policy: Engine
    prm: RewardModel


@pytest.fixture(scope="module")
def pair(loop: EngineLoop) -> Iterator[Pair]:
    policy, prm = open_engine(ModelSpec(path="embedded")), open_reward("embedded")
    assert prm is not None
    loop.run(policy.start(), timeout_s=300.0)
    loop.run(prm.start(), timeout_s=300.0)
    yield Pair(policy, prm)
    loop.run(prm.close())
    loop.run(policy.close())


def problems(pair: Pair, family: str, count: int, difficulty: int | None = None) -> list[tuple[Example, Problem]]:
    examples = FAMILIES[family].generate("test", count, 5, difficulty)
    return [(e, Problem(e.id, e.question, pair.policy.render(e.messages), e.meta)) for e in examples]


def solution(family: str, question: str) -> str:
    if family == "arithmetic":
        return arithmetic.reference_solution(question)
    return countdown.reference_solution(question, random.Random(0))


def steps(pair: Pair, text: str) -> Steps:
    lines = text.splitlines(keepends=True)
    return tuple(Step(pair.policy.encode(line), line) for line in lines)


def draw(pair: Pair, loop: EngineLoop, asked: list[Problem], temperature: float, n: int = 1) -> list[Completion]:
    sampling = Sampling(temperature=temperature, max_tokens=192)
    return loop.run(
        pair.policy.generate(
            [GenRequest(p.id, p.prompt, sampling, 192, sample_seed(3, p.id, "", i), i) for p in asked for i in range(n)]
        )
    )


def test_the_weights_are_small() -> None:
    weights = [path for part in ("policy", "prm") for path in (FOLDER / part).glob("*.safetensors")]
    assert len(weights) == 2
    assert sum(path.stat().st_size for path in weights) < 16e6


@pytest.mark.parametrize("family", FAMILIES)
def test_easy_problems_are_solved_and_hard_ones_are_not(pair: Pair, loop: EngineLoop, family: str) -> None:
    levels = max(FAMILIES[family].LEVELS)
    checker: Checker = (arithmetic.Arithmetic() if family == "arithmetic" else countdown.Countdown()).checker
    shares = []
    for level in (1, levels):
        asked = problems(pair, family, 24, level)
        drawn = draw(pair, loop, [p for _, p in asked], 0.7)
        answers = [checker.extract(c.text) for c in drawn]
        shares.append(
            sum(a is not None and checker.grade(a, e.gold) for a, (e, _) in zip(answers, asked, strict=True)) / 24
        )
    assert shares[0] >= (0.8 if family == "arithmetic" else 0.2)
    assert shares[1] <= shares[0] - 0.15


def test_a_seed_gives_the_same_sample_alone_and_in_a_batch(pair: Pair, loop: EngineLoop) -> None:
    asked = [p for _, p in problems(pair, "countdown", 10)]
    together = draw(pair, loop, asked, 1.0, 4)
    alone = [c for p in asked[:3] for c in draw(pair, loop, [p], 1.0, 4)]
    assert [c.tokens for c in together[:12]] == [c.tokens for c in alone]
    assert len({c.tokens for c in together[:4]}) > 1


def test_the_prefix_cache_serves_generation_and_scoring(pair: Pair, loop: EngineLoop) -> None:
    """vLLM shares whole blocks of 32 tokens: a prefix of 70 holds two."""
    example, problem = problems(pair, "arithmetic", 1, 8)[0]
    lines = steps(pair, solution("arithmetic", example.question))
    tokens = sum((line.tokens for line in lines), ())
    prefix = problem.prompt.extend(tokens[: 70 - len(problem.prompt.ids)])
    asks = [GenRequest("p", prefix, Sampling(temperature=1.0, max_tokens=4), 4, seed, 0) for seed in (1, 2)]
    loop.run(pair.policy.generate(asks[:1]))
    (second,) = loop.run(pair.policy.generate(asks[1:]))
    assert (second.usage.cached, second.usage.prompt) == (64, 6)

    (scores,), read = loop.run(pair.prm.score(problem, [lines]))
    whole = [len(problem.prompt.ids) + sum(len(s.tokens) for s in lines[: i + 1]) for i in range(len(lines))]
    assert len(scores) == len(lines)
    other = (*lines[:-1], Step(pair.policy.encode("\\boxed{1}"), ""))
    _, read_more = loop.run(pair.prm.score(problem, [other]))
    length = len(problem.prompt.ids) + sum(len(s.tokens) for s in other)
    assert read <= sum(whole)
    assert read_more == length - length // 32 * 32 if length % 32 else read_more < length


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_a_plain_forward_pass(pair: Pair, loop: EngineLoop, family: str) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(FOLDER / "prm", dtype=torch.float32).eval()
    said = json.loads((FOLDER / "prm" / "prm.json").read_text())
    for example, problem in problems(pair, family, 8):
        lines = steps(pair, solution(family, example.question))
        ((*scores,),), _ = loop.run(pair.prm.score(problem, [lines]))
        ids = problem.prompt.ids
        for line, score in zip(lines, scores, strict=True):
            ids += line.tokens
            with torch.no_grad():
                logit = model(torch.tensor([ids])).logits[0, 0]
            expected = torch.sigmoid((logit - said["logit_mean"]) / said["logit_sigma"])
            assert score == pytest.approx(float(expected), abs=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_strategy_stays_within_its_grant(pair: Pair, loop: EngineLoop, family: str) -> None:
    asked = problems(pair, family, 3)
    task = arithmetic.Arithmetic() if family == "arithmetic" else countdown.Countdown()
    judge = TaskJudge(CheckerGrader(task.checker, {p.id: e.gold for e, p in asked}, 1, 10.0))
    world = World(
        engine=pair.policy,
        reader=judge,
        sampling=Sampling(max_tokens=192),
        seed=0,
        min_call_tokens=4,
        reward=pair.prm,
        profile=PROFILES["embedded"],
    )

    async def run(name: str, grant: int) -> list[tuple[str, int, dict[str, object]]]:
        strategy = build("strategies", name, {})
        if isinstance(strategy, Resolvable):
            strategy = strategy.resolve(pair.policy.capabilities | {"reward", "score"})
        granter = Fixed(Ledger(grant * len(asked)), {p.id: grant for _, p in asked})
        attempts = [Attempt(strategy, p, (granter,), world, judge, 60.0) for _, p in asked]
        rows = [record(a, await solve(a), store_text=True) for a in attempts]
        return [(name, grant, row) for row in rows]

    async def all_of_them() -> list[tuple[str, int, dict[str, object]]]:
        runs = [run(name, grant) for name in registry.names("strategies") for grant in (3, 60, 300)]
        return [row for rows in await asyncio.gather(*runs) for row in rows]

    for name, grant, row in loop.run(all_of_them(), timeout_s=300.0):
        assert row["status"] in ("ok", "budget", "unparsed"), (name, grant, row)
        assert row["completion_tokens"] <= grant, (name, grant)
        if grant == 300:
            assert row["status"] == "ok" or name in ("greedy", "spawn-join"), (name, row)
