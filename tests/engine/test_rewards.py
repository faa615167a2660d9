"""Reward models through real vLLM, against a plain forward pass of the same weights."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_loop import EngineLoop
from test_vllm_processes import children, wait_gone
from vllm_server import serving

from ttc.core.errors import ConfigError, EngineError
from ttc.core.protocols import RewardModel
from ttc.core.specs import ModelSpec
from ttc.core.types import GenRequest, Message, Problem, Prompt, Sampling, Step, Steps, Tokens
from ttc.engines.fingerprint import count_parameters
from ttc.engines.opening import open_reward
from ttc.engines.rewards import PoolingReward
from ttc.engines.vllm_engine import VLLMEngine
from ttc.testing.tiny_model import CONTEXT_TOKENS, SEPARATOR, build_tiny_classifier, build_tiny_prm

pytestmark = pytest.mark.engine

MEAN, SIGMA = 0.4, 1.7
QUESTION = b"What is (12 + 30) / 2 - 4? Show every step on its own line, and the result last.\n"
STEPS: Steps = tuple(
    Step(tuple(line), line.decode()) for line in (b"12 + 30 = 42\n", b"42 / 2 = 21\n", b"21 - 4 = 17\n")
)
WRONG = (STEPS[0], Step(tuple(b"42 / 2 = 22\n"), ""), Step(tuple(b"22 - 4 = 18\n"), ""))
SMALL = {"dtype": "float32", "kv_cache_gib": 0.25}


def problem(salt: str = "") -> Problem:
    """Return a problem whose prompt differs from its first token on: its prefixes are in no cache."""
    return Problem("p", "", Prompt((Message("user", ""),), tuple(salt.encode() + QUESTION)))


def prefixes(asked: Problem, steps: Steps) -> list[Tokens]:
    return [asked.prompt.ids + sum((s.tokens for s in steps[: i + 1]), ()) for i in range(len(steps))]


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-classifier"
    build_tiny_classifier(folder)
    (folder / "prm.json").write_text(json.dumps({"logit_mean": MEAN, "logit_sigma": SIGMA}))
    return folder


@pytest.fixture(scope="module")
def prm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-prm"
    build_tiny_prm(folder)
    return folder


def started(loop: EngineLoop, spec: ModelSpec) -> Iterator[RewardModel]:
    reward = open_reward(spec)
    assert reward is not None
    loop.run(reward.start(), timeout_s=300.0)
    yield reward
    loop.run(reward.close())


@pytest.fixture(scope="module")
def classifier(classifier_folder: Path, loop: EngineLoop) -> Iterator[RewardModel]:
    yield from started(loop, ModelSpec(path=str(classifier_folder), options=SMALL))


@pytest.fixture(scope="module")
def prm_and_processes(prm_folder: Path, loop: EngineLoop) -> Iterator[tuple[RewardModel, list[psutil.Process]]]:
    before = set(children(os.getpid()))
    for reward in started(loop, ModelSpec(path=str(prm_folder), options=SMALL)):
        yield reward, [process for process in children(os.getpid()) if process not in before]


@pytest.fixture(scope="module")
def prm(prm_and_processes: tuple[RewardModel, list[psutil.Process]]) -> RewardModel:
    return prm_and_processes[0]


@pytest.fixture(scope="module")
def expected(classifier_folder: Path) -> Callable[[Tokens], float]:
    """The score of one prefix by transformers alone."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(classifier_folder, dtype=torch.float32).eval()

    def compute(tokens: Tokens) -> float:
        with torch.no_grad():
            logit = float(model(torch.tensor([tokens])).logits[0, 0])
        return float(torch.sigmoid(torch.tensor((logit - MEAN) / SIGMA)))

    return compute


@pytest.fixture(scope="module")
def expected_rows(prm_folder: Path) -> Callable[[Tokens], list[float]]:
    """The scores at the separators by a bare Qwen2 and two matrices."""
    import torch
    from safetensors.torch import load_file
    from transformers import Qwen2Config, Qwen2Model

    weights = load_file(prm_folder / "model.safetensors")
    model = Qwen2Model(Qwen2Config.from_pretrained(prm_folder)).float().eval()
    model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
    separator = separator_of(prm_folder)

    def compute(tokens: Tokens) -> list[float]:
        with torch.no_grad():
            hidden = model(torch.tensor([tokens])).last_hidden_state[0]
            inner = torch.relu(hidden @ weights["score.0.weight"].T + weights["score.0.bias"])
            right = (inner @ weights["score.2.weight"].T + weights["score.2.bias"]).softmax(dim=-1)[:, 1]
        return [float(right[i]) for i, token in enumerate(tokens) if token == separator]

    return compute


