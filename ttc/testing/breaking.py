"""Programs that are killed at an exact moment, checkers that are fatal, and what is left of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from ttc.store.journal import row_of

VICTIM = '''
"""`ttc`, which kills itself: python -c VICTIM MOMENT NUMBER ARGUMENTS..., at that call of that kind, from 1."""
import os, signal, sys, time

moment, number = sys.argv.pop(1), int(sys.argv.pop(1))

def stop():
    os.kill(os.getpid(), signal.SIGKILL)

def watched(owner, name, after):
    plain, calls = getattr(owner, name), 0

    def counted(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == number and not after:
            stop()
        result = plain(*arguments, **named)
        if calls == number:
            stop()
        return result

    setattr(owner, name, counted)

if moment == "drawn":  # a sample was stored
    import ttc.engines.cache
    watched(ttc.engines.cache.CachedEngine, "_store", True)
elif moment == "read":  # answers are being read
    import ttc.run.grading
    watched(ttc.run.grading.CheckerGrader, "_read_inline", False)
elif moment == "grading":  # an answer is being judged
    import ttc.run.grading
    watched(ttc.run.grading.CheckerGrader, "_grade_inline", False)
elif moment == "record":  # half of a record is written
    from ttc.store.journal import JournalWriter
    append, records = JournalWriter.append, 0

    def torn(self, row):
        global records
        records += "problem_id" in row
        if records == number:
            import ttc.store.journal
            line = ttc.store.journal._line(row)
            self._file.write(line[: len(line) // 2])
            self._file.flush()
            stop()
        append(self, row)

    JournalWriter.append = torn
elif moment == "tables":  # the journal is being made into tables
    import ttc.report.aggregate
    watched(ttc.report.aggregate, "write_table", False)
elif moment == "report":  # pictures and the page are being written
    import ttc.report.build
    watched(ttc.report.build, "_write", False)
elif moment == "clock":  # not killed: its wall clock goes back by so many seconds whenever it is read
    import datetime as dt
    import ttc.store.env
    plain, looks = time.time, 0

    def earlier():
        global looks
        looks += 1
        return plain() - number * looks

    class Backwards(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(time.time(), tz)

    time.time, ttc.store.env.datetime = earlier, Backwards

from ttc.cli.main import main
main()
'''
MOMENTS = ("drawn", "read", "grading", "record", "tables", "report")
"""Where a victim can be killed."""

FATAL_TASK = '''
"""The local task, of which some answers are fatal to who grades them: TTC_FATAL says how, by reference answer, as JSON."""
import json, os, time
from ttc_evals.local import Local
from ttc_evals.numeric import NumericChecker

class Odd(NumericChecker):
    isolated = True
    version = "odd-1"

    def grade(self, answer, gold):
        how = json.loads(os.environ["TTC_FATAL"]).get(gold)
        if how == "hangs":
            time.sleep(600)
        if how == "eats":
            return bool([bytearray(1 << 28) for _ in range(1 << 10)])
        if how == "dies":
            os._exit(7)
        return answer == gold

class Risky(Local):
    name = "risky"
    checker = Odd()
'''
TIMES = {"wall_s", "latency_p50_s", "latency_p95_s"}
TABLES = ("records", "cells", "candidates", "allocation")


def write_sums(folder: Path, problems: int) -> None:
    """Write problems into rows.jsonl, the first with the answers 4, 26 and 48."""
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for i in range(problems):
            question = f"What is {17 * i + 3} + {5 * i + 1}?"
            file.write(json.dumps({"id": f"p{i}", "question": question, "answer": str(22 * i + 4)}) + "\n")


def journal_rows(out: Path) -> list[dict[str, Any]]:
    """Return what the undamaged lines of a run's journal hold."""
    path = out / "journal" / "main.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [row for line in lines if (row := row_of(line)) is not None]


def records(out: Path) -> list[dict[str, Any]]:
    """Return the records of a run, attempts that failed among them."""
    return [row for row in journal_rows(out) if "problem_id" in row]


def tables(out: Path, but: Collection[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Return all rows without times, which an interruption makes null, and without the columns `but`."""
    found = {name: pq.read_table(out / f"{name}.parquet").to_pylist() for name in TABLES}
    left_out = TIMES.union(but)
    return {name: [{k: v for k, v in row.items() if k not in left_out} for row in rows] for name, rows in found.items()}


def left_running(session: int, within_s: float) -> list[psutil.Process]:
    """Return what still runs of a session (all that a program started in a session of its own) when the time is up."""
    _, alive = psutil.wait_procs([p for p in psutil.process_iter() if _session(p.pid) == session], timeout=within_s)
    return [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def engine_cores(program: psutil.Process) -> list[psutil.Process]:
    """Return the vLLM engines that a program has running, in the order in which it started them."""
    cores = [p for p in program.children() if "EngineCore" in f"{p.name()} {' '.join(p.cmdline())}"]
    return sorted(cores, key=psutil.Process.create_time)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
