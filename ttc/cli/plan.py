"""`ttc plan`: what a sweep will take, before any model is had."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttc.cli.sweep import TrustConfig, file_values, merged
from ttc.core.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from ttc.core.specs import SweepConfig
    from ttc.run.plan import Cell
    from ttc.run.projection import Habits, Machine, Projection, Shape, Workload


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("plan")(plan)


def plan(
    config: Annotated[Path | None, typer.Argument(help="YAML file of ttc sweep; flags override its keys.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Task name; may be repeated.")] = None,
    data: Annotated[Path | None, typer.Option(help="Local JSONL or Parquet file with the task's rows.")] = None,
    model: Annotated[str | None, typer.Option(help="What the sweep will run; it need not be here.")] = None,
    strategies: Annotated[str | None, typer.Option(help="Names, separated by commas.")] = None,
    budgets: Annotated[str | None, typer.Option(help="Mean completion tokens a problem, separated by commas.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Cap of one completion, in tokens.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N problems.")] = None,
    hardware: Annotated[str | None, typer.Option(help="Accelerator for the roofline and the memory.")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests decoded at once; vLLM's own number without it.")
    ] = None,
    shape: Annotated[Path | None, typer.Option(help="Folder with the model's config.json, or a run of it.")] = None,
    from_run: Annotated[Path | None, typer.Option(help="A finished run: its lengths and its tokens a second.")] = None,
    throughput: Annotated[float | None, typer.Option(help="Measured completion tokens a second.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Price of one accelerator's hour.")] = None,
    trust_config: TrustConfig = False,
) -> None:
    """Estimate the tokens, hours, memory and price of a sweep, and say what was assumed."""
    from ttc.api import completed
    from ttc.run.projection import CONCURRENCY, Machine, of_config, planned_cells, problems_of

    flags = {"models": model and [model], "strategies": strategies, "budgets": budgets, "limit": limit}
    values = file_values(config, trusted=trust_config)
    spec = completed(merged(values, flags, {"max_tokens": max_tokens}, task, {"data": data}))
    cells = planned_cells(spec)
    habits = None if from_run is None else _habits(from_run)
    work = of_config(spec, cells, habits)
    machine = None if hardware is None else Machine(*_hardware(hardware), gpus, concurrency or CONCURRENCY)
    known = _shape(shape, from_run, spec, cells) if machine is not None else None
    projection = _projection(work, machine, known, habits, throughput)
    lines = [
        ("cells", f"{len(cells)} on {problems_of(cells)} problems"),
        *_lines(work, projection, machine, known, gpus),
    ]
    if price_per_hour is not None and not math.isfinite(price_per_hour):
        raise ConfigError(f"a price must be finite, not {price_per_hour:g}")
    if price_per_hour is not None:
        lines.append(("price", f"{projection.price(price_per_hour, gpus):,.2f} at {price_per_hour:g} an hour"))
    for name, value in lines:
        typer.echo(f"{name:28} {value}")
    typer.echo("assumed:")
    for said in projection.assumptions:
        typer.echo(f"- {said}")


def _lines(
    work: Workload, projection: Projection, machine: Machine | None, shape: Shape | None, gpus: int
) -> Iterator[tuple[str, str]]:
    """Yield what is expected as (name, value) texts."""
    from ttc.run.projection import memory

    yield "completion tokens charged", f"at most {work.ceiling:,}, expected {work.charged:,}"
    yield "completion tokens generated", f"expected {work.generated:,}"
    yield "prompt tokens computed", f"expected {work.prefilled:,}"
    yield "time", f"{_duration(projection.seconds)} at {projection.tokens_per_s:,.0f} completion tokens a second"
    if projection.prefill_s:
        yield "of it for prompts", _duration(projection.prefill_s)
    named = "" if machine is None else f" of {machine.name}"
    yield "accelerator hours", f"{projection.seconds / 3600 * gpus:,.3f}{named}"
    if machine is not None and shape is not None:
        held = memory(work, shape, machine)
        yield "weights", f"{held.weights / 1e9:,.3f} GB"
        yield (
            "KV cache",
            f"{held.cache / 1e9:,.3f} GB for {machine.concurrency} sequences of {work.longest:,} tokens;"
            f" {held.fits:,} fit beside the weights in {held.available / 1e9:,.1f} GB",
        )


def _projection(
    work: Workload, machine: Machine | None, shape: Shape | None, habits: Habits | None, throughput: float | None
) -> Projection:
    """Return the time by what is known best: a given throughput, a roofline, a run's own throughput."""
    from ttc.run.projection import by_throughput, roofline

    if throughput is not None:
        return by_throughput(work, throughput, "given")
    if machine is not None and shape is not None:
        return roofline(work, shape, machine)
    if habits is not None and habits.tokens_per_s is not None:
        return by_throughput(work, habits.tokens_per_s, "of the given run, on its machine")
    if habits is not None:
        raise ConfigError(
            "the given run has no times: its samples were shared, recorded or interrupted",
            "run it with --cache off, or give --throughput or --hardware",
        )
    raise ConfigError("nothing says how fast the model is", "give --hardware, --throughput, or --from-run RUN")


