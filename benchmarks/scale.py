"""What the layer itself costs: N problems x 64 samples on the fake engine, from config to report.

    python benchmarks/scale.py [--problems 132,417,1319] [--samples 64]

Each size runs in a process of its own, so that peak memory belongs to it. "Layer" is what stays after the time
the fake engine takes to make the same samples in a bare loop.
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


def measure(problems: int, samples: int) -> dict[str, float]:
    """Run one size in this process."""
    import ttc
    from ttc.core.identity import sample_seed
    from ttc.core.types import GenRequest, Message, Sampling
    from ttc.engines.fake import FakeEngine

    start_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        with rows.open("w") as file:
            for i in range(problems):
                file.write(json.dumps({"id": f"p{i:05}", "question": f"What is {i} + {i * 7 % 101}?",
                                       "answer": str(i + i * 7 % 101)}) + "\n")  # fmt: skip
        started = time.perf_counter()
        run = ttc.sweep(
            {
                "task": {"name": "local", "data": str(rows)},
                "model": "fake",
                "strategies": [{"name": "self-consistency", "params": {"n": samples}}],
                "budgets": [samples * 512],
            },
            Path(folder) / "run",
        )
        total_s = time.perf_counter() - started
        lines = sum(1 for _ in (run.path / "journal" / "main.jsonl").open())
    engine = FakeEngine()
    bare = time.perf_counter()
    for i in range(problems):
        prompt = engine.render([Message("user", f"What is {i} + {i * 7 % 101}?")])
        for j in range(samples):
            request = GenRequest(str(i), prompt, Sampling(), 512, sample_seed(0, str(i), "", j), j)
            engine._complete(request)
    bare_s = time.perf_counter() - bare
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"problems": problems, "samples": problems * samples, "lines": lines, "total_s": total_s,
            "bare_engine_s": bare_s, "start_mib": start_mib, "peak_mib": peak_mib}  # fmt: skip


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", default="132,417,1319")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.samples)))
        return
    print("| problems | samples | seconds | microseconds/sample | of it the fake engine | peak MiB |")
    print("|---|---|---|---|---|---|")
    for problems in map(int, args.problems.split(",")):
        command = [sys.executable, __file__, "--one", str(problems), "--samples", str(args.samples)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(out.splitlines()[-1])
        print(
            f"| {problems:,} | {row['samples']:,} | {row['total_s']:.1f} | {1e6 * row['total_s'] / row['samples']:.0f}"
            f" | {1e6 * row['bare_engine_s'] / row['samples']:.0f} | {row['peak_mib']:.0f} |"
        )


if __name__ == "__main__":
    main()
