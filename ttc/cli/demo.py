"""`ttc demo`: the main job on what is shipped, in a minute and without a download."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttc.cli.sweep import Display, command_line, tell_result

if TYPE_CHECKING:
    from ttc.run.plan import Subject

BUDGETS = (256, 512, 1024, 2048)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path | None, typer.Option(help="Run folder; under results/ without it.")] = None,
    display: Annotated[Display, typer.Option(help="How progress is shown.")] = Display.auto,
) -> None:
    """Replay the shipped bank through every strategy it can feed, and report."""
    from ttc.api import make_plan, run_plan
    from ttc.cli.progress import make_observer

    with as_file(files("ttc.embedded") / "gsm8k-bank") as bank:
        config = {"bank": bank, "strategies": ["self-consistency"], "budgets": list(BUDGETS)}
        subject = make_plan(config).cells[0].subject
        plan = make_plan({**config, "strategies": _fed_by(subject)})
        typer.echo(
            f"replaying recorded samples of {subject.model} on {len(subject.problem_ids)} problems:"
            " no model runs here; ttc sweep --model runs one",
            err=True,
        )
        with make_observer(display.value, plan.cells) as observer:
            run = run_plan(plan, out, observer, command_line())
    tell_result(run.path, display)


def _fed_by(subject: Subject) -> list[str]:
    """Return the registered strategies that recorded samples can feed."""
    from ttc.core import registry
    from ttc.core.parameters import build
    from ttc.core.protocols import requirements

    return [
        name for name in registry.names("strategies")
        if requirements(build("strategies", name, {})) <= subject.capabilities
    ]  # fmt: skip
