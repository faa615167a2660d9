"""Build a strategy or an allocator from a name and plain parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ttc.core.errors import ConfigError, did_you_mean
from ttc.core.registry import Kind, load

T = TypeVar("T")


def build(kind: Kind, name: str, params: Mapping[str, Any]) -> Any:
    """Return an instance of a registered dataclass with validated parameters.

    Raises:
        ConfigError: unknown name or parameter (with the nearest one), or a value that does not fit.
    """
    cls = load(kind, name)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(f"{name} is not a dataclass", "decorate it with @dataclass: its fields are its parameters")
    return validated(cls, params, name)


def validated(cls: type[T], params: Mapping[str, Any], name: str) -> T:
    """Return an instance of a dataclass; `name` is what messages call it.

    Raises:
        ConfigError: unknown parameter (with the nearest one), or a value that does not fit.
    """
    allowed = {field.name for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in params:
        if key not in allowed:
            raise ConfigError(f"{name} has no parameter {key!r}", did_you_mean(key, allowed))
    try:
        return TypeAdapter(cls).validate_python(dict(params))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{name}: {where}: {first['msg']}, found {first.get('input')!r}") from error


def parameters(instance: Any) -> dict[str, Any]:
    """Return an instance's parameters as plain data."""
    values: dict[str, Any] = dataclasses.asdict(instance)
    return values
