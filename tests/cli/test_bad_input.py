"""Whatever a user gets wrong: one line says what, one what to do, the exit code tells the kind, nothing is lost.

`python tests/cli/test_bad_input.py` writes docs/errors.md from the tables.
"""

import contextlib
import functools
import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from bad_requests import FILES, REQUEST
from bad_runs import CODE_FILES, RUNNING, full_disk, torn, unfinished
from error_case import normal, sweep

from ttc.cli.main import run

PROGRAM = [sys.executable, "-m", "ttc"]
DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
GROUPS = {
    "What was asked for": REQUEST,
    "Files": FILES,
    "A strategy of one's own": CODE_FILES,
    "While running": RUNNING,
}
CASES = [case for group in GROUPS.values() for case in group]

HEAD = """# What can go wrong, and what is said

Every failure ends in one `error:` line on stderr, in most cases a `hint:` line, and an exit code. Nothing that is finished is
lost: the same command goes on where it stopped. `--debug` adds the traceback.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a defect of this program |
| 2 | the request is wrong: a flag, a key, a name, a combination |
| 3 | a data set, a bank or a run cannot be read |
| 4 | more problems failed than `--max-errors` allows, and the run stopped there |
| 5 | a model cannot be loaded or reached, or died |
| 6 | a folder cannot be written or is in use |
| 130 | interrupted (Ctrl-C or SIGTERM); run the same command again to go on |

The messages below come from real runs, which a test repeats. `N`, `ID` and `PORT` stand for what differs from run to run.
"""


def document() -> str:
    """Return docs/errors.md."""
    text = [HEAD]
    for title, cases in GROUPS.items():
        text += [f"## {title}\n", "| case | what is said | exit code |", "|---|---|---|"]
        for case in cases:
            words = [f"`error: {case.error}`" if case.error is not None else f"`{case.says}`"]
            words += [f"`hint: {case.hint}`"] if case.hint is not None else []
            cell = "<br>".join(words).replace("|", "\\|")
            text.append(f"| {case.name} | {cell} | {case.exit_code} |")
        text.append("")
    return "\n".join(text)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}