def separator_of(folder: Path) -> int:
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    return next(int(entry["id"]) for entry in added if entry["content"] == SEPARATOR)


def separated(asked: Problem, steps: Steps, separator: int) -> Tokens:
    return asked.prompt.ids + tuple(token for step in steps for token in (*step.tokens, separator))


def test_a_folder_becomes_a_reward_model(classifier: RewardModel, classifier_folder: Path) -> None:
    assert isinstance(classifier, PoolingReward)
    assert classifier.label == "tiny-classifier"
    assert classifier.parameters == count_parameters(classifier_folder)
    assert classifier.fingerprint.startswith("sha256:")
    outcome = open_reward(ModelSpec(path=str(classifier_folder), options={**SMALL, "kind": "outcome"}))
    assert outcome is not None
    assert outcome.fingerprint != classifier.fingerprint


def test_the_calibration_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    build_tiny_classifier(tmp_path)
    names = set()
    for calibration in ({}, {"logit_mean": 0.1}, {"logit_mean": 0.2}):
        (tmp_path / "prm.json").write_text(json.dumps(calibration))
        opened = open_reward(str(tmp_path))
        assert opened is not None
        names.add(opened.fingerprint)
    assert len(names) == 3


def test_a_policy_is_no_reward_model(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="its architecture is Qwen2ForCausalLM"):
        open_reward(str(tiny_model))


def test_prefix_scores_are_those_of_a_plain_forward_pass(
    classifier: RewardModel, loop: EngineLoop, expected: Callable[[Tokens], float]
) -> None:
    asked = problem("a")
    responses = [STEPS, WRONG, *((Step(tuple(range(5, 5 + n)), ""),) for n in range(1, 40))]
    scores, tokens = loop.run(classifier.score(asked, responses))
    lists = [prefixes(asked, steps) for steps in responses]
    for row, wanted in zip(scores, lists, strict=True):
        assert row == pytest.approx([expected(prefix) for prefix in wanted], abs=1e-4)
    assert max(map(max, scores)) - min(map(min, scores)) > 0.05
    assert 0 < tokens < sum(len(prefix) for wanted in lists for prefix in wanted)


def test_a_longer_prefix_reads_only_what_is_new(classifier: RewardModel, loop: EngineLoop) -> None:
    asked = problem("b")
    first, second, third = (len(prefix) for prefix in prefixes(asked, STEPS))
    one, read_first = loop.run(classifier.score(asked, [STEPS[:1]]))
    assert read_first == classifier.count_tokens(asked, [(Step((1,) * (first - len(asked.prompt.ids)), ""),)]) == first
    assert classifier.count_tokens(asked, [STEPS[:2]]) == second
    two, read_second = loop.run(classifier.score(asked, [STEPS[:2]]))
    assert read_second == second - first // 32 * 32  # whole blocks of 32 are shared, at least two here
    three, read_third = loop.run(classifier.score(asked, [STEPS]))
    assert read_third == third - second // 32 * 32
    assert first >= 64
    assert three[0] == (*two[0], three[0][2]) == (*one[0], *three[0][1:])


def test_an_outcome_model_reads_whole_responses_only(
    classifier_folder: Path, classifier: RewardModel, loop: EngineLoop
) -> None:
    assert isinstance(classifier, PoolingReward)
    backend = classifier._backend
    form = backend._form
    asked = problem("c")
    wanted = loop.run(classifier.score(asked, [STEPS]))[0][0][-1]
    backend._form = replace(form, kind="outcome")
    try:
        outcome = PoolingReward(backend)
        scores, _ = loop.run(outcome.score(asked, [STEPS]))
        assert outcome.count_tokens(asked, [WRONG]) == len(prefixes(asked, WRONG)[-1])
    finally:
        backend._form = form
    assert scores == [(pytest.approx(wanted, abs=1e-4),) * len(STEPS)]


def test_what_is_refused_leaves_the_engine_alive(classifier: RewardModel, loop: EngineLoop) -> None:
    asked = problem("d")
    with pytest.raises(EngineError, match="vocabulary"):
        loop.run(classifier.score(asked, [(Step((100_000,), ""),)]))
    with pytest.raises(EngineError, match=f"do not fit the context of {CONTEXT_TOKENS}"):
        loop.run(classifier.score(asked, [(Step((7,) * CONTEXT_TOKENS, ""),)]))
    assert len(loop.run(classifier.score(asked, [STEPS]))[0][0]) == len(STEPS)