def _duration(seconds: float) -> str:
    return f"{seconds:,.1f} s ({seconds / 3600:,.3f} h)"


def _hardware(word: str) -> tuple[str, Any]:
    """Return an accelerator by its name or the beginning of it, whatever the case."""
    from ttc.metrics.compute import HARDWARE

    found = [name for name in HARDWARE if name.lower().startswith(word.lower())]
    if len(found) != 1:
        raise ConfigError(f"unknown hardware {word!r}", did_you_mean(word, HARDWARE))
    return found[0], HARDWARE[found[0]]


def _habits(path: Path) -> Habits:
    from ttc.api import existing_run
    from ttc.result import RunResult
    from ttc.run.projection import habits_of

    run = RunResult(existing_run(path))
    return habits_of(run.records.to_pylist(), run.cells.to_pylist())


def _shape(path: Path | None, from_run: Path | None, spec: SweepConfig, cells: Sequence[Cell]) -> Shape:
    """Return the model's shape: of a given folder or run, of the run that tells its habits, or of the model's own folder.

    Raises:
        ConfigError: it is known nowhere, or there are several models.
    """
    from ttc.engines.fingerprint import count_parameters, quantisation, read_config
    from ttc.engines.opening import EMBEDDED
    from ttc.run.projection import shape_of

    names = list(dict.fromkeys(model.path for model in spec.models))
    if len(names) > 1:
        raise ConfigError(
            f"--hardware is for one model, and there are {len(names)}: {', '.join(names)}",
            "plan each by --model, or give --throughput alone",
        )
    name = names[0]
    run = path or from_run
    recorded = {} if run is None else _shapes_in_run(run)
    own = [recorded[cell.subject.model] for cell in cells if cell.subject.model in recorded]
    if own:
        return own[0]
    if path is not None and recorded:  # given as the shape: of a single model, whatever it is called there
        if len(recorded) > 1:
            raise ConfigError(
                f"{path} is a run of several models, and none is called {cells[0].subject.model}:"
                f" {', '.join(recorded)}",
                "give --shape with the folder of one model, or with a run of it alone",
            )
        return next(iter(recorded.values()))
    if path is None:
        path = Path(str(files("ttc.embedded") / "policy")) if name == EMBEDDED else Path(name).expanduser()
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"the size of {name} is not known: there is no config.json in {path}",
            "give --shape with a folder that holds the model's config.json (its weights need not be there), or a run",
        )
    return shape_of({**read_config(path), "quantization_config": quantisation(path)}, count_parameters(path))


def _shapes_in_run(path: Path) -> dict[str, Shape]:
    """Return the shapes of a run's models by their names; none where the folder is no run."""
    from ttc.api import RESULTS
    from ttc.metrics.compute import AttentionShape
    from ttc.run.projection import Shape
    from ttc.store.rundir import RunDir

    folder = next((p for p in (path, RESULTS / path) if (p / "manifest.json").is_file()), None)
    if folder is None:
        return {}
    shapes = RunDir.existing(folder).read_manifest().get("shapes") or {}
    try:
        return {
            str(name): Shape(
                int(found["parameters"]),
                AttentionShape(*(int(found[key]) for key in ("layers", "query_heads", "kv_heads", "head_dim"))),
            )
            for name, found in shapes.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder}/manifest.json does not hold its models' shapes") from error
