"""Shards of a run, each in a process of its own, end with the tables of a run that was never shared."""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from documented import ROOT, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kill import STOPPED, manifest_of, tables

from ttc.api import Silent
from ttc.cli.main import run
from ttc.core.errors import ConfigError, EngineError
from ttc.core.specs import parse_config
from ttc.engines.fake import FakeEngine
from ttc.engines.opening import open_engine
from ttc.report.aggregate import compact
from ttc.run.bench import make_benches
from ttc.run.forecasting import known_before
from ttc.run.manifest import portable
from ttc.run.plan import make_cells, spec_id
from ttc.run.shards import Shard, parse_shard
from ttc.run.sweep import Plan, run_sweep
from ttc.store.rundir import RunDir
from ttc.testing.foreseen import Foreseen

PROBLEMS = 7
SWEEP = ["sweep", "sweep.yaml"]
YAML = """
task: {name: local, data: rows.jsonl}
model: "fake:p=0.5;delay_s=0.03"
strategies: [self-consistency, adaptive-consistency]
budgets: [250, 700]
sampling: {max_tokens: 120}
"""
CELLS = 4


class Knows(Foreseen):
    """Told for the fake model: rates that differ, so that grants do."""

    def known(self):
        return [("fake", "self-consistency", unit) for unit in ("tokens", "calls")]


def plan_of(folder, n, allocators=("uniform", "random", "knapsack", "sequential", "streaming")):
    write_rows(folder, n)
    config = parse_config(
        {
            "tasks": [{"name": "local", "data": str(folder / "rows.jsonl")}],
            "models": ["fake:p=0.5"],
            "strategies": ["self-consistency"],
            "allocators": list(allocators),
            "budgets": [200, 450],
            "sampling": {"max_tokens": 100},
            "max_errors": "100%",
            "cache": "off",  # a shard draws its whole cells anew, and the fake model tells no log-probability of a cut sample
        },
        "test",
    )
    benches, floor = make_benches(config, open_engine)
    predictor = Knows({f"p{i}": (i % 5) / 5 + 0.05 for i in range(n)}, sample_tokens=60)
    cells = make_cells(config, [b.subject for b in benches], floor, lambda *_: predictor)
    return Plan(config, benches, cells)


def run_part(plan, out, shard=None):
    """Run a plan, or a shard of it, without a report."""
    folder = RunDir(out)
    folder.open_for_writing(portable(plan.config), spec_id(plan.cells), None if shard is None else shard.name)
    try:
        return asyncio.run(run_sweep(plan, folder, Silent(), shard))
    finally:
        folder.close()


def rows_of(out):
    """Return every table's rows; times are no part of what was run."""
    compact(RunDir(out))
    return tables(out)


