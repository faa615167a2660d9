"""What a cell is called: only what tells it from the usual."""

import json
from dataclasses import asdict

import pytest
from made_up_runs import cell

from ttc.core.parameters import build, parameters
from ttc.core.registry import names
from ttc.report.labels import allocator_labels, strategy_labels


def labels(*pairs):
    rows = [cell(str(i), name, strategy_params=json.dumps(params)) for i, (name, params) in enumerate(pairs)]
    return list(strategy_labels(rows).values())


def usual(name, **other):
    return (name, json.loads(json.dumps(parameters(build("strategies", name, {})) | other)))


@pytest.mark.parametrize("name", names("strategies"))
def test_a_strategy_as_it_comes_has_its_name_alone(name):
    assert labels(usual(name)) == [name]


def test_of_nested_parameters_only_what_differs_is_told():
    gate = {"stop_at": 0.7, "expand_below": None, "extra": 1.0}
    assert labels(usual("dual-phase", plan_gate=gate)) == ["dual-phase (plan_gate.stop_at=0.7)"]
    both = labels(usual("dual-phase", plan_gate=gate), usual("dual-phase", plan_gate={**gate, "extra": 2.0}))
    assert both == ["dual-phase (plan_gate.extra=1.0, plan_gate.stop_at=0.7)",
                    "dual-phase (plan_gate.extra=2.0, plan_gate.stop_at=0.7)"]  # fmt: skip


def test_names_joined_by_plus():
    (first, plain), (second, _) = usual("best-of-n"), usual("self-consistency")
    joined = {"best-of-n": plain, "self-consistency": usual("self-consistency", n=5)[1]}
    assert labels((f"{first}+{second}", joined)) == ["best-of-n+self-consistency (self-consistency.n=5)"]
    assert labels((f"{first}+unheard", {"a": 1})) == ["best-of-n+unheard"]
    rows = [cell("a", allocator="uniform+uniform"), cell("b", allocator="knapsack+mine", allocator_params='{"x": 1}')]
    assert list(allocator_labels(rows).values()) == ["uniform+uniform", "knapsack+mine"]


def test_unreadable_parameters_are_shown_as_they_are():
    rows = [cell("a", strategy_params="{oops"), cell("b", strategy_params="[1]")]
    assert list(strategy_labels(rows).values()) == [
        "self-consistency (parameters={oops)",
        "self-consistency (parameters=[1])",
    ]


def test_flattening_keeps_dataclasses_and_empty_values():
    from ttc_strategies.dual_phase import Gate

    assert asdict(Gate())["extra"] == 1.0
    assert labels(("mine", {"a": {}, "b": []}), ("mine", {"a": {}, "b": [1]})) == ["mine (b=[])", "mine (b=[1])"]
