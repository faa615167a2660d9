"""Processes that run nothing of the program that starts them.

A spawned process first runs its parent's main program again. A script without `if __name__ == "__main__"` then starts
itself over, and none of our processes needs it.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import threading
from collections.abc import Iterator
from multiprocessing import context, spawn
from typing import Any

_MARK = "leaves_out_main"
_thread = threading.local()
_lock = threading.Lock()


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Leave the main program out of the processes that this thread spawns inside."""
    _watch()
    before, _thread.without = getattr(_thread, "without", False), True
    try:
        yield
    finally:
        _thread.without = before


def forkserver(needs_main: bool = False) -> multiprocessing.context.BaseContext:
    """Return the context of processes that a server of its own forks, with the main program only where it is needed."""
    return multiprocessing.get_context("forkserver") if needs_main else _WithoutMain()


def _watch() -> None:
    """Have multiprocessing ask which thread it prepares a process for; once, and for good."""
    with _lock:
        if getattr(spawn.get_preparation_data, _MARK, False):
            return
        plain = spawn.get_preparation_data

        @functools.wraps(plain)
        def prepared(name: str) -> dict[str, Any]:
            left_out = ("init_main_from_name", "init_main_from_path") if getattr(_thread, "without", False) else ()
            return {key: value for key, value in plain(name).items() if key not in left_out}

        setattr(prepared, _MARK, True)
        spawn.get_preparation_data = prepared


class _Process(context.ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - multiprocessing's name
        with without_main():
            return context.ForkServerProcess._Popen(process_obj)


class _WithoutMain(context.ForkServerContext):
    Process = _Process
