"""`ttc solve`: one question, one strategy, one budget."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("solve")(solve)


def solve(
    question: Annotated[str, typer.Argument(help="The question.")],
    strategy: Annotated[str, typer.Option(help="Registered name or file.py:Class.")] = "self-consistency",
    budget: Annotated[int, typer.Option(help="Completion tokens to spend at most.")] = 2048,
    model: Annotated[str | None, typer.Option(help="embedded, hub name, folder, http://HOST/v1#NAME, or fake.")] = None,
    prm: Annotated[str | None, typer.Option(help="Process reward model.")] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Cap of one completion, in tokens.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Answer one question and show what the candidates were."""
    from ttc.api import solve_question
    from ttc.core.errors import EngineError
    from ttc.core.specs import parse_config

    config = parse_config(
        {
            "models": [model] if model is not None else [],
            "prm": prm,
            "strategies": [strategy],
            "budgets": [budget],
            "sampling": {"temperature": temperature, "max_tokens": max_tokens},
            "seed": seed,
        },
        "command line",
    )
    row = solve_question(config, question)
    if row["status"] == "error":
        raise EngineError(row.get("error", "the problem failed"))
    typer.echo(row["answer"] if row["answer"] is not None else "no answer")
    typer.echo(
        f"{row['status']}, stopped: {row['stop_reason']}, {row['completion_tokens']:g} of {budget} tokens,"
        f" {len(row['candidates'])} candidates",
        err=True,
    )
    for candidate in row["candidates"]:
        typer.echo(
            f"  {candidate['completion_tokens']:5} tokens  {candidate['finish']:6}  {candidate['answer']}", err=True
        )
