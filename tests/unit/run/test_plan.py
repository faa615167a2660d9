"""Cells: the product of what was asked, each named by what can change its outputs and by nothing else."""

import dataclasses
import itertools

import pytest

from ttc.core.errors import ConfigError
from ttc.core.specs import parse_config
from ttc.core.types import Sampling
from ttc.run.plan import Subject, check_bank_models, make_cells, run_name, spec_id

SUBJECT = Subject(
    task="gsm8k", model="m", task_fingerprint="t1", engine_fingerprint="e1",
    capabilities=frozenset({"live", "temperature", "extends", "top_logprobs"}),
    problem_ids=("p1", "p2", "p3"), sampling=Sampling(), draws=1,
)  # fmt: skip
ASKED = {"strategies": [{"name": "best-of-n", "params": {"n": 4}}], "budgets": [256]}


def cells(asked=None, subject=SUBJECT, floor=16, **changed):
    return make_cells(parse_config({**(asked or ASKED), **changed}, "c"), [subject], floor)


def name(*args, **changed):
    return cells(*args, **changed)[0].id


def refusal(*args, **changed):
    with pytest.raises(ConfigError) as caught:
        cells(*args, **changed)
    return caught.value


def test_cells_are_the_product_and_have_distinct_names():
    asked = {"strategies": "greedy,best-of-n,coverage", "budgets": [100, 200]}
    config = parse_config(asked, "c")
    other = dataclasses.replace(SUBJECT, model="n", engine_fingerprint="e2")
    made = make_cells(config, [SUBJECT, other], 16)
    found = [(c.subject.model, c.strategy.name, c.budget) for c in made]
    assert found == list(itertools.product("mn", ["greedy", "best-of-n", "coverage"], [100, 200]))
    assert len({c.id for c in made}) == 12
    assert made[1].total_tokens == 200 * 3


@pytest.mark.parametrize(
    "changed",
    [
        {"strategies": [{"name": "best-of-n", "params": {"n": 4}, "label": "mine"}]},
        {"strategies": [{"name": "best-of-n", "params": {"n": "4"}}]},
        {"strategies": [{"name": "best-of-n", "params": {"n": 4, "select": "auto"}}]},
        {"strategies": [{"name": "best-of-n", "params": {"n": 4, "select": "logprob"}}]},
        {"allocators": [{"name": "uniform", "label": "even"}]},
        {"problem_timeout_s": 5}, {"grade_timeout_s": 5}, {"max_errors": "3"}, {"overlap": True},
        {"store_text": False}, {"cache": "off"}, {"price": {"prompt": 0}},
    ],
)  # fmt: skip
def test_a_cells_name_leaves_out_what_cannot_change_its_outputs(changed):
    assert name(**changed) == name()


@pytest.mark.parametrize(
    "changed",
    [
        {"strategies": [{"name": "best-of-n", "params": {"n": 5}}]},
        {"strategies": [{"name": "best-of-n"}]},
        {"strategies": [{"name": "self-consistency", "params": {"n": 4}}]},
        {"budgets": [257]}, {"seed": 1}, {"price": {"prompt": 0.1}},
    ],
)  # fmt: skip
def test_a_cells_name_changes_with_parameters_seed_budget_and_price(changed):
    assert name(**changed) != name()


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "math500"}, {"task_fingerprint": "t2"}, {"engine_fingerprint": "e2"}, {"draws": 2},
        {"reward_fingerprint": "r"}, {"sampling": Sampling(temperature=0.8)}, {"sampling": Sampling(stop=("x",))},
        {"sampling": Sampling(max_tokens=100)}, {"sampling": Sampling(top_k=5)}, {"sampling": Sampling(min_p=0.1)},
    ],
)  # fmt: skip
def test_a_cells_name_changes_with_its_subject(changed):
    assert name(subject=dataclasses.replace(SUBJECT, **changed)) != name()


def test_a_models_label_is_only_a_label():
    assert name(subject=dataclasses.replace(SUBJECT, model="other")) == name()


def test_the_smallest_call_is_part_of_the_name():
    assert name(floor=17) != name()


