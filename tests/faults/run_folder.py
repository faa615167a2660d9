"""A sweep on the fake engine, and what must hold of its folder after any fault."""

import fcntl
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from ttc.cli.main import run
from ttc.testing.breaking import VICTIM, journal_rows, left_running, records, tables, write_sums

PROBLEMS = 6
STRATEGIES = ["self-consistency", "best-of-n", "adaptive-consistency"]
BUDGETS = [250, 700]
SWEEP = ["sweep", "--task", "local", "--data", "rows.jsonl", "--model", "fake:p=0.5;delay_s=0.01", "--max-tokens", "120",
         "--strategies", ",".join(STRATEGIES), "--budgets", ",".join(map(str, BUDGETS)), "--display", "none"]  # fmt: skip
RECORDS = PROBLEMS * len(STRATEGIES) * len(BUDGETS)


def write_rows(folder: Path) -> None:
    write_sums(folder, PROBLEMS)


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
