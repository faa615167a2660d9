"""Measure a report: seconds and bytes of `ttc report` on runs of three sizes, with stored samples of 600 characters.

    python benchmarks/report.py [--samples 64] [--problems 330,660,1319] [--cells 20]

Each size is made up once (strategies of known accuracy, every sample with its text), written as a finished run, and
reported in a process of its own, so that the time is what a user waits for.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ttc.report.aggregate import Tables, aggregate_cell, write_tables
from ttc.store.rundir import RunDir
from ttc.store.tables import schema, to_table

BUDGETS = (256, 512, 1024, 2048, 4096)
CHARACTERS = 600


def main() -> None:
    """Print one line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--problems", default="330,660,1319")
    parser.add_argument("--cells", type=int, default=20)
    options = parser.parse_args()
    print(
        f"{'cells':>5} {'problems':>8} {'samples':>8} {'seconds':>8} {'page kB':>8} {'numbers kB':>10} {'peak MB':>8}"
    )
    for problems in map(int, options.problems.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            run = RunDir(Path(folder))
            make_run(run, options.cells, problems, options.samples)
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "ttc", "report", folder], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            page, numbers = (run.report / name for name in ("index.html", "numbers.parquet"))
            print(
                f"{options.cells:5} {problems:8,} {options.samples:8} {seconds:8.1f} {page.stat().st_size / 1e3:8,.0f}"
                f" {numbers.stat().st_size / 1e3:10,.0f} {peak:8,.0f}",
                flush=True,
            )


def make_run(run: RunDir, cells: int, problems: int, samples: int) -> None:
    """Write a finished run: `cells` in series of five budgets, every problem with all its samples."""
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_json("manifest.json", {"spec_id": "benchmark", "state": "finished", "seed": 0})
    generator = np.random.default_rng(0)
    difficulty = generator.random(problems)
    ids = [f"p{i:05}" for i in range(problems)]
    described, records, candidates = [], [], []
    for i in range(cells):
        series, budget = divmod(i, len(BUDGETS))
        name = f"cell{i:03}"
        chance = 0.3 + 0.04 * series + 0.08 * (i % len(BUDGETS))
        score = (difficulty < chance + 0.2 * generator.standard_normal(problems)).astype(float)
        cell = {"cell": name, "task": "made-up", "model": "tiny", "strategy": f"strategy-{series}",
                "strategy_params": "{}", "allocator": "uniform", "allocator_params": "{}", "budget": BUDGETS[budget],
                "seed": 0, "draws": 1, "oracle": False, "parameters": 10**9}  # fmt: skip
        rows = [
            {"cell": name, "problem_id": problem, "grant_tokens": BUDGETS[budget], "answer": "4", "correct": bool(s),
             "score": s, "status": "ok", "stop_reason": "finished", "completion_tokens": float(t), "probe_tokens": 0.0,
             "prompt_tokens": 80.0, "cached_tokens": 900.0, "reward_tokens": 0.0, "sequential_tokens": float(t),
             "kv_token_steps": 50.0 * t, "calls": float(samples), "wall_s": t / 500}
            for problem, s, t in zip(ids, score, generator.uniform(0.7, 1, problems) * BUDGETS[budget], strict=True)
        ]  # fmt: skip
        described.append(aggregate_cell(cell, rows, {"wall_s": 60.0}))
        records += rows
        candidates.append(drawn(name, ids, samples, generator))
    problem_rows = [{"task": "made-up", "problem_id": p, "difficulty": float(1 + int(5 * d)),
                     "question": "How many? " * 20, "reference": "4"} for p, d in zip(ids, difficulty, strict=True)]  # fmt: skip
    problem_table = to_table("problems", problem_rows)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(problem_table, run.table("problems"))
    write_tables(
        run,
        Tables(to_table("cells", described), to_table("records", records), pa.concat_tables(candidates),
               to_table("allocation", []), problem_table, frozenset()),
    )  # fmt: skip


def drawn(cell: str, ids: list[str], samples: int, generator: np.random.Generator) -> Any:
    """Return the candidates of one cell; texts repeat a few distinct ones, as a dictionary column would."""
    import pyarrow as pa

    n = len(ids) * samples
    texts = [json.dumps({"sample": i, "text": "so 3 < 4 & on "}) * (CHARACTERS // 40) for i in range(samples)]
    columns = {
        "cell": [cell] * n, "problem_id": np.repeat(ids, samples), "index": np.tile(np.arange(samples), len(ids)),
        "answer": ["4"] * n, "correct": generator.random(n) < 0.5, "score": generator.random(n),
        "logprob": -generator.random(n), "completion_tokens": generator.integers(20, 400, n), "finish": ["stop"] * n,
        "text": texts * len(ids),
    }  # fmt: skip
    return pa.table(columns, schema=schema("candidates"))


if __name__ == "__main__":
    main()
