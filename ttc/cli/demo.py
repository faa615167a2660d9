"""`ttc demo`: the main job on what is shipped, live, in minutes and without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from ttc.cli.sweep import Display, command_line, tell_result

TASKS = ("arithmetic", "countdown")
BUDGETS = (64, 128, 256, 512)
PROBLEMS = 20
"""Of each task, their difficulties in turn: what fits a few minutes on two cores."""
LIVE_ALLOCATORS = ("random", "knapsack", "sequential", "streaming", "binned-policy", "saturation")
"""Each once, with self-consistency, told by the shipped predictor; the others need a bank, or several models."""
BANK_BUDGETS = (256, 512, 1024, 2048)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path | None, typer.Option(help="Run folder; under results/ without it.")] = None,
    display: Annotated[Display, typer.Option(help="How progress is shown.")] = Display.auto,
) -> None:
    """Run every strategy, and allocators with a shipped predictor, on the shipped models through vLLM, and report.

    Where vLLM is not installed, a recorded bank is replayed instead.
    """
    from ttc.api import make_plan, run_plan
    from ttc.cli.progress import make_observer

    config = _live() if find_spec("vllm") is not None else _recorded()
    plan = make_plan(config)
    with make_observer(display.value, plan.cells) as observer:
        run = run_plan(plan, out, observer, command_line())
    tell_result(run.path, display)


def _live() -> dict[str, Any]:
    from ttc.core import registry

    left_out = [] if find_spec("treequest") is not None else ["mcts"]
    if left_out:
        typer.echo("mcts is left out: pip install 'ttc-toolkit[mcts]' adds it", err=True)
    return {
        "tasks": TASKS,
        "strategies": [name for name in registry.names("strategies") if name not in left_out],
        "budgets": BUDGETS,
        "limit": PROBLEMS,
        "overlap": True,
        "also": [{"strategies": ["self-consistency"], "allocators": list(LIVE_ALLOCATORS)}],
    }


def _recorded() -> dict[str, Any]:
    from importlib.resources import files

    from ttc.api import make_plan
    from ttc.core import registry
    from ttc.core.parameters import build
    from ttc.core.protocols import requirements

    bank = Path(str(files("ttc.embedded") / "gsm8k-bank"))
    config = {"bank": bank, "strategies": ["self-consistency"], "budgets": BANK_BUDGETS}
    subject = make_plan(config).cells[0].subject
    typer.echo(
        f"vLLM is not installed: replaying recorded samples of {subject.model} on {len(subject.problem_ids)} problems;"
        " no model runs here",
        err=True,
    )
    fed = [
        name for name in registry.names("strategies")
        if requirements(build("strategies", name, {})) <= subject.capabilities
    ]  # fmt: skip
    return {**config, "strategies": fed}
