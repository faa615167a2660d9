"""The HTTP engine against a real vLLM server of the tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_loop import EngineLoop
from vllm_server import serving

from ttc.core.errors import EngineError
from ttc.core.types import GenRequest, Message, Prompt, Sampling
from ttc.engines.openai_http import OpenAIEngine, OpenAIOptions
from ttc.engines.vllm_engine import VLLMEngine
from ttc.testing.tiny_model import CONTEXT_TOKENS

pytestmark = pytest.mark.engine

CHAT = (Message("user", "What is 17 + 25?"),)
NAME = "tiny"
FLAGS = "--no-enable-chunked-prefill --max-num-batched-tokens 2048 --enable-prompt-tokens-details"


@pytest.fixture(scope="module")
def url(tiny_model: Path) -> Iterator[str]:
    with serving(tiny_model, NAME, *FLAGS.split()) as address:
        yield address


@pytest.fixture(scope="module")
def remote(url: str, loop: EngineLoop) -> Iterator[OpenAIEngine]:
    started = OpenAIEngine(OpenAIOptions(url, NAME, max_retries=1))
    loop.run(started.start())
    yield started
    loop.run(started.close())


def ask(prompt: Prompt, sampling: Sampling, max_tokens: int = 30, seed: int = 5) -> GenRequest:
    return GenRequest("p", prompt, sampling, max_tokens, seed, 0)


def test_finds_out_what_the_server_can(remote: OpenAIEngine) -> None:
    assert remote.capabilities == {"live", "temperature", "extends", "top_logprobs"}
    assert remote.context_tokens == CONTEXT_TOKENS
    assert remote.label == NAME


def test_answers_as_the_engine_in_the_same_process_does(
    remote: OpenAIEngine, engine: VLLMEngine, loop: EngineLoop
) -> None:
    assert remote.render(CHAT) == engine.render(CHAT)
    prompt = engine.render(CHAT)
    token = loop.run(engine.generate([ask(prompt, Sampling(temperature=1.0))]))[0].tokens[7]
    for sampling in (
        Sampling(temperature=0.0),
        Sampling(temperature=1.0),
        Sampling(temperature=1.0, top_logprobs=4),
        Sampling(temperature=1.0, stop_token_ids=(token,)),
        Sampling(temperature=0.8, min_p=0.05),
    ):
        here, there = (loop.run(one.generate([ask(prompt, sampling)]))[0] for one in (engine, remote))
        assert there.tokens == here.tokens
        assert (there.finish, there.stop_reason) == (here.finish, here.stop_reason)
        assert there.usage.completion == len(there.tokens)
        assert there.usage.prompt + there.usage.cached == len(prompt.ids)
        assert there.token_logprobs == pytest.approx(here.token_logprobs, abs=1e-3)
        assert there.logprob == pytest.approx(here.logprob, abs=1e-2)
        assert (there.confidence is None) == (sampling.top_logprobs == 0)
        if here.confidence is not None:
            assert there.confidence == pytest.approx(here.confidence, abs=1e-3)


def test_end_tokens_are_not_in_the_text(remote: OpenAIEngine, loop: EngineLoop) -> None:
    prompt = remote.render(CHAT)
    requests = [ask(prompt, Sampling(temperature=1.0), 300, seed) for seed in range(30)]
    ended = [c for c in loop.run(remote.generate(requests)) if c.finish == "stop"]
    assert ended
    assert {c.stop_reason for c in ended} == {None}
    assert all("<|im_end|>" not in c.text and "<|im_end|>" not in remote.decode(c.tokens) for c in ended)


def test_extends_and_counts_cached_tokens(remote: OpenAIEngine, loop: EngineLoop) -> None:
    prompt = remote.render((Message("user", "Something else entirely, at some length. " * 3),))
    cold = Sampling(temperature=0.0)
    whole = loop.run(remote.generate([ask(prompt, cold, 20)]))[0]
    rest = loop.run(remote.generate([ask(prompt.extend(whole.tokens[:10]), cold, 10)]))[0]
    assert rest.tokens == whole.tokens[10:]
    assert rest.usage.cached >= 64
    assert rest.usage.prompt + rest.usage.cached == len(prompt.ids) + 10


def test_what_the_server_refuses_is_told(remote: OpenAIEngine, loop: EngineLoop) -> None:
    prompt = remote.render(CHAT)
    with pytest.raises(EngineError, match="temperature"):
        loop.run(remote.generate([ask(prompt, Sampling(temperature=5.0))]))
    with pytest.raises(EngineError, match="does not fit the context"):
        loop.run(remote.generate([ask(Prompt(CHAT, (1,) * CONTEXT_TOKENS), Sampling())]))
    wrong = OpenAIEngine(OpenAIOptions(remote._options.base_url, "tinny", max_retries=0))
    with pytest.raises(EngineError, match="no model 'tinny'") as told:
        loop.run(wrong.start())
    assert told.value.hint == "did you mean 'tiny'?"
