"""One tiny random model and one engine for the whole run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_loop import EngineLoop

from ttc.engines.vllm_engine import VLLMEngine
from ttc.engines.vllm_profile import VLLMOptions
from ttc.testing.tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen2"
    build_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def loop() -> Iterator[EngineLoop]:
    running = EngineLoop()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def engine(tiny_model: Path, loop: EngineLoop) -> Iterator[VLLMEngine]:
    started = VLLMEngine(VLLMOptions(model=str(tiny_model), dtype="float32", kv_cache_gib=0.25))
    loop.run(started.start(), timeout_s=300.0)
    yield started
    loop.run(started.close())
