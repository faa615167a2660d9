"""Run model-written Python in a separate process, in the strongest isolation this machine offers.

What holds at every level: limits on address space (each process), on memory (all its processes together, looked at
twenty times a second), CPU time, wall time, file size, number of processes and open files; an environment written from
scratch; no standard input; capped output; a temporary working directory; every process of the program killed at the end.
Root becomes nobody; where nobody cannot read the interpreter, only `namespaces` is offered.

- `namespaces` (Linux with namespaces, by privilege or for ordinary users): besides, a root of its own that holds the
  interpreter, the system's libraries and a small /tmp; no network, no sight of other processes; and a filter of system
  calls (`ttc_evals.sandbox_rules`).
- `landlock` (Linux 6.2 with Landlock): the same files can be read, and only the working directory written; no sockets,
  no signals to other processes, no change to how they run. Other processes' existence cannot be hidden.
- `filter` (Linux): no sockets and no signals, as above. Files are only guarded by the user's permissions.
- `limits`: limits alone. The network is open, files are guarded by permissions, and a program may signal
  processes of its own user.

Limits of all this: the kernel is shared, so a kernel exploit is not contained. Success is reported by a random word
after the last part has run, so no exit and no output can fake it, but program and tests share an interpreter: a program
that is written against this very harness and reads its memory can. A deleted file that is only mapped, or only in a
message between two processes, is not counted (not in `namespaces`, whose file system is small).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import secrets
import selectors
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import psutil

from ttc.core.protocols import Isolation

SandboxStatus = Literal["ok", "failed", "timeout", "memory", "disk", "crashed"]

LEVELS: tuple[Isolation, ...] = ("namespaces", "landlock", "filter", "limits")
"""Strongest first; each holds what the next one does."""
_LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
_REPORT_BYTES = 4096
_TRIES = 3
_START_S = 20.0
"""Allowed for the launcher itself, before the program's own wall time begins."""
_LOOK_S = 0.05
"""How often the memory and the files of a program are looked at."""
_MOST_FILES = 4096
_NOBODY = 65534
_HIDDEN = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)
"""Why a folder cannot be looked into that a program keeps from being looked into."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one program may use, all its processes together."""

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_bytes: int = 1 << 30
    """Also the largest address space of each process."""
    file_bytes: int = 16 << 20
    """Also the largest single file."""
    processes: int = 16
    output_bytes: int = 8192


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """How a program ended.

    ok: its last part ran to the end; failed: it raised or exited before that; timeout: wall or CPU time ran
    out; memory: it ran out of memory; disk: it wrote too much; crashed: a signal ended it. `output` is the end of what it printed.
    """

    status: SandboxStatus
    output: str
    isolation: Isolation


class _NotOfferedError(Exception):
    """The launcher could not set up the isolation it was asked for."""


class _TooSlowError(_NotOfferedError):
    """It did not answer in time, which says nothing about what this machine offers."""


class TooWeakError(OSError):
    """This machine offers no isolation as strong as was asked for."""


def run_program(
    sources: Sequence[str], limits: SandboxLimits | None = None, isolation: Isolation | None = None
) -> SandboxResult:
    """Run parts of a program one after another in one namespace and say how it ended.

    Parts are compiled apart, so that no part can change how the next one parses. Blocks until the end, for at
    most `limits.wall_s` and the time to start. Without `isolation` it is the strongest that works here.

    Raises:
        OSError: the sandbox could not be started, or not in this isolation.
    """
    try:
        return _run(sources, limits or SandboxLimits(), isolation or isolation_level())
    except _NotOfferedError as error:
        raise OSError(f"no program can be run in the isolation {isolation!r}: {error}") from error


def strong_enough(least: Isolation) -> Isolation:
    """Return the strongest isolation that works here.

    Raises:
        TooWeakError: it is weaker than `least`.
        OSError: none works.
    """
    found = isolation_level()
    if LEVELS.index(found) > LEVELS.index(least):
        raise TooWeakError(f"this machine offers the isolation {found!r}, which is weaker than {least!r}")
    return found


