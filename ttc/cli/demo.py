"""`ttc demo`: the main job on what is shipped, live, in minutes and without a download."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from ttc.cli.fit import fit
from ttc.cli.report import leaderboard
from ttc.cli.sweep import Display, command_line, tell_result

TASKS = ("arithmetic", "countdown")
BUDGETS = (64, 128, 256, 512)
PROBLEMS = 10
"""Of each task, their difficulties in turn: what fits a few minutes on two cores."""
LIVE_ALLOCATORS = ("knapsack", "sequential")
"""With self-consistency, told by the shipped predictor."""
CHOSEN_FROM = ("self-consistency", "early-stopping-consistency")
"""The strategies that compute-optimal has a choice of; the other allocators run with the first."""
TEMPERATURES = (0.7, 1.0)
"""Of the bank that is recorded: two configurations, so that mixing and routing have a choice."""
BANK_PROBLEMS = 40
"""In either half of it: those that a predictor learns from, and those it is asked about."""
BANK_SAMPLES = 16
BANK_DRAWS = 4
BANK_BUDGETS = (50, 100, 200, 400)
RECORDED_BUDGETS = (256, 512, 1024, 2048)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the runs, bank, predictor and page.")] = Path("results/demo"),
    display: Annotated[Display, typer.Option(help="How progress is shown.")] = Display.auto,
) -> None:
    """Run every strategy on the shipped models through vLLM, every allocator on a bank recorded now, and report.

    The same command resumes it. Where vLLM is not installed, a shipped bank is replayed instead.
    """
    if find_spec("vllm") is None:
        tell_result(_run(_recorded(), out / "recorded", display), display)
        return
    runs = [_run(_live(), out / "strategies", display)]
    learnt, asked = _banks(out, display)
    if not (out / "predictor" / "predictor.json").is_file():
        typer.echo("fitting a predictor on half of the bank", err=True)
        fit([learnt], out / "predictor", ",".join(CHOSEN_FROM), "text", BANK_DRAWS, as_json=display is Display.json)
    runs.append(_run(_on_bank(asked, out / "predictor"), out / "allocators", display))
    if display is Display.json:
        typer.echo(json.dumps({"runs": [str(run) for run in runs]}))
    else:
        leaderboard(runs, out / "report")


def _run(config: dict[str, Any], out: Path, display: Display) -> Path:
    from ttc.api import make_plan, run_plan
    from ttc.cli.progress import make_observer

    plan = make_plan(config)
    with make_observer(display.value, plan.cells) as observer:
        return run_plan(plan, out, observer, command_line()).path


def _banks(out: Path, display: Display) -> tuple[Path, Path]:
    """Record a bank, and return its halves: the problems to learn from, and those to ask about."""
    from ttc.api import EMBEDDED_MAX_TOKENS, collect_bank, make_plan
    from ttc.cli.progress import make_observer
    from ttc.run.collect import collect_config
    from ttc.store.bank import write_bank

    config = {
        "tasks": ["arithmetic"],
        "models": [{"path": "embedded", "temperature": temperature} for temperature in TEMPERATURES],
        "prm": "off",
        "sampling": {"max_tokens": EMBEDDED_MAX_TOKENS},
        "limit": 2 * BANK_PROBLEMS,
        "overlap": True,
    }
    plan = make_plan(collect_config(config, BANK_SAMPLES, EMBEDDED_MAX_TOKENS))
    with make_observer(display.value, plan.cells) as observer:
        bank = collect_bank(plan, out / "bank", observer, command_line())
    learnt = set(plan.cells[0].subject.problem_ids[:BANK_PROBLEMS])
    halves = out / "bank-learnt", out / "bank-asked"
    for half, first in zip(halves, (True, False), strict=True):
        rows = (row for row in bank.rows() if (row.problem_id in learnt) is first)
        write_bank(rows, half, bank.name, replace=True)
    return halves


def _on_bank(bank: Path, predictor: Path) -> dict[str, Any]:
    from ttc.core import registry

    return {
        "bank": bank,
        "predictor": predictor,
        "draws": BANK_DRAWS,
        "strategies": [CHOSEN_FROM[0]],
        "allocators": [name for name in registry.names("allocators") if name != "compute-optimal"],
        "budgets": BANK_BUDGETS,
        "also": [{"strategies": CHOSEN_FROM, "allocators": ["compute-optimal"]}],
    }


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
    config = {"bank": bank, "strategies": ["self-consistency"], "budgets": RECORDED_BUDGETS}
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
