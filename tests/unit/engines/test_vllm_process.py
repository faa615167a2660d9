"""What the launcher promises of the processes it starts, without vLLM: they and their own children end with the owner."""

import signal
import subprocess
import sys

import psutil
import pytest

from ttc.testing.breaking import left_running

CORE = """
import subprocess, sys

def core(end):
    # As an engine does whose worker still imports: it has started a child, which looks after nobody.
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    end.send(worker.pid)
    end.recv()
"""
OWNER = """
import multiprocessing, sys, time
from concurrent.futures import ThreadPoolExecutor
from cores import core
from ttc.engines.vllm_process import CoreProcesses

def launch(processes):
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    with processes.launching():
        started = context.Process(target=core, args=(other,))
        started.start()
        worker = own.recv()
    return started, own, worker

processes, thread = CoreProcesses(capture=True), ThreadPoolExecutor(1)
started, own, worker = thread.submit(launch, processes).result()
print(started.pid, worker, flush=True)
if sys.argv[1] == "core leaves":
    own.send("end")
    started.join()
    print("left", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("who", ["owner killed", "core killed", "core leaves"])
def test_an_engine_takes_its_children_and_its_files_along(tmp_path, who, monkeypatch):
    (tmp_path / "files").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "files"))
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    (tmp_path / "cores.py").write_text(CORE)
    with subprocess.Popen(
        [sys.executable, str(script), who], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as owner:
        core, worker = map(int, owner.stdout.readline().split())
        try:
            if who == "owner killed":
                owner.kill()
                assert left_running(owner.pid, within_s=60) == []
                assert list((tmp_path / "files").iterdir()) == []
                return
            assert len(list((tmp_path / "files").glob("ttc-*/log"))) == 1
            if who == "core killed":
                subprocess.run(["kill", "-9", str(core)], check=True)
            else:
                assert owner.stdout.readline() == "left\n"
            assert gone(worker)
        finally:
            owner.send_signal(signal.SIGKILL)
    assert left_running(owner.pid, within_s=60) == []
    assert list((tmp_path / "files").iterdir()) == []


def gone(pid):
    try:
        psutil.Process(pid).wait(timeout=60)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True
