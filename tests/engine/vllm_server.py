"""A real vLLM server of a small model, for the tests of what speaks to one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_START_S = 900.0
_FLAGS = "--dtype float32 --enforce-eager --block-size 32 --kv-cache-memory-bytes 200000000 --host 127.0.0.1"


@contextmanager
def serving(folder: Path, name: str, *flags: str) -> Iterator[str]:
    """Start a server and give its address; it has ended when the context has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not `vllm serve`: that script asks for the metadata of a distribution `vllm`, which the CPU build is not.
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command = [*module, "--model", str(folder), "--served-model-name", name, "--port", str(port), *_FLAGS.split()]
    settings = {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen([*command, *flags], stdout=log, stderr=log, env={**os.environ, **settings})
        try:
            if not _answers(f"http://127.0.0.1:{port}/health", server):
                log.seek(0)
                raise AssertionError(f"the server did not start: {log.read()[-2000:]}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _end(server)


def _answers(url: str, server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return True
        except OSError:
            time.sleep(0.5)
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        server.terminate()
        _, left = psutil.wait_procs(family, timeout=20)
        for process in left:
            process.kill()
    server.wait()