def records(folder: Path) -> list[dict]:
    lines = (folder / "journal" / "main.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "problem_id" in row]


def told(text: str, kind: str) -> list[str]:
    return [normal(line.removeprefix(kind)) for line in text.splitlines() if line.startswith(kind)]


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
def test_case(case, folder, capfd):
    with contextlib.ExitStack() as stack:
        made = case.make(folder)
        if isinstance(made, contextlib.AbstractContextManager):
            stack.enter_context(made)
        before = contents(folder)
        capfd.readouterr()
        assert run(shlex.split(case.arguments)) == case.exit_code
        out, err = capfd.readouterr()
        after = contents(folder)
    assert told(err, "error: ") == ([case.error] if case.error is not None else [])
    assert told(err, "hint: ") == ([case.hint] if case.hint is not None else [])
    assert case.says is None or case.says in map(normal, err.splitlines())
    assert "Traceback" not in err
    assert "error" not in out
    if case.exit_code:
        # A failed run may add to a journal and to a log; it changes nothing else.
        assert {name: after.get(name, b"")[: len(old)] for name, old in before.items()} == before


def test_damaged_manifest_costs_no_record(folder):
    """Doing what the hint says brings the run back, and nothing runs twice."""
    before = records(folder / "run")
    (folder / "run" / "manifest.json").unlink()
    assert run(shlex.split(sweep("--out run --display none"))) == 0
    assert records(folder / "run") == before
    assert json.loads((folder / "run" / "manifest.json").read_text())["state"] == "finished"


def test_torn_line_is_run_again_and_leaves_no_trace(folder, capfd):
    journal = folder / "run" / "journal" / "main.jsonl"
    whole = records(folder / "run")
    torn(folder)
    assert len(records_or_torn(journal)[1]) == 1
    for _ in range(2):
        assert run(shlex.split(sweep("--out run"))) == 0
        assert "damaged" not in capfd.readouterr().err
        kept, broken = records_or_torn(journal)
        assert not broken
        assert [(r["problem_id"], r["candidates"]) for r in kept] == [(r["problem_id"], r["candidates"]) for r in whole]


def records_or_torn(journal: Path) -> tuple[list[dict], list[str]]:
    found, broken = [], []
    for line in journal.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            broken.append(line)
    return [row for row in found if "problem_id" in row], broken


def test_whole_last_line_without_its_break_is_kept(folder):
    """A line that lacks only its line break was finished: it is neither lost nor run again."""
    journal = folder / "run" / "journal" / "main.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if "problem_id" in line)
    journal.write_text("".join(lines[: last + 1]).rstrip())
    before = records(folder / "run")
    unfinished(folder)
    assert run(shlex.split(sweep("--out run --display none"))) == 0
    assert records(folder / "run") == before


def test_failed_problems_are_run_again_and_the_others_kept(folder):
    """Too many failures end the run; what was finished has its tables, and the next run takes up the rest."""
    words = shlex.split(sweep("--out new --display none", model="fake", strategies="strategies.py:Fussy"))
    assert run(words) == 4
    first = {r["problem_id"]: r for r in records(folder / "new")}
    assert {pid: r["status"] for pid, r in first.items()} == {"p0": "ok", "p1": "error", "p2": "ok"}
    assert first["p1"]["correct"] is None
    rows = pq.read_table(folder / "new" / "records.parquet").to_pylist()
    assert {r["problem_id"]: r["status"] for r in rows} == {"p0": "ok", "p1": "error", "p2": "ok"}
    cell = pq.read_table(folder / "new" / "cells.parquet").to_pylist()[0]
    assert (cell["n_errors"], cell["n_problems"]) == (1, 3)
    assert cell["accuracy"] == sum(first[p]["score"] for p in ("p0", "p2")) / 2
    (folder / "go").touch()
    assert run(words) == 0
    again = records(folder / "new")
    assert [r["problem_id"] for r in again] == ["p0", "p1", "p2", "p1"]
    rows = pq.read_table(folder / "new" / "records.parquet").to_pylist()
    assert {r["problem_id"]: r["status"] for r in rows} == {"p0": "ok", "p1": "ok", "p2": "ok"}


def test_changed_strategy_file_is_another_run(folder, capfd):
    """What was drawn by other code is not taken for this code's result."""
    words = sweep("--out new --display none", strategies="strategies.py:Sleeps", budgets="9") + " c.yaml"
    (folder / "c.yaml").write_text("problem_timeout_s: 0.05")
    assert run(shlex.split(words)) == 0
    code = (folder / "strategies.py").read_text()
    (folder / "strategies.py").write_text(code.replace("sleep(999)", "sleep(998)"))
    assert run(shlex.split(words)) == 2
    assert "new holds another run" in capfd.readouterr().err


@pytest.mark.parametrize("mounting", [True, False], ids=["mounted", "limited"])
def test_full_disk_is_survived(folder, monkeypatch, mounting):
    """With room again, the same command ends with what it would have written at once."""
    if not mounting:
        monkeypatch.setattr("bad_runs.mounted", lambda *arguments: False)
    words = shlex.split(sweep("--cache off --display none --out place/new", budgets="2000"))
    with full_disk(folder):
        (folder / "place").symlink_to(folder / "full")
        assert run(words) == 6
        (folder / "saved").mkdir()
        copied = shutil.copytree(folder / "full", folder / "saved", dirs_exist_ok=True, symlinks=True)
        half = {r["problem_id"]: r for r in records_or_torn(copied / "new" / "journal" / "main.jsonl")[0]}
    (folder / "place").unlink()
    (folder / "place").symlink_to(folder / "saved")
    assert run(words) == 0
    after = {r["problem_id"]: r for r in records(folder / "saved" / "new")}
    assert len(after) == 3
    assert half.items() <= after.items()


def test_strategy_that_blocks_the_program(folder):
    """No `await` ever comes back to the event loop: the time limit holds all the same, and the others go on."""
    ways = ["spin", "catch", "calls", "group"]
    choices = [{"name": "strategies.py:Blocks", "params": {"how": way}, "label": way} for way in ways]
    (folder / "c.yaml").write_text(json.dumps({"problem_timeout_s": 0.7, "strategies": choices}))
    words = shlex.split(sweep("c.yaml --out new --trust-config", strategies=None))
    done = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found = records(folder / "new")
    assert [r["status"] for r in found if r["problem_id"] == "p0"] == ["timeout"] * 4
    assert [r["status"] for r in found if r["problem_id"] != "p0"] == ["ok"] * 8
    assert all(r["completion_tokens"] <= 256 for r in found)


def test_interrupt_keeps_what_is_finished(folder):
    """Ctrl-C ends with 130 and one line; the same command goes on."""
    words = shlex.split(sweep("--out new", strategies="strategies.py:CtrlC"))
    # Whoever started the tests in the background had their programs ignore Ctrl-C.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    done = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, timeout=60, preexec_fn=heard)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted; what is finished is kept: run the same command again to go on"
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    kept = records(folder / "new")
    assert {r["problem_id"] for r in kept} == {"p0", "p2"}
    (folder / "go").touch()
    assert run(words) == 0
    assert records(folder / "new")[:2] == kept
    assert len(records(folder / "new")) == 3


def test_document_holds_these_cases():
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_every_group_of_exit_codes_is_met():
    assert {case.exit_code for case in CASES} >= {0, 2, 3, 4, 5, 6}
    assert len({case.name for case in CASES}) == len(CASES)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
