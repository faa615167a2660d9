"""What ETS saves of the KV cache against REBASE at the same width, on the shipped pair.

    python benchmarks/tree_cache.py --out FOLDER [--widths 16,64,256] [--problems 100] [--tasks arithmetic,countdown]

Both search with the same width, grants large enough that no search ends for lack of tokens. KV token-steps are the
tokens of the live tree, each once, summed over steps. The ratio is of their means over problems, with a paired
bootstrap interval; accuracy is paired too. The programme's share is the seconds inside clustering and integer programme
against those of the cell of `ets`: steps alone, no engine's start, no report.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ttc import sweep
from ttc.metrics.statistics import bootstrap_statistic, paired_difference
from ttc.report.aggregate import load_tables
from ttc.store.tables import rows_of

SOLUTION_TOKENS = 96
"""Tokens of a chain, generously: a width's grant is this times the width."""
PROGRAMME = ("kept_leaves", "clusters")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both strategies at every width and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--widths", default="16,64,256")
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--tasks", default="arithmetic,countdown")
    args = parser.parse_args(arguments)
    print("| task | width | rebase KV token-steps | ets | ratio | rebase % | ets % | difference | programme's share |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for task in args.tasks.split(","):
        for width in map(int, args.widths.split(",")):
            print(measure(args.out / f"{task}-{width}", task, width, args.problems), flush=True)


def measure(out: Path, task: str, width: int, problems: int) -> str:
    """Return one row of the table."""
    config = {
        "tasks": [task], "models": ["embedded"], "limit": problems, "budgets": [SOLUTION_TOKENS * width], "cache": "off",
        "strategies": [{"name": name, "params": {"width": width}} for name in ("rebase", "ets")],
    }  # fmt: skip
    profile = cProfile.Profile()
    profile.enable()
    result = sweep(config, out)
    profile.disable()
    tables = load_tables(result.folder)
    cells = rows_of(tables.cells)
    strategy = {cell["cell"]: cell["strategy"] for cell in cells}
    seconds = sum(cell["wall_s"] or 0.0 for cell in cells if cell["strategy"].startswith("ets"))
    found: dict[str, dict[str, tuple[float, float]]] = {"rebase": {}, "ets": {}}
    for row in rows_of(tables.records):
        if row["status"] != "error":
            name = strategy[row["cell"]].split("(")[0].split(" ")[0]
            found[name][row["problem_id"]] = (float(row["kv_token_steps"]), float(row["score"] or 0.0))
    shared = sorted(set(found["rebase"]) & set(found["ets"]))
    kv, score = (np.array([[found[n][p][k] for n in found] for p in shared]) for k in (0, 1))
    ratio = bootstrap_statistic(kv, lambda means: means[:, 0] / means[:, 1])
    gain = paired_difference(score[:, 1], score[:, 0])
    told = f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]" if gain else "-"
    return (
        f"| {task} | {width} | {kv[:, 0].mean():,.0f} | {kv[:, 1].mean():,.0f}"
        f" | {ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] | {100 * score[:, 0].mean():.1f}"
        f" | {100 * score[:, 1].mean():.1f} | {told} | {share(profile, seconds)} |"
    )


def share(profile: cProfile.Profile, seconds: float) -> str:
    """Return the programme's share of so many seconds; `-` where nothing was run now, but resumed."""
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    inside = sum(row[3] for (_, _, name), row in stats.items() if name in PROGRAMME)
    return f"{inside / seconds:.1%}" if inside and seconds else "-"


if __name__ == "__main__":
    main()
