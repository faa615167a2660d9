"""A sweep on the fake engine, and what must hold of its folder after any fault."""

import fcntl
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from ttc.cli.main import run
from ttc.testing.breaking import VICTIM, left_running

PROBLEMS = 6
STRATEGIES = ["self-consistency", "best-of-n", "adaptive-consistency"]
BUDGETS = [250, 700]
SWEEP = ["sweep", "--task", "local", "--data", "rows.jsonl", "--model", "fake:p=0.5;delay_s=0.01", "--max-tokens", "120",
         "--strategies", ",".join(STRATEGIES), "--budgets", ",".join(map(str, BUDGETS)), "--display", "none"]  # fmt: skip
RECORDS = PROBLEMS * len(STRATEGIES) * len(BUDGETS)
TIMES = {"wall_s", "latency_p50_s", "latency_p95_s"}
TABLES = ["records", "cells", "candidates", "allocation"]


def write_rows(folder: Path) -> None:
    with (folder / "rows.jsonl").open("w") as file:
        for i in range(PROBLEMS):
            a, b = 17 * i + 3, 5 * i + 1
            file.write(json.dumps({"id": f"p{i}", "question": f"What is {a} + {b}?", "answer": str(a + b)}) + "\n")


def sweep(out: Path, *more: str) -> int:
    """Run the sweep in this process; returns its exit code."""
    return run([*SWEEP, *more, "--out", str(out)])


def victim(out: Path, moment: str, number: int, *more: str) -> tuple[int, str]:
    """Run the sweep as a program that kills itself at a moment; returns its exit code and what it said."""
    command = [sys.executable, "-c", VICTIM, moment, str(number), *SWEEP, *more, "--out", str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        told = started.communicate(timeout=300)[1]
    assert left_running(started.pid, within_s=30) == []
    return started.returncode, told


def journal_rows(out: Path) -> list[dict]:
    """Return what the journal's whole lines hold."""
    path = out / "journal" / "main.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def records(out: Path) -> list[dict]:
    return [row for row in journal_rows(out) if "problem_id" in row]


def tables(out: Path) -> dict[str, list[dict]]:
    """Return all rows without times, which an interruption makes null."""
    found = {name: pq.read_table(out / f"{name}.parquet").to_pylist() for name in TABLES}
    return {name: [{k: v for k, v in row.items() if k not in TIMES} for row in rows] for name, rows in found.items()}


def manifest(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


def check_complete(out: Path, whole: Path, kept: list[dict] = ()) -> None:
    """Hold a mended run against one that nothing happened to: nothing lost, nothing twice, nothing left lying about."""
    rows = records(out)
    by_key = {(row["cell"], row["problem_id"]): row for row in rows}
    assert len(by_key) == len(rows) == len(records(whole))
    assert all(by_key[row["cell"], row["problem_id"]] == row for row in kept)
    assert tables(out) == tables(whole)
    assert manifest(out)["state"] == "finished"
    assert [p.name for p in out.rglob("*.partial")] == []
    assert (out / "report" / "index.html").is_file()
    spent = Counter()
    for row in rows:
        spent[row["cell"]] += row["draw_spent"][0]
    totals = {row["cell"]: row["budget"] * row["n_problems"] for row in journal_rows(out) if row.get("kind") == "cell"}
    assert all(spent[cell] <= totals[cell] for cell in spent)
    with (out / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
