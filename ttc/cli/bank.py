"""`ttc collect` and `ttc import`: banks of recorded samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttc.cli.sweep import RAY, RAY_WORKERS, SANDBOX, Display, command_line, ray_options


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("collect")(collect)
    app.command("import")(import_)


def collect(
    task: Annotated[str, typer.Option(help="Task name.")],
    model: Annotated[str, typer.Option(help="embedded, hub name, folder, http://HOST/v1#NAME, or fake.")],
    n: Annotated[int, typer.Option(min=1, help="Samples a problem.")],
    out: Annotated[Path, typer.Option(help="Bank folder; another model or temperature joins what is there.")],
    data: Annotated[Path | None, typer.Option(help="Local JSONL or Parquet file with the task's rows.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the task's data set.")] = None,
    label: Annotated[str | None, typer.Option(help="What the model is called in the bank.")] = None,
    prm: Annotated[str | None, typer.Option(help="Reward model that scores every sample.")] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Cap of one completion, in tokens.")] = 512,
    seed: Annotated[
        int, typer.Option(help="Run seed; one of its own makes a configuration's samples independent.")
    ] = 0,
    problem_seed: Annotated[
        int | None, typer.Option(help="Seed of problems that are generated; the run seed without it.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N problems.")] = None,
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="Let tasks run model-written code in a sandbox.")
    ] = False,
    sandbox: Annotated[str | None, typer.Option(help=SANDBOX)] = None,
    max_errors: Annotated[str, typer.Option(help="Failed problems tolerated: 1% or a number.")] = "1%",
    cache: Annotated[str | None, typer.Option(help="Folder that shares the generation cache, or off.")] = None,
    features: Annotated[
        str | None, typer.Option(help="What a predictor may see: hidden, the model's last hidden state of each prompt.")
    ] = None,
    ray: Annotated[str | None, typer.Option("--ray", help=RAY)] = None,
    ray_workers: Annotated[int | None, typer.Option(help=RAY_WORKERS)] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Store neither questions nor what the model wrote.")
    ] = False,
    display: Annotated[Display, typer.Option(help="How progress is shown.")] = Display.auto,
) -> None:
    """Record a bank of samples; the same command resumes it."""
    from ttc.api import collect_bank, make_plan
    from ttc.cli.progress import make_observer
    from ttc.core.specs import parse_config
    from ttc.run.collect import collect_config

    sampling = {"temperature": temperature, "max_tokens": max_tokens}
    given = {"data": data, "split": split, "seed": problem_seed}
    config = parse_config(
        collect_config(
            {
                "tasks": [{"name": task, **{key: value for key, value in given.items() if value is not None}}],
                "models": [{"path": model, "label": label}],
                "prm": prm,
                "sampling": sampling,
                "seed": seed,
                "limit": limit,
                "allow_code_execution": allow_code_execution,
                "sandbox": sandbox,
                "max_errors": max_errors,
                "cache": cache,
                "store_text": not no_text,
            },
            n,
            max_tokens,
        ),
        "command line",
    )
    plan = make_plan(config, ray_options(ray, ray_workers))
    typer.echo(f"{len(plan.cells[0].subject.problem_ids)} problems x {n} samples", err=True)
    with make_observer(display.value, plan.cells) as observer:
        bank = collect_bank(plan, out, observer, command_line(), features)
    _tell(bank.name, {config: len(pool) for config, pool in bank.pools.items()}, sum(1 for _ in bank.rows()), out)


def import_(
    rows: Annotated[Path, typer.Argument(help="JSON lines, one sample a line.")],
    out: Annotated[Path, typer.Option(help="Bank folder to make.")],
    task: Annotated[str | None, typer.Option(help="What the task is called; the folder's name without it.")] = None,
) -> None:
    """Make a bank from JSON lines."""
    from ttc.store.bank import import_rows

    bank = import_rows(rows, out, task)
    _tell(bank.name, {config: len(pool) for config, pool in bank.pools.items()}, sum(1 for _ in bank.rows()), out)


def _tell(name: str, problems: dict[str, int], samples: int, out: Path) -> None:
    typer.echo(f"bank {name}: {samples:,} samples in {out}")
    for config, count in problems.items():
        typer.echo(f"  {config}: {count:,} problems")
