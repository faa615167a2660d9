"""What becomes of the engine's processes when anything dies, and what the user is told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from engine_loop import EngineLoop

from ttc.core.errors import EngineError
from ttc.core.types import GenRequest, Prompt, Sampling
from ttc.engines.vllm_engine import VLLMEngine
from ttc.engines.vllm_profile import VLLMOptions

pytestmark = pytest.mark.engine

OWNER = """
import asyncio, gc, sys
from ttc.core.types import GenRequest, Message, Sampling
from ttc.engines.vllm_engine import VLLMEngine
from ttc.engines.vllm_profile import VLLMOptions

async def main(folder, then):
    engine = VLLMEngine(VLLMOptions(model=folder, kv_cache_gib=0.25))
    await engine.start()
    assert gc.get_freeze_count()  # what vLLM is made of is not looked through for garbage
    prompt = engine.render([Message("user", "Go on.")])
    endless = [GenRequest("p", prompt, Sampling(), 400, seed, seed) for seed in range(64)]
    work = asyncio.ensure_future(engine.generate(endless))
    print("running", flush=True)
    if then == "work":
        while True:
            await work
            work = asyncio.ensure_future(engine.generate(endless))
    await asyncio.sleep(0.2)
    await engine.close()
    try:
        await work
    except Exception as error:  # whatever a closed engine raises is printed, for the test to judge
        print(type(error).__name__, error, flush=True)
    assert not gc.get_freeze_count()

asyncio.run(main(*sys.argv[1:]))  # no guard: the engine's processes must not run this script again
"""


def children(pid: int) -> list[psutil.Process]:
    """Return the processes below `pid`, without Python's own resource tracker: it serves the whole program."""
    found = psutil.Process(pid).children(recursive=True)
    return [process for process in found if "resource_tracker" not in " ".join(process.cmdline())]


def wait_gone(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        left = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not left:
            return []
        time.sleep(0.05)
    return left


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for all temporary files, whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def left_in(scratch: Path) -> set[str]:
    """Return what stands there but for what PyTorch compiled, which the next start takes up."""
    return {path.name for path in scratch.iterdir() if not path.name.startswith("torchinductor_")}


def own_the_engine(tmp_path: Path, folder: Path, then: str) -> subprocess.Popen[str]:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    command = [sys.executable, str(script), str(folder), then]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def test_a_killed_owner_takes_its_engine_along(tmp_path: Path, tiny_model: Path, scratch: Path) -> None:
    owner = own_the_engine(tmp_path, tiny_model, "work")
    assert owner.stdout is not None
    assert owner.stdout.readline() == "running\n"
    processes = children(owner.pid)
    assert len(processes) >= 2
    time.sleep(1.0)
    assert any(path.is_socket() for path in scratch.glob("ttc-*/*"))
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert wait_gone(processes, 10.0) == []
    assert left_in(scratch) == set()


def test_close_leaves_no_process_and_says_nothing(tmp_path: Path, tiny_model: Path, scratch: Path) -> None:
    owner = own_the_engine(tmp_path, tiny_model, "close")
    assert owner.stdout is not None
    assert owner.stdout.readline() == "running\n"
    processes = children(owner.pid)
    out, err = owner.communicate(timeout=60)
    assert wait_gone(processes, 1.0) == []
    assert owner.returncode == 0
    assert out == f"EngineError the engine {tiny_model.name!r} was closed\n"
    assert err == ""
    assert left_in(scratch) == set()


def test_a_killed_core_fails_every_call_within_seconds(tiny_model: Path, loop: EngineLoop) -> None:
    engine = VLLMEngine(VLLMOptions(model=str(tiny_model), kv_cache_gib=0.25))
    before = set(children(os.getpid()))
    request = GenRequest("p", Prompt((), (1, 2, 3)), Sampling(), 400, 1, 0)

    async def work() -> list[str]:
        calls = [asyncio.ensure_future(engine.generate([request])) for _ in range(100)]
        await asyncio.sleep(0.5)
        core = next(p for p in psutil.Process().children() if p not in before and p in children(os.getpid()))
        core.kill()
        told = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
        told.append((await asyncio.gather(engine.generate([request]), return_exceptions=True))[0])
        failed = [error for error in told if not isinstance(error, list)]
        assert all(isinstance(error, EngineError) and not error.retryable for error in failed)
        return [str(error) for error in failed]

    loop.run(engine.start(), timeout_s=300)
    started = [p for p in children(os.getpid()) if p not in before]
    messages = loop.run(work())
    assert len(messages) > 1
    assert all(f"the engine {tiny_model.name!r} died" in message and "\n" not in message for message in messages)
    loop.run(engine.close())
    assert wait_gone(started, 1.0) == []
    with pytest.raises(EngineError):
        loop.run(engine.generate([request]))


def test_a_failed_start_names_the_cause_and_leaves_nothing(
    tiny_model: Path, loop: EngineLoop, capfd: pytest.CaptureFixture[str]
) -> None:
    # Too small for one sequence: the core finds out after it has started.
    engine = VLLMEngine(VLLMOptions(model=str(tiny_model), kv_cache_gib=0.0001))
    before = set(children(os.getpid()))
    with pytest.raises(EngineError, match="KV cache") as told:
        loop.run(engine.start(), timeout_s=300)
    assert "initialization failed" not in told.value.message
    assert "\n" not in told.value.message
    assert "max_model_len" in told.value.hint
    assert set(children(os.getpid())) <= before
    assert "Traceback" not in capfd.readouterr().err


def test_a_cancelled_start_leaves_nothing(tiny_model: Path, loop: EngineLoop) -> None:
    engine = VLLMEngine(VLLMOptions(model=str(tiny_model), kv_cache_gib=0.25))
    before = set(children(os.getpid()))

    async def cancel() -> list[psutil.Process]:
        task = asyncio.ensure_future(engine.start())
        while not (started := [p for p in children(os.getpid()) if p not in before]):
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return started

    started = loop.run(cancel(), timeout_s=120)
    assert wait_gone(started, 1.0) == []
    assert set(children(os.getpid())) <= before


def test_settings_vllm_refuses_fail_before_a_process_starts(tiny_model: Path, loop: EngineLoop) -> None:
    engine = VLLMEngine(VLLMOptions(model=str(tiny_model), max_model_len=100_000))
    with pytest.raises(EngineError, match="max_model_len") as told:
        loop.run(engine.start(), timeout_s=120)
    assert "\n" not in told.value.message
