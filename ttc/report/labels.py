"""What a cell is called for readers: the strategy, and what tells it from its namesakes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

from ttc.core.errors import ConfigError
from ttc.core.registry import Kind, load, names

Row = Mapping[str, Any]
Series = tuple[str, str, str, str]


def series_of(cell: Row) -> Series:
    """Return what one curve has in common: strategy and allocator with their parameters."""
    return (cell["strategy"], cell["strategy_params"], cell["allocator"], cell["allocator_params"])


def strategy_labels(cells: Iterable[Row]) -> dict[str, str]:
    """Return a label for each cell id, such as `best-of-n (select=logprob)`, `coverage (oracle)`.

    Shown are parameters that differ from the strategy's defaults, and those in which strategies of one name
    differ; of one that holds others only those of them. A default of `auto` is thus always shown as what was used.
    """
    rows = list(cells)
    shown = _distinguished("strategies", ((row["strategy"], row["strategy_params"]) for row in rows))
    oracle = {True: " (oracle)", False: ""}
    return {row["cell"]: shown[row["strategy"], row["strategy_params"]] + oracle[bool(row["oracle"])] for row in rows}


def allocator_labels(cells: Iterable[Row]) -> dict[str, str]:
    """Return an allocator label for each cell id, by the same rule."""
    rows = list(cells)
    shown = _distinguished("allocators", ((row["allocator"], row["allocator_params"]) for row in rows))
    return {row["cell"]: shown[row["allocator"], row["allocator_params"]] for row in rows}


def plain(text: object) -> str:
    """Return text on one line, with unprintable characters (controls, direction marks) made visible."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def _distinguished(kind: Kind, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    variants: dict[str, dict[str, dict[str, Any]]] = {}
    for name, params in pairs:
        variants.setdefault(name, {})[params] = _parse(params)
    labels: dict[tuple[str, str], str] = {}
    for name, by_text in variants.items():
        keys = sorted({key for params in by_text.values() for key in params})
        usual = _defaults(kind, name)
        differing = [k for k in keys if len({_text(params.get(k)) for params in by_text.values()}) > 1]
        for written, parsed in by_text.items():
            unusual = [key for key in keys if key in usual and parsed.get(key) != usual[key]]
            shown = ", ".join(f"{key}={_text(parsed.get(key))}" for key in sorted({*differing, *unusual}))
            labels[name, written] = plain(f"{name} ({shown})" if shown else name)
    return labels


def _defaults(kind: Kind, name: str) -> dict[str, Any]:
    """Return the default parameters of a registered name; of a user's own class or label none are known.

    Several names joined by `+` have the parameters of each under its name.
    """
    if name in names(kind):
        return _flat(_of_class(kind, name))
    parts = name.split("+")
    if len(parts) > 1 and all(part in names(kind) for part in parts):
        return _flat({part: _of_class(kind, part) for part in parts})
    return {}


def _of_class(kind: Kind, name: str) -> dict[str, Any]:
    try:
        found = fields(load(kind, name))
    except (ConfigError, TypeError):
        return {}
    values = {}
    for field in found:
        if field.default is not MISSING:
            values[field.name] = field.default
        elif field.default_factory is not MISSING:
            values[field.name] = field.default_factory()
    return values


def _parse(params: str) -> dict[str, Any]:
    try:
        value = json.loads(params or "{}")
    except ValueError:
        value = params
    return _flat(value) if isinstance(value, dict) else {"parameters": value}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them, those inside others by a dotted name: one of them may differ alone."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        if isinstance(inner, Mapping) and inner:
            found |= {f"{key}.{name}": part for name, part in _flat(inner).items()}
        else:
            found[key] = list(inner) if isinstance(inner, tuple) else inner
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
