"""Run a sweep from Python: what the command line does, without the terminal."""

from __future__ import annotations

import asyncio
import signal
import warnings
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ttc.core.errors import ConfigError, DataError, TtcError
from ttc.core.identity import identity
from ttc.core.protocols import Dataset, Task
from ttc.core.registry import load
from ttc.core.specs import ModelSpec, SweepConfig, parse_config
from ttc.core.types import Example, Message
from ttc.engines.opening import EMBEDDED, open_engine, open_reward
from ttc.result import RunResult
from ttc.run.bench import Bench, live_bench, make_benches, serve
from ttc.run.collect import check_room, save_rows
from ttc.run.context import World
from ttc.run.features import check_features, hidden_vectors
from ttc.run.forecasting import teller
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.manifest import begin, portable
from ttc.run.plan import DEFAULT_MIN_CALL_TOKENS, Cell, configuration, make_cells, run_name, spec_id
from ttc.run.shards import Shard
from ttc.run.solve import Attempt, record, solve
from ttc.run.sweep import Observer, Plan, run_sweep
from ttc.run.watchdog import watching
from ttc.store.bank import Bank
from ttc.store.env import now
from ttc.store.rundir import RunDir, find_run
from ttc.trackers import find, send

if TYPE_CHECKING:
    from ttc.engines.ray_cluster import RayOptions

T = TypeVar("T")
RESULTS = Path("results")
EMBEDDED_MAX_TOKENS = 192
"""A cap for the shipped policy: the longest solution it learned from. A larger one would only reserve more."""
EMBEDDED_TASKS = {"arithmetic", "countdown"}
"""What the shipped pair was trained on."""


@dataclass(frozen=True, slots=True)
class Silent:
    """An observer that hears everything and passes on warnings only."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def warn(self, text: str) -> None:
        """Make it a warning of Python's."""
        warnings.warn(text, stacklevel=5)

    def cell_started(self, cell: object, done: Sequence[Mapping[str, Any]]) -> None:
        """Ignore it."""

    def tokens(self, count: int) -> None:
        """Ignore it."""

    def problem_finished(self, cell: object, row: Mapping[str, Any]) -> None:
        """Ignore it."""

    def cell_finished(self, cell: object, wall_s: float | None) -> None:
        """Ignore it."""


def make_plan(config: SweepConfig | Mapping[str, Any], ray: RayOptions | None = None) -> Plan:
    """Check a configuration, load its problems and name its cells; no model is started.

    With `ray`, models run on the workers of that cluster. It changes no identity: such a run resumes without, and the
    other way round.

    Raises:
        ConfigError, DataError, EngineError: what was asked for cannot be had.
    """
    config = completed(config if isinstance(config, SweepConfig) else parse_config(config, "configuration"))
    for word in config.track:
        find(word)
    if ray is None:
        benches, min_call_tokens = make_benches(config, open_engine, open_reward(config.prm))
    else:
        from ttc.engines.ray_workers import Fleet

        fleet = Fleet(ray)
        benches, min_call_tokens = make_benches(config, fleet.open_engine, fleet.open_reward(config.prm))
    subjects = [bench.subject for bench in benches]
    return Plan(config, benches, make_cells(config, subjects, min_call_tokens, teller(config, benches)))


def sweep(
    config: SweepConfig | Mapping[str, Any],
    out: Path | str | None = None,
    observer: Observer | None = None,
    command: str = "",
    ray: RayOptions | None = None,
) -> RunResult:
    """Run a sweep, or resume it where the folder holds the same one, and write tables and report.

    Args:
        config: the sweep, as a SweepConfig or as the plain data of its YAML file.
        out: the run folder; None names it under `results/`.
        observer: is told what happens.
        command: how this was asked for, for the record.
        ray: the cluster whose workers hold the models (`ttc.engines.ray_cluster.RayOptions`); None runs them here.

    Raises:
        TtcError: with an exit code; what is finished is kept.
    """
    return run_plan(make_plan(config, ray), out, observer, command)


