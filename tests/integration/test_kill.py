"""A run that is killed and started again ends with the same tables as one that never was."""

import fcntl
import json
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from ttc.cli.main import run

PROBLEMS = 6
STRATEGIES = ["self-consistency", "best-of-n", "adaptive-consistency"]
BUDGETS = [250, 700]
LIVE = ["--task", "local", "--data", "rows.jsonl", "--model", "fake:p=0.5;delay_s=0.04", "--max-tokens", "120"]
GRID = ["--strategies", ",".join(STRATEGIES), "--budgets", ",".join(map(str, BUDGETS))]
SWEEP = ["sweep", *LIVE, *GRID]
RECORDS = PROBLEMS * len(STRATEGIES) * len(BUDGETS)
# The program, stopped from inside at an exact moment. SIGKILL leaves half of the line that it was about to write.
STOPPED = """
import json, os, signal, sys
import ttc.run.sweep
from ttc.cli.main import main
from ttc.store.journal import JournalWriter
kind, left, by = json.loads(sys.argv.pop(1))
if by == signal.SIGTERM:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a background job of a shell script
ttc.run.sweep.RESERVED_EVERY_S = 0.15
append = JournalWriter.append

def counted(self, row):
    global left
    own = row.get("kind", "record") == kind
    if own and left == 0 and by == signal.SIGKILL:
        line = json.dumps(row)
        self._file.write(line[: len(line) // 2])
        self._file.flush()
        os.kill(os.getpid(), by)
    append(self, row)
    left -= own
    if own and left == 0 and by != signal.SIGKILL:
        os.kill(os.getpid(), by)

JournalWriter.append = counted
main()
"""
TIMES = {"wall_s", "latency_p50_s", "latency_p95_s"}
TABLES = ["records", "cells", "candidates", "allocation"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    with (tmp_path / "rows.jsonl").open("w") as file:
        for i in range(PROBLEMS):
            a, b = 17 * i + 3, 5 * i + 1
            file.write(json.dumps({"id": f"p{i}", "question": f"What is {a} + {b}?", "answer": str(a + b)}) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def journal_lines(out):
    """Return the journal's whole lines; a torn last one is left out."""
    path = out / "journal" / "main.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def records_of(out):
    return [row for row in journal_lines(out) if "problem_id" in row]


def stop_after(count, arguments, out, *, kind="record", by=signal.SIGKILL):
    """Run the program until its journal has got `count` more lines of a kind. Returns exit code and stderr."""
    program = [sys.executable, "-c", STOPPED, json.dumps([kind, count, by]), *arguments, "--out", str(out)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


def finish(arguments, out):
    assert run([*arguments, "--out", str(out), "--display", "none"]) == 0


def tables(out):
    """Return all rows without times, which an interruption makes null."""
    found = {name: pq.read_table(out / f"{name}.parquet").to_pylist() for name in TABLES}
    return {name: [{k: v for k, v in row.items() if k not in TIMES} for row in rows] for name, rows in found.items()}


def manifest_of(out):
    return json.loads((out / "manifest.json").read_text())


def lock_is_free(out):
    with (out / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def check_same(broken, whole, kept):
    """Compare with an unbroken run; `kept` was finished before the last start."""
    rows = records_of(broken)
    assert rows[: len(kept)] == kept
    keys = [(row["cell"], row["problem_id"]) for row in rows]
    assert len(set(keys)) == len(keys) == len(records_of(whole))
    assert tables(broken) == tables(whole)


@pytest.mark.parametrize(
    ("more", "moments"),
    [([], (1, 8, RECORDS - 1)), (["--cache", "off"], (1, RECORDS // 2, RECORDS - 1))],
    ids=["cache", "cache-off"],
)
def test_killed_three_times(folder, more, moments):
    """Three strategies at two budgets, killed near the start, in the middle and near the end."""
    out, kept, words = folder / "broken", [], [*SWEEP, *more]
    for moment in moments:
        code, _ = stop_after(moment - len(kept), words, out)
        assert code == -signal.SIGKILL
        assert lock_is_free(out)
        assert records_of(out)[: len(kept)] == kept
        kept = records_of(out)
        assert len(kept) == moment
    finish(words, out)
    finish(words, folder / "whole")
    check_same(out, folder / "whole", kept)
    assert [sorted(restart) for restart in manifest_of(out)["restarts"]] == [["at", "reserved_tokens"]] * 3
    assert manifest_of(out)["state"] == "finished"
    cells = {row["cell"]: row for row in pq.read_table(out / "cells.parquet").to_pylist()}
    begun = {row["cell"] for row in kept}
    ended = {row["cell"] for row in kept if sum(r["cell"] == row["cell"] for r in kept) == PROBLEMS}
    assert all(cells[cell]["wall_s"] is None for cell in begun - ended)
    assert len(pq.read_table(out / "records.parquet")) == RECORDS


@pytest.mark.parametrize("more", [["--overlap"], ["--overlap", "--cache", "off"]], ids="+".join)
def test_killed_while_all_cells_run(folder, more):
    """What is finished does not depend on the order in which it came."""
    out = folder / "broken"
    assert stop_after(RECORDS // 3, [*SWEEP, *more], out)[0] == -signal.SIGKILL
    kept = records_of(out)
    assert len(kept) == RECORDS // 3
    finish([*SWEEP, *more], out)
    finish([*SWEEP, *more], folder / "whole")
    check_same(out, folder / "whole", kept)


def test_killed_while_replaying_a_bank(folder):
    """Means over draws are written once a problem: a restart neither repeats nor loses a draw."""
    with (folder / "bank.jsonl").open("w") as file:
        for problem in range(30):
            for sample in range(12):
                mark = problem * 31 + sample * 17
                row = {"problem_id": f"b{problem:02}", "config": "tiny", "sample": sample, "answer": str(mark % 4),
                       "correct": mark % 4 == problem % 4, "completion_tokens": 30 + mark % 90, "prompt_tokens": 7,
                       "finish": "stop", "logprob": -float(mark % 9)}  # fmt: skip
                file.write(json.dumps(row) + "\n")
    assert run(["import", "bank.jsonl", "--out", "bank"]) == 0
    words = ["sweep", "--bank", "bank", "--draws", "40", *GRID]
    total = 30 * len(STRATEGIES) * len(BUDGETS)
    out = folder / "broken"
    assert stop_after(total // 3, words, out)[0] == -signal.SIGKILL
    kept = records_of(out)
    assert len(kept) == total // 3
    finish(words, out)
    finish(words, folder / "whole")
    check_same(out, folder / "whole", kept)
    assert len(manifest_of(out)["restarts"]) == 1


def test_terminated(folder):
    """SIGTERM ends a run as Ctrl-C does."""
    out = folder / "broken"
    code, err = stop_after(RECORDS // 2, SWEEP, out, by=signal.SIGTERM)
    assert code == 130
    assert err.splitlines()[-1].startswith("interrupted; what is finished is kept")
    assert "Traceback" not in err
    assert lock_is_free(out)
    kept = records_of(out)
    finish(SWEEP, out)
    finish(SWEEP, folder / "whole")
    check_same(out, folder / "whole", kept)
    assert len(manifest_of(out)["restarts"]) == 1


def test_reserved_tokens_are_told(folder):
    """What was in flight when it was killed is in the manifest, once, and is charged to nobody."""
    words = ["sweep", *LIVE, "--strategies", "self-consistency", "--budgets", "1500", "--cache", "off"]
    words[words.index("fake:p=0.5;delay_s=0.04")] = "fake:p=0.5;delay_s=0.2"
    out = folder / "broken"
    assert stop_after(1, words, out, kind="in_flight")[0] == -signal.SIGKILL
    noted = [line["reserved_tokens"] for line in journal_lines(out) if line.get("kind") == "in_flight"][-1]
    assert 0 < noted <= 1500 * PROBLEMS
    # Killed once more before anything was in flight: the first crash is not counted twice.
    assert stop_after(0, words, out, kind="in_flight")[0] == -signal.SIGKILL
    finish(words, out)
    assert [restart["reserved_tokens"] for restart in manifest_of(out)["restarts"]] == [noted, 0]
    row = pq.read_table(out / "cells.parquet").to_pylist()[0]
    assert row["tokens_total"] == sum(r["completion_tokens"] for r in records_of(out)) <= 1500 * PROBLEMS


def test_finished_run_is_left_alone(folder, capsys):
    out = folder / "whole"
    finish(SWEEP, out)
    names = ["manifest.json", "config.yaml", "env.json", "journal/main.jsonl", "cache.sqlite"]
    before = {name: (out / name).read_bytes() for name in names}
    rows = tables(out)
    capsys.readouterr()
    assert run([*SWEEP, "--out", str(out)]) == 0
    err = capsys.readouterr().err
    assert f"nothing is left to run: every cell in {out} is finished" in err
    assert "starting fake" not in err
    assert {name: (out / name).read_bytes() for name in names} == before
    assert tables(out) == rows
