"""Run live sweeps of the shipped pair at full load for an hour, and watch that memory and open files stay flat.

    python benchmarks/soak.py [--minutes 60] [--every 5] [--sweeps 4] [--engine embedded] [--out FOLDER]

One program (`ttc.sweep`) runs `--sweeps` long sweeps one after another, each with a seed of its own and no generation
cache, so that every token is generated; its engines start and end with each sweep. Every few seconds the resident
memory and the open files of each of its processes are read. What a role (the program, an engine's core, its worker)
holds is fitted against time by least squares over all its sweeps, each beginning at its own level, without the first
part of each, in which caches fill. Ends with 1 where a slope is beyond what noise explains, where a record is missing,
twice, an error or over its budget. Writes soak.md, soak.json and samples.csv into --out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import json
import math
import multiprocessing
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ttc.api import Silent, make_plan
from ttc.run.sweep import run_sweep
from ttc.store.journal import read_journal
from ttc.store.rundir import RunDir
from ttc.testing.breaking import engine_cores

WARM_SHARE = 0.25
"""Of each sweep's samples, from its start, that are left out of the fit."""
ALLOWED_MB = 24.0
ALLOWED_FILES = 4.0
"""What a role may seem to grow by over the whole time before it is called growth, whatever the error of its slope."""
SURE = 4.0
"""Standard errors that a slope must lie above 0."""
GRID = {
    "embedded": {"tasks": ["arithmetic"], "strategies": ["self-consistency", "best-of-n", "beam"]},
    "fake": {"tasks": ["arithmetic"], "models": ["fake:p=0.5;delay_s=0.05"],
             "strategies": ["self-consistency", "best-of-n"]},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process held at one time."""

    at_s: float
    sweep: int
    role: str
    rss_mb: float
    files: int


class OverError(Exception):
    """A sweep's time is over."""


@dataclass(frozen=True, slots=True)
class Until(Silent):
    """Ends a sweep with the first problem that is finished when its time is over."""

    ends: float

    def problem_finished(self, cell: object, row: Mapping[str, Any]) -> None:
        """Look at the clock."""
        if time.monotonic() > self.ends:
            raise OverError


def sweeps(engine: str, count: int, minutes: float, out: str, begun: Any) -> None:
    """Run the sweeps, each for its share of the time."""
    ends = time.monotonic() + 60 * minutes
    for n in range(count):
        begun.value = n
        # The largest first: what a larger load takes for the first time, of the KV cache as well, is no growth.
        budgets = [200 + 40 * i for i in reversed(range(60))]
        plan = make_plan({**GRID[engine], "budgets": budgets, "seed": n, "cache": "off", "limit": 48})
        run = RunDir(Path(out) / f"sweep-{n}")
        run.open_for_writing({}, "soak")
        until = time.monotonic() + (ends - time.monotonic()) / (count - n)
        with contextlib.suppress(OverError):
            asyncio.run(run_sweep(plan, run, Until(until)))
        run.close()


def watch(program: psutil.Process, every_s: float, begun: Any) -> list[Sample]:
    """Read all processes until the program ends."""
    started, samples = time.monotonic(), []
    while program.is_running() and program.status() != psutil.STATUS_ZOMBIE:
        try:
            processes = [program, *program.children(recursive=True)]
            cores = [core.pid for core in engine_cores(program)]
        except psutil.Error:
            continue  # one of them has ended meanwhile
        for process in processes:
            try:
                with process.oneshot():
                    samples.append(
                        Sample(
                            time.monotonic() - started, begun.value, role_of(process, program, cores),
                            process.memory_info().rss / 1e6, process.num_fds(),
                        )
                    )  # fmt: skip
            except psutil.Error:
                continue  # it has ended meanwhile
        time.sleep(every_s)
    return samples


def role_of(process: psutil.Process, program: psutil.Process, cores: list[int]) -> str:
    """Say what a process is for: engines are told apart by the order in which they were started."""
    if process.pid == program.pid:
        return "program"
    name, owner = process.name(), process.ppid()
    for n, core in enumerate(cores):
        which = ("policy", "reward model")[min(n, 1)]
        if process.pid == core:
            return f"{which}: core"
        if owner == core and "Worker" in name:
            return f"{which}: worker"
    return "helpers"


def slope(samples: list[Sample], value: str) -> tuple[float, float, float]:
    """Return the growth an hour, its standard error and the mean level: one slope, a level for each sweep."""
    times, values, levels = [], [], []
    for n in sorted({s.sweep for s in samples}):
        own = [s for s in samples if s.sweep == n]
        own = own[math.ceil(WARM_SHARE * len(own)) :]
        if len(own) < 5:
            continue
        t = np.array([s.at_s for s in own])
        v = np.array([float(getattr(s, value)) for s in own])
        times.append(t - t.mean())
        values.append(v - v.mean())
        levels.append(v.mean())
    if not times:
        return 0.0, math.inf, math.nan
    t, v = np.concatenate(times), np.concatenate(values)
    squares = float(t @ t)
    found = float(t @ v) / squares
    rest = v - found * t
    # Samples that follow each other are alike: as many count as there are runs of one sign.
    runs = 1 + int(np.count_nonzero(np.diff(rest > 0)))
    error = math.sqrt(float(rest @ rest) / max(runs, 2) / squares)
    return 3600 * found, 3600 * error, float(np.mean(levels))


def between(samples: list[Sample], value: str) -> float:
    """Return by how much a role's middle level rose from the second sweep to the last one: 0 with fewer than three."""
    found = defaultdict(list)
    for s in samples:
        found[s.sweep].append(float(getattr(s, value)))
    levels = [float(np.median(found[n])) for n in sorted(found)]
    return levels[-1] - levels[1] if len(levels) > 2 else 0.0


def grows(samples: list[Sample], value: str, allowed: float, hours: float) -> bool:
    """Say whether a role grew by more than is allowed, within its sweeps or from one to another."""
    per_hour, error, _ = slope(samples, value)
    return (per_hour > SURE * error and per_hour * hours > allowed) or between(samples, value) > allowed


def checked(out: Path) -> dict[str, int]:
    """Count what was done, and what is not as it must be."""
    counts = Counter[str]()
    for folder in sorted(out.glob("sweep-*")):
        replay = read_journal(folder / "journal")
        lines = [line for path in folder.glob("journal/*.jsonl") for line in path.read_bytes().splitlines()]
        counts["records"] += len(replay.records)
        counts["duplicates"] += sum(b'"problem_id"' in line for line in lines) - len(replay.records)
        counts["damaged"] += len(replay.damaged)
        cells = {e["cell"]: e for e in replay.events if e.get("kind") == "cell"}
        ended = {e["cell"] for e in replay.events if e.get("kind") == "cell_end"}
        spent, done = Counter[str](), Counter[str]()
        for row in replay.records.values():
            counts["errors"] += row["status"] == "error"
            counts["requests"] += round(row["calls"])
            counts["tokens"] += round(row["completion_tokens"])
            spent[row["cell"]] += row["draw_spent"][0]
            done[row["cell"]] += 1
        counts["missing"] += sum(cells[cell]["n_problems"] - done[cell] for cell in ended)
        counts["over budget"] += sum(s > cells[c]["budget"] * cells[c]["n_problems"] for c, s in spent.items())
        counts["sweeps"] += 1
    return dict(counts)


def main() -> int:
    """Run, watch, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--sweeps", type=int, default=4)
    parser.add_argument("--engine", choices=list(GRID), default="embedded")
    parser.add_argument("--out", type=Path, default=Path("soak"))
    args = parser.parse_args()
    if any(args.out.glob("sweep-*")):
        raise SystemExit(f"{args.out} holds an earlier soak: give another --out")
    args.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    begun = context.Value("i", 0)
    program = context.Process(target=sweeps, args=(args.engine, args.sweeps, args.minutes, str(args.out), begun))
    program.start()
    samples = watch(psutil.Process(program.pid), args.every, begun)
    program.join()
    minutes = samples[-1].at_s / 60
    counts = checked(args.out)
    rows, grown = [], []
    for role in sorted({s.role for s in samples} - {"helpers"}):
        own = [s for s in samples if s.role == role]
        row: dict[str, Any] = {"role": role, "samples": len(own)}
        for value, allowed in (("rss_mb", ALLOWED_MB), ("files", ALLOWED_FILES)):
            per_hour, error, level = slope(own, value)
            rise = between(own, value)
            row[value] = {"level": level, "per_hour": per_hour, "error": error, "from_second_to_last_sweep": rise}
            if grows(own, value, allowed, minutes / 60):
                grown.append(f"{value} of {role}")
        rows.append(row)
    bad = {k: counts.get(k, 0) for k in ("errors", "duplicates", "missing", "damaged", "over budget")}
    failed = bool(grown) or any(bad.values()) or program.exitcode != 0 or not counts.get("records")
    text = table(rows, counts, bad, minutes, grown, program.exitcode)
    print(text)
    (args.out / "soak.md").write_text(text)
    (args.out / "soak.json").write_text(json.dumps({"roles": rows, "counts": counts, "grown": grown}, indent=1) + "\n")
    with (args.out / "samples.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Sample.__slots__)
        writer.writerows([round(s.at_s, 1), s.sweep, s.role, round(s.rss_mb, 1), s.files] for s in samples)
    return 1 if failed else 0


def table(
    rows: list[dict[str, Any]], counts: dict[str, int], bad: dict[str, int], minutes: float, grown: list[str],
    code: int | None,
) -> str:  # fmt: skip
    """Return what was found as text."""
    lines = [
        f"{minutes:.1f} minutes, {counts.get('sweeps', 0)} sweeps: {counts.get('requests', 0):,} requests,"
        f" {counts.get('tokens', 0):,} tokens, {counts.get('records', 0):,} records; exit code {code}; "
        + ", ".join(f"{name} {number}" for name, number in bad.items()),
        "",
        "| process | memory, MB | growth, MB an hour | second to last sweep, MB | open files | growth an hour | second to last |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory, files = row["rss_mb"], row["files"]
        lines.append(
            f"| {row['role']} | {memory['level']:.0f} | {memory['per_hour']:+.1f} ± {memory['error']:.1f}"
            f" | {memory['from_second_to_last_sweep']:+.1f} | {files['level']:.1f}"
            f" | {files['per_hour']:+.2f} ± {files['error']:.2f} | {files['from_second_to_last_sweep']:+.0f} |"
        )
    lines += ["", "grown: " + ("; ".join(grown) if grown else "nothing")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
