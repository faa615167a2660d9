"""Killed where it hurts: between samples, while it reads, grades and writes a record, in tables and in the report."""

import itertools
import signal
import sqlite3

import pytest
from run_folder import RECORDS, SWEEP, check_complete, manifest, sweep, victim

from ttc.cli.main import run
from ttc.engines.fake import FakeEngine
from ttc.run import sweep as running
from ttc.testing.breaking import journal_rows, records


def stored(out):
    """Return how many samples the run's cache holds."""
    with sqlite3.connect(out / "cache.sqlite") as cache:
        return cache.execute("SELECT COUNT(*) FROM completions").fetchone()[0]


@pytest.mark.parametrize(("moment", "number"), [("drawn", 20), ("grading", 9), ("record", 5), ("tables", 2)], ids=str)
def test_killed_then_run_again(folder, whole, monkeypatch, moment, number):
    out = folder / "run"
    code, told = victim(out, moment, number)
    assert code == -signal.SIGKILL, told
    kept = records(out)
    assert len(kept) == {"record": number - 1, "tables": RECORDS}.get(moment, len(kept)) <= RECORDS
    assert manifest(out)["state"] == "running"
    before, drawn, complete = stored(out), [], FakeEngine._complete

    def counted(self, request):
        drawn.append(request)
        return complete(self, request)

    monkeypatch.setattr(FakeEngine, "_complete", counted)
    assert sweep(out) == 0
    check_complete(out, whole, kept)
    assert len(drawn) == stored(whole) - before  # each sample was generated once, before or after
    assert len(manifest(out)["restarts"]) == 1


def test_a_run_killed_in_its_report_is_taken_up_on_another_day(folder, whole):
    """Without --out a run is named by the day: one that lacks its report is found whatever the day."""
    out = folder / "results" / "1999-12-31-local"
    code, told = victim(out, "report", 3)
    assert code == -signal.SIGKILL, told
    assert run(SWEEP) == 0
    assert [p.name for p in (folder / "results").iterdir()] == [out.name]
    check_complete(out, whole, records(out))


def test_what_is_in_flight_is_noted_only_where_it_changed(folder, monkeypatch):
    """The journal of a run that waits does not grow."""
    monkeypatch.setattr(running, "RESERVED_EVERY_S", 0.05)
    words = ["--task", "local", "--data", "rows.jsonl", "--model", "fake:p=0.5;delay_s=1.2", "--max-tokens", "120"]
    grid = ["--strategies", "coverage", "--budgets", "250", "--display", "none", "--out", "run"]
    assert run(["sweep", *words, *grid]) == 0
    held = [row["reserved_tokens"] for row in journal_rows(folder / "run") if row.get("kind") == "in_flight"]
    assert held[0] == 6 * 240
    assert all(a != b for a, b in itertools.pairwise(held))
