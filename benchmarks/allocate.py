"""What splitting a total costs: the greedy knapsack beside integer programming, and alone on a million prompts.

    python benchmarks/allocate.py [--beside 1319,5000] [--alone 10000,100000,1000000]

Each size runs in a process of its own, so that peak memory belongs to it. Seconds are processor time, which other
programs on the machine do not change; the clock is beside them. HiGHS is stopped at its own default, a relative gap of
1e-4, and is given the same options. Curves are not concave: they are coverage with noise, and votes that may fall.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ttc.allocate import Curves, coverage, knapsack, majority, sample_costs

SAMPLES_EACH = 4
"""The total pays for about so many samples a prompt."""


def peak_mib() -> float:
    """Return the most memory this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_curves(prompts: int, options: int) -> tuple[Curves, int]:
    """Return curves of seeded prompts, in costs of 80 to 400 tokens a sample, and a total."""
    rng = np.random.default_rng(0)
    samples, rates, tokens = np.arange(1, options + 1), rng.beta(0.5, 0.8, prompts), rng.uniform(80, 400, prompts)
    values = coverage(rates, samples)
    votes = prompts // 4
    values[:votes] = majority(rates[:votes], samples)
    values += rng.normal(0, 0.01, values.shape)
    return Curves.from_table(sample_costs(samples, tokens, prompts), values), int(SAMPLES_EACH * tokens.sum())


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return a result, processor seconds and seconds on the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    result = call()
    return result, time.process_time() - cpu, time.perf_counter() - clock


def solve_by_milp(curves: Curves, total: int) -> float:
    """Return the value that `scipy.optimize.milp` reaches."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, vstack

    count = curves.costs.size
    one_each = csr_array((np.ones(count), (curves.prompts, np.arange(count))), shape=(len(curves), count))
    spend = csr_array(curves.costs[None, :].astype(float))
    ones = np.ones(len(curves))
    limits = LinearConstraint(vstack([one_each, spend]), np.append(ones, 0.0), np.append(ones, float(total)))
    done = milp(-curves.values, integrality=np.ones(count, dtype=int), bounds=Bounds(0, 1), constraints=limits)
    assert done.fun is not None, done.message
    return -float(done.fun)


def beside(prompts: int, options: int) -> dict[str, float]:
    """Solve one instance both ways."""
    curves, total = make_curves(prompts, options)
    solve_by_milp(*make_curves(20, options))  # imports and first calls belong to neither
    knapsack(*make_curves(20, options))
    runs = [timed(lambda: knapsack(curves, total)) for _ in range(5)]
    split, greedy_s, greedy_clock_s = min(runs, key=lambda run: run[1])
    best, milp_s, milp_clock_s = timed(lambda: solve_by_milp(curves, total))
    return {
        "greedy_s": greedy_s, "milp_s": milp_s, "greedy_clock_s": greedy_clock_s, "milp_clock_s": milp_clock_s,
        "gap": split.gap, "below_milp": (best - split.value) / best, "over": int(split.grants.sum()) - total,
    }  # fmt: skip


def alone(prompts: int, options: int) -> dict[str, float]:
    """Solve one instance by the greedy knapsack."""
    before = peak_mib()
    curves, total = make_curves(prompts, options)
    held = (curves.costs.nbytes + curves.values.nbytes + curves.offsets.nbytes) / 2**20
    made = peak_mib()
    split, seconds, clock_s = timed(lambda: knapsack(curves, total))
    return {
        "start_mib": before, "made_mib": made, "held_mib": held, "peak_mib": peak_mib(), "s": seconds,
        "clock_s": clock_s, "gap": split.gap, "over": int(split.grants.sum()) - total,
    }  # fmt: skip


def in_process(kind: str, prompts: int, options: int) -> dict[str, float]:
    """Measure one size in a process of its own, so that its peak of memory is its own."""
    command = [sys.executable, __file__, "--one", kind, str(prompts), str(options)]
    row: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert row["over"] <= 0, "more was granted than the total"
    return row


def main() -> None:
    """Print both tables, or one row as JSON for `in_process`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", default="1319,5000")
    parser.add_argument("--alone", default="10000,100000,1000000")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        kind, prompts, options = args.one
        print(json.dumps({"beside": beside, "alone": alone}[kind](int(prompts), int(options))))
        return
    print("| prompts x 16 options | knapsack, s | HiGHS, s | times faster | gap to the bound | below HiGHS |")
    print("|---|---|---|---|---|---|")
    for prompts in map(int, args.beside.split(",")):
        row = in_process("beside", prompts, 16)
        print(
            f"| {prompts:,} | {row['greedy_s']:.4f} ({row['greedy_clock_s']:.4f}) | {row['milp_s']:.2f}"
            f" ({row['milp_clock_s']:.2f}) | {row['milp_s'] / row['greedy_s']:.0f} | {row['gap']:.1e} |"
            f" {row['below_milp']:.1e} |"
        )
    print("\n| prompts x 32 options | knapsack, s | microseconds/prompt | gap | curves, MiB | peak, MiB |")
    print("|---|---|---|---|---|---|")
    for prompts in map(int, args.alone.split(",")):
        row = in_process("alone", prompts, 32)
        print(
            f"| {prompts:,} | {row['s']:.2f} ({row['clock_s']:.2f}) | {1e6 * row['s'] / prompts:.2f} | {row['gap']:.1e}"
            f" | {row['held_mib']:.0f} | {row['peak_mib']:.0f} ({row['made_mib']:.0f} when the curves were made) |"
        )
    print("\nSeconds are processor time, on the clock in brackets.")


if __name__ == "__main__":
    main()
