"""A Ray cluster to hold models: which one, and how it is joined or started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ttc.core.errors import ConfigError, EngineError

_OBJECTS_BYTES = 80 << 20
"""Object store of a cluster that is started here: messages are small and never stay."""
_LOOK_S = 5.0
_STARTS = 3


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Which cluster, and how many workers on it.

    Raises:
        ConfigError: an address of Ray's client protocol, or no worker at all.
    """

    address: str | None = None
    """HOST:PORT, or `auto` for the one that runs here; None is that of RAY_ADDRESS, else one is started for the run."""
    workers: int | None = None
    """None is as many as the GPUs hold models, and one a machine where there are none."""

    def __post_init__(self) -> None:
        if self.address is not None and "://" in self.address:
            raise ConfigError(f"--ray {self.address}: not an address of a cluster", "give HOST:PORT, auto, or nothing")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--ray-workers must be at least 1, not {self.workers}")


def check_installed() -> None:
    """Import Ray, which sends nothing home unless asked to. Raises ConfigError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ConfigError("Ray is not installed", "pip install 'ttc-toolkit[ray]'") from error


def join_cluster(options: RayOptions) -> None:
    """Join a cluster, or start one here, whose start is tried again: Ray gives up after half a minute.

    Raises:
        EngineError: there is none, or it cannot be started.
    """
    import ray

    address = options.address or os.environ.get("RAY_ADDRESS") or None
    given: dict[str, Any] = {"log_to_driver": False, "logging_level": "critical", "address": address}
    if address is None:
        cores = max(os.cpu_count() or 1, options.workers or 1)
        own = {"address": "local", "num_cpus": cores, "object_store_memory": _OBJECTS_BYTES}
        given |= {**own, "include_dashboard": False}
        # Ray's own is 15: engines would wait for whatever else runs on this machine.
        os.environ.setdefault("RAY_worker_niceness", "0")
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    failure: Exception | None = None
    others = set(psutil.Process().children())
    if address is not None:
        _look_for(address)
    try:
        for _ in range(1 if address is not None else _STARTS):
            try:
                ray.init(**given)
                return
            except SystemExit as error:  # Ray's own answer to SIGTERM
                raise KeyboardInterrupt from error
            except Exception as error:  # noqa: BLE001 - a start that takes too long is a bare Exception
                failure = error
                ray.shutdown()
                _kill_all(_of_ray(set(psutil.Process().children()) - others))  # Ray leaves what it had started
    finally:
        if in_main and before is not None:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own in its place
    where = "start Ray here" if address is None else f"join the Ray cluster at {address}"
    cause = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
    raise EngineError(f"cannot {where}: {cause}", "ray start --head starts one; HOST:6379 is its address") from failure


def _look_for(address: str) -> None:
    """Raise EngineError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or "//" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LOOK_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        cause = f"cannot join the Ray cluster at {address}: {error}"
        raise EngineError(cause, "ray start --head starts one; HOST:6379 is its address") from error


def _of_ray(processes: Collection[psutil.Process]) -> list[psutil.Process]:
    """Return those that run something of Ray's: other threads start processes too."""
    import ray

    folder = str(Path(ray.__file__).parent) + os.sep
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if any(folder in word for word in process.cmdline()):
                found.append(process)
    return found


def _kill_all(processes: Collection[psutil.Process]) -> None:
    """End processes with all that they started."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [*process.children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
    psutil.wait_procs(list(processes), timeout=5.0)
