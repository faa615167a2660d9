"""Strategies and models in one cell: who answers what, what it costs, and that nothing exceeds a total."""

import asyncio
import json

import numpy as np
import pytest

from ttc.api import Silent, make_plan
from ttc.core.closed_forms import coverage
from ttc.core.curves import Curves
from ttc.core.errors import ConfigError, DataError, TtcError
from ttc.core.forecast import Training
from ttc.engines.fake import FakeEngine
from ttc.report.aggregate import compact
from ttc.run.sweep import run_sweep
from ttc.store.bank import Row, write_bank
from ttc.store.rundir import RunDir

EASY, HARD = [f"e{i}" for i in range(4)], [f"h{i}" for i in range(4)]
TOKENS = {"weak": 10, "strong": 20}
MINE = """
from dataclasses import dataclass
import numpy as np
from ttc.core.allocation import blind
from ttc.core.types import Answer

@dataclass(frozen=True)
class First:
    async def solve(self, problem, ctx):
        drawn = await ctx.sample(problem.prompt, 1, ctx.sampling)
        return Answer(tuple(drawn), 0 if drawn else None)

@dataclass(frozen=True)
class Silent:
    async def solve(self, problem, ctx):
        return Answer((), None)

@dataclass(frozen=True)
class Mute:
    joins = "models"
    def allocate(self, ask):
        return blind(np.zeros(len(ask.problem_ids), dtype=int), ask.total_tokens)

@dataclass(frozen=True)
class Halves:
    joins = "models"
    def allocate(self, ask):
        from dataclasses import replace
        n = len(ask.problem_ids)
        split = blind(np.full(n, ask.total_tokens // n), ask.total_tokens)
        return replace(split, member=np.arange(n) % 2)
"""


