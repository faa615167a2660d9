"""What a cell is called for readers: the strategy, and what tells it from its namesakes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]
Series = tuple[str, str, str, str]


def series_of(cell: Row) -> Series:
    """Return what one curve has in common: strategy and allocator with their parameters."""
    return (cell["strategy"], cell["strategy_params"], cell["allocator"], cell["allocator_params"])


def strategy_labels(cells: Iterable[Row]) -> dict[str, str]:
    """Return a label for each cell id, such as `best-of-n (select=logprob)`, `coverage (oracle)`.

    Only parameters in which strategies of one name differ are shown.
    """
    rows = list(cells)
    names = _distinguished((row["strategy"], row["strategy_params"]) for row in rows)
    oracle = {True: " (oracle)", False: ""}
    return {row["cell"]: names[row["strategy"], row["strategy_params"]] + oracle[bool(row["oracle"])] for row in rows}


def allocator_labels(cells: Iterable[Row]) -> dict[str, str]:
    """Return an allocator label for each cell id, by the same rule."""
    rows = list(cells)
    names = _distinguished((row["allocator"], row["allocator_params"]) for row in rows)
    return {row["cell"]: names[row["allocator"], row["allocator_params"]] for row in rows}


def plain(text: object) -> str:
    """Return text on one line, with unprintable characters (controls, direction marks) made visible."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def _distinguished(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    variants: dict[str, dict[str, dict[str, Any]]] = {}
    for name, params in pairs:
        variants.setdefault(name, {})[params] = _parse(params)
    labels: dict[tuple[str, str], str] = {}
    for name, by_text in variants.items():
        keys = sorted({key for params in by_text.values() for key in params})
        differing = [k for k in keys if len({_text(params.get(k)) for params in by_text.values()}) > 1]
        for written, parsed in by_text.items():
            shown = ", ".join(f"{key}={_text(parsed.get(key))}" for key in differing)
            labels[name, written] = plain(f"{name} ({shown})" if shown else name)
    return labels


def _parse(params: str) -> dict[str, Any]:
    try:
        value = json.loads(params or "{}")
    except ValueError:
        value = params
    return value if isinstance(value, dict) else {"parameters": value}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
