"""The processes vLLM starts: they end with their owner, keep their output to themselves, and leave none behind.

Not covered: worker processes on other machines, and vLLM processes started by `fork` (a user who sets
`VLLM_WORKER_MULTIPROC_METHOD=fork` gives up the protection against a killed owner).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import BinaryIO

import psutil

from ttc.core.spawning import without_main
from ttc.engines.vllm_profile import restored_environment

_LAUNCHER = Path(__file__).with_name("vllm_launch.sh")
_ERROR_LINE = re.compile(r"(?:^|[\s\]])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)): (\S.*)$")
_SYMPTOMS = re.compile(
    "initialization failed|See (root cause|stack trace)|EngineCore encountered|cancelled|Executor failed", re.IGNORECASE
)
_LOG_TAIL_BYTES = 1 << 20
_spawning = threading.Lock()


class CoreProcesses:
    """Every process of one engine: start them inside `launching`, read why they died, end them all.

    Each core leads a process group of its own, which its workers are in: that is how they are found.
    """

    def __init__(self, *, capture: bool) -> None:
        self.capture = capture
        self._folder: Path | None = None
        """Of all files of the processes: vLLM leaves sockets, and when killed others."""
        self._log: BinaryIO | None = None
        """Held open: it is read when the processes are dead, and their folder with them."""
        self._others: set[int] | None = None
        """Children that were there before; None but while launching, when new ones are ours."""
        self._groups: set[int] = set()

    @contextlib.contextmanager
    def launching(self) -> Iterator[None]:
        """Send what is spawned inside through the launcher.

        The calling thread must outlive the processes: the kernel ends them when that thread ends.
        """
        with _spawning:
            # A short name: a socket's path may have 104 bytes on some systems.
            folder = Path(tempfile.mkdtemp(prefix="ttc-", dir=os.environ.get("VLLM_RPC_BASE_PATH")))
            self._folder = folder
            self._log = (folder / "log").open("xb+")
            variables = {
                "TTC_ENGINE_OWNER": str(os.getpid()),
                "TTC_ENGINE_PYTHON": sys.executable,
                "TTC_ENGINE_FOLDER": str(folder),
                "TTC_ENGINE_LOG": str(folder / "log") if self.capture else "",
                "VLLM_RPC_BASE_PATH": str(folder),
                # Where PyTorch keeps what it compiled: it stays for the next start.
                "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR")
                or str(Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}"),
            }
            resource_tracker.ensure_running()  # shared by the whole program, so not through the launcher
            self._others = {child.pid for child in psutil.Process().children()}
            plain = multiprocessing.spawn.get_executable()
            if os.access(_LAUNCHER, os.X_OK):
                multiprocessing.spawn.set_executable(str(_LAUNCHER))
            try:
                with restored_environment(), without_main():
                    os.environ.update(variables)
                    yield
            finally:
                multiprocessing.spawn.set_executable(plain)
                self._find_groups()
                self._others = None

    def root_cause(self) -> str:
        """Return the line that says why a process failed, or an empty string where none says it."""
        if self._log is None:
            return ""
        self._log.seek(max(0, os.fstat(self._log.fileno()).st_size - _LOG_TAIL_BYTES))
        lines = self._log.read().decode(errors="replace").splitlines()
        found = (_ERROR_LINE.search(line.rstrip()) for line in lines)
        causes = [f"{match[1].rpartition('.')[2]}: {match[2]}" for match in found if match is not None]
        return next((cause for cause in causes if not _SYMPTOMS.search(cause)), "")

    def kill(self) -> None:
        """End every process at once, those still starting included."""
        self._find_groups()
        members = [process for process in psutil.process_iter() if _group(process.pid) in self._groups]
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        psutil.wait_procs(members, timeout=5.0)
        multiprocessing.active_children()  # collects the exit codes of those that are our own children
        self._groups.clear()

    def end(self) -> None:
        """End what is left of the processes and forget their files. Doing it twice is no error."""
        self.kill()
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _find_groups(self) -> None:
        if self._others is None:
            return
        for child in psutil.Process().children():
            if child.pid not in self._others and _group(child.pid) == child.pid and _is_core(child):
                self._groups.add(child.pid)


def _is_core(process: psutil.Process) -> bool:
    # vLLM's processes soon write a title of their own over their command.
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "multiprocessing" in command or command.startswith(os.environ.get("VLLM_PROCESS_NAME_PREFIX", "VLLM"))


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