class Knowing:
    """A predictor that knows the truth: the weak model solves the easy problems, the strong one the hard ones."""

    wants_vectors, fingerprint = False, "knowing"
    models = ("weak", "strong")

    def rate(self, model, problem_id):
        return float((problem_id.removeprefix("t")[0] == "e") == (model == self.models[0]))

    def known(self):
        names = ["self-consistency", "coverage", "First", "Silent"]
        return [(m, s, u) for m in self.models for s in names for u in ("tokens", "calls")]

    def _curves(self, model, strategy, unit, ids, options=None):
        each = TOKENS.get(model, 10)
        options = np.arange(1, 7) * (1 if unit == "calls" else each) if options is None else options
        rates = np.array([self.rate(model, pid) for pid in ids])
        values = coverage(rates, options / (1 if unit == "calls" else each))
        if strategy == "Silent":  # so it is told: best where others fail
            values = 1 - values
        return Curves.from_table(options * (each if unit == "calls" else 1), values)

    def curves(self, model, strategy, unit, problems, options=None):
        return self._curves(model, strategy, unit, [p.problem_id for p in problems], options)

    def success(self, model, problems):
        return np.array([self.rate(model, p.problem_id) for p in problems])

    def training(self, model, strategy, unit):
        ids = [f"t{pid}" for pid in EASY + HARD]
        rates = np.array([self.rate(model, pid) for pid in ids])
        return Training(rates, self._curves(model, strategy, unit, ids), tuple(ids))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rows = [
        Row(pid, f"question {pid}", model, i, "right" if right else f"w{i}", right, TOKENS[model], 9, "stop")
        for model in TOKENS
        for pid in EASY + HARD
        for right in [(pid[0] == "e") == (model == "weak")]
        for i in range(6)
    ]
    write_bank(rows, tmp_path / "bank", "sums")
    lines = [{"id": pid, "question": f"What is {i} + {i * i}?", "answer": str(i + i * i)}
             for i, pid in enumerate(EASY + HARD)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ttc.core.forecast.load_predictor", lambda folder: Knowing())
    return tmp_path


def replayed(**changed):
    models = [{"path": "weak"}, {"path": "strong", "weight": 2}]
    asked = {"bank": "bank", "models": models, "predictor": "p", "strategies": "coverage", "budgets": [25], "draws": 3}
    return make_plan({**asked, **changed})


def live(**changed):
    asked = {
        "task": {"name": "local", "data": "rows.jsonl"}, "sampling": {"max_tokens": 200}, "budgets": [300],
        "models": [{"path": "fake:p=0.3;label=a"}, {"path": "fake:p=0.9;label=b", "weight": 1.5}],
        "strategies": "self-consistency", "allocators": ["mine.py:Halves"],
    }  # fmt: skip
    return make_plan({**asked, **changed})


def run(plan, path):
    folder = RunDir(path)
    folder.open_for_writing({}, "spec")
    try:
        asyncio.run(run_sweep(plan, folder, Silent()))
    finally:
        folder.close()
    return folder.replay()


def rows_of(plan, path):
    """Return the only cell's records by problem; its total was kept in every draw."""
    (cell,) = plan.cells
    rows = {problem: row for (_, problem), row in run(plan, path).records.items()}
    for spent in zip(*(row["draw_spent"] for row in rows.values()), strict=True):
        assert sum(spent) <= cell.total_tokens
    return rows


def test_a_route_sends_each_problem_to_the_model_that_solves_it(folder):
    plan = replayed(allocators="route")
    assert (plan.cells[0].subject.model, plan.cells[0].strategy.name) == ("weak+strong", "coverage")
    rows = rows_of(plan, folder / "run")
    for pid in EASY + HARD:
        model, weight = ("weak", 1) if pid in EASY else ("strong", 2)
        row = rows[pid]
        assert row["score"] == 1.0
        assert row["completion_tokens"] == TOKENS[model]
        assert row["draw_spent"] == [weight * TOKENS[model]] * 3
        assert row["allocation"]["option"] == f"{model}: 1 call"
        assert (row["allocation"]["predicted_value"], row["allocation"]["predicted_tokens"]) == (
            1,
            row["draw_spent"][0],
        )


@pytest.mark.parametrize(("budget", "right"), [(4, 3), (10, 4), (17, 5), (18, 6), (21, 6), (22, 7), (25, 8)])
def test_a_route_sends_as_many_as_the_total_pays_for(folder, budget, right):
    """Weak calls cost 10 and strong ones 40; below 10 a problem some go without."""
    rows = rows_of(replayed(allocators="route", budgets=[budget]), folder / "run")
    assert sum(row["score"] for row in rows.values()) == right


def test_a_mix_solves_what_no_single_model_does(folder):
    rows = rows_of(replayed(allocators="mixed", budgets=[50]), folder / "run")
    for row in rows.values():
        assert row["score"] == 1.0
        assert (row["completion_tokens"], row["draw_spent"]) == (30, [50] * 3)
        assert row["allocation"]["option"] == "weak: 1, strong: 1"
    alone = run(replayed(allocators="uniform", budgets=[50]), folder / "alone").records.values()
    assert sum(row["score"] for row in alone) == 8  # of 16: half of the problems each


@pytest.mark.parametrize("form", ["bins", "knapsack"])
def test_each_problem_is_solved_by_the_strategy_that_is_best_for_it(folder, form):
    plan = replayed(
        models=[{"path": "weak"}],
        strategies=["mine.py:First", "mine.py:Silent"],
        allocators=[{"name": "compute-optimal", "params": {"form": form, "bins": 2}}],
        budgets=[20],
    )
    assert plan.cells[0].strategy.name == "First+Silent"
    assert json.loads(plan.cells[0].describe()["strategy_params"]) == {"First": {}, "Silent": {}}
    rows = rows_of(plan, folder / "run")
    for pid in EASY + HARD:
        name, score = ("First", 1.0) if pid in EASY else ("Silent", 0.0)
        assert rows[pid]["score"] == score
        assert rows[pid]["allocation"]["option"].startswith(f"{name}: ")
        assert rows[pid]["allocation"]["option"].endswith(" tokens")
        assert rows[pid]["completion_tokens"] == (10 if pid in EASY else 0)


@pytest.mark.parametrize("name", ["route", "mixed", "compute-optimal"])
def test_a_run_cut_anywhere_ends_with_the_same_records(folder, name):
    def plan():
        return replayed(allocators=["uniform", name], budgets=[37], strategies="coverage,self-consistency")

    def clean(records):
        return {key: {k: v for k, v in row.items() if k != "wall_s"} for key, row in records.items()}

    whole = clean(run(plan(), folder / "whole").records)
    data = (folder / "whole" / "journal" / "main.jsonl").read_bytes()
    for share in (0.4, 0.8, 0.97):
        path = folder / f"cut-{share}"
        (path / "journal").mkdir(parents=True)
        (path / "journal" / "main.jsonl").write_bytes(data[: int(share * len(data))])
        assert clean(run(plan(), path).records) == whole


def test_a_joint_cells_name_changes_with_its_members(folder):
    def name(**changed):
        return replayed(**{"allocators": "route", **changed}).cells[0].id

    strong, weak = {"path": "strong", "weight": 2}, {"path": "weak"}
    assert name() == name(models=[weak, strong]) == name(models=[{**weak, "weight": 1}, strong])
    assert len({name(), name(models=[strong, weak]), name(models=[weak, {**strong, "weight": 3}]), name(seed=1),
                name(strategies="self-consistency"), name(allocators="mixed")}) == 6  # fmt: skip
    one = {"models": [weak], "allocators": "compute-optimal"}
    both = name(**one, strategies="coverage,self-consistency")
    assert both != name(**one, strategies=["coverage", {"name": "self-consistency", "params": {"n": 3}}])


def test_uniform_cells_keep_their_names_beside_joint_ones(folder):
    alone = [c.id for c in replayed(allocators="uniform").cells]
    assert [c.id for c in replayed(allocators="uniform,route,mixed").cells if c.allocator.name == "uniform"] == alone


def test_live_models_draw_the_samples_of_their_own_cells_and_pay_by_weight(folder):
    plan = live(allocators=["uniform", "mine.py:Halves"])
    replay = run(plan, folder / "run")
    ids = plan.benches[0].subject.problem_ids
    alone = {c.subject.model: c.id for c in plan.cells if c.allocator.name == "uniform"}
    (joint,) = [c for c in plan.cells if c.allocator.name == "Halves"]
    assert joint.subject.model == "a+b"
    for i, pid in enumerate(ids):
        row, own = replay.records[joint.id, pid], replay.records[alone["ab"[i % 2]], pid]
        texts, same = ([c["text"] for c in r["candidates"] if c["finish"] == "stop"] for r in (row, own))
        assert texts == same[: len(texts)]
        assert texts
        spent = sum(np.ceil((1, 1.5)[i % 2] * c["completion_tokens"] - 1e-9) for c in row["candidates"])
        assert row["draw_spent"] == [spent]
        assert spent <= row["grant_tokens"] == 300


def test_one_path_at_two_temperatures_is_one_engine(folder, monkeypatch):
    opened = []

    def opening(spec):
        opened.append(spec)
        return FakeEngine()

    monkeypatch.setattr("ttc.api.open_engine", opening)
    models = [{"path": "fake", "temperature": t} for t in (0.4, 1.2)]
    plan = live(models=models, allocators=["uniform", "mine.py:Halves"])
    assert len(opened) == 1
    assert [b.subject.model for b in plan.benches] == ["fake@0.4", "fake@1.2", "fake@0.4+fake@1.2"]
    assert [b.subject.sampling.temperature for b in plan.benches] == [0.4, 1.2, 0.7]
    rows = run(plan, folder / "run").records
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len({cell.id for cell in plan.cells}) == 3


def test_flops_are_those_of_the_model_that_answered(folder, monkeypatch):
    def sized(spec):
        engine = FakeEngine()
        engine.label = spec.path[-1]
        engine.fingerprint = spec.path
        engine.parameters = {"a": 5, "b": 70}[spec.path[-1]]
        return engine

    monkeypatch.setattr("ttc.api.open_engine", sized)
    plan = live()
    rows = rows_of(plan, folder / "run")
    for i, pid in enumerate(plan.cells[0].subject.problem_ids):
        tokens = rows[pid]["completion_tokens"] + rows[pid]["prompt_tokens"]
        assert rows[pid]["policy_flops"] == 2 * (5, 70)[i % 2] * tokens
    (cell,) = compact(RunDir(folder / "run")).cells.to_pylist()
    assert cell["flops"] == sum(row["policy_flops"] for row in rows.values())


@pytest.mark.parametrize(
    ("changed", "told", "hint"),
    [
        ({"models": "weak", "allocators": "route"}, "route chooses among models, and there is only weak", "--model"),
        ({"allocators": "uniform,mixed", "models": "weak"}, "mixed chooses among models", "several configurations"),
        ({"allocators": "compute-optimal"}, "compute-optimal chooses among strategies, and there is only coverage",
         "--strategies"),
        ({"allocators": "mixed", "strategies": "best-of-n"}, "no curves of 'best-of-n'", "it knows"),
        ({"allocators": "mixed", "predictor": None}, "mixed learns a table from other problems", "ttc fit"),
        ({"models": [{"path": "weak", "temperature": 0.2}]}, "temperature cannot be chosen", "name the configuration"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_refused_before_the_run(folder, changed, told, hint):
    with pytest.raises(ConfigError, match=told) as caught:
        replayed(**changed)
    assert hint in caught.value.hint


def test_a_route_is_between_two(folder):
    with pytest.raises(ConfigError, match="between two models, and 3 are given: a\\+b\\+c"):
        live(models=[f"fake:label={x};p=0.{i}" for i, x in enumerate("abc")], allocators="route", predictor="p")


def test_growing_prefixes_over_two_models_is_refused(folder):
    with pytest.raises(ConfigError, match="beam cannot run on a\\+b: this engine cannot continue a prefix"):
        live(strategies="beam", prm="fake", models=["fake:label=a;p=0.1", "fake:label=b;p=0.2"])


def test_models_without_a_common_problem_are_refused(folder):
    rows = [Row(f"{m}{i}", None, m, i, "x", True, 5, 5, "stop") for m in "ab" for i in range(2)]
    write_bank(rows, folder / "apart", "apart")
    with pytest.raises(DataError, match="a and b have no problem in common"):
        replayed(bank="apart", models=[], allocators="route")


def test_an_allocator_that_does_not_say_whose_is_whose_is_refused(folder):
    with pytest.raises(TtcError, match="allocator Mute does not say which of a, b is whose"):
        run(live(allocators=["mine.py:Mute"]), folder / "run")