@settings(max_examples=6, deadline=None)
@given(n=st.integers(1, 8), count=st.integers(1, 5), order=st.randoms(use_true_random=False))
def test_the_union_of_all_shards_is_the_whole_run(n, count, order):
    """Grants fixed before the run and grants in rounds, more shards than problems, in any order."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = plan_of(folder, n)
        run_part(plan, folder / "whole")
        shards = [Shard(i, count) for i in range(1, count + 1)]
        order.shuffle(shards)
        for shard in shards:
            run_part(plan, folder / "shared", shard)
        assert rows_of(folder / "shared") == rows_of(folder / "whole")
        # Each problem stands in one journal.
        lines = [
            json.loads(line)
            for path in (folder / "shared" / "journal").glob("*.jsonl")
            for line in path.read_text().splitlines()
        ]
        keys = [(row["cell"], row["problem_id"]) for row in lines if "problem_id" in row]
        assert len(keys) == len(set(keys)) == n * len(plan.cells)


def test_problems_are_dealt_where_grants_are_known_before(tmp_path):
    plan = plan_of(tmp_path, 5)
    whole = {cell.id for cell in plan.cells if cell.allocator.name in ("sequential", "streaming")}
    assert {cell.id for cell in plan.cells if not known_before(cell)} == whole
    parts = [Shard(i, 3).parts(plan.cells) for i in (1, 2, 3)]
    for cell in plan.cells:
        held = [part[cell.id] for part in parts if cell.id in part]
        assert sorted(pid for ids in held for pid in ids) == sorted(cell.subject.problem_ids)
        assert len(held) == (1 if cell.id in whole else 3)
    # The four whole cells have 2 x 1000 and 2 x 2250 tokens: no shard gets two of the largest.
    loads = [sum(cell.total_tokens for cell in plan.cells if cell.id in whole and cell.id in part) for part in parts]
    assert sorted(loads) == [2000, 2250, 2250]


class Fails:
    """Breaks the fake model for some problems, until it is mended; a failed call is charged its whole reservation."""

    def __init__(self, monkeypatch, *questions):
        self.broken, whole = True, FakeEngine.generate

        async def generate(engine, requests):
            if self.broken and any(q in request.prompt.messages[-1].content for request in requests for q in questions):
                raise EngineError("out of order", retryable=True)
            return await whole(engine, requests)

        monkeypatch.setattr(FakeEngine, "generate", generate)


def test_shards_may_spend_their_grants_and_no_more(tmp_path, monkeypatch):
    """Failed attempts stay spent: a shard pays them from its own part of the total."""
    model = Fails(monkeypatch, "")
    plan = plan_of(tmp_path, 6, ["uniform"])
    out, shards = tmp_path / "shared", (Shard(1, 2), Shard(2, 2))
    for broken in (True, False):
        model.broken = broken
        for shard in shards:
            run_part(plan, out, shard)
    for shard in shards:
        rows = [json.loads(line) for line in (out / "journal" / f"{shard.name}.jsonl").read_text().splitlines()]
        for cell in plan.cells:
            attempts = [row for row in rows if row.get("cell") == cell.id and "problem_id" in row]
            failed = [row for row in attempts if row["status"] == "error"]
            assert (len(attempts), len(failed)) == (6, 3)
            assert sum(sum(row["draw_spent"]) for row in failed) > 0
            assert sum(sum(row["draw_spent"]) for row in attempts) <= 3 * cell.budget


@pytest.mark.parametrize("word", ["0/4", "5/4", "1", "1/0", "a/b", "1/4/2", "-1/4", "1 / 4"])
def test_a_shard_that_is_none(word):
    with pytest.raises(ConfigError, match="--shard"):
        parse_shard(word)


@pytest.fixture
def here(tmp_path, monkeypatch):
    write_rows(tmp_path, PROBLEMS)
    (tmp_path / "sweep.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(number, stop=None, alone=None):
    """Start one of two shards as Slurm does; `stop` kills it when its journal has got so many records.

    `alone` is the number of shards, told where one task is submitted again.
    """
    if stop is None:
        bin_folder = str(Path(sys.executable).parent)
        slurm = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": str(2 if alone is None else 1)}
        environment = {**os.environ, **slurm, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
        words = [
            "bash",
            str(ROOT / "examples" / "slurm.sh"),
            "sweep.yaml",
            "shared",
            *([] if alone is None else [str(alone)]),
        ]
    else:
        environment = dict(os.environ)
        program = [sys.executable, "-c", STOPPED, json.dumps(["record", stop, signal.SIGKILL])]
        words = [*program, *SWEEP, "--out", "shared", "--shard", f"{number}/2", "--display", "plain"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def records(folder):
    found = {}
    for path in sorted((folder / "journal").glob("*.jsonl")):
        whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        found[path.name] = [row for row in map(json.loads, whole) if "problem_id" in row]
    return found


def test_one_of_two_shards_is_killed_and_started_again(here, capsys):
    killed = start(1, stop=5)
    while killed.poll() is None and not any(records(here / "shared").values()):
        time.sleep(0.01)
    other = start(2)  # begins while the first is at work, and is far from its end when that one dies
    assert ended(killed)[0] == -signal.SIGKILL
    code, out, err = ended(other)
    assert code == 0, err
    assert out == ""
    left = (PROBLEMS + 1) // 2 * CELLS - 5
    assert f"shard 2/2 is finished; {left} problems of other shards are not" in " ".join(err.split())
    kept = records(here / "shared")
    assert [len(rows) for rows in kept.values()] == [5, PROBLEMS // 2 * CELLS]
    assert not list((here / "shared").glob("records.parquet"))

    code, out, err = ended(start(1, alone=2))
    assert code == 0, err
    assert "report: " in out
    manifest = manifest_of(here / "shared")
    assert manifest["state"] == "finished"
    assert manifest["shards"] == 2
    assert len(manifest["restarts"]) == 1
    found = records(here / "shared")
    assert found["shard-1-of-2.jsonl"][:5] == kept["shard-1-of-2.jsonl"]
    keys = [(row["cell"], row["problem_id"]) for rows in found.values() for row in rows]
    assert len(keys) == len(set(keys)) == PROBLEMS * CELLS
    assert run([*SWEEP, "--out", "whole", "--display", "none"]) == 0
    assert tables(here / "shared") == tables(here / "whole")

    # Written once: neither a shard that comes again nor anybody else touches it.
    before = (here / "shared" / "records.parquet").stat().st_mtime_ns
    capsys.readouterr()
    assert run([*SWEEP, "--out", "shared", "--shard", "2/2"]) == 0
    assert "nothing is left to run: all of shard 2/2" in capsys.readouterr().err
    assert (here / "shared" / "records.parquet").stat().st_mtime_ns == before


def test_an_unshared_command_runs_what_shards_left(here, capsys):
    words = [*SWEEP, "--out", "shared", "--display", "none"]
    assert run([*words, "--shard", "2/3"]) == 0
    assert run(words) == 0
    assert run([*SWEEP, "--out", "whole", "--display", "none"]) == 0
    assert tables(here / "shared") == tables(here / "whole")
    assert [len(rows) for rows in records(here / "shared").values()] == [5 * CELLS, 2 * CELLS]
    capsys.readouterr()
    assert run([*SWEEP, "--out", "shared", "--shard", "1/3"]) == 0
    assert "nothing is left to run: all of shard 1/3" in capsys.readouterr().err


def test_a_shard_that_mends_a_finished_run_has_the_report_written_again(here, capsys, monkeypatch):
    model = Fails(monkeypatch, json.loads((here / "rows.jsonl").read_text().splitlines()[1])["question"])
    words = [*SWEEP, "--out", "shared", "--max-errors", "100%"]
    for number in (1, 2):
        assert run([*words, "--shard", f"{number}/2"]) == 0
    first = manifest_of(here / "shared")
    failed = [row for rows in records(here / "shared").values() for row in rows if row["status"] == "error"]
    assert (first["state"], len(failed)) == ("finished", CELLS)
    before = (here / "shared" / "records.parquet").read_bytes()
    model.broken = False
    capsys.readouterr()
    assert run([*words, "--shard", "1/2"]) == 0
    assert "nothing is left to run" in capsys.readouterr().err
    assert (here / "shared" / "records.parquet").read_bytes() == before
    assert run([*words, "--shard", "2/2"]) == 0
    assert (here / "shared" / "records.parquet").read_bytes() != before
    assert manifest_of(here / "shared").keys() == first.keys()
    assert manifest_of(here / "shared")["state"] == "finished"


def test_what_shards_refuse(here, capsys):
    words = [*SWEEP, "--out", "shared", "--display", "none"]
    assert run([*SWEEP, "--shard", "1/2"]) == 2
    assert "--shard 1/2 needs --out" in capsys.readouterr().err
    assert run([*words, "--shard", "1/2"]) == 0
    assert run([*words, "--shard", "1/3"]) == 2
    assert "is dealt over 2 shards, not 3" in capsys.readouterr().err
    with (here / "shared" / "shards" / "shard-1-of-2" / ".lock").open("a") as own:
        fcntl.flock(own, fcntl.LOCK_EX)
        assert run([*words, "--shard", "1/2"]) == 6
        assert "another process is running" in capsys.readouterr().err
    with (here / "shared" / ".lock").open("a+") as shared:
        fcntl.flock(shared, fcntl.LOCK_SH)  # a shard is running
        assert run(words) == 6
        assert "another process is running" in capsys.readouterr().err
        assert run([*words, "--shard", "2/2"]) == 0  # not the last one to end: it writes no report
        assert not (here / "shared" / "records.parquet").exists()
    assert run([*words, "--shard", "2/2"]) == 0
    assert (here / "shared" / "records.parquet").exists()