def test_a_run_is_named_by_its_cells():
    one, two = cells(), cells(budgets=[256, 512])
    assert spec_id(one) == spec_id(cells(overlap=True)) != spec_id(two)
    assert run_name("2025-01-02", two, spec_id(two)) == f"2025-01-02-gsm8k-m-{spec_id(two)[:8]}"


def test_a_run_name_is_one_safe_folder_name():
    odd = dataclasses.replace(SUBJECT, model="../org/na me:7B", task="..")
    found = run_name("d", cells(subject=odd), "abcdefghij")
    assert not set(found) & set("/: \\")
    assert not found.startswith(".")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"strategies": []}, "no strategies given"),
        ({"budgets": []}, "no budgets given"),
        ({"budgets": [5, 5]}, "stands twice"),
        ({"allocators": []}, "no allocators given"),
        ({"strategies": ["best-of-n", {"name": "best-of-n", "params": {"n": 2}}]}, "'best-of-n' stands twice"),
        ({"allocators": ["uniform", "uniform"]}, "'uniform' stands twice"),
        ({"strategies": [{"name": "coverage", "label": "x"}, {"name": "greedy", "label": "x"}]}, "'x' stands twice"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused(changed, told):
    assert told in refusal(**changed).message


def test_one_thing_under_two_labels_is_refused():
    """Both would have the same name and write the same records."""
    auto = {"name": "best-of-n", "params": {"n": 4}, "label": "one"}
    same = {"name": "best-of-n", "params": {"n": 4, "select": "logprob"}, "label": "two"}
    message = refusal(strategies=[auto, same]).message
    assert "one" in message
    assert "two" in message
    assert len(cells(strategies=[auto, same], subject=scored())) == 2


def scored():
    return dataclasses.replace(SUBJECT, capabilities=SUBJECT.capabilities | {"score", "reward"})


def test_auto_is_made_definite_and_recorded_so():
    assert cells()[0].strategy.params["select"] == "logprob"
    assert cells(subject=scored())[0].strategy.params["select"] == "reward"
    assert '"select":"reward"' in cells(subject=scored())[0].describe()["strategy_params"]


@pytest.mark.parametrize(
    ("strategy", "lacking", "hint"),
    [
        ("greedy", "temperature", "--model instead of --bank"),
        ("weighted-vote", "reward scores", "--prm"),
        ({"name": "best-of-n", "params": {"select": "reward"}}, "reward scores", "--prm"),
        ({"name": "best-of-n", "params": {"select": "confidence"}}, "live model", "--model instead of --bank"),
    ],
)
def test_recorded_samples_refuse_what_they_cannot_give_with_a_hint(strategy, lacking, hint):
    bank = dataclasses.replace(SUBJECT, capabilities=frozenset())
    error = refusal(subject=bank, strategies=[strategy])
    assert lacking in error.message
    assert hint in error.hint
    assert error.exit_code == 2


@pytest.mark.parametrize("allocator", ["knapsack", "knapsack-exact"])
def test_a_pilot_of_a_strategy_that_grows_prefixes_is_refused(allocator):
    """Its branches would ask for more at once, which a grant in rounds cannot answer."""
    asked = {"strategies": "dvts", "allocators": [{"name": allocator, "params": {"pilot": 1}}]}
    error = refusal(subject=scored(), **asked)
    assert error.message == f"the pilot of {allocator} is whole answers, and dvts does not draw such"
    assert cells(subject=scored(), **{**asked, "allocators": [allocator]})
    assert cells(subject=scored(), **{**asked, "strategies": "self-consistency"})


def test_what_has_no_solve_or_allocate_is_refused_before_the_run(tmp_path):
    (tmp_path / "odd.py").write_text("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Odd: pass\n")
    for kind, method in (("strategies", "solve"), ("allocators", "allocate")):
        assert f"it has no method {method}" in refusal(**{kind: [f"{tmp_path}/odd.py:Odd"]}).message


def test_an_unknown_bank_configuration_is_told_with_the_nearest(tmp_path):
    assert check_bank_models([], ["a T=1", "b T=1"], tmp_path) == ["a T=1", "b T=1"]
    with pytest.raises(ConfigError) as caught:
        check_bank_models(["a T=2"], ["a T=1", "b T=1"], tmp_path)
    assert caught.value.hint == "did you mean 'a T=1'?"
