"""Every error a user can meet: one base class, one exit code per kind."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

from ttc.core.types import Usage


class TtcError(Exception):
    """An expected failure, told in one line, with a hint where something can be done.

    Attributes:
        message: what was given and what is allowed.
        hint: what to do about it, or an empty string.
        exit_code: the process's exit code when this reaches the command line.
        retryable: whether the same call may succeed later.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", *, retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retryable = retryable


class ConfigError(TtcError):
    """The request itself is wrong: a flag, a key, a name, a combination."""

    exit_code = 2


class DataError(TtcError):
    """A data set, a bank or a record cannot be read."""

    exit_code = 3


class FailedProblemsError(TtcError):
    """More problems failed than `--max-errors` allows, and the run stopped there."""

    exit_code = 4


class EngineError(TtcError):
    """A model engine cannot start, died, or refused a request.

    `usage` is what the failed call is known to have moved, None where nothing was reported. `fatal` means that
    the engine is gone and every later call would fail as well.
    """

    exit_code = 5

    def __init__(
        self, message: str, hint: str = "", *, retryable: bool = False, usage: Usage | None = None, fatal: bool = False
    ) -> None:
        super().__init__(message, hint, retryable=retryable)
        self.usage = usage
        self.fatal = fatal


class StorageError(TtcError):
    """A run folder cannot be read or written."""

    exit_code = 6


def cannot_write(path: Path, error: OSError) -> StorageError:
    """Return the error of a file or folder that could not be written, with what helps against the cause."""
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "free some space and run the same command again"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        hint = "make it writable, or write to another folder"
    return StorageError(f"cannot write {path}: {error.strerror or error}", hint)


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return a hint that names the nearest allowed name, else all of them."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return "allowed: " + (", ".join(names) if names else "nothing is registered")
