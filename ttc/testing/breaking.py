"""Programs that are killed at an exact moment, and what is left of them."""

from __future__ import annotations

import os

import psutil

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
