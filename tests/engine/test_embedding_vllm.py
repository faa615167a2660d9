"""Hidden states of the shipped policy by vLLM, against a plain forward pass of the same weights."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from engine_loop import EngineLoop
from test_vllm_processes import children, wait_gone

from ttc.core.errors import EngineError
from ttc.core.protocols import Embedder
from ttc.core.specs import ModelSpec
from ttc.core.types import Prompt
from ttc.engines.opening import open_embedder
from ttc_evals import arithmetic

pytestmark = pytest.mark.engine

FOLDER = str(files("ttc.embedded") / "policy")
EXAMPLES = arithmetic.generate("test", 12, 5)


class Started(NamedTuple):
    embedder: Embedder
    processes: list[psutil.Process]


@pytest.fixture(scope="module")
def started(loop: EngineLoop) -> Iterator[Started]:
    before = set(children(os.getpid()))
    embedder = open_embedder(ModelSpec(path="embedded", options={"dtype": "float32", "kv_cache_gib": 0.25}))
    loop.run(embedder.start(), timeout_s=300.0)
    yield Started(embedder, [process for process in children(os.getpid()) if process not in before])
    loop.run(embedder.close())


@pytest.fixture(scope="module")
def plain() -> Any:
    """The states after the final norm, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()

    def states(ids: tuple[int, ...]) -> Any:
        with torch.no_grad():
            return model.model(torch.tensor([ids])).last_hidden_state[0].numpy()

    return states


def embed_all(started: Started, loop: EngineLoop, prompts: list[Prompt]) -> list[tuple[Any, int]]:
    async def work() -> list[tuple[Any, int]]:
        return await asyncio.gather(*(started.embedder.embed(prompt, str(i)) for i, prompt in enumerate(prompts)))

    return loop.run(work())


def test_prompts_are_those_of_the_models_own_chat_template(started: Started) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    for example in EXAMPLES:
        chat = [{"role": m.role, "content": m.content} for m in example.messages]
        wanted = tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, return_dict=False)
        assert started.embedder.render(example.messages).ids == tuple(wanted)


def test_a_vector_is_the_last_hidden_state_of_the_last_prompt_token(
    started: Started, loop: EngineLoop, plain: Any
) -> None:
    prompts = [started.embedder.render(example.messages) for example in EXAMPLES]
    found = embed_all(started, loop, prompts)
    for prompt, (vector, tokens) in zip(prompts, found, strict=True):
        states = plain(prompt.ids)
        assert vector.dtype == np.float32
        assert vector == pytest.approx(states[-1], abs=2e-4, rel=2e-4)
        assert not np.allclose(states[-2], states[-1], atol=0.05)  # another token's would be told
        assert np.linalg.norm(vector) > 2  # not normalised
        assert tokens == len(prompt.ids)


def test_reading_again_costs_and_says_the_same(started: Started, loop: EngineLoop) -> None:
    prompt = Prompt((), started.embedder.render(EXAMPLES[0].messages).ids * 8)
    assert len(prompt.ids) > 64  # longer than what a prefix cache would share
    first, second = (embed_all(started, loop, [prompt])[0] for _ in range(2))
    assert first[1] == second[1] == len(prompt.ids)
    assert np.array_equal(first[0], second[0])


def test_what_is_refused_leaves_the_engine_alive(started: Started, loop: EngineLoop) -> None:
    with pytest.raises(EngineError, match="do not fit the context of 512 tokens of 'embedded'"):
        embed_all(started, loop, [Prompt((), (5,) * 513)])
    with pytest.raises(EngineError, match="vocabulary"):
        embed_all(started, loop, [Prompt((), (100_000,))])
    assert len(embed_all(started, loop, [Prompt((), (5,) * 512)])[0][0]) == 128


def test_closing_leaves_no_process(started: Started, loop: EngineLoop) -> None:
    assert started.processes
    loop.run(started.embedder.close())  # the last test that uses it
    assert wait_gone(started.processes, 1.0) == []
    with pytest.raises(EngineError, match="is not running"):
        started.embedder.render(EXAMPLES[0].messages)
