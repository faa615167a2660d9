"""`ttc sweep`: the main job."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttc.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from ttc.core.specs import SweepConfig
    from ttc.engines.ray_cluster import RayOptions
    from ttc.result import RunResult
    from ttc.run.sweep import Plan

RAY = "Hold the models in workers on a Ray cluster: HOST:PORT, auto, or no value to start one here."
RAY_WORKERS = "Workers on it; as many as its GPUs hold, else one a machine."
SANDBOX = "Weakest isolation that code may run in: namespaces, landlock, filter or limits."

TrustConfig = Annotated[
    bool,
    typer.Option(
        "--trust-config",
        help="Let the YAML file run code, write a cache anywhere, send your key to its servers, log to trackers.",
    ),
]


class Display(StrEnum):
    """How progress is shown."""

    auto = "auto"
    rich = "rich"
    plain = "plain"
    json = "json"
    none = "none"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("sweep")(sweep)


def sweep(
    config: Annotated[Path | None, typer.Argument(help="YAML file; flags override its keys.")] = None,
    bank: Annotated[Path | None, typer.Option(help="Replay this bank instead of running a model.")] = None,
    draws: Annotated[int | None, typer.Option(help="Orderings of a bank's samples to average over.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Task name; may be repeated.")] = None,
    data: Annotated[Path | None, typer.Option(help="Local JSONL or Parquet file with the task's rows.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the task's data set.")] = None,
    field: Annotated[list[str] | None, typer.Option(help="Column of --data, as question=COLUMN.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="embedded, hub name, folder, http://HOST/v1#NAME, or fake.")
    ] = None,
    prm: Annotated[
        str | None, typer.Option(help="Process reward model; logprob: the policy's own log-probabilities; off: none.")
    ] = None,
    predictor: Annotated[Path | None, typer.Option(help="Folder that ttc fit wrote: what allocators are told.")] = None,
    strategies: Annotated[str | None, typer.Option(help="Names, separated by commas.")] = None,
    allocators: Annotated[str | None, typer.Option(help="Names, separated by commas.")] = None,
    budgets: Annotated[str | None, typer.Option(help="Mean completion tokens a problem, separated by commas.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Cap of one completion, in tokens.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N problems.")] = None,
    seed: Annotated[int | None, typer.Option(help="Run seed.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, then stop.")] = False,
    overlap: Annotated[
        bool | None, typer.Option("--overlap", help="Run all cells at once; times mean nothing then.")
    ] = None,
    max_errors: Annotated[str | None, typer.Option(help="Failed problems tolerated a cell: 1% or a number.")] = None,
    display: Annotated[Display, typer.Option(help="How progress is shown.")] = Display.auto,
    cache: Annotated[str | None, typer.Option(help="Folder that shares the generation cache, or off.")] = None,
    price: Annotated[str | None, typer.Option(help="Exchange rates into budget tokens: prompt=0.1,reward=0.2.")] = None,
    price_per_mtok: Annotated[
        str | None, typer.Option(help="Price of a million tokens, IN,OUT[,CACHED], for the estimate and the report.")
    ] = None,
    no_text: Annotated[bool | None, typer.Option("--no-text", help="Do not store what the model wrote.")] = None,
    allow_code_execution: Annotated[
        bool | None, typer.Option("--allow-code-execution", help="Let tasks run model-written code in a sandbox.")
    ] = None,
    sandbox: Annotated[str | None, typer.Option(help=SANDBOX)] = None,
    trust_config: TrustConfig = False,
    track: Annotated[
        list[str] | None, typer.Option(help="Also log the run: wandb:PROJECT, mlflow:EXPERIMENT, trackio:PROJECT.")
    ] = None,
    ray: Annotated[str | None, typer.Option("--ray", help=RAY)] = None,
    ray_workers: Annotated[int | None, typer.Option(help=RAY_WORKERS)] = None,
    shard: Annotated[
        str | None, typer.Option(help="Run this part alone, as 1/4: others run the rest in the same --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; the same command resumes it.")] = None,
) -> None:
    """Run strategies x allocators x budgets on a task and a model, or on a bank, and report."""
    from ttc.api import make_plan, run_plan, run_shard
    from ttc.cli.progress import make_observer
    from ttc.run.shards import parse_shard

    part = None if shard is None else parse_shard(shard)
    if part is not None and out is None:
        raise ConfigError(f"--shard {shard} needs --out", "all shards of a run share one folder")
    flags: dict[str, Any] = {
        "bank": bank, "draws": draws, "models": model, "prm": prm, "predictor": predictor, "strategies": strategies,
        "allocators": allocators, "budgets": budgets, "limit": limit, "seed": seed, "overlap": overlap,
        "max_errors": max_errors, "cache": cache, "price": _rates(price), "allow_code_execution": allow_code_execution,
        "store_text": False if no_text else None, "track": track, "price_per_mtok": _price_per_mtok(price_per_mtok),
        "sandbox": sandbox,
    }  # fmt: skip
    drawn = {"temperature": temperature, "max_tokens": max_tokens}
    rows = {"data": data, "split": split, "fields": _pairs(field)}
    asked = merged(file_values(config, trusted=trust_config), flags, drawn, task, rows)
    plan = make_plan(asked, ray_options(ray, ray_workers))
    _announce(plan, dry_run)
    if dry_run:
        return
    with make_observer(display.value, plan.cells, None if part is None else part.parts(plan.cells)) as observer:
        if part is None or out is None:
            run: RunResult | None = run_plan(plan, out, observer, command_line())
        else:
            run = run_shard(plan, part, out, observer, command_line())
    if run is not None:
        tell_result(run.path, display)


def file_values(path: Path | None, *, trusted: bool = False) -> dict[str, Any]:
    """Read the configuration file, which must be right by itself, before flags override it."""
    from ttc.core.specs import parse_config, read_config
    from ttc.core.trust import check_trust

    if path is None:
        return {}
    values = read_config(path)
    parse_config(values, str(path))
    if not trusted:
        check_trust(values, str(path))
    names = {"task": "tasks", "model": "models"}
    return {names.get(key, key): value for key, value in values.items()}


def merged(
    values: dict[str, Any],
    flags: dict[str, Any],
    sampling: dict[str, Any],
    tasks: list[str] | None,
    rows: dict[str, Any],
) -> SweepConfig:
    """Return a file's configuration with the flags that were given; a task takes a bank's place, and the other way round.

    Raises:
        ConfigError: it is none, or flags for one task are given and there are others.
    """
    from ttc.core.specs import parse_config

    values.update({key: value for key, value in flags.items() if value is not None})
    if flags.get("bank") is not None and not tasks:
        values.pop("tasks", None)
    elif tasks and flags.get("bank") is None:
        values.pop("bank", None)
    if drawn := {key: value for key, value in sampling.items() if value is not None}:
        values["sampling"] = {**(values.get("sampling") or {}), **drawn}
    _override_tasks(values, tasks, rows)
    return parse_config(values, "command line")


def _override_tasks(values: dict[str, Any], names: list[str] | None, overrides: dict[str, Any]) -> None:
    """Let --task, --data, --split and --field override the file's tasks."""
    given = {key: value for key, value in overrides.items() if value}
    if names:
        values["tasks"] = [{"name": name} for name in names]
    if given:
        tasks = values.get("tasks") or []
        tasks = tasks if isinstance(tasks, list) else [tasks]
        if len(tasks) != 1:
            raise ConfigError(f"--{next(iter(given))} needs exactly one task, {len(tasks)} are given")
        first = {"name": tasks[0]} if isinstance(tasks[0], str) else dict(tasks[0])
        values["tasks"] = [{**first, **given}]