@cache
def isolation_level() -> Isolation:
    """Return the strongest isolation that works here, found by trying.

    Raises:
        OSError: not even a plain process could be started.
    """
    reason = ""
    for level in LEVELS:
        works, reason = tried(level)
        if works:
            return level
    raise OSError(f"no program can be run in a sandbox here: {reason or 'the interpreter does not start'}")


@cache
def tried(level: Isolation) -> tuple[bool, str]:
    """Say whether a level works here, and where not, why.

    Raises:
        OSError: it did not answer in time, several times: that is no reason to take a weaker one.
    """
    for _ in range(_TRIES):
        try:
            result = _run(["import heapq, decimal"], SandboxLimits(), level)
        except _TooSlowError:
            continue
        except _NotOfferedError as error:
            return False, str(error)
        if result.status != "timeout":
            return result.status == "ok", result.output
    raise OSError(f"the isolation {level!r} did not answer in time, {_TRIES} times: is this machine overloaded?")


def _run(sources: Sequence[str], limits: SandboxLimits, isolation: Isolation) -> SandboxResult:
    nonce = secrets.token_hex(16)
    job = {
        "sources": list(sources),
        "nonce": nonce,
        "isolation": isolation,
        "memory_bytes": limits.memory_bytes,
        "cpu_s": limits.cpu_s,
        "file_bytes": limits.file_bytes,
        "processes": limits.processes,
    }
    with _folder() as folder:
        if os.geteuid() == 0:
            os.chown(folder, _NOBODY, _NOBODY)  # whom the program runs as
        process, report = _start(folder)
        try:
            _send(process, json.dumps(job).encode())
            # In a root of its own the files lie in a file system of limited size.
            watched = _Watched(process.pid, limits, None if isolation == "namespaces" else folder)
            reported, output, over = _watch(process, report, watched)
        finally:
            _kill(process, whole_tree=isolation != "namespaces")
            os.close(report)
    text = output.decode(errors="replace")
    if not reported.startswith(b"ready\n"):
        if over == "timeout":
            raise _TooSlowError("it did not start in time")
        raise _NotOfferedError(text.strip().rpartition("\n")[2] or "it ended before it began")
    return SandboxResult(over or _status(reported.decode(errors="replace"), nonce), text, isolation)


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """Give a folder that is removed afterwards, however deep a program made it; what cannot be removed stays."""
    folder = tempfile.mkdtemp(prefix="ttc-sandbox-")
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            _remove(Path(folder))


def _remove(folder: Path) -> None:
    """Remove a folder by bringing what is in its folders up to it, level by level: no path is longer than two names."""
    folder.chmod(0o700)
    prefix, number = secrets.token_hex(8), itertools.count()
    while entries := list(folder.iterdir()):
        for entry in entries:
            if not _is_folder(entry):
                entry.unlink()
                continue
            entry.chmod(0o700)
            for inner in list(entry.iterdir()):
                if _is_folder(inner):
                    inner.chmod(0o700)  # else it could not be moved
                inner.rename(folder / f"{prefix}-{next(number)}")
            entry.rmdir()
    folder.rmdir()


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


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


@dataclass(frozen=True, slots=True)
class _Watched:
    """What no limit of the kernel bounds for all processes of a program together."""

    pid: int
    limits: SandboxLimits
    folder: str | None
    """Where it writes, None where its file system is small."""

    def over(self) -> SandboxStatus | None:
        """Say what there is too much of."""
        if _memory(self.pid, self.limits.memory_bytes) > self.limits.memory_bytes:
            return "memory"
        if self.folder is not None and _too_full(self.folder, self.pid, self.limits.file_bytes):
            return "disk"
        return None


def _watch(
    process: subprocess.Popen[bytes], report: int, watched: _Watched
) -> tuple[bytes, bytes, SandboxStatus | None]:
    """Read reports and output until the program's end, one of its limits, or the death of all who could write."""
    if process.stdout is None:
        raise OSError("the sandbox has no standard output")
    output, reported, limits = process.stdout.fileno(), bytearray(), watched.limits
    shown = bytearray()
    deadline = time.monotonic() + limits.wall_s + _START_S
    looked = time.monotonic()
    started = False
    with selectors.DefaultSelector() as selector:
        selector.register(report, selectors.EVENT_READ)
        selector.register(output, selectors.EVENT_READ)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(min(left, _LOOK_S)):
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
            if b"\nexit " in reported or reported.startswith(b"exit "):
                return bytes(reported), _drain(output, shown, limits.output_bytes), None
            if time.monotonic() - looked > _LOOK_S:
                if (over := watched.over()) is not None:
                    return bytes(reported), bytes(shown), over
                looked = time.monotonic()
    return bytes(reported), bytes(shown), None if time.monotonic() < deadline else "timeout"


