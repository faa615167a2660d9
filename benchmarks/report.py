"""Measure a report: seconds, memory and bytes of `ttc report` on runs of several sizes, with stored samples of 600 characters.

    python benchmarks/report.py [--samples 64] [--problems 330,660,1319] [--cells 20] [--tasks 1] [--journal]

Each size is made up once (strategies of known accuracy, every sample with its text), written as a finished run, and
reported in a process of its own, so that the time is what a user waits for. With `--journal` the report starts from the
journal, as at the end of a sweep, and else from the tables. `--cells 84 --tasks 2 --problems 20 --samples 16` is the size
of the demo without allocators.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ttc.store.journal import JournalWriter
from ttc.store.rundir import RunDir
from ttc.store.tables import to_table, write_table

BUDGETS = (256, 512, 1024, 2048, 4096)
CHARACTERS = 600
WORDS = (
    hashlib.sha256(b"words").hexdigest() * 4,
    "so 3 < 4 & on, which leaves ",
    "the number of eggs is ",
    "\\frac{1}{2} of them ",
)


def main() -> None:
    """Print one line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--problems", default="330,660,1319")
    parser.add_argument("--cells", type=int, default=20, help="of each task")
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--journal", action="store_true", help="start from the journal")
    options = parser.parse_args()
    print(
        f"{'cells':>5} {'problems':>8} {'samples':>8} {'seconds':>8} {'CPU s':>8} {'page kB':>8} {'numbers kB':>10} {'peak MB':>8}"
    )
    for problems in map(int, options.problems.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            run = RunDir(Path(folder))
            make_run(run, options.tasks, options.cells, problems, options.samples)
            if not options.journal:
                reported(folder)
            seconds, usage = reported(folder)
            page, numbers = (run.report / name for name in ("index.html", "numbers.parquet"))
            print(
                f"{options.cells * options.tasks:5} {problems:8,} {options.samples:8} {seconds:8.1f}"
                f" {usage.ru_utime + usage.ru_stime:8.1f} {page.stat().st_size / 1e3:8,.0f}"
                f" {numbers.stat().st_size / 1e3:10,.0f} {usage.ru_maxrss / 1024:8,.0f}",
                flush=True,
            )


def reported(folder: str) -> tuple[float, Any]:
    """Report a run in a process of its own; return the seconds and what it used."""
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "ttc", "report", folder], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0
    return time.perf_counter() - started, usage


def make_run(run: RunDir, tasks: int, cells: int, problems: int, samples: int) -> None:
    """Write the journal of a finished run: `cells` a task in series of five budgets, every problem with all its samples."""
    run.path.mkdir(parents=True, exist_ok=True)
    shape = {"parameters": 10**9, "layers": 24, "query_heads": 16, "kv_heads": 2, "head_dim": 64}
    run.write_json("manifest.json", {"spec_id": "benchmark", "state": "finished", "seed": 0, "shapes": {"tiny": shape},
                                     "price_per_mtok": [0.1, 0.4]})  # fmt: skip
    ids = [f"p{i:05}" for i in range(problems)]
    described = []
    with JournalWriter(run.journal, "main") as journal:
        for task in range(tasks):
            generator = np.random.default_rng(task)
            difficulty = generator.random(problems)
            described += [{"task": f"made-up-{task}", "problem_id": p, "difficulty": float(1 + int(5 * d)),
                           "question": "How many? " * 60, "reference": "4"} for p, d in zip(ids, difficulty, strict=True)]  # fmt: skip
            for i in range(cells):
                for line in cell_lines(f"made-up-{task}", i, ids, difficulty, samples, generator):
                    journal.append(line)
    write_table(to_table("problems", described), run.table("problems"))


def cell_lines(
    task: str, number: int, ids: list[str], difficulty: Any, samples: int, generator: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Yield the journal of one cell."""
    series, place = divmod(number, len(BUDGETS))
    budget, name = BUDGETS[place], hashlib.sha256(f"{task} {number}".encode()).hexdigest()[:16]
    chance = 0.3 + 0.02 * (series % 10) + 0.08 * place
    score = (difficulty < chance + 0.2 * generator.standard_normal(len(ids))).astype(float)
    yield {"kind": "cell", "cell": name, "task": task, "model": "tiny", "strategy": f"strategy-{series}",
           "strategy_params": '{"n":64,"select":"reward"}', "allocator": "uniform", "allocator_params": "{}", "budget": budget,
           "seed": 0, "draws": 1, "n_problems": len(ids), "oracle": False, "parameters": 10**9,
           "reward_parameters": 10**8}  # fmt: skip
    for problem, s, t in zip(ids, score, generator.uniform(0.7, 1, len(ids)) * budget, strict=True):
        texts = [
            f"{i} {''.join(WORDS[w] for w in generator.integers(0, len(WORDS), 12))}"[:CHARACTERS]
            for i in range(samples)
        ]
        yield {
            "cell": name, "problem_id": problem, "grant_tokens": budget, "answer": "4", "correct": bool(s), "score": s,
            "status": "ok", "stop_reason": "finished", "completion_tokens": float(t), "probe_tokens": 0.0,
            "prompt_tokens": 80.0, "cached_tokens": 900.0, "reward_tokens": 0.0, "sequential_tokens": float(t),
            "kv_token_steps": None, "attended_tokens": 90.0 * t, "kv_read_tokens": 50.0 * t, "calls": float(samples),
            "wall_s": t / 500,
            "candidates": [{"index": i, "answer": "4", "correct": bool(s), "score": 0.5, "logprob": -1.0,
                            "completion_tokens": 90, "finish": "stop", "text": text} for i, text in enumerate(texts)],
        }  # fmt: skip
    yield {"kind": "cell_end", "cell": name, "wall_s": 60.0}


if __name__ == "__main__":
    main()