def _pairs(words: list[str] | None) -> dict[str, str]:
    pairs = {}
    for word in words or []:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"--field {word}: expected question=COLUMN")
        pairs[key] = value
    return pairs


def _rates(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    rates = {}
    for word in text.split(","):
        key, _, value = word.partition("=")
        if key not in ("prompt", "cached", "reward"):
            raise ConfigError(
                f"--price {word}: unknown kind of token {key!r}", did_you_mean(key, ["prompt", "cached", "reward"])
            )
        try:
            rates[key] = float(value)
        except ValueError as error:
            raise ConfigError(f"--price {word}: expected a number after =") from error
    return rates


def _price_per_mtok(text: str | None) -> list[float] | None:
    if text is None:
        return None
    from ttc.report.costs import ANY_MODEL, parse_prices

    price = parse_prices([text]).get(ANY_MODEL)
    if price is None:
        raise ConfigError(
            f"--price-per-mtok {text}: one price for all models is needed here", "ttc report takes one each"
        )
    given = [price.prompt, price.completion, price.cached]
    return [number for number in given if number is not None]


def _announce(plan: Plan, dry_run: bool) -> None:
    """Say on stderr what is about to be spent; in a dry run, list the cells on stdout."""
    from ttc.report.labels import plain
    from ttc.run.projection import of_config, problems_of

    work = of_config(plan.config, plan.cells)
    live = any("live" in cell.subject.capabilities for cell in plan.cells)
    lines = [
        f"{len(plan.cells)} cells on {problems_of(plan.cells)} problems; at most {work.ceiling:,} completion tokens charged"
    ]
    if live:
        lines.append(f"expected to generate about {work.generated:,}, if a sample is half its cap long")
        prices = plan.config.price_per_mtok
        if prices is not None:
            price = (work.prompted * prices[0] + work.generated * prices[1]) / 1e6
            lines.append(f"price: about {price:,.2f}, with about {work.prompted:,} prompt tokens")
        if any(cell.subject.sampling.temperature == 0 for cell in plan.cells):
            lines.append("warning: at temperature 0 all samples of a problem are equal: voting is one vote")
    for bench in plan.benches:
        if level := bench.source.get("sandbox"):
            weak = "" if level in ("namespaces", "landlock") else "warning: "
            lines.append(f"{weak}code that models write for {plain(bench.subject.task)} runs in the sandbox {level!r}")
    for line in dict.fromkeys(lines):
        typer.echo(line, err=not dry_run)
    if dry_run:
        for cell in plan.cells:
            named = (cell.id, cell.subject.task, cell.subject.model, cell.strategy.name, cell.allocator.name)
            typer.echo("  ".join(map(plain, named)) + f"  budget {cell.budget}  total {cell.total_tokens:,}")


def ray_options(address: str | None, workers: int | None) -> RayOptions | None:
    """Return what --ray and --ray-workers ask for. Raises ConfigError where it cannot be."""
    if address is None:
        if workers is not None:
            raise ConfigError("--ray-workers needs --ray", "--ray alone starts a cluster on this machine")
        return None
    from ttc.engines.ray_cluster import RayOptions

    return RayOptions(address or None, workers)


def command_line() -> str:
    """Return how this was asked for, without keys and paths that lead out of the working directory."""
    from ttc.run.manifest import portable_word

    words = []
    for word in sys.argv[1:]:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(flag + equals + portable_word(value))
    return shlex.join(["ttc", *words])


def tell_result(path: Path, display: Display) -> None:
    """Put the result on stdout: the leaderboard, or one JSON object."""
    from ttc.cli.report import tell_run

    if display is Display.json:
        typer.echo(json.dumps({"run": str(path), "report": str(path / "report" / "index.html")}))
        return
    tell_run(path)
    typer.echo(f"report: {path / 'report' / 'index.html'}")
