"""Run the reference solutions of HumanEval and MBPP in the sandbox that grades model-written code: all must pass.

    python benchmarks/sandbox.py [--humaneval FILE] [--mbpp FILE]

FILE holds rows of the benchmark as JSON Lines. Prints how many pass, which do not, and the mean seconds of a program;
exits 1 where one does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttc.core.protocols import LoadOptions
from ttc_evals.code import CodeChecker
from ttc_evals.humaneval import HumanEval
from ttc_evals.mbpp import MBPP
from ttc_evals.sandbox import SandboxLimits, isolation_level

UNHURRIED = SandboxLimits(wall_s=120.0)
"""Only the limit on CPU time ends a program, however busy the machine is."""


def solution(row: Mapping[str, Any]) -> str:
    """Return what the authors of a benchmark would answer."""
    return str(row["code"]) if "code" in row else f"{row['prompt']}{row['canonical_solution']}"


def main() -> int:
    """Print one line a benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--humaneval", type=Path)
    parser.add_argument("--mbpp", type=Path)
    args = parser.parse_args()
    checker, failed = CodeChecker(UNHURRIED), 0
    for task, path in ((HumanEval(), args.humaneval), (MBPP(), args.mbpp)):
        if path is None:
            continue
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        examples = task.load(LoadOptions(data=path)).examples
        begun, wrong = time.monotonic(), list[str]()
        for row, example in zip(rows, examples, strict=True):
            answer = checker.extract(solution(row))
            try:
                passed = answer is not None and checker.grade(answer, example.gold)
            except TimeoutError:
                passed = False
            wrong += [] if passed else [example.id]
        each = (time.monotonic() - begun) / len(rows)
        print(f"{task.name}: {len(rows) - len(wrong)} of {len(rows)} pass in {isolation_level()}, {each:.2f} s each")
        print("".join(f"  fails: {name}\n" for name in wrong), end="", flush=True)
        failed += len(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
