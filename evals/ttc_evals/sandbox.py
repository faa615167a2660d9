"""Run model-written Python in a separate process, in the strongest isolation this machine offers.

What holds at every level: limits on address space (each process), CPU time, wall time, file size, number of
processes and open files; an environment written from scratch; no standard input; capped output; a temporary
working directory; every process of the program killed at the end.

- `namespaces` (Linux with namespaces, by privilege or for ordinary users): besides, no network (not even the
  loopback of the machine), no sight of other processes, every file read-only, and the home, /tmp, /run and
  /proc hidden, except for the interpreter. Root becomes nobody.
- `network`: as above, but files are only guarded by the user's permissions.
- `limits`: limits alone. The network is open, files are guarded by permissions, and a program may signal
  processes of its own user. Root becomes nobody; where that user cannot read the interpreter, nothing is run.

Limits of all this: the kernel is shared, so a kernel exploit is not contained. Files outside of the hidden
folders can be read. Success is reported by a random word after the last part has run, so no exit and no
output can fake it, but program and tests share an interpreter: a program that is written against this very
harness and reads its memory can.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import psutil

Isolation = Literal["namespaces", "network", "limits"]
SandboxStatus = Literal["ok", "failed", "timeout", "memory", "crashed"]

_LEVELS: tuple[Isolation, ...] = ("namespaces", "network", "limits")
_LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
_REPORT_BYTES = 4096
_START_S = 10.0
"""Allowed for the launcher itself, before the program's own wall time begins."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one program may use. Memory counts for each of its processes."""

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    """Largest single file; with its own file system also the room for all files together."""
    processes: int = 16
    output_bytes: int = 8192


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """How a program ended.

    ok: its last part ran to the end; failed: it raised or exited before that; timeout: wall or CPU time ran
    out; memory: it ran out of memory; crashed: a signal ended it. `output` is the end of what it printed.
    """

    status: SandboxStatus
    output: str
    isolation: Isolation


class _NotOfferedError(Exception):
    """The launcher could not set up the isolation it was asked for."""


def run_program(sources: Sequence[str], limits: SandboxLimits | None = None) -> SandboxResult:
    """Run parts of a program one after another in one namespace and say how it ended.

    Parts are compiled apart, so that no part can change how the next one parses. Blocks until the end, for at
    most `limits.wall_s` and the time to start.

    Raises:
        OSError: the sandbox itself could not be started.
    """
    return _run(sources, limits or SandboxLimits(), isolation_level())


@cache
def isolation_level() -> Isolation:
    """Return the strongest isolation that works here, found by trying.

    Raises:
        OSError: not even a plain process could be started.
    """
    reason = ""
    for level in _LEVELS:
        try:
            if _run(["import heapq, decimal"], SandboxLimits(), level).status == "ok":
                return level
        except _NotOfferedError as error:
            reason = str(error)
    raise OSError(f"no program can be run in a sandbox here: {reason or 'the interpreter does not start'}")


def _run(sources: Sequence[str], limits: SandboxLimits, isolation: Isolation) -> SandboxResult:
    nonce = secrets.token_hex(16)
    job = {
        "sources": list(sources),
        "nonce": nonce,
        "isolation": isolation,
        "home": str(Path("~").expanduser()),
        "memory_bytes": limits.memory_bytes,
        "cpu_s": limits.cpu_s,
        "file_bytes": limits.file_bytes,
        "processes": limits.processes,
    }
    with tempfile.TemporaryDirectory(prefix="ttc-sandbox-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)  # the program may run as another user
        process, report = _start(folder)
        try:
            _send(process, json.dumps(job).encode())
            reported, output, in_time = _watch(process, report, limits)
        finally:
            _kill(process, whole_tree=isolation == "limits")
            os.close(report)
    text = output.decode(errors="replace")
    if not reported.startswith(b"ready\n"):
        raise _NotOfferedError(text.strip().rpartition("\n")[2])
    return SandboxResult(_status(reported.decode(errors="replace"), nonce, in_time=in_time), text, isolation)


def _start(folder: str) -> tuple[subprocess.Popen[bytes], int]:
    reader, writer = os.pipe()
    # -s -P and this environment are what -I gives, but -I would also ignore the fixed hash seed: without it a
    # program that prints a set could pass on one day and fail on the next.
    command = [sys.executable, "-s", "-P", "-B", str(_LAUNCHER), str(writer)]
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            pass_fds=(writer,),
            start_new_session=True,
        )
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return process, reader


def _send(process: subprocess.Popen[bytes], job: bytes) -> None:
    if process.stdin is None:
        raise OSError("the sandbox has no standard input")
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(job)


def _watch(process: subprocess.Popen[bytes], report: int, limits: SandboxLimits) -> tuple[bytes, bytes, bool]:
    """Read reports and output until the program's end, its time limit, or the death of all who could write."""
    if process.stdout is None:
        raise OSError("the sandbox has no standard output")
    output, reported = process.stdout.fileno(), bytearray()
    shown = bytearray()
    deadline = time.monotonic() + limits.wall_s + _START_S
    started = False
    with selectors.DefaultSelector() as selector:
        selector.register(report, selectors.EVENT_READ)
        selector.register(output, selectors.EVENT_READ)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                block = os.read(key.fd, 1 << 16)
                if not block:
                    selector.unregister(key.fd)
                elif key.fd == output:
                    shown += block
                    del shown[: -limits.output_bytes]
                else:
                    reported += block[: _REPORT_BYTES - len(reported)]
            if not started and reported:
                started, deadline = True, time.monotonic() + limits.wall_s
            if b"\nexit " in reported:
                return bytes(reported), _drain(output, shown, limits.output_bytes), True
    return bytes(reported), bytes(shown), time.monotonic() < deadline


def _drain(output: int, shown: bytearray, cap: int) -> bytes:
    """Add what is already in the pipe; whoever still holds its other end is about to be killed."""
    os.set_blocking(output, False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(64):
            block = os.read(output, 1 << 16)
            if not block:
                break
            shown += block
    return bytes(shown[-cap:])


def _kill(process: subprocess.Popen[bytes], *, whole_tree: bool) -> None:
    """Kill the launcher, its group, and what left the group; in a namespace all else dies with the launcher."""
    if whole_tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _status(reported: str, nonce: str, *, in_time: bool) -> SandboxStatus:
    lines = reported.splitlines()
    for line in lines:
        word, _, outcome = line.partition(" ")
        if word == nonce:
            if outcome in {"ok", "memory"}:
                return outcome  # type: ignore[return-value]
            return "failed"
    if not in_time:
        return "timeout"
    codes = [int(code) for line in lines if (code := line.removeprefix("exit ")) != line and code.isdecimal()]
    signalled = codes[-1] - 128 if codes else 0
    if signalled == signal.SIGXCPU:
        return "timeout"
    return "crashed" if signalled > 0 else "failed"
