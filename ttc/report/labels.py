"""What a cell is called for readers: the strategy, and what tells it from its namesakes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
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
    differ. A default of `auto` is thus always shown as what was used.
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
    """Return the default parameters of a registered name; of a user's own class or label none are known."""
    if name not in names(kind):
        return {}
    try:
        return {field.name: field.default for field in fields(load(kind, name)) if field.default is not MISSING}
    except (ConfigError, TypeError):
        return {}


def _parse(params: str) -> dict[str, Any]:
    try:
        value = json.loads(params or "{}")
    except ValueError:
        value = params
    return value if isinstance(value, dict) else {"parameters": value}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
