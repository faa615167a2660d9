"""A sweep on a local Ray cluster: the same table as without, whatever happens to the workers."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass

import pytest
from documented import write_rows
from test_kill import tables

from ttc.api import Silent, make_plan
from ttc.cli.main import _with_values, run
from ttc.core.errors import ConfigError, EngineError
from ttc.core.specs import ModelSpec
from ttc.core.types import GenRequest
from ttc.engines.ray_actor import Worker
from ttc.engines.ray_cluster import RayOptions, join_cluster
from ttc.engines.ray_workers import Fleet
from ttc.report.aggregate import compact
from ttc.run.manifest import portable
from ttc.run.plan import spec_id
from ttc.run.sweep import run_sweep
from ttc.store.bank import read_bank
from ttc.store.rundir import RunDir

PROBLEMS = 8
pytestmark = pytest.mark.timeout(1500)
LIVE = ["--task", "local", "--data", "rows.jsonl", "--model", "fake:p=0.5;delay_s=0.02", "--max-tokens", "120"]


@pytest.fixture(scope="module")
def cluster():
    """One local cluster for all: its start is most of the time. Ray gives a start half a minute, however busy the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        for attempt in range(4):
            try:
                join_cluster(RayOptions(workers=2))
                break
            except EngineError:
                if attempt == 3:
                    raise
        yield
        import ray

        ray.shutdown()


@pytest.fixture
def here(tmp_path, monkeypatch):
    write_rows(tmp_path, PROBLEMS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(**more):
    return {
        "tasks": [{"name": "local", "data": "rows.jsonl"}],
        "models": ["fake:p=0.5;delay_s=0.02"],
        "strategies": ["self-consistency", "adaptive-consistency"],
        "budgets": [300, 600],
        "sampling": {"max_tokens": 120},
        "prm": "fake",
        **more,
    }


@pytest.fixture
def dying(monkeypatch):
    """The first worker's process is killed as it is asked its fifth question, which therefore is never answered."""
    asks, ask = [], Worker.ask

    async def watched(worker, model, asked):
        if worker.label == "worker 1" and isinstance(asked, GenRequest):
            asks.append(asked)
            if len(asks) == 5:
                os.kill(worker.pid, signal.SIGKILL)
        return await ask(worker, model, asked)

    monkeypatch.setattr(Worker, "ask", watched)
    yield
    assert len(asks) >= 5


@dataclass
class Run:
    """What a sweep left."""

    tables: dict
    records: list
    warnings: list
    statistics: list


def swept(out, workers=None, **more):
    """Run the sweep, without a report."""
    plan = make_plan(config(**more), None if workers is None else RayOptions(workers=workers))
    engine, heard, counted = plan.benches[0].engine, [], []
    if workers is not None:
        release = engine.fleet.release

        async def told(pool):
            heard.extend(pool.warnings)
            counted.extend(member.statistics for member in pool.members)
            await release(pool)

        engine.fleet.release = told
    folder = RunDir(out)
    folder.open_for_writing(portable(plan.config), spec_id(plan.cells))
    try:
        assert asyncio.run(run_sweep(plan, folder, Silent()))
    finally:
        folder.close()
    compact(folder)
    rows = [json.loads(line) for line in (out / "journal" / "main.jsonl").read_text().splitlines()]
    return Run(tables(out), [row for row in rows if "problem_id" in row], heard, counted)


def check_once(found):
    """Every problem of every cell is there once, and none failed."""
    keys = [(row["cell"], row["problem_id"]) for row in found.records]
    assert len(keys) == len(set(keys)) == PROBLEMS * 4
    assert all(row["status"] != "error" for row in found.records)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same sweep without Ray."""
    folder = tmp_path_factory.mktemp("alone")
    write_rows(folder, PROBLEMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return swept(folder / "out").tables


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_table_of_a_run_without_ray(cluster, here, alone, workers):
    found = swept(here / "out", workers)
    assert found.tables == alone
    assert found.warnings == []
    assert len(found.statistics) == workers
    assert all(member.requests > 0 for member in found.statistics)


def test_a_killed_worker_costs_only_its_calls(cluster, here, alone, dying):
    found = swept(here / "out", 2)
    assert found.tables == alone
    check_once(found)
    assert any("worker 1" in line for line in found.warnings)
    assert [member.losses for member in found.statistics] == [1, 0]


def test_the_only_worker_is_replaced(cluster, here, alone, dying):
    found = swept(here / "out", 1)
    assert found.tables == alone
    check_once(found)
    assert found.statistics[0].losses == 1


def test_collecting_on_workers_gives_the_same_bank(cluster, here, capsys):
    words = ["collect", *LIVE, "--n", "3", "--display", "none"]
    assert run([*words, "--out", "alone"]) == 0
    assert run([*words, "--out", "shared", "--ray", "--ray-workers", "1"]) == 0
    assert read_bank(here / "shared").fingerprint == read_bank(here / "alone").fingerprint


def test_what_is_refused(here, capsys, monkeypatch):
    for address in ("ray://127.0.0.1:10001", "http://127.0.0.1"):
        with pytest.raises(ConfigError, match="not an address of a cluster"):
            RayOptions(address)
    with pytest.raises(ConfigError, match="at least 1"):
        RayOptions(workers=0)
    words = ["sweep", *LIVE, "--strategies", "self-consistency", "--budgets", "300", "--out", "out"]
    assert run([*words, "--ray-workers", "2"]) == 2
    assert "--ray-workers needs --ray" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run([*words, "--ray"]) == 2
    err = capsys.readouterr().err
    assert "Ray is not installed" in err
    assert "ttc-toolkit[ray]" in err


def test_the_address_may_be_left_out():
    assert _with_values(["sweep", "--ray"]) == ["sweep", "--ray="]
    assert _with_values(["sweep", "--ray", "--out", "x"]) == ["sweep", "--ray=", "--out", "x"]
    for words in (["sweep", "--ray", "auto"], ["sweep", "--ray=host:1", "--out", "x"], ["ls", "tasks"], []):
        assert _with_values(words) == words


def test_a_cluster_too_small_for_one_worker_is_told(cluster, monkeypatch):
    import ray

    fleet = Fleet(RayOptions())
    fleet.open_engine(ModelSpec(path="fake"))
    fleet._gpus_a_worker = 4  # as a model with tensor_parallel_size 4 would
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 2.0})
    with pytest.raises(EngineError, match="a worker needs 4 GPUs, and the cluster has 2"):
        fleet._connect()
