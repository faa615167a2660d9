"""Conformance of a strategy: what every one must keep, whoever wrote it.

    from ttc.testing.strategies import CHECKS

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_conformance(check):
        check(MyStrategy())

Everything runs on the fake engine and takes about a second a strategy. Not covered: whether a method does what its
paper says, and the share of equal answers on real models, whose kernels may depend on the batch.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ttc.core.errors import EngineError
from ttc.core.protocols import Capability, Resolvable, RewardModel, Strategy
from ttc.core.types import Completion, GenRequest, Message, Problem, Sampling, Steps, StepScores
from ttc.engines.fake import FakeEngine, FakeOptions, FakeReward
from ttc.run.context import Prices, World
from ttc.run.granting import Fixed
from ttc.run.ledger import Ledger
from ttc.run.solve import Attempt, Outcome, Verdict, solve

_OFFERED: frozenset[Capability] = frozenset({"live", "extends", "temperature", "top_logprobs", "reward", "score"})
_GRANTS = (0, 1, 3, 10, 40, 150, 600, 2500)
_FLOOR = 8
"""Smallest call worth starting, in tokens."""
_TIMEOUT_S = 500.0  # a busy machine is no fault of a strategy
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}\s*$")


class NonconformingError(AssertionError):
    """A strategy broke a rule that all of them must keep."""


class Judge:
    """Takes the boxed text at the end of a response for its answer; `right` is the verdict on all of them."""

    def __init__(self, right: bool = True) -> None:
        self._right = right

    async def read(self, problem_id: str, completions: Sequence[Completion]) -> list[Completion]:
        """Extract answers."""
        found = [_BOXED.search(c.text) if c.finish == "stop" else None for c in completions]
        return [replace(c, answer=m[1] if m else None) for c, m in zip(completions, found, strict=True)]

    async def verdicts(self, problem_id: str, draw: int, candidates: Sequence[Completion]) -> list[Verdict]:
        """Judge all answers alike."""
        return [self._right and c.answer is not None for c in candidates]

    async def close(self) -> None:
        """Do nothing: there is no process."""


class RecordingEngine(FakeEngine):
    """The fake engine, which keeps what it was asked and what it gave; `letter` stands for each dot it writes."""

    def __init__(self, options: FakeOptions | None = None, letter: str = ".") -> None:
        super().__init__(options)
        self.calls: list[tuple[GenRequest, Completion]] = []
        self._letters = {ord("."): ord(letter)}

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Answer by seed alone, and remember it."""
        drawn = [
            replace(c, text=c.text.translate(self._letters), tokens=tuple(self._letters.get(t, t) for t in c.tokens))
            for c in await super().generate(requests)
        ]
        self.calls += zip(requests, drawn, strict=True)
        return drawn


class FlatReward(FakeReward):
    """Gives every step the same score."""

    async def score(self, problem: Problem, responses: Sequence[Steps]) -> tuple[list[StepScores], int]:
        """Return 0.5 for all."""
        return [(0.5,) * len(steps) for steps in responses], self.count_tokens(problem, responses)


class FailingReward(FakeReward):
    """Fails one problem from its second call on."""

    def __init__(self, problem_id: str) -> None:
        self._problem_id = problem_id
        self.calls = 0

    async def score(self, problem: Problem, responses: Sequence[Steps]) -> tuple[list[StepScores], int]:
        """Score, or raise EngineError."""
        if problem.id == self._problem_id:
            self.calls += 1
            if self.calls > 1:
                raise EngineError("this reward model fails midway, as it was told to")
        return await super().score(problem, responses)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a strategy is run on."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    reward: RewardModel = field(default_factory=FakeReward)
    judge: Judge = field(default_factory=Judge)
    prices: Prices = field(default_factory=Prices)
    max_tokens: int = 160
    grant: int = 1500
    seed: int = 7

    def problem(self, number: int, words: str = "What is") -> Problem:
        """Return one question of many."""
        question = f"{words} {number} + {number * 7 % 13}?"
        return Problem(f"p{number}", question, self.engine.render([Message("user", question)]))

    def run(self, strategy: Strategy, problems: Sequence[Problem]) -> list[Outcome]:
        """Run all problems at once.

        Raises:
            NonconformingError: more was spent than granted, or something was left reserved.
        """
        solver = strategy.resolve(_OFFERED) if isinstance(strategy, Resolvable) else strategy
        sampling = Sampling(max_tokens=self.max_tokens)
        world = World(self.engine, self.judge, sampling, self.seed, _FLOOR, self.reward, self.prices)
        total = Ledger(self.grant * len(problems))
        granter = Fixed(total, {p.id: self.grant for p in problems})

        async def together() -> list[Outcome]:
            attempts = [Attempt(solver, p, (granter,), world, self.judge, _TIMEOUT_S) for p in problems]
            return [rows[0] for rows in await asyncio.gather(*(solve(attempt) for attempt in attempts))]

        outcomes = asyncio.run(together())
        for outcome in outcomes:
            _require(outcome.spent <= self.grant, f"spent {outcome.spent} of {self.grant} tokens")
            _require(outcome.meter.usage.completion <= self.grant, "generated more than was granted")
        _require(total.reserved == 0, f"{total.reserved} tokens are still reserved at the end")
        _require(total.spent == sum(o.spent for o in outcomes), "a call outlived its problem")
        return outcomes


def _require(kept: bool, broken: str) -> None:
    if not kept:
        raise NonconformingError(broken)


