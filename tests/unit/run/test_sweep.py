"""A plan is run once, whole, within its totals, and goes on where it was stopped."""

import asyncio
import json
from dataclasses import replace

import pytest

from ttc.api import Silent, make_plan
from ttc.core.errors import EngineError, FailedProblemsError, StorageError, TtcError
from ttc.core.types import Usage
from ttc.engines.fake import FakeEngine
from ttc.run.sweep import run_sweep
from ttc.store.bank import Row, write_bank
from ttc.store.rundir import RunDir

PROBLEMS, SAMPLES = 5, 12


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rows = [
        Row(f"p{p}", f"question {p}", "m", i, "ab"[(i + p) % 3 % 2], (i + p) % 3 == 0, 20 + 7 * (i * p % 5), 9, "stop")
        for p in range(PROBLEMS)
        for i in range(SAMPLES)
    ]
    write_bank(rows, tmp_path / "bank", "sums")
    lines = [{"id": f"q{i}", "question": f"What is {i} + {i * i}?", "answer": str(i + i * i)} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def replayed(**changed):
    asked = {"bank": "bank", "strategies": "self-consistency,coverage", "budgets": [60, 150], "draws": 7}
    return make_plan({**asked, **changed})


def live(**changed):
    asked = {
        "task": {"name": "local", "data": "rows.jsonl"}, "model": "fake", "sampling": {"max_tokens": 120},
        "strategies": "self-consistency", "budgets": [300], "cache": "off",
    }  # fmt: skip
    return make_plan({**asked, **changed})


def run(plan, path, observer=None):
    folder = RunDir(path)
    folder.open_for_writing({}, "spec")
    try:
        asyncio.run(run_sweep(plan, folder, observer or Silent()))
    finally:
        folder.close()
    return folder.replay()


def without_clock(records):
    return {key: {k: v for k, v in row.items() if k != "wall_s"} for key, row in records.items()}


def test_every_cell_and_problem_has_one_record_within_its_totals(folder):
    plan = replayed()
    replay = run(plan, folder / "run")
    assert set(replay.records) == {(cell.id, f"p{p}") for cell in plan.cells for p in range(PROBLEMS)}
    for cell in plan.cells:
        rows = [row for (name, _), row in replay.records.items() if name == cell.id]
        for spent in zip(*(row["draw_spent"] for row in rows), strict=True):
            assert sum(spent) <= cell.total_tokens
        assert all(max(row["draw_spent"]) <= row["grant_tokens"] == cell.budget for row in rows)
    kinds = [event["kind"] for event in replay.events]
    assert (kinds.count("cell"), kinds.count("cell_end")) == (4, 4)


def test_the_same_plan_gives_the_same_records_also_with_cells_side_by_side(folder):
    one = run(replayed(), folder / "one").records
    two = run(replayed(overlap=True), folder / "two").records
    assert without_clock(one) == without_clock(two)
    assert without_clock(run(replayed(seed=1), folder / "three").records) != without_clock(one)


def test_a_finished_run_runs_nothing_again(folder):
    run(replayed(), folder / "run")
    before = (folder / "run" / "journal" / "main.jsonl").read_bytes()
    run(replayed(), folder / "run")
    assert (folder / "run" / "journal" / "main.jsonl").read_bytes() == before


def test_a_run_cut_anywhere_ends_with_the_records_of_one_that_was_not(folder):
    whole = run(replayed(), folder / "whole").records
    data = (folder / "whole" / "journal" / "main.jsonl").read_bytes()
    for share in (0.1, 0.37, 0.62, 0.9, 0.999):
        path = folder / f"cut-{share}"
        (path / "journal").mkdir(parents=True)
        (path / "journal" / "main.jsonl").write_bytes(data[: int(share * len(data))])
        assert without_clock(run(replayed(), path).records) == without_clock(whole)


def test_a_damaged_record_is_named_and_its_problem_runs_again(folder):
    whole = run(replayed(), folder / "run").records
    file = folder / "run" / "journal" / "main.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if b'"problem_id"' in line)
    lines[place] = b"\x00" + lines[place][1:]
    file.write_bytes(b"".join(lines))
    heard = []

    class Notes(Silent):
        def note(self, text):
            heard.append(text)

    replay = run(replayed(), folder / "run", Notes())
    assert without_clock(replay.records) == without_clock(whole)
    assert any(f"main.jsonl:{place + 1} is damaged" in note for note in heard)


def test_what_an_earlier_part_spent_is_taken_from_the_total(folder):
    """The total is 5 x 60; where a record says that its problem took 250 of it, 50 are left for the others."""
    plan = replayed(strategies="self-consistency", budgets=[60], draws=2)
    first = run(plan, folder / "first").records
    row = {**next(iter(first.values())), "draw_spent": [250, 0]}
    (folder / "run" / "journal").mkdir(parents=True)
    (folder / "run" / "journal" / "main.jsonl").write_text(json.dumps(row) + "\n")
    rows = run(plan, folder / "run").records.values()
    assert [sum(row["draw_spent"][draw] for row in rows) <= 300 for draw in (0, 1)] == [True, True]
    assert sum(row["draw_spent"][0] for row in rows) > 250


ALLOCATORS = """
from __future__ import annotations
from dataclasses import dataclass
import numpy as np
from ttc.core.allocation import blind

@dataclass(frozen=True)
class Generous:
    def allocate(self, ask):
        return blind(np.full(len(ask.problem_ids), ask.total_tokens), ask.total_tokens)

@dataclass(frozen=True)
class Forgetful:
    def allocate(self, ask):
        return blind(np.ones(len(ask.problem_ids) - 1, dtype=int), ask.total_tokens)

@dataclass(frozen=True)
class Negative:
    def allocate(self, ask):
        return blind(np.full(len(ask.problem_ids), -1), ask.total_tokens)

@dataclass(frozen=True)
class Uneven:
    def allocate(self, ask):
        grants = np.zeros(len(ask.problem_ids), dtype=int)
        grants[-1] = ask.total_tokens
        return blind(grants, ask.total_tokens)
"""


@pytest.mark.parametrize("name", ["Generous", "Forgetful", "Negative"])
def test_an_allocator_that_grants_too_much_or_to_the_wrong_problems_is_refused(folder, name):
    (folder / "mine.py").write_text(ALLOCATORS)
    with pytest.raises(TtcError, match=f"allocator {name} granted"):
        run(replayed(allocators=[f"mine.py:{name}"]), folder / "run")


def test_an_allocators_grants_are_what_problems_may_spend(folder):
    (folder / "mine.py").write_text(ALLOCATORS)
    plan = replayed(allocators=["mine.py:Uneven"], strategies="self-consistency", budgets=[60])
    rows = run(plan, folder / "run").records
    spent = {problem: max(row["draw_spent"]) for (_, problem), row in rows.items()}
    assert {problem: tokens > 0 for problem, tokens in spent.items()} == {f"p{p}": p == 4 for p in range(PROBLEMS)}
    assert spent["p4"] <= 300


def test_failed_problems_beyond_max_errors_end_the_run_and_keep_what_is_finished(folder):
    plan = live(model="fake:fail=0.2", max_errors="0")
    with pytest.raises(FailedProblemsError, match="problems failed, 0 are allowed") as caught:
        run(plan, folder / "run")
    assert caught.value.exit_code == 4
    assert "problem q" in (folder / "run" / "log.txt").read_text()
    held = RunDir(folder / "run").replay().records
    assert any(row["status"] == "error" for row in held.values())


def test_tolerated_failures_are_recorded_and_tried_again_by_the_next_run(folder):
    plan = live(model="fake:fail=0.2", max_errors="100%")
    rows = run(plan, folder / "run").records
    failed = {problem for (_, problem), row in rows.items() if row["status"] == "error"}
    assert 0 < len(failed) < 8
    assert all(rows[plan.cells[0].id, p]["score"] is None for p in failed)
    run(live(model="fake:fail=0.2", max_errors="100%"), folder / "run")
    lines = [json.loads(x) for x in (folder / "run" / "journal" / "main.jsonl").read_text().splitlines()]
    tries = [line["problem_id"] for line in lines if "problem_id" in line]
    assert {p: tries.count(p) for p in tries} == {f"q{i}": 2 if f"q{i}" in failed else 1 for i in range(8)}


class Talkative(FakeEngine):
    """Takes no notice of max_tokens."""

    async def generate(self, requests):
        return [replace(c, usage=Usage(completion=request.max_tokens + 11)) for c, request in
                zip(await super().generate(requests), requests, strict=True)]  # fmt: skip


def test_an_engine_that_gives_more_than_it_was_asked_for_is_told(folder, monkeypatch):
    monkeypatch.setattr("ttc.api.open_engine", lambda spec: Talkative())
    warned = []

    class Listening(Silent):
        def warn(self, text):
            warned.append(text)

    rows = run(live(sampling={"max_tokens": 100}), folder / "run", Listening()).records.values()
    over = 11 * sum(round(row["calls"]) for row in rows)
    assert over
    (said,) = warned
    assert f"{over:,} tokens more than they reserved" in said
    assert said in (folder / "run" / "log.txt").read_text()


class Dying(FakeEngine):
    """Ends after some calls, and notes that it was closed."""

    def __init__(self, error, calls=5):
        super().__init__()
        self.error, self.left, self.closed = error, calls, 0

    async def generate(self, requests):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return await super().generate(requests)

    async def close(self):
        self.closed += 1


@pytest.mark.parametrize("error", [EngineError("the engine died", fatal=True), StorageError("cache full")])
def test_what_ends_the_run_is_raised_and_the_engine_is_closed(folder, monkeypatch, error):
    engine = Dying(error)
    monkeypatch.setattr("ttc.api.open_engine", lambda spec: engine)
    with pytest.raises(type(error), match=error.message):
        run(live(), folder / "run")
    assert engine.closed == 1


def test_cells_of_a_live_sweep_share_samples_and_say_that_their_clock_means_nothing(folder):
    plan = live(strategies="self-consistency,best-of-n", cache=None)
    replay = run(plan, folder / "run")
    first, second = plan.cells
    for i in range(8):
        one, two = (replay.records[cell.id, f"q{i}"]["candidates"] for cell in (first, second))
        assert [c["text"] for c in one] == [c["text"] for c in two]
    walls = {e["cell"]: e["wall_s"] for e in replay.events if e["kind"] == "cell_end"}
    assert walls[first.id] > 0
    assert walls[second.id] is None


def test_texts_are_left_out_where_asked(folder):
    rows = run(live(store_text=False), folder / "run").records.values()
    assert {c["text"] for row in rows for c in row["candidates"]} == {None}


def test_further_grids_are_a_union_and_never_a_product(folder):
    plan = replayed(
        also=[
            {"strategies": "self-consistency", "allocators": "random,oracle", "budgets": [60]},
            {"strategies": "early-stopping-consistency"},
        ]
    )
    cells = [(cell.strategy.name, cell.allocator.name, cell.budget) for cell in plan.cells]
    assert cells == [
        ("self-consistency", "uniform", 60), ("self-consistency", "uniform", 150), ("coverage", "uniform", 60),
        ("coverage", "uniform", 150), ("self-consistency", "random", 60), ("self-consistency", "oracle", 60),
        ("early-stopping-consistency", "uniform", 60), ("early-stopping-consistency", "uniform", 150),
    ]  # fmt: skip
    assert len(run(plan, folder / "run").records) == len(cells) * PROBLEMS
    alone = replayed(strategies=[], also=[{"strategies": "coverage"}])
    assert [cell.id for cell in alone.cells] == [cell.id for cell in plan.cells[2:4]]
