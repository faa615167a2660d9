"""Run a plan: cells one after another, all problems of a cell at once, one journal line a finished problem."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ttc.core.errors import FailedProblemsError, StorageError
from ttc.core.protocols import Engine, requirements
from ttc.core.specs import SweepConfig, max_errors
from ttc.core.types import Example, Problem
from ttc.engines.cache import CachedEngine
from ttc.engines.joint import Joint
from ttc.engines.replay import ReplayEngine
from ttc.run.bench import Bench
from ttc.run.choices import lacking
from ttc.run.context import Prices, World
from ttc.run.forecasting import Forecasts, dealt_in_halves, recorded
from ttc.run.granting import Fixed
from ttc.run.joining import arranged
from ttc.run.ledger import Ledger
from ttc.run.listening import listening
from ttc.run.plan import Cell
from ttc.run.shards import Shard
from ttc.run.solve import Attempt, Judge, record, solve
from ttc.store.env import now
from ttc.store.journal import JournalWriter
from ttc.store.rundir import RunDir
from ttc.store.tables import to_table, write_table

RESERVED_EVERY_S = 1.0
"""How often the tokens in flight are noted where they changed, so that a crash can be told what it interrupted."""
FIRST_LOOK_S = 0.05
"""When they are noted first, after a cell has begun."""


class Observer(Protocol):
    """Is told what happens; it draws progress, and can stop nothing."""

    def note(self, text: str) -> None:
        """Hear one line about what is going on."""

    def warn(self, text: str) -> None:
        """Hear one line about what went wrong and stops nothing."""

    def cell_started(self, cell: Cell, done: Sequence[Mapping[str, Any]]) -> None:
        """Hear that a cell begins, with the records it already has."""

    def tokens(self, count: int) -> None:
        """Hear that tokens were generated, or served from the cache."""

    def problem_finished(self, cell: Cell, row: Mapping[str, Any]) -> None:
        """Hear of one finished problem."""

    def cell_finished(self, cell: Cell, wall_s: float | None) -> None:
        """Hear that a cell is complete."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep will do: the benches, the cells in order, and the settings they share."""

    config: SweepConfig
    benches: Sequence[Bench]
    cells: Sequence[Cell]


async def run_sweep(plan: Plan, run: RunDir, observer: Observer, shard: Shard | None = None) -> bool:
    """Run every cell that is not finished yet, or a shard's part of it. The run folder is open for writing.

    Returns:
        Whether anything was left to run.

    Raises:
        EngineError: an engine cannot start or died. What is finished is kept.
        FailedProblemsError: more problems failed than the configuration allows.
        StorageError: the journal cannot be written.
    """
    sweep = _Sweep(plan, run, observer, shard)
    if not any(sweep.unfinished(bench) for bench in plan.benches):
        return False
    with run.setting_up():
        run.reopen()
        write_table(to_table("problems", _described(plan)), run.table("problems"))
    with JournalWriter(run.journal, run.shard or "main") as journal:
        sweep.journal = journal
        sweep.tell({"kind": "start", "at": now()})
        for cell in plan.cells:
            if cell.id not in sweep.begun:
                sweep.tell(cell.describe())
        for engine in dict.fromkeys(bench.engine for bench in plan.benches):
            todo = [b for b in plan.benches if b.engine is engine and sweep.unfinished(b)]
            if todo:
                await sweep.run_engine(engine, todo)
    return True


