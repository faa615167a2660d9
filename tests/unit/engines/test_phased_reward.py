"""Plans go to one reward model, everything else to the other, and nothing is lost on the way."""

import asyncio

import pytest

from ttc.core.errors import ConfigError
from ttc.core.specs import ModelSpec
from ttc.core.types import Problem, Prompt, Step
from ttc.engines.opening import open_engine, open_reward
from ttc.engines.phased_reward import PhasedReward
from ttc.run.bench import serve
from ttc.run.listening import listening

PROBLEM = Problem("p", "1+1?", Prompt((), (1, 2)))


class Model:
    def __init__(self, name, score, fails=False):
        self.label = self.fingerprint = name
        self.parameters = 7
        self.score_is, self.fails, self.seen, self.log = score, fails, [], []

    async def start(self):
        self.log.append("start")

    async def close(self):
        self.log.append("close")
        if self.fails:
            raise RuntimeError(self.label)

    def count_tokens(self, problem, responses):
        return sum(len(step.text) for steps in responses for step in steps)

    async def score(self, problem, responses):
        self.seen += ["".join(step.text for step in steps) for steps in responses]
        return [tuple(self.score_is for _ in steps) for steps in responses], self.count_tokens(problem, responses)


def steps(*texts):
    return tuple(Step(tuple(map(ord, text)), text) for text in texts)


def test_each_model_scores_its_own_phase_and_the_order_stays():
    plan, execution = Model("plan", 0.25), Model("execution", 0.75)
    both = PhasedReward(plan, execution)
    responses = [
        steps("1+1=2\n"),
        steps("1+1="),
        steps("1+1=2\n", "2*3="),
        steps("\\boxed{2}"),
        steps("Plan: x\nExecution:"),
    ]
    scores, tokens = asyncio.run(both.score(PROBLEM, responses))
    assert scores == [(0.75,), (0.25,), (0.25, 0.25), (0.75,), (0.25,)]
    assert plan.seen == ["1+1=", "1+1=2\n2*3=", "Plan: x\nExecution:"]
    assert execution.seen == ["1+1=2\n", "\\boxed{2}"]
    assert tokens == both.count_tokens(PROBLEM, responses) == sum(len(s.text) for r in responses for s in r)


def test_one_phase_alone_does_not_ask_the_other():
    plan, execution = Model("plan", 0.25), Model("execution", 0.75)
    assert asyncio.run(PhasedReward(plan, execution).score(PROBLEM, [steps("1+1=")])) == ([(0.25,)], 4)
    assert execution.seen == []


def test_a_profiles_own_plan_end_goes_to_the_plan_model():
    plan, execution = Model("plan", 0.25), Model("execution", 0.75)
    both = PhasedReward(plan, execution)
    served = serve(ModelSpec(path="fake", profile={"plan_stop": ["=>"]}), open_engine(ModelSpec(path="fake")), both)
    scores, _ = asyncio.run(served.reward.score(PROBLEM, [steps("add =>"), steps("1+1="), steps("1+1=2\n")]))
    assert scores == [(0.25,), (0.25,), (0.75,)]


def test_both_are_started_and_both_closed_even_where_one_fails():
    plan, execution = Model("plan", 0, fails=True), Model("execution", 0)
    both = PhasedReward(plan, execution)
    asyncio.run(both.start())
    with pytest.raises(RuntimeError, match="plan"):
        asyncio.run(both.close())
    assert plan.log == execution.log == ["start", "close"]


def test_the_places_of_the_models_are_part_of_the_fingerprint():
    a, b = Model("a", 0), Model("b", 0)
    assert PhasedReward(a, b).fingerprint != PhasedReward(b, a).fingerprint


def test_it_is_opened_by_name():
    both = open_reward("plan=fake,execution=fake")
    assert isinstance(both, PhasedReward)
    assert both.label == "fake+fake"
    for wrong in ("plan=fake", "plan=,execution=fake", "plan=fake,execution="):
        with pytest.raises(ConfigError, match="names no two reward models"):
            open_reward(wrong)
    with pytest.raises(ConfigError, match="unknown reward model"):
        open_reward("plan=fake,execution=nonesuch")


def test_what_both_have_to_say_is_heard():
    plan, execution, told, warned = Model("plan", 0), Model("execution", 0), [], []
    for model in (plan, execution):
        model.warnings = [f"{model.label} is lost"]
        model.endpoints = lambda label=model.label: [{"host": label}]

    async def work():
        async with listening([PhasedReward(plan, execution), None], told.append, warned.append):
            plan.warnings.append("plan is there again")

    asyncio.run(work())
    assert sorted(warned) == ["execution is lost", "plan is lost", "plan is there again"]
    assert [(event["model"], event["endpoints"]) for event in told] == [
        ("plan", [{"host": "plan"}]),
        ("execution", [{"host": "execution"}]),
    ]