def _memory(pid: int, enough: int) -> int:
    """Return the bytes that a process and all below it hold; shared ones are only told apart above `enough`."""
    found = [pid, *_below(pid)]
    resident = 0
    for one in found:
        with contextlib.suppress(psutil.Error):
            resident += psutil.Process(one).memory_info().rss
    if resident <= enough or sys.platform != "linux":
        return resident
    return sum(_shared_out(one) for one in found)


def _shared_out(pid: int) -> int:
    """Return a process's memory, shared pages divided among those that share them; 0 where it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except (PermissionError, ProcessLookupError, FileNotFoundError):
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(pid).memory_info().rss)
    return 0


def _below(pid: int) -> list[int]:
    """Return all processes below one, by the kernel's own lists of children where it keeps them."""
    if not Path(f"/proc/{pid}/task/{pid}/children").exists():
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        return []
    found, todo = list[int](), [pid]
    while todo:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for file in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
                children = [int(word) for word in file.read_text(encoding="ascii").split()]
                found += children
                todo += children
    return found


def _too_full(folder: str, pid: int, most_bytes: int) -> bool:
    """Say whether a folder and deleted files that are still open hold more than they may.

    Looks at no more files than are allowed. What keeps itself from being looked at counts as too much.

    Raises:
        OSError: this process cannot look, as where it has no descriptors left.
    """
    count, todo = 0, [folder]
    try:
        size = sum(_deleted([pid, *_below(pid)]).values())
        while todo:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(todo.pop()) as entries:
                for entry in entries:  # what is not found was deleted meanwhile
                    count += 1
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if count > _MOST_FILES or size > most_bytes:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
    except OSError as error:
        if error.errno not in _HIDDEN:
            raise  # nothing that the program did: so nothing is said of it
        return True
    return size > most_bytes


def _deleted(pids: Sequence[int]) -> dict[tuple[int, int], int]:
    """Return the bytes of files without a name that processes hold open.

    Raises:
        PermissionError: a process of this user does not let its files be seen.
    """
    found = dict[tuple[int, int], int]()
    for pid in pids:
        try:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), os.scandir(f"/proc/{pid}/fd") as files:
                for file in files:
                    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                        seen = file.stat()
                        if seen.st_nlink == 0 and stat.S_ISREG(seen.st_mode):
                            found[seen.st_dev, seen.st_ino] = seen.st_blocks * 512
        except PermissionError:
            # A process that ends has no memory any more and belongs to root. Root may lack the right to look.
            if os.geteuid() != 0 and not _ending(pid):
                raise
    return found


def _ending(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/statm").read_text(encoding="ascii").startswith("0 ")
    except OSError:
        return True


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
    """Kill the launcher and all below it; in a namespace all else dies with the launcher.

    The launcher goes last: as long as it lives, what loses its parent becomes its child, and is found again.
    """
    deadline = time.monotonic() + _START_S
    while whole_tree and (found := _below(process.pid)) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        # What was killed stays in the list until the launcher has waited for it, which after the end nobody does.
        if all(_ended(pid) for pid in _below(process.pid)):
            break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _status(reported: str, nonce: str) -> SandboxStatus:
    lines = reported.splitlines()
    for line in lines:
        word, _, outcome = line.partition(" ")
        if word == nonce:
            if outcome in {"ok", "memory"}:
                return outcome  # type: ignore[return-value]
            return "failed"
    codes = [int(code) for line in lines if (code := line.removeprefix("exit ")) != line and code.isdecimal()]
    signalled = codes[-1] - 128 if codes else 0
    if signalled == signal.SIGXCPU:
        return "timeout"
    return "crashed" if signalled > 0 else "failed"
