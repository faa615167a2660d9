"""The vLLM engine against a plain forward pass of the same weights, and against itself."""

from __future__ import annotations

import asyncio
import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_loop import EngineLoop

from ttc.core.errors import ConfigError, EngineError
from ttc.core.protocols import Engine, HasWeights
from ttc.core.types import Completion, GenRequest, Message, Prompt, Sampling
from ttc.engines.fingerprint import count_parameters
from ttc.engines.vllm_engine import VLLMEngine
from ttc.testing.tiny_model import CONTEXT_TOKENS

pytestmark = pytest.mark.engine

CHAT = (Message("user", "What is 17 + 25? Think step by step."),)
WARM = Sampling(temperature=1.0)
COLD = Sampling(temperature=0.0)


def ask(prompt: Prompt, seed: int, sampling: Sampling = WARM, max_tokens: int = 40) -> GenRequest:
    return GenRequest("p", prompt, sampling, max_tokens, seed, index=seed % 1000)


def draw(engine: VLLMEngine, loop: EngineLoop, *requests: GenRequest) -> list[Completion]:
    return loop.run(engine.generate(requests))


@pytest.fixture(scope="module")
def prompt(engine: VLLMEngine) -> Prompt:
    return engine.render(CHAT)


@pytest.fixture(scope="module")
def log_softmax(tiny_model: Path) -> Any:
    """Log-probabilities of every next token after a prefix, by transformers alone: [positions, vocabulary]."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()

    def compute(prompt: Prompt, generated: tuple[int, ...]) -> Any:
        with torch.no_grad():
            logits = model(torch.tensor([prompt.tokens + generated])).logits[0]
        first = len(prompt.tokens) - 1
        return torch.log_softmax(logits[first : first + len(generated)].double(), dim=-1)

    return compute


def test_is_an_engine(engine: VLLMEngine, tiny_model: Path) -> None:
    typed: Engine = engine
    assert typed.label == tiny_model.name
    assert typed.context_tokens == CONTEXT_TOKENS
    assert typed.parameters == count_parameters(tiny_model)
    assert typed.capabilities == {"live", "extends", "temperature", "top_logprobs"}
    assert typed.fingerprint.startswith("sha256:")
    assert isinstance(engine, HasWeights)
    assert engine.weights_sha256() == hashlib.sha256((tiny_model / "model.safetensors").read_bytes()).hexdigest()


def test_renders_the_chat_template_with_the_assistants_header(engine: VLLMEngine, tiny_model: Path) -> None:
    from tokenizers import Tokenizer

    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGrüße 😀<|im_end|>\n<|im_start|>assistant\n"
    expected = Tokenizer.from_file(str(tiny_model / "tokenizer.json")).encode(text).ids
    messages = (Message("system", "Be brief."), Message("user", "Grüße 😀"))
    rendered = engine.render(messages)
    assert list(rendered.ids) == expected
    assert rendered.messages == messages
    assert rendered.generated == ()
    assert engine.decode(rendered.ids[-10:]) == "assistant\n"


def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(
    engine: VLLMEngine, loop: EngineLoop, prompt: Prompt
) -> None:
    seeds = [seed * 0x9E3779B97F4A7C15 % 2**63 for seed in range(1, 49)]
    alone = [draw(engine, loop, ask(prompt, seed))[0] for seed in seeds[:4]]
    batch = draw(engine, loop, *(ask(prompt, seed) for seed in seeds))
    assert [c.tokens for c in batch[:4]] == [c.tokens for c in alone]
    assert [c.index for c in batch] == [seed % 1000 for seed in seeds]
    assert len({c.tokens for c in batch}) == len(seeds)


def test_log_probabilities_are_the_models_own(
    engine: VLLMEngine, loop: EngineLoop, prompt: Prompt, log_softmax: Any
) -> None:
    # At another temperature than 1, so that tempered ones would be noticed.
    completion = draw(engine, loop, ask(prompt, 11, Sampling(temperature=0.6), 60))[0]
    table = log_softmax(prompt, completion.tokens)
    expected = [float(table[i, token]) for i, token in enumerate(completion.tokens)]
    assert completion.token_logprobs == pytest.approx(expected, abs=2e-3)
    assert completion.logprob == pytest.approx(sum(expected), abs=2e-2)
    assert completion.confidence is None
    assert completion.token_confidences is None


def test_confidence_is_minus_the_mean_of_the_top_log_probabilities(
    engine: VLLMEngine, loop: EngineLoop, prompt: Prompt, log_softmax: Any
) -> None:
    sampling = Sampling(temperature=1.0, top_logprobs=5)
    plain, completion = draw(engine, loop, ask(prompt, 12), ask(prompt, 12, sampling))
    top = log_softmax(prompt, completion.tokens).topk(5).values
    expected = [-float(row.mean()) for row in top]
    assert completion.token_confidences == pytest.approx(expected, abs=2e-3)
    assert completion.confidence == pytest.approx(sum(expected) / len(expected), abs=2e-3)
    assert completion.tokens == plain.tokens  # recording more changes no token
    assert completion.token_logprobs == pytest.approx(plain.token_logprobs, abs=1e-4)


def test_temperature_zero_takes_the_most_likely_token(
    engine: VLLMEngine, loop: EngineLoop, prompt: Prompt, log_softmax: Any
) -> None:
    first, second = draw(engine, loop, ask(prompt, 1, COLD), ask(prompt, 2, COLD))
    assert first.tokens == second.tokens
    assert list(first.tokens) == log_softmax(prompt, first.tokens).argmax(dim=-1).tolist()


def test_max_tokens_is_exact(engine: VLLMEngine, loop: EngineLoop, prompt: Prompt) -> None:
    whole = draw(engine, loop, ask(prompt, 3, max_tokens=30))[0]
    for cap in (1, 7, 29):
        cut = draw(engine, loop, ask(prompt, 3, max_tokens=cap))[0]
        assert cut.tokens == whole.tokens[:cap]
        assert (cut.finish, cut.stop_reason, cut.usage.completion) == ("length", None, cap)
        assert cut.text == engine.decode(cut.tokens)


def test_stop_token_ends_and_is_charged(engine: VLLMEngine, loop: EngineLoop, prompt: Prompt) -> None:
    whole = draw(engine, loop, ask(prompt, 5))[0]
    token = whole.tokens[9]
    length = whole.tokens.index(token) + 1
    stopped = draw(engine, loop, ask(prompt, 5, replace(WARM, stop_token_ids=(token,))))[0]
    assert stopped.tokens == whole.tokens[:length]
    assert (stopped.finish, stopped.stop_reason, stopped.usage.completion) == ("stop", token, length)
    assert stopped.text == engine.decode(stopped.tokens[:-1])
    assert stopped.token_logprobs == pytest.approx(whole.token_logprobs[:length], abs=1e-4)


def test_the_models_end_token_is_no_stop_reason(engine: VLLMEngine, loop: EngineLoop, prompt: Prompt) -> None:
    ended = [c for c in draw(engine, loop, *(ask(prompt, s, max_tokens=300) for s in range(40))) if c.finish == "stop"]
    assert ended
    assert {c.tokens[-1] for c in ended} == {256}
    assert {c.stop_reason for c in ended} == {None}
    assert all(c.text == engine.decode(c.tokens[:-1]) and c.usage.completion == len(c.tokens) for c in ended)


def test_stop_string_ends_and_is_left_out_of_the_text(engine: VLLMEngine, loop: EngineLoop, prompt: Prompt) -> None:
    # Only ASCII characters have their token and their text at the same place here.
    whole = draw(engine, loop, ask(prompt, 8, max_tokens=200))[0]
    letter = next(char for char in whole.text if char.isascii() and char.isprintable())
    stopped = draw(engine, loop, ask(prompt, 8, replace(WARM, stop=("never seen", letter)), 200))[0]
    assert (stopped.finish, stopped.stop_reason) == ("stop", letter)
    assert engine.decode(stopped.tokens[-1:]) == letter
    assert stopped.tokens == whole.tokens[: len(stopped.tokens)]
    assert letter not in stopped.text


def test_a_shared_prefix_is_counted_as_cached(engine: VLLMEngine, loop: EngineLoop) -> None:
    prompt = engine.render((Message("user", "A question nobody has asked before. " * 3),))
    length = len(prompt.ids)
    first = draw(engine, loop, ask(prompt, 1))[0]
    second = draw(engine, loop, ask(prompt, 2))[0]
    blocks = (length - 1) // 32 * 32
    assert blocks >= 64
    assert (first.usage.prompt + first.usage.cached, second.usage.prompt + second.usage.cached) == (length, length)
    assert second.usage.cached == blocks
    assert first.usage.cached < blocks


def test_extending_a_prefix_continues_it_token_by_token(engine: VLLMEngine, loop: EngineLoop, prompt: Prompt) -> None:
    whole = draw(engine, loop, ask(prompt, 1, COLD, 24))[0]
    half = draw(engine, loop, ask(prompt, 1, COLD, 12))[0]
    rest = draw(engine, loop, ask(prompt.extend(half.tokens), 1, COLD, 12))[0]
    assert half.tokens + rest.tokens == whole.tokens
    assert rest.usage.prompt + rest.usage.cached == len(prompt.ids) + 12


def test_a_prompt_that_does_not_fit_is_refused_before_anything_runs(
    engine: VLLMEngine, loop: EngineLoop, prompt: Prompt
) -> None:
    long = Prompt(prompt.messages, tuple([7] * CONTEXT_TOKENS))
    with pytest.raises(EngineError, match=rf"{CONTEXT_TOKENS} tokens does not fit the context of {CONTEXT_TOKENS}"):
        draw(engine, loop, ask(prompt, 1), ask(long, 2))
    with pytest.raises(EngineError, match="0 tokens"):
        draw(engine, loop, ask(Prompt(prompt.messages), 1))
    fits = Prompt(prompt.messages, tuple([7] * (CONTEXT_TOKENS - 1)))
    assert draw(engine, loop, ask(fits, 2, max_tokens=1))[0].usage.completion == 1


def test_refused_settings_leave_the_engine_alive(engine: VLLMEngine, loop: EngineLoop, prompt: Prompt) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        draw(engine, loop, ask(prompt, 1, Sampling(temperature=3.0)))
    with pytest.raises(EngineError, match="vocabulary"):
        draw(engine, loop, ask(Prompt(prompt.messages, (5, 100000)), 1))
    with pytest.raises(EngineError, match="logprobs"):
        draw(engine, loop, ask(prompt, 1, Sampling(top_logprobs=200)))
    assert draw(engine, loop, ask(prompt, 1))[0].tokens


def test_truncated_sampling_warns_once_on_a_cpu(engine: VLLMEngine, loop: EngineLoop, prompt: Prompt) -> None:
    requests = [ask(prompt, seed, Sampling(temperature=1.0, top_k=1)) for seed in range(2)]
    greedy = draw(engine, loop, ask(prompt, 0, COLD))[0]
    assert [c.tokens for c in draw(engine, loop, *requests)] == [greedy.tokens] * 2
    assert len(engine.warnings) == 1
    assert "top_k" in engine.warnings[0]


def test_cancelling_aborts_the_requests(engine: VLLMEngine, loop: EngineLoop, prompt: Prompt) -> None:
    async def cancel() -> int:
        requests = [ask(prompt, seed, replace(WARM, stop_token_ids=()), 450) for seed in range(64)]
        task = asyncio.ensure_future(engine.generate(requests))
        while engine.unfinished < len(requests):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert engine.unfinished > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.2)
        return engine.unfinished

    assert loop.run(cancel()) == 0
    completion = draw(engine, loop, ask(prompt, 1))[0]
    assert completion.logprob is not None
    assert math.isfinite(completion.logprob)