def completed(config: SweepConfig) -> SweepConfig:
    """Return a configuration with the shipped pair where it names no model and every task is one of the pair's."""
    if not config.models and config.tasks and {task.name for task in config.tasks} <= EMBEDDED_TASKS:
        config = config.model_copy(update={"models": (ModelSpec(path=EMBEDDED),)})
    if config.prm is None and any(model.path == EMBEDDED for model in config.models):
        config = config.model_copy(update={"prm": EMBEDDED})
    shipped = bool(config.models) and all(model.path == EMBEDDED for model in config.models)
    if shipped and config.sampling.max_tokens is None:
        sampling = config.sampling.model_copy(update={"max_tokens": EMBEDDED_MAX_TOKENS})
        config = config.model_copy(update={"sampling": sampling})
    return config


def solve_question(config: SweepConfig, question: str) -> dict[str, Any]:
    """Answer one question by the first strategy, model and budget of a configuration; returns the record.

    Raises:
        TtcError: with an exit code.
    """
    config = completed(config)
    if not config.models:
        raise ConfigError("no model given", "give --model with a hub name, a folder, or http://HOST/v1#NAME")
    task: Task = load("tasks", "local")()
    asked = Message("user", task.prompt_template.replace("{question}", question))
    data = Dataset((Example("question", question, "", (asked,)),), identity(question), {})
    served = serve(config.models[0], open_engine(config.models[0]), open_reward(config.prm))
    bench = live_bench(config, "question", task, data, served)
    cell = make_cells(config, [bench.subject], config.min_call_tokens or DEFAULT_MIN_CALL_TOKENS)[0]
    return asyncio.run(_solve_one(bench, cell, config.problem_timeout_s))


async def _solve_one(bench: Bench, cell: Cell, timeout_s: float) -> dict[str, Any]:
    judge = bench.judge()
    async with AsyncExitStack() as closing:  # whatever fails to close, the others are closed
        closing.push_async_callback(judge.close)
        closing.push_async_callback(bench.engine.close)
        await bench.engine.start()
        if bench.reward is not None:
            closing.push_async_callback(bench.reward.close)
            await bench.reward.start()
        world = World(
            engine=bench.engine,
            reader=judge,
            sampling=cell.subject.sampling,
            seed=cell.seed,
            min_call_tokens=cell.min_call_tokens,
            reward=bench.reward,
            profile=bench.profile,
        )
        (problem,) = bench.problems()
        granter = Fixed(Ledger(cell.total_tokens), {problem.id: cell.budget})
        attempt = Attempt(cell.strategy.instance, problem, (granter,), world, judge, timeout_s)
        with watching(timeout_s):
            return record(attempt, await solve(attempt), store_text=True)


def collect_bank(
    plan: Plan, out: Path, observer: Observer | None = None, command: str = "", features: str | None = None
) -> Bank:
    """Record a bank by a plan of `collect_config`; its run lies in the bank's folder, so that it resumes.

    Args:
        plan: what to draw.
        out: the bank's folder.
        observer: is told what happens.
        command: how this was asked for, for the record.
        features: `hidden` for each problem's hidden state of the model, computed after the samples.

    Raises:
        TtcError: with an exit code; what is finished is kept.
    """
    model, observer = plan.config.models[0], observer or Silent()
    if features is not None:
        check_features(features, model)
    check_room(plan, out)
    run = RunDir(out / "runs" / spec_id(plan.cells))
    try:
        _run(plan, run, observer, command)
        bank = save_rows(plan, run, out)
        _finish(run)
    finally:
        run.close()
    if features is not None:
        for bench in plan.benches:
            config = configuration(bench.subject)
            _until_done(hidden_vectors(bench, model, out, config=config, note=observer.note))
    return bank


def run_plan(
    plan: Plan, out: Path | str | None = None, observer: Observer | None = None, command: str = ""
) -> RunResult:
    """Run a plan that `make_plan` made, and write its tables and report."""
    observer = observer or Silent()
    run_id = spec_id(plan.cells)
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    run = RunDir(Path(out) if out is not None else find_run(RESULTS, run_id, run_name(today, plan.cells, run_id)))
    try:
        try:
            _run(plan, run, observer, command)
        except TtcError:
            if run.locked:
                with suppress(TtcError):  # one that failed before its first record has nothing to report
                    _report(plan, run, observer)
            raise
        _report(plan, run, observer)
        _finish(run)
    finally:
        run.close()
    return RunResult(run)


