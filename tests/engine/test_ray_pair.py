"""What Ray workers need of vLLM: text without the model, and the shipped pair on two workers of a local cluster."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from engine_loop import EngineLoop

from ttc.api import Silent, make_plan
from ttc.core.types import Message
from ttc.engines.ray_cluster import RayOptions
from ttc.engines.ray_workers import RayEngine
from ttc.engines.vllm_engine import VLLMEngine
from ttc.engines.vllm_profile import VLLMOptions
from ttc.run.manifest import portable
from ttc.run.plan import spec_id
from ttc.run.sweep import run_sweep
from ttc.store.rundir import RunDir

pytestmark = pytest.mark.engine

PROBLEMS = 8
COMPARED = ("answer", "correct", "status", "stop_reason", "grant_tokens", "completion_tokens", "calls")


def test_text_without_the_model_is_text_with_it(engine: VLLMEngine, tiny_model: Path, loop: EngineLoop) -> None:
    alone = VLLMEngine(VLLMOptions(model=str(tiny_model), dtype="float32", kv_cache_gib=0.25))
    before = dict(os.environ)
    loop.run(alone.start_text(), timeout_s=300.0)
    assert dict(os.environ) == before
    assert alone.fingerprint == engine.fingerprint
    messages = [Message("user", "What is 12 + 30?\n\nÄ \U0001f600")]
    prompt = alone.render(messages)
    assert prompt == engine.render(messages)
    for text in ("", "Step 1: ", "\n\n", "Ä \U0001f600 \\boxed{4}"):
        assert alone.encode(text) == engine.encode(text)
        assert alone.decode(alone.encode(text)) == engine.decode(engine.encode(text))
    assert alone.decode(prompt.ids) == engine.decode(prompt.ids)


class Killer:
    """Kills the first worker's process when half of the problems are finished."""

    def __init__(self, engine: RayEngine) -> None:
        self.engine, self.left, self.killed, self.quiet = engine, PROBLEMS, 0, Silent()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.quiet, name)

    def problem_finished(self, cell: object, row: Mapping[str, Any]) -> None:
        self.left -= 1
        pid = self.engine.fleet.workers[0].pid
        if self.left == 0 and pid is not None:
            os.kill(pid, signal.SIGKILL)
            self.killed = pid


def swept(out: Path, workers: int, kill: bool = False) -> dict[tuple[str, str], tuple[Any, ...]]:
    config = {
        "tasks": ["arithmetic"],
        "models": ["embedded"],
        "strategies": [{"name": "self-consistency", "params": {"n": 4}}, {"name": "beam", "params": {"n_beams": 4}}],
        "budgets": [500],
        "limit": PROBLEMS,
    }
    plan = make_plan(config, RayOptions(workers=workers) if workers else None)
    engine = plan.benches[0].engine
    observer: Silent | Killer = Silent()
    if kill:
        assert isinstance(engine, RayEngine)
        observer = Killer(engine)
    folder = RunDir(out)
    folder.open_for_writing(portable(plan.config), spec_id(plan.cells))
    try:
        asyncio.run(run_sweep(plan, folder, observer))
    finally:
        folder.close()
    assert not isinstance(observer, Killer) or observer.killed
    rows = [json.loads(line) for line in (out / "journal" / "main.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "problem_id" in row]
    assert len(rows) == 2 * PROBLEMS
    return {(row["cell"], row["problem_id"]): tuple(row[key] for key in COMPARED) for row in rows}


@pytest.mark.timeout(1500)
def test_a_killed_worker_of_the_shipped_pair_changes_no_table(tmp_path: Path) -> None:
    """Two workers hold a pair each; one of them is killed half way."""
    assert swept(tmp_path / "killed", 2, kill=True) == swept(tmp_path / "alone", 0)
