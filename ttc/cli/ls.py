"""`ttc ls`: what is registered, and which runs there are."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from ttc.cli.report import aligned


class Kind(StrEnum):
    """What can be listed."""

    strategies = "strategies"
    allocators = "allocators"
    predictors = "predictors"
    tasks = "tasks"
    engines = "engines"
    trackers = "trackers"
    runs = "runs"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("ls")(ls)


def ls(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects, each with at least `name`.")] = False,
) -> None:
    """List strategies, allocators, predictors, tasks, engines, trackers or runs."""
    rows = _runs() if kind is Kind.runs else _registered(kind)
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif rows:
        for line in aligned([list(rows[0]), *([str(v) for v in row.values()] for row in rows)]):
            typer.echo(line)
    else:
        typer.echo(f"no {kind.value}", err=True)


def _registered(kind: Kind) -> list[dict[str, Any]]:
    from ttc.core import registry

    rows = []
    for entry in registry.registered(kind.value):  # type: ignore[arg-type]
        found = registry.load(kind.value, entry.name)  # type: ignore[arg-type]
        words = (found.__doc__ or "").strip().partition("\n")[0]
        rows.append({"name": entry.name, "about": words, "from": entry.distribution})
    return rows


def _runs() -> list[dict[str, Any]]:
    from ttc.api import RESULTS
    from ttc.core.errors import StorageError
    from ttc.store.rundir import RunDir

    rows = []
    for path in sorted(RESULTS.rglob("manifest.json")):
        try:
            manifest = RunDir(path.parent).read_manifest()
        except StorageError:
            manifest = {"state": "damaged"}
        name = str(path.parent.relative_to(RESULTS))
        rows.append({"name": name, "state": manifest.get("state"), "started_at": manifest.get("started_at")})
    return rows
