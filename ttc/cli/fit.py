"""`ttc fit` and `ttc allocate`: predictors of what tokens buy, and splits by them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttc.cli.report import aligned

if TYPE_CHECKING:
    from ttc.core.forecast import Predictor
    from ttc.run.fitting import Allocated


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("fit")(fit)
    app.command("allocate")(allocate)


def fit(
    sources: Annotated[list[Path], typer.Argument(help="Banks, or finished runs under the allocator uniform.")],
    out: Annotated[Path, typer.Option(help="Folder of the predictor.")],
    strategies: Annotated[
        str | None,
        typer.Option(
            help="Names, separated by commas; else coverage and self-consistency of banks, weighted-vote where they have scores."
        ),
    ] = None,
    features: Annotated[
        str, typer.Option(help="What a prompt is known by: text, hidden (states recorded with a bank), or auto: both.")
    ] = "auto",
    draws: Annotated[int, typer.Option(min=1, help="Orderings of a bank's samples to learn from.")] = 16,
    seed: Annotated[int, typer.Option(help="Of folds, orders and trees.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Quality as JSON.")] = False,
) -> None:
    """Train the budget predictor, and say how good it is on problems it has not seen."""
    from ttc.core.errors import ConfigError, StorageError, did_you_mean
    from ttc.run.fitting import Asked, fit_predictor

    known = ("auto", "text", "hidden")
    if features not in known:
        raise ConfigError(f"unknown features {features!r}", did_you_mean(features, known))
    if out.exists() and not (out / "predictor.json").is_file() and any(out.iterdir()):
        raise StorageError(f"{out} holds something else than a predictor", "give another --out")
    names = tuple(name.strip() for name in (strategies or "").split(",") if name.strip())
    asked = Asked(tuple(sources), names, features, draws, seed)
    predictor, allocated = fit_predictor(asked, lambda text: typer.echo(text, err=True))
    kept: Any = predictor  # every kind can be saved; the protocol of those that are asked does not say so
    if hasattr(kept, "report_"):
        kept.report_["allocated"] = [asdict(row) for row in allocated]
    kept.save(out)
    _tell(predictor, allocated, as_json)
    typer.echo(f"predictor: {out}", err=True)


def _tell(predictor: Predictor, allocated: Sequence[Allocated], as_json: bool) -> None:
    report = dict(getattr(predictor, "report_", {}))
    if as_json:
        typer.echo(json.dumps({**report, "allocated": [asdict(row) for row in allocated]}, indent=1))
        return
    for line in getattr(predictor, "notes_", []):
        typer.echo(line)
    quality = report.get("success", [])
    if quality:
        heads = ["Model", "Problems", "Brier", "ECE", "Spearman", "Cost error"]
        rows = [[q["model"], f"{q['problems']:,}", f"{q['brier']:.4f}", f"{q['ece']:.3f}", "-" if q["spearman"] is None else f"{q['spearman']:.2f}",
                 f"{100 * q['cost_error']:.0f} %"] for q in quality]  # fmt: skip
        typer.echo("\n".join(["", "One sample, predicted out of fold:", *aligned([heads, *rows])]))
    heads = ["Strategy", "Model", "Tokens per problem", "Uniform %", "By predictions %", "Oracle %", "Of the gap"]
    table = [
        [row.strategy, row.model, f"{row.tokens_per_problem:,}", *(f"{100 * x:.1f}" for x in (row.uniform, row.predicted, row.oracle)),
         f"{(row.predicted - row.uniform) / (row.oracle - row.uniform):.2f}" if row.oracle > row.uniform else "-"]
        for row in allocated
    ]  # fmt: skip
    if table:
        typer.echo(
            "\n".join(
                ["", "Hard grants by knapsack, out of fold, on the problems learned from:", *aligned([heads, *table])]
            )
        )


def allocate(
    bank: Annotated[Path, typer.Argument(help="Bank whose problems are split over.")],
    predictor: Annotated[Path, typer.Option(help="Folder that ttc fit wrote.")],
    budget: Annotated[int, typer.Option(min=1, help="Mean completion tokens a problem.")],
    out: Annotated[Path, typer.Option(help="Parquet file with a row a problem.")],
    allocator: Annotated[str, typer.Option(help="Name, or file.py:Class.")] = "knapsack",
    strategy: Annotated[str, typer.Option(help="Whose curves.")] = "self-consistency",
    model: Annotated[str | None, typer.Option(help="Configuration of the bank, where it has several.")] = None,
) -> None:
    """Split a token budget over a bank's problems by predictions, before anything is drawn."""
    from ttc.api import make_plan
    from ttc.core.errors import ConfigError
    from ttc.run.forecasting import Forecasts, in_rounds
    from ttc.store.tables import to_table, write_table

    config = {
        "bank": bank, "predictor": predictor, "strategies": strategy, "allocators": allocator, "budgets": [budget],
        "draws": 1, "models": model or [],
    }  # fmt: skip
    plan = make_plan(config)
    if len(plan.cells) > 1:
        raise ConfigError(f"{bank.name} has {len(plan.cells)} configurations", "choose one: --model NAME")
    (cell,), (bench,) = plan.cells, plan.benches
    if in_rounds(cell.allocator.instance):
        raise ConfigError(
            f"{allocator} decides while answers are drawn: there is no split beforehand",
            "run it: ttc sweep --bank BANK --allocators " + allocator + " --predictor PREDICTOR",
        )
    from ttc.run.ledger import Ledger

    problems = bench.problems()
    (granter,) = Forecasts(plan.config, bench).granters(cell, problems, problems, [Ledger(cell.total_tokens)])
    rows = [
        {"cell": cell.id, "problem_id": p.id, "grant_tokens": granter.granted(p), **(granter.told(p) or {})}
        for p in problems
    ]
    write_table(to_table("allocation", rows), out)
    granted = sum(int(row["grant_tokens"]) for row in rows)
    typer.echo(f"{granted:,} of {cell.total_tokens:,} tokens for {len(rows):,} problems: {out}")