def _answered(outcome: Outcome) -> None:
    _require(outcome.error is None, f"failed: {outcome.error}")
    answer = outcome.answer
    if answer is not None and answer.choice is not None:
        chosen = answer.candidates[answer.choice]
        _require(chosen.finish == "stop" and chosen.answer is not None, "a cut response, or one without answer, won")


def never_overspends(strategy: Strategy) -> None:
    """Within every grant, with and without prices and failing calls; what it says it used is what was generated."""
    for grant in _GRANTS:
        for prices in (Prices(), Prices(prompt=0.2, cached=0.1, reward=0.05)):
            engine = RecordingEngine()
            setting = Setting(engine=engine, prices=prices, grant=grant)
            outcomes = setting.run(strategy, [setting.problem(i) for i in range(3)])
            for outcome in outcomes:
                _answered(outcome)
            generated = sum(c.usage.completion for _, c in engine.calls)
            _require(generated == sum(o.meter.usage.completion for o in outcomes), "tokens went past the meter")
        failing = Setting(engine=FakeEngine(FakeOptions(fail=0.2)), grant=grant)
        failing.run(strategy, [failing.problem(i) for i in range(3)])


def answers_alone_as_among_others(strategy: Strategy) -> None:
    """The same seed gives the same answer and spends the same, alone or among 50 problems, fast engine or slow."""
    for grant in (150, 900):
        slow = Setting(engine=FakeEngine(FakeOptions(delay_s=0.0002)), grant=grant)
        problems = [slow.problem(i) for i in range(50)]
        together = slow.run(strategy, problems)
        for i in (0, 17, 49):
            alone = Setting(grant=grant).run(strategy, [problems[i]])[0]
            _require(alone.answer == together[i].answer, f"{problems[i].id} has another answer among others")
            _require(alone.meter.usage == together[i].meter.usage, f"{problems[i].id} spends otherwise among others")


def survives_tiny_grants(strategy: Strategy) -> None:
    """No error within any small grant, no answer and no call within none."""
    for grant in range(24):
        setting = Setting(grant=grant)
        outcome = setting.run(strategy, [setting.problem(5)])[0]
        _answered(outcome)
        if grant == 0:
            _require(outcome.status == "budget", f"the status is {outcome.status!r} where nothing was granted")
            _require(outcome.meter.calls == 0, "it called the engine with nothing to spend")


def survives_wrong_branches(strategy: Strategy) -> None:
    """Where every answer is wrong, the problem is answered and scores 0."""
    setting = Setting(engine=FakeEngine(FakeOptions(p=0.0)), judge=Judge(right=False))
    for outcome in setting.run(strategy, [setting.problem(i) for i in range(8)]):
        _answered(outcome)
        _require(outcome.score == 0.0, f"the score is {outcome.score}")


def survives_equal_scores(strategy: Strategy) -> None:
    """Ties are broken the same way every time, and an ample grant is answered."""
    setting = Setting(reward=FlatReward(), grant=3000, max_tokens=640)  # a forced answer gets a quarter
    problems = [setting.problem(i) for i in range(5)]
    first, second = setting.run(strategy, problems), setting.run(strategy, problems)
    for one, other in zip(first, second, strict=True):
        _answered(one)
        _require(one.answer == other.answer, "two equal runs differ")
        _require(one.status == "ok", f"the status is {one.status!r} with an ample grant")


def survives_unicode(strategy: Strategy) -> None:
    """Questions and steps in any script: combining characters, emoji, right-to-left, line separators."""
    for letter in ("é", "🙂", "\u0301", "ش", "\u2028", "\x00"):
        setting = Setting(engine=RecordingEngine(letter=letter))
        for outcome in setting.run(strategy, [setting.problem(i, f"{letter}Ünï 漢字 \u202e?") for i in range(3)]):
            _answered(outcome)


def survives_a_failing_reward_model(strategy: Strategy) -> None:
    """One problem fails, or does without scores; the others do not notice."""
    healthy = Setting()
    problems = [healthy.problem(i) for i in range(4)]
    expected = healthy.run(strategy, problems)
    reward = FailingReward(problems[2].id)
    for i, (outcome, good) in enumerate(zip(Setting(reward=reward).run(strategy, problems), expected, strict=True)):
        if i == 2 and reward.calls > 1:
            _require(outcome.status == "error", f"the status is {outcome.status!r} where the reward model failed")
        else:
            _require(outcome.answer == good.answer, "a problem noticed that another one's reward model failed")


def leaves_ended_responses_alone(strategy: Strategy) -> None:
    """No call continues a response right after the model ended it."""
    engine = RecordingEngine()
    setting = Setting(engine=engine, grant=2500)
    setting.run(strategy, [setting.problem(i) for i in range(6)])
    ended: set[tuple[str, tuple[int, ...]]] = set()
    for request, drawn in engine.calls:
        _require((request.problem_id, request.prompt.tokens) not in ended, "a call went on after the end")
        if drawn.finish == "stop" and drawn.stop_reason is None and request.sampling.kind == "answer":
            ended.add((request.problem_id, request.prompt.tokens + drawn.tokens))


CHECKS: Mapping[str, Callable[[Strategy], None]] = {
    check.__name__: check
    for check in (
        never_overspends,
        answers_alone_as_among_others,
        survives_tiny_grants,
        survives_wrong_branches,
        survives_equal_scores,
        survives_unicode,
        survives_a_failing_reward_model,
        leaves_ended_responses_alone,
    )
}
"""Every check by its name; each raises NonconformingError."""


def check_strategy(strategy: Strategy) -> None:
    """Run every check.

    Raises:
        NonconformingError: a rule is broken.
    """
    for check in CHECKS.values():
        check(strategy)
