"""End a strategy that never gives the event loop back: `while True: pass`, or a loop over calls that grant nothing.

`asyncio.timeout` acts only when the loop runs. A strategy that blocks it also blocks every other problem, so a
timer signal looks in from outside. Works in the main thread of Unix, and only where nobody else uses SIGALRM;
elsewhere `deadline` does nothing. Cannot interrupt a foreign library's call that holds the interpreter.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType

LOOKS_EACH_LIMIT = 4
LONGEST_PAUSE_S = 1.0
RETRY_S = 0.003


class Overdue(BaseException):
    """Raised inside a strategy whose time is up; not an Exception, so that `except Exception` does not keep it."""


class DeadlineError(TimeoutError):
    """A block outlived its `deadline`."""


@dataclass(slots=True)
class _Limit:
    ends: float
    fired: bool = False


# Tasks inherit it: what runs when the signal arrives is known by its context, whichever task it is.
_LIMIT: ContextVar[_Limit | None] = ContextVar("ttc_limit", default=None)


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let `watching` interrupt this block, and all it starts, once it has taken longer.

    Raises:
        DeadlineError: it was interrupted.
    """
    limit = _Limit(time.monotonic() + seconds)
    token = _LIMIT.set(limit)
    try:
        yield
    except (Overdue, BaseExceptionGroup) as error:
        if not limit.fired:
            raise
        raise DeadlineError from error
    finally:
        _LIMIT.reset(token)


def extend(seconds: float) -> None:
    """Move the current block's deadline: it waited for others so long."""
    limit = _LIMIT.get()
    if limit is not None:
        limit.ends += seconds


@contextlib.contextmanager
def watching(limit_s: float) -> Iterator[None]:
    """Look every now and then whether the code that runs has outlived its `deadline`."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGALRM) != signal.SIG_DFL:
        yield
        return
    pause = min(LONGEST_PAUSE_S, limit_s / LOOKS_EACH_LIMIT)

    def look(_signal: int, frame: FrameType | None) -> None:
        limit = _LIMIT.get()
        if limit is None or time.monotonic() < limit.ends:
            return
        if _in_own_code(frame):
            # Metering must not be torn apart in the middle: look again soon.
            signal.setitimer(signal.ITIMER_REAL, RETRY_S, pause)
            return
        limit.fired = True
        raise Overdue

    woken = signal.set_wakeup_fd(-1)
    if woken >= 0:  # an event loop's: while it is kept busy our signals fill its pipe, and that is no news
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGALRM, look)
    signal.siginterrupt(signal.SIGALRM, False)  # system calls of other libraries go on
    signal.setitimer(signal.ITIMER_REAL, pause, pause)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _in_own_code(frame: FrameType | None) -> bool:
    """Say whether this package, or something it called, is running, rather than a strategy or what that called."""
    foreign = False
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] == "ttc":
            return not foreign or (name, frame.f_code.co_name) != ("ttc.run.solve", "_solve_draw")
        if name == "asyncio.events":  # the outermost frame of a task that a strategy started
            return not foreign
        foreign = foreign or not name.startswith(("asyncio", "contextlib"))
        frame = frame.f_back
    return True
