"""However often a problem fails and is tried again, a cell spends no more than its total."""

import asyncio
import json

import pytest

from ttc.api import Silent, make_plan
from ttc.run.sweep import run_sweep
from ttc.store.bank import Row, write_bank
from ttc.store.rundir import RunDir

TOTAL = 5 * 60


@pytest.fixture
def plan(tmp_path, monkeypatch):
    rows = [Row(f"p{p}", "q", "m", i, "a", True, 20, 9, "stop") for p in range(5) for i in range(12)]
    write_bank(rows, tmp_path / "bank", "sums")
    monkeypatch.chdir(tmp_path)
    return make_plan({"bank": "bank", "strategies": "coverage", "budgets": [60], "draws": 1})


def run(plan, lines):
    folder = RunDir(plan.config.bank.parent / "run")
    folder.open_for_writing({}, "spec")
    try:
        with (folder.path / "journal" / "main.jsonl").open("a") as journal:
            journal.writelines(json.dumps(line) + "\n" for line in lines)
        asyncio.run(run_sweep(plan, folder, Silent()))
    finally:
        folder.close()
    return [r for r in map(json.loads, (folder.path / "journal" / "main.jsonl").read_text().splitlines())
            if "problem_id" in r]  # fmt: skip


def attempt(plan, problem, status, spent):
    return {"cell": plan.cells[0].id, "problem_id": problem, "status": status, "draw_spent": [spent]}


def test_every_failed_attempt_counts_also_those_before_the_last(plan):
    before = [attempt(plan, "p0", "error", 100), attempt(plan, "p0", "error", 90), attempt(plan, "p1", "error", 50)]
    rows = run(plan, before)
    spent = sum(row["draw_spent"][0] for row in rows)
    assert 240 < spent <= TOTAL  # without the first one 160 tokens were left, not 60


def test_what_failed_before_a_success_counts_as_well(plan):
    rows = run(plan, [attempt(plan, "p0", "error", 200), attempt(plan, "p0", "ok", 60)])
    spent = sum(row["draw_spent"][0] for row in rows)
    assert 260 < spent <= TOTAL
