"""Find strategies, allocators, predictors, tasks, engines and trackers by name: entry points, or `file.py:Class`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ttc.core.errors import ConfigError, did_you_mean
from ttc.core.identity import file_sha256, identity

Kind = Literal["strategies", "allocators", "predictors", "tasks", "engines", "trackers"]


@dataclass(frozen=True, slots=True)
class Registered:
    """A name and where it comes from. Nothing is imported until `load`."""

    name: str
    target: str
    distribution: str


@cache
def _entries(kind: Kind) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"ttc.{kind}")}


def names(kind: Kind) -> list[str]:
    """Return the registered names of a kind, sorted."""
    return sorted(_entries(kind))


def registered(kind: Kind) -> list[Registered]:
    """Describe what is registered, without importing it."""
    found = (_entries(kind)[name] for name in names(kind))
    return [Registered(e.name, e.value, e.dist.name if e.dist is not None else "") for e in found]


def load(kind: Kind, name: str) -> Any:
    """Return the object behind a registered name or behind `path/to/file.py:Class`.

    Raises:
        ConfigError: unknown name (with the nearest one), missing file, or missing class.
    """
    if ".py:" in name:
        return _load_file(name)
    entries = _entries(kind)
    if name not in entries:
        singular = {"strategies": "strategy"}.get(kind, kind.removesuffix("s"))
        raise ConfigError(f"unknown {singular} {name!r}", did_you_mean(name, entries))
    try:
        return entries[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot load {kind} {name!r} from {entries[name].value}: {error}") from error


def _load_file(name: str) -> Any:
    file, _, attribute = name.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise ConfigError(f"no such file: {file}", "give path/to/file.py:ClassName")
    # Two files may share a name, and annotations are looked up by module name. Equal content is loaded once: an object
    # of a class that was replaced meanwhile could not be sent to another process.
    module_name = f"ttc_user_{path.stem}_{identity([str(path), file_sha256(path)], 8)}"
    try:
        module = _module(module_name, str(path))
    except Exception as error:  # the user's own file: it may raise anything
        raise ConfigError(f"cannot import {file}: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module_name]
        raise ConfigError(f"{file} has no class {attribute!r}", did_you_mean(attribute, classes))
    return getattr(module, attribute)


def _module(name: str, path: str) -> ModuleType:
    """Return the module of that name, from that file where it is not loaded yet. Raises whatever the file raises."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("Python does not know how to load it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:  # an interrupt as well: a file that did not load whole is not kept; raised again
        del sys.modules[name]
        raise
    _user_files[name] = path
    return module


_user_files: dict[str, str] = {}
"""The files that modules were loaded from, by the modules' names."""


@dataclass(frozen=True, slots=True)
class UserModule:
    """A module that was loaded from a user's file: where this arrives in another process, it is loaded there, too.

    Send it before what the module defines, in one tuple: the parts of a tuple arrive in order.
    """

    name: str
    path: str

    def __reduce__(self) -> tuple[Callable[[str, str], UserModule], tuple[str, str]]:
        return _arrived, (self.name, self.path)


def _arrived(name: str, path: str) -> UserModule:
    _module(name, path)
    return UserModule(name, path)


def user_module(thing: object) -> UserModule | None:
    """Return the user's module that defines an object's class, None where the class can be imported by name."""
    name = type(thing).__module__
    return UserModule(name, _user_files[name]) if name in _user_files else None