def _described(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield what a reader may know of each problem: its stated difficulty, and its texts where they may be stored.

    The difficulty is the task's own (`difficulty`, else `level`); a task that states none has none here.
    """
    seen: set[tuple[str, str]] = set()
    for bench in plan.benches:
        replayed = [] if bench.examples else bench.problems()  # a bank renders nothing: no engine need run
        for problem in bench.examples or replayed:
            if (bench.subject.task, problem.id) in seen:
                continue
            seen.add((bench.subject.task, problem.id))
            level = problem.meta.get("difficulty", problem.meta.get("level"))
            row = {
                "task": bench.subject.task,
                "problem_id": problem.id,
                "difficulty": float(level) if isinstance(level, int | float) else None,
            }
            if plan.config.store_text and not problem.meta.get("private"):
                row["question"] = problem.question or None
                row["reference"] = problem.gold or None if isinstance(problem, Example) else None
            yield row


class _Sweep:
    """One pass over a plan."""

    journal: JournalWriter

    def __init__(self, plan: Plan, run: RunDir, observer: Observer, shard: Shard | None) -> None:
        self.config, self.cells, self.run, self.observer = plan.config, plan.cells, run, observer
        self.shard = shard
        whole = {cell.id: cell.subject.problem_ids for cell in plan.cells}
        self.mine = whole if shard is None else shard.parts(plan.cells)
        """The problems of each cell that this process runs."""
        replay = run.replay()
        self.done = {key: row for key, row in replay.records.items() if row.get("status") != "error"}
        self.failed_spend = Counter[str]()
        for row in [*replay.retried, *replay.records.values()]:
            # Tried again, but what it spent stays spent: by whom it will be tried.
            if row.get("status") == "error" and row.get("problem_id") in self.mine.get(str(row.get("cell")), ()):
                self.failed_spend[str(row.get("cell"))] += max(row.get("draw_spent") or [0])
        self.vectors: dict[int, Mapping[str, Any]] = {}
        # Every shard's journal tells all cells, so that none must be whole before another one begins; an unshared
        # command speaks for all shards.
        own = replay.events if shard is None else [e for e in replay.events if e.get("shard") in (None, str(shard))]
        self.begun = {str(e["cell"]) for e in own if e.get("kind") == "cell"}
        self.ended = {str(e["cell"]) for e in own if e.get("kind") == "cell_end"}
        for place in replay.damaged:
            observer.note(f"journal {place} is damaged and was left out; its problem runs again")

    def of(self, bench: Bench) -> list[Cell]:
        return [cell for cell in self.cells if cell.subject is bench.subject and cell.id in self.mine]

    def tell(self, event: dict[str, Any]) -> None:
        """Journal what is no record; a shard says which it is."""
        self.journal.append(event if self.shard is None else {**event, "shard": str(self.shard)})

    def finished_rows(self, cell: Cell) -> dict[str, dict[str, Any]]:
        ids = self.mine[cell.id]
        return {pid: self.done[cell.id, pid] for pid in ids if (cell.id, pid) in self.done}

    def unfinished(self, bench: Bench) -> bool:
        return any(
            cell.id not in self.ended or len(self.finished_rows(cell)) < len(self.mine[cell.id])
            for cell in self.of(bench)
        )

    async def run_engine(self, engine: Engine, benches: Sequence[Bench]) -> None:
        """Start one engine, run its cells, and stop it whatever happens."""
        forecasts = {id(bench): await self.forecasts(bench) for bench in benches}
        async with AsyncExitStack() as stack:
            stack.push_async_callback(engine.close)
            self.observer.note(f"starting {engine.label}")
            await engine.start()
            for cell in (cell for bench in benches for cell in self.of(bench)):
                _check_offer(cell, engine)
            for reward in dict.fromkeys(bench.reward for bench in benches if bench.reward is not None):
                stack.push_async_callback(reward.close)
                await reward.start()
            parts = [part for bench in benches for part in (bench, *bench.members)]
            heard = dict.fromkeys(source for part in parts for source in (part.engine, part.reward))
            await stack.enter_async_context(listening(heard, self.tell, self.observer.warn))
            live = "live" in engine.capabilities
            source: Engine = engine
            if live and self.config.cache != "off":
                source = _with_memory(engine, self.run.cache_file(self.config.cache), stack)
            for bench in benches:
                judge = bench.judge()
                stack.push_async_callback(judge.close)
                await self.run_bench(bench, source, judge, forecasts[id(bench)])

    async def forecasts(self, bench: Bench) -> Forecasts:
        """Return what a bench's allocators are told; hidden states are read before the policy takes the memory."""
        members = [await self.forecasts(member) for member in bench.members]
        if id(bench) not in self.vectors:
            self.vectors[id(bench)] = await self.hidden_states(bench)
        return Forecasts(self.config, bench, self.vectors[id(bench)], tuple(members))

    async def hidden_states(self, bench: Bench) -> Mapping[str, Any]:
        """Return each problem's hidden state where a predictor of this model wants it."""
        cells = [cell for cell in self.cells if cell.id in self.mine]
        told = [predictor for cell in cells for subject, predictor in cell.told if subject is bench.subject]
        if not any(predictor.wants_vectors for predictor in told):
            return {}
        if bench.bank is not None:
            return recorded(self.config, bench).vectors or {}
        if bench.spec is None:
            return {}
        from ttc.run.features import hidden_vectors

        vectors, tokens = await hidden_vectors(bench, bench.spec, self.run.own, note=self.observer.note)
        self.tell({"kind": "features", "model": bench.subject.model, "prompt_tokens": tokens})
        return vectors

    async def run_bench(self, bench: Bench, engine: Engine, judge: Judge, forecasts: Forecasts) -> None:
        problems = {p.id: p for p in bench.problems()}
        # The largest budget first: what it draws serves the smaller ones, whereas a sample that a small grant
        # cut short would have to be drawn again.
        cells = sorted(self.of(bench), key=lambda cell: -cell.budget)
        if self.config.overlap:
            await _all_ended([self.run_cell(cell, bench, engine, judge, problems, forecasts) for cell in cells])
        else:
            for cell in cells:
                await self.run_cell(cell, bench, engine, judge, problems, forecasts)

    async def run_cell(
        self,
        cell: Cell,
        bench: Bench,
        engine: Engine,
        judge: Judge,
        problems: Mapping[str, Problem],
        forecasts: Forecasts,
    ) -> None:
        """Run what is left of one cell."""
        done = self.finished_rows(cell)
        mine = self.mine[cell.id]
        if cell.id in self.ended and len(done) == len(mine):
            return
        self.observer.cell_started(cell, list(done.values()))
        totals = [Ledger(cell.total_tokens) for _ in range(cell.subject.draws)]
        for row in done.values():
            for ledger, spent in zip(totals, row["draw_spent"], strict=True):
                ledger.spent += spent
        for ledger in totals:
            ledger.spent = min(ledger.limit, ledger.spent + self.failed_spend[cell.id])
        solvers = dict.fromkeys(problems, cell.strategy.instance)
        if cell.shares:
            split = forecasts.joint_split(cell, list(problems.values()))
            chosen = arranged(cell, split, engine, judge)
            engine, judge, solvers = chosen.engine, chosen.judge, dict(chosen.strategies)
        world = World(
            engine=engine.first_half() if isinstance(engine, ReplayEngine) and dealt_in_halves(cell) else engine,
            reader=judge,
            sampling=cell.subject.sampling,
            seed=cell.seed,
            min_call_tokens=cell.min_call_tokens,
            reward=bench.reward,
            prices=Prices(**cell.price),
            on_tokens=self.observer.tokens,
            profile=bench.profile,
        )
        left = [problems[pid] for pid in mine if pid not in done]
        async with forecasts.lock:  # fitting takes minutes: in a thread, so that the display goes on
            granters = await asyncio.to_thread(forecasts.granters, cell, list(problems.values()), left, totals)
        if self.shard is not None:
            for granter in granters:
                if isinstance(granter, Fixed):
                    granter.only(mine)
        timeout_s = self.config.problem_timeout_s
        attempts = [Attempt(solvers[p.id], p, granters, world, judge, timeout_s) for p in left]
        started = time.perf_counter()
        hits = await self._run_attempts(cell, attempts, totals)
        if over := max(ledger.overdrawn for ledger in totals):
            said = f"cell {cell.id}: calls cost {over:,} tokens more than they reserved: the engine does not keep to max_tokens"
            self.run.log(f"{now()} {said}")
            self.observer.warn(said)
        wall_s: float | None = time.perf_counter() - started
        if hits or self.config.overlap or done or "live" not in engine.capabilities or self.shard is not None:
            # Time means nothing where samples were stored or recorded, cells overlapped, or one was interrupted or shared.
            wall_s = None
        self.tell({"kind": "cell_end", "cell": cell.id, "wall_s": wall_s})
        self.observer.cell_finished(cell, wall_s)

    async def _run_attempts(self, cell: Cell, attempts: Sequence[Attempt], totals: Sequence[Ledger]) -> bool:
        """Run them all at once and journal each as it ends. Returns whether the cache served anything."""
        allowed = max_errors(self.config.max_errors, len(self.mine[cell.id]))
        failed: list[str] = []
        hits = False

        async def one(attempt: Attempt) -> None:
            nonlocal hits
            outcomes = await solve(attempt)
            hits = hits or any(o.meter.cache_hits for o in outcomes)
            row = {"cell": cell.id, **record(attempt, outcomes, self.config.store_text)}
            self.journal.append(row)
            self.observer.problem_finished(cell, row)
            if row["status"] == "error":
                failed.append(f"{attempt.problem.id}: {row.get('error', 'the grader failed')}")
                self.run.log(f"{now()} cell {cell.id} problem {failed[-1]}")
                if len(failed) > allowed:
                    raise FailedProblemsError(
                        f"{len(failed)} problems failed, {self.config.max_errors} are allowed; the last one:"
                        f" {failed[-1]}",
                        "what is finished is kept: mend the cause and run the command again, or raise --max-errors",
                    )
            await asyncio.sleep(0)  # engines that answer at once would never let the display draw

        noting = asyncio.create_task(self._note_in_flight(cell, totals if attempts else ()))
        try:
            await _all_ended([one(attempt) for attempt in attempts])
        finally:
            noting.cancel()
        return hits

    async def _note_in_flight(self, cell: Cell, totals: Sequence[Ledger]) -> None:
        noted, pause = 0, min(FIRST_LOOK_S, RESERVED_EVERY_S)  # a crash may come early
        while totals:
            await asyncio.sleep(pause)
            held, pause = max(ledger.reserved for ledger in totals), RESERVED_EVERY_S
            if held == noted:
                continue
            try:
                self.tell({"kind": "in_flight", "cell": cell.id, "reserved_tokens": held})
            except StorageError:
                return  # the next record meets the same full disk and says so
            noted = held


def _with_memory(engine: Engine, file: Path, stack: AsyncExitStack) -> Engine:
    """Return an engine that draws nothing twice; of several models, each remembers its own samples."""

    def remembering(one: Engine) -> Engine:
        cached = CachedEngine(one, file)
        stack.callback(cached.close_cache)
        return cached

    return engine.over(remembering) if isinstance(engine, Joint) else remembering(engine)


def _check_offer(cell: Cell, engine: Engine) -> None:
    """Refuse a strategy that the started engine cannot serve: a server says only then what it offers."""
    lost = (cell.subject.capabilities - engine.capabilities) - {"reward", "score"}
    for missing in sorted(requirements(cell.strategy.instance) & lost):
        raise lacking(cell.strategy, cell.subject, missing)


async def _all_ended(coroutines: Sequence[Any]) -> None:
    """Run all at once; the first failure cancels the others and is raised alone, once they have ended too."""
    tasks = [asyncio.create_task(c) for c in coroutines]
    if not tasks:
        return
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
