"""The wall clock is set while a run goes on: nothing that was decided by time may notice."""

import asyncio
import datetime as dt
import itertools
import time

import pytest
from run_folder import check_complete, sweep

from ttc.run.grading import CheckerGrader
from ttc.testing.breaking import records

HOUR = 3600.0


class Slow:
    """Takes as many seconds to judge an answer as the answer says."""

    executes_code = False
    isolated = True
    version = "slow-1"

    def extract(self, text):
        return text

    def equivalent(self, a, b):
        return a == b

    def grade(self, answer, gold):
        time.sleep(float(answer))
        return answer == gold


@pytest.fixture
def set_clock(monkeypatch):
    """Return a function that moves the wall clock of this process by some seconds."""
    plain, moved = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: plain() + moved[0])

    def move(seconds):
        moved[0] += seconds

    return move


@pytest.mark.parametrize(
    ("by", "answer", "verdict", "limit_s"),
    [(-HOUR, "60", "timeout", 3), (HOUR, "1", True, 20)],
    ids=["back", "forward"],
)
def test_a_graders_time_limit_keeps_to_seconds_that_passed(set_clock, by, answer, verdict, limit_s):
    """Set back, a clock must not let a hanging answer live on; set forward, not end one that still had time."""

    async def grade():
        task = asyncio.ensure_future(grader.grade("p", [answer]))
        while not task.done():
            await asyncio.sleep(0.2)
            set_clock(by)
        return task.result()

    grader = CheckerGrader(Slow(), {"p": "1"}, workers=1, time_limit_s=limit_s)
    try:
        assert asyncio.run(grade()) == [verdict]
    finally:
        grader.close()


def test_a_run_whose_clock_goes_backwards(folder, whole, monkeypatch):
    """Every look at the clock shows an earlier hour; the run was torn before, so that it is also taken up again."""
    hours = itertools.count()

    class Backwards(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return dt.datetime(2026, 1, 10, tzinfo=tz) - dt.timedelta(hours=next(hours))

    monkeypatch.setattr("ttc.store.env.datetime", Backwards)
    plain = time.time
    monkeypatch.setattr(time, "time", lambda: plain() - HOUR * next(hours))
    out = folder / "run"
    assert sweep(out) == 0
    journal = out / "journal" / "main.jsonl"
    journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 2])
    kept = records(out)
    assert sweep(out) == 0
    assert next(hours) > 3
    check_complete(out, whole, kept)
    assert all(row["wall_s"] is None or row["wall_s"] >= 0 for row in records(out))
