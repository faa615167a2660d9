"""No allocator lets a cell spend more than its total: live and replayed, with failing calls, at any order of events."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_budget import Judge, Recorder, problem

from ttc.core import registry
from ttc.core.errors import ConfigError
from ttc.core.forecast import Seen
from ttc.core.parameters import build
from ttc.core.protocols import Ask
from ttc.core.types import Sampling
from ttc.engines.fake import FakeEngine, FakeOptions
from ttc.run.context import World
from ttc.run.granting import Rounds
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, solve
from ttc.run.waves import Arrivals, Informed, Waves
from ttc.testing.foreseen import Foreseen

ALONE = [n for n in registry.names("allocators") if not hasattr(registry.load("allocators", n), "joins")]
"""Those that split over one strategy and one model."""
ROUNDS = ["sequential", "streaming"]
SOLVERS = ["self-consistency", "coverage", "adaptive-consistency", "early-stopping-consistency", "best-of-n"]


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from([*ROUNDS, "knapsack"]),
    solver=st.sampled_from(SOLVERS),
    rates=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=7),
    total=st.integers(0, 3000),
    cap=st.integers(1, 150),
    floor=st.integers(1, 40),
    pilot=st.integers(0, 3),
    fail=st.sampled_from([0.0, 0.2]),
    delay_s=st.sampled_from([0.0, 0.0003]),
    seed=st.integers(0, 2**32),
)
def test_a_total_given_out_in_rounds_is_a_hard_limit(
    name, solver, rates, total, cap, floor, pilot, fail, delay_s, seed
):
    engine = Recorder(FakeEngine(FakeOptions(fail=fail, delay_s=delay_s)))
    problems = [problem(engine, i) for i in range(len(rates))]
    predictor = Foreseen({p.id: rate for p, rate in zip(problems, rates, strict=True)}, sample_tokens=max(1, cap // 2))
    params = {} if name == "streaming" else {"pilot": pilot}
    allocator = build("allocators", name, params)
    training = predictor.training("m", "self-consistency", "calls")
    told = Informed(allocator, predictor, "m", "self-consistency", cap, seed, 16, {}, training)
    ledger = Ledger(total)
    granter = Rounds(ledger, problems, Arrivals(told) if name == "streaming" else Waves(told), floor)
    world = World(engine, Judge(), Sampling(max_tokens=cap), seed, floor)
    strategy = build("strategies", solver, {"select": "logprob"} if solver == "best-of-n" else {})

    async def run():
        attempts = [Attempt(strategy, p, (granter,), world, Judge(), 30.0) for p in problems]
        return await asyncio.wait_for(asyncio.gather(*(solve(a) for a in attempts)), 60)

    outcomes = [rows[0] for rows in asyncio.run(run())]
    assert sum(o.spent for o in outcomes) == ledger.spent <= total
    assert ledger.reserved == 0
    assert engine.peak <= total
    assert engine.generated == ledger.spent
    assert all(granter.granted(p) >= o.spent for p, o in zip(problems, outcomes, strict=True))


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(ALONE),
    rates=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9),
    total=st.integers(0, 5000),
    cap=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
def test_every_registered_allocator_splits_within_its_total(name, rates, total, cap, seed):
    allocator = build("allocators", name, {})
    ids = tuple(f"p{i}" for i in range(len(rates)))
    predictor = Foreseen(dict(zip(ids, rates, strict=True)))
    seen = [Seen(i) for i in ids]
    unit = getattr(allocator, "unit", "tokens")
    ask = Ask(
        ids,
        total,
        cap,
        seed,
        predictor.curves("m", "coverage", unit, seen),
        np.array(rates),
        predictor.training("m", "coverage", unit),
    )
    split = allocator.allocate(ask)
    assert split.grants.shape == (len(ids),)
    assert split.grants.min() >= 0
    assert split.grants.sum() <= total
    again = allocator.allocate(ask)
    np.testing.assert_array_equal(split.grants, again.grants)


@pytest.mark.parametrize("name", ["knapsack", "sequential", "binned-policy", "saturation", "streaming"])
def test_what_a_problem_lacks_is_told(name):
    with pytest.raises(ConfigError, match=r"needs|learns"):
        build("allocators", name, {}).allocate(Ask(("a",), 100, 10))
