"""The same sweep of the shipped pair without Ray, on one worker and on two: equal tables, and what Ray costs.

    python benchmarks/ray_sweep.py [--problems 64] [--rounds 3] [--out FOLDER]

Rounds alternate between no Ray and one worker, each with engines of its own; seconds are those of the cells, so starting
is left out. Then two workers, and two of which one is killed in the middle. The generation cache is off.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttc.api import Silent, make_plan
from ttc.engines.ray_cluster import RayOptions
from ttc.engines.ray_workers import RayEngine
from ttc.run.manifest import portable
from ttc.run.plan import spec_id
from ttc.run.sweep import Plan, run_sweep
from ttc.store.rundir import RunDir

STRATEGIES = [{"name": "self-consistency", "params": {"n": 16}}, {"name": "beam", "params": {"n_beams": 8}}]
COMPARED = ("answer", "correct", "status", "stop_reason", "grant_tokens", "completion_tokens", "calls")
Table = dict[tuple[str, str], tuple[Any, ...]]


def plan_of(problems: int, workers: int) -> Plan:
    """Return the sweep; 0 workers is no Ray."""
    config = {
        "tasks": ["arithmetic"],
        "models": ["embedded"],
        "strategies": STRATEGIES,
        "budgets": [1200],
        "limit": problems,
        "cache": "off",
    }
    return make_plan(config, RayOptions(workers=workers) if workers else None)


class Killer:
    """Kills the first worker's process when so many problems are finished."""

    def __init__(self, engine: RayEngine, after: int) -> None:
        self._engine, self._left, self.quiet = engine, after, Silent()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.quiet, name)

    def problem_finished(self, cell: object, row: Mapping[str, Any]) -> None:
        """Count, and kill once."""
        self._left -= 1
        pid = self._engine.fleet.workers[0].pid
        if self._left == 0 and pid is not None:
            os.kill(pid, signal.SIGKILL)


def run(problems: int, workers: int, out: Path, kill: bool = False) -> tuple[Table, dict[str, float]]:
    """Run once. Returns what was found of each problem, and each strategy's seconds."""
    plan = plan_of(problems, workers)
    engine, folder = plan.benches[0].engine, RunDir(out)
    observer = Killer(engine, problems // 2) if kill and isinstance(engine, RayEngine) else Silent()
    folder.open_for_writing(portable(plan.config), spec_id(plan.cells))
    try:
        asyncio.run(run_sweep(plan, folder, observer))
    finally:
        folder.close()
    lines = [json.loads(line) for line in (out / "journal" / "main.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in lines if "problem_id" in row]
    found = {(row["cell"], row["problem_id"]): tuple(row[key] for key in COMPARED) for row in rows}
    assert len(rows) == len(found) == problems * len(plan.cells), "a problem is missing, or there twice"
    names = {cell.id: cell.strategy.name for cell in plan.cells}
    return found, {names[row["cell"]]: row["wall_s"] for row in lines if row.get("kind") == "cell_end"}


def compare(problems: int, rounds: int, out: Path) -> None:
    """Print the figures."""
    seconds: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    reference: Table | None = None
    for number in range(rounds):
        for workers in (0, 1) if number % 2 == 0 else (1, 0):
            found, took = run(problems, workers, out / f"round{number}-workers{workers}")
            reference = reference or found
            seconds[workers].append(took)
            shown = ", ".join(f"{name} {s:.1f} s" for name, s in took.items())
            print(f"round {number}, {workers or 'no'} worker: {shown}; same table: {found == reference}", flush=True)
    for name in seconds[0][0]:
        ratios = [one[name] / none[name] - 1 for none, one in zip(seconds[0], seconds[1], strict=True)]
        print(f"{name}: one worker takes {statistics.median(ratios):+.1%} (median of {rounds} rounds,"
              f" {min(ratios):+.1%} to {max(ratios):+.1%})", flush=True)  # fmt: skip
    for kill in (False, True):
        found, took = run(problems, 2, out / f"two{'-killed' if kill else ''}", kill)
        shown = ", ".join(f"{name} {s:.1f} s" for name, s in took.items())
        print(f"two workers{', one killed' if kill else ''}: {shown}; same table: {found == reference}", flush=True)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep the runs here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        compare(given.problems, given.rounds, given.out or Path(scratch))


if __name__ == "__main__":
    main()
