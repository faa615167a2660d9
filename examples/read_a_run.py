"""Read a run's tables with nothing but pyarrow: its accuracies, and the problems that more tokens solved.

python examples/read_a_run.py results/reference/gsm8k-qwen2.5-coder-0.5b
"""

import sys
from pathlib import Path

import pyarrow.parquet as pq

run = Path(sys.argv[1])
cells = pq.read_table(run / "cells.parquet").to_pylist()
records = pq.read_table(run / "records.parquet").to_pylist()

# One row a cell: a task, a model, a strategy, an allocator and a budget.
for cell in cells:
    print(
        f"{cell['strategy']}/{cell['allocator']}@{cell['budget']}: {100 * cell['accuracy']:.1f} %"
        f" [{100 * cell['ci_low']:.1f}, {100 * cell['ci_high']:.1f}], {cell['tokens_per_problem']:.0f} tokens a problem"
    )

# One row a cell and problem: what became of it. Without an answer the score is 0; a failure has none.
scores = {cell["cell"]: {} for cell in cells}
for row in records:
    scores[row["cell"]][row["problem_id"]] = row["score"]

for name in dict.fromkeys(cell["strategy"] for cell in cells):
    ordered = sorted((cell for cell in cells if cell["strategy"] == name), key=lambda cell: cell["budget"])
    least, most = scores[ordered[0]["cell"]], scores[ordered[-1]["cell"]]
    gained = [p for p in least if (most.get(p) or 0) > (least[p] or 0)]
    lost = [p for p in least if (most.get(p) or 0) < (least[p] or 0)]
    print(f"{name}: the largest budget solves {len(gained)} problems more than the smallest, and {len(lost)} no longer")