def run_shard(
    plan: Plan, shard: Shard, out: Path, observer: Observer | None = None, command: str = ""
) -> RunResult | None:
    """Run one shard's part of a plan that `make_plan` made; the last shard to end writes the tables and the report.

    Args:
        plan: the whole sweep, the same for all shards.
        shard: which part of it.
        out: the run folder that all shards share.
        observer: is told what happens.
        command: how this was asked for, for the record.

    Returns:
        The run, None where something of it is still to be done.

    Raises:
        TtcError: with an exit code; what is finished is kept.
    """
    observer, run = observer or Silent(), RunDir(out)
    try:
        _run(plan, run, observer, command, shard)
        if not run.take_whole():
            observer.note(f"shard {shard} is finished; the last one to end writes the report")
            return None
        keys = run.replay(without=("candidates", "trace")).records.keys()
        left = sum((cell.id, pid) not in keys for cell in plan.cells for pid in cell.subject.problem_ids)
        if left:
            observer.note(
                f"shard {shard} is finished; {left:,} problems of other shards are not, and none of them is running"
                " now: run their shards, or the same command without --shard"
            )
            return None
        if run.read_manifest().get("state") != "finished":
            _ended(run)
            _report(plan, run, observer)
            _finish(run)
    finally:
        run.close()
    return RunResult(run)


def _report(plan: Plan, run: RunDir, observer: Observer) -> None:
    """Write tables and report, and hand the run to the trackers."""
    from ttc.report.build import build_report

    build_report(run, rebuild=True)
    words = plan.config.track
    if words:
        observer.note(f"logging the run to {', '.join(words)}")
    for sent in send(words, run.path, run.report):
        (observer.note if sent.failure is None else observer.warn)(sent.line)


def _run(plan: Plan, run: RunDir, observer: Observer, command: str, shard: Shard | None = None) -> None:
    """Open the folder and run what is left of the plan, or of a shard's part; the folder stays locked."""
    run.open_for_writing(
        portable(plan.config), spec_id(plan.cells), None if shard is None else shard.name, observer.note
    )
    with run.setting_up():
        begin(run, plan, command, shard)
    try:
        ran = _until_done(_watched(plan, run, observer, shard))
    except TtcError as error:
        run.log(f"{now()} stopped: {error.message}")
        raise
    if not ran:
        part = "every cell" if shard is None else f"all of shard {shard}"
        observer.note(f"nothing is left to run: {part} in {run.path} is finished")
    if shard is None:
        _ended(run)


def _ended(run: RunDir) -> None:
    """Note when the last problem was done."""
    manifest = run.read_manifest()
    if "finished_at" not in manifest:
        run.write_json("manifest.json", {**manifest, "finished_at": now()})


def _finish(run: RunDir) -> None:
    """Say that nothing is left to do: until then the same command finds this run, whatever the day."""
    manifest = run.read_manifest()
    if manifest.get("state") != "finished":
        run.write_json("manifest.json", {**manifest, "state": "finished"})


async def _watched(plan: Plan, run: RunDir, observer: Observer, shard: Shard | None) -> bool:
    with watching(plan.config.problem_timeout_s):
        return await run_sweep(plan, run, observer, shard)


def _until_done(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGTERM ends it as Ctrl-C does: engines are closed, what is finished is kept."""
    try:
        return asyncio.run(_interruptible(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    # Cancelled, not sent on as SIGINT: a shell script starts its background jobs with that ignored.
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    try:
        if task is not None:
            loop.add_signal_handler(signal.SIGTERM, task.cancel)
    except (NotImplementedError, RuntimeError, ValueError):
        task = None  # not in the main thread: the host program handles signals
    try:
        return await work
    finally:
        if task is not None:
            loop.remove_signal_handler(signal.SIGTERM)


def existing_run(path: Path) -> RunDir:
    """Return a run by its folder, or by its name in `results/`.

    Raises:
        DataError: there is none.
    """
    if not path.exists() and (RESULTS / path).is_dir():
        path = RESULTS / path
    if not path.exists():
        raise DataError(f"no such run: {path}", "ttc ls runs lists the runs of results/")
    return RunDir.existing(path)