def test_policy_and_reward_model_run_side_by_side(
    engine: VLLMEngine, classifier: RewardModel, loop: EngineLoop, expected: Callable[[Tokens], float]
) -> None:
    asked = problem("e")

    async def chain(seed: int) -> tuple[Tokens, float]:
        prompt, steps = asked.prompt, Steps()
        for _ in range(3):
            request = GenRequest("p", prompt, Sampling(temperature=1.0), 12, seed, 0)
            completion = (await engine.generate([request]))[0]
            prompt = prompt.extend(completion.tokens)
            steps += (Step(completion.tokens, completion.text),)
            scores, _ = await classifier.score(asked, [steps])
        return prompt.tokens, scores[0][-1]

    async def all_chains() -> list[tuple[Tokens, float]]:
        return await asyncio.gather(*(chain(seed) for seed in range(16)))

    for tokens, score in loop.run(all_chains()):
        assert score == pytest.approx(expected(tokens), abs=1e-4)


def test_separator_scores_are_those_of_a_plain_forward_pass(
    prm: RewardModel, prm_folder: Path, loop: EngineLoop, expected_rows: Callable[[Tokens], list[float]]
) -> None:
    asked = problem("a")
    responses = [STEPS, WRONG, STEPS[:1]]
    scores, _ = loop.run(prm.score(asked, responses))
    for row, steps in zip(scores, responses, strict=True):
        wanted = expected_rows(separated(asked, steps, separator_of(prm_folder)))
        assert len(wanted) == len(steps)
        assert row == pytest.approx(wanted, abs=1e-4)
    assert max(scores[0]) - min(scores[0]) > 0.01


def test_separator_scores_read_the_whole_prefix_each_time(prm: RewardModel, prm_folder: Path, loop: EngineLoop) -> None:
    asked = problem("b")
    for n in (1, 2, 3):
        length = len(separated(asked, STEPS[:n], separator_of(prm_folder)))
        assert prm.count_tokens(asked, [STEPS[:n]]) == length
        assert loop.run(prm.score(asked, [STEPS[:n]]))[1] == length >= 64


def test_a_server_scores_as_the_engine_in_the_same_process_does(
    prm: RewardModel, prm_folder: Path, loop: EngineLoop
) -> None:
    told = {"task": "token_classify", "step_tag_id": separator_of(prm_folder)}
    asked, responses = problem("f"), [STEPS, WRONG]
    wanted, _ = loop.run(prm.score(asked, responses))
    with serving(prm_folder, "tiny", "--runner", "pooling", "--pooler-config", json.dumps(told)) as url:
        there = open_reward(ModelSpec(path=f"{url}#tiny", options={"max_retries": 1}))
        assert there is not None
        loop.run(there.start())
        at_most = there.count_tokens(asked, responses)
        scores, tokens = loop.run(there.score(asked, responses))
        for row, reference in zip(scores, wanted, strict=True):
            assert row == pytest.approx(reference, abs=1e-4)
        assert tokens == at_most
        with pytest.raises(EngineError, match="refused the request"):
            loop.run(there.score(asked, [(Step((7,) * CONTEXT_TOKENS, ""),)]))
    with pytest.raises(EngineError, match="cannot reach") as gone:
        loop.run(there.score(asked, [STEPS[:1] * 2]))
    assert gone.value.retryable
    loop.run(there.close())


def test_a_killed_core_fails_every_call_and_leaves_nothing(
    prm_and_processes: tuple[RewardModel, list[psutil.Process]], loop: EngineLoop
) -> None:
    reward, processes = prm_and_processes  # the last test that uses them

    async def work() -> list[Any]:
        endless = [(Step((5,) * 400, ""),)]
        calls = [asyncio.ensure_future(reward.score(problem(str(i)), endless)) for i in range(10, 400)]
        await asyncio.sleep(0.1)
        for process in processes:
            process.kill()
        told = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
        return [*told, *await asyncio.gather(reward.score(problem("z"), [STEPS]), return_exceptions=True)]

    told = [answer for answer in loop.run(work()) if not isinstance(answer, tuple)]
    assert len(told) > 1
    assert all(isinstance(error, EngineError) and error.fatal for error in told)
    assert all("the engine 'tiny-prm' died" in error.message and "\n" not in error.message for error in told)
    loop.run(reward.close())
    assert wait_gone(processes, 1.0) == []


def test_closing_ends_what_is_in_flight(classifier: RewardModel, loop: EngineLoop) -> None:
    async def work() -> list[Any]:
        calls = [
            asyncio.ensure_future(classifier.score(problem(f"g{i}"), [(Step((5,) * 300, ""),)])) for i in range(300)
        ]
        await asyncio.sleep(0.1)
        await classifier.close()
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)

    told = [answer for answer in loop.run(work()) if not isinstance(answer, tuple)]
    assert told
    assert all(isinstance(error, EngineError) and error.fatal for error in told)
    assert {error.message for error in told} == {"the engine 'tiny-classifier' was closed"}
