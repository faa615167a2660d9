"""One budget over a pipeline of subtasks: which model does each stage, and with how many samples.

plan = stages(options=[[small, large]] * 3, evaluate=accuracy_on_training_problems, budget=2000)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ttc.core.errors import ConfigError, DataError
from ttc.metrics.compute import flops

GRID = (1, 2, 4, 8, 16, 32, 64)
PATIENCE = 2
"""Steps in one direction without gain after which it is given up: more samples help up to an optimum, then no more
(AgentTTS, second insight)."""


@dataclass(frozen=True, slots=True)
class StageModel:
    """A model that could do a stage, and what it costs there, in the unit of the budget."""

    name: str
    prompt_cost: float
    """Reading the stage's prompt, once for all samples."""
    sample_cost: float

    @classmethod
    def in_flops(cls, name: str, parameters: float, prompt_tokens: float, completion_tokens: float) -> StageModel:
        """Return a model whose costs are FLOPs, 2 * parameters a token read or generated."""
        return cls(name, float(flops(parameters, prompt_tokens)), float(flops(parameters, completion_tokens)))

    def cost(self, samples: int) -> float:
        """Return the cost of so many samples."""
        return self.prompt_cost + samples * self.sample_cost


@dataclass(frozen=True, slots=True)
class StageChoice:
    """What one stage is given."""

    model: int
    """Its position in the stage's options."""
    samples: int


Choices = tuple[StageChoice, ...]


@dataclass(frozen=True, slots=True)
class StageTrial:
    """One evaluated vector of choices."""

    choices: Choices
    cost: float
    value: float


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The best trial, and all of them in the order they were made."""

    choices: Choices
    cost: float
    value: float
    trials: tuple[StageTrial, ...]


def stages(
    options: Sequence[Sequence[StageModel]],
    evaluate: Callable[[Choices], float],
    budget: float,
    *,
    samples: Sequence[int] = GRID,
    max_trials: int = 50,
) -> StagePlan:
    """Search models and sample numbers of a pipeline's stages, in the order the stages run, within a budget.

    `options` are each stage's models; `evaluate` returns how well the pipeline does with some choices, on training
    problems, and is called once for each. `samples` are the numbers on offer, rising from 1. No trial costs more than
    the budget; of equal values the cheaper plan wins.

    The start gives each stage each model for what one pass of the largest costs, the other stages the largest once.
    Then stages are tuned one after another, so that what lies downstream of a change is tuned after it, until a round
    changes nothing: each model, with more and with fewer samples. Where a choice leaves too little for the others, the
    dearest of them gets fewer samples, then a smaller model. It is a local search: nothing says how far from the best.

    Source: AgentTTS (F. Wang et al. 2025, arXiv 2508.00890), its three insights without its language model.

    Raises:
        ConfigError: a stage without models, numbers of samples that do not rise from 1, or too small a budget.
        DataError: a value that is not finite.
    """
    if not options or not all(options) or max_trials < 1:
        raise ConfigError("a pipeline needs at least one stage, each with a model, and at least one trial")
    if not samples or samples[0] != 1 or any(b <= a for a, b in itertools.pairwise(samples)):
        raise ConfigError(f"numbers of samples must rise from 1, found {list(samples)}")
    return _Search(options, evaluate, budget, samples, max_trials).run()


def unit_budget(parameters: float, samples: int, prompt_tokens: int, completion_tokens: int) -> float:
    """Return AgentTTS's budget of a stage, (M / 3e9) * (N_p + S * N_d) / 64 - 2.

    One pass of a 3B model that reads 128 tokens and writes 64 costs 1. Given for comparison with the paper only: a
    smaller model or a shorter prompt may cost less than 0. Budgets here are tokens or FLOPs.
    """
    return parameters / 3e9 * (prompt_tokens + samples * completion_tokens) / 64 - 2


class _Search:
    def __init__(
        self,
        options: Sequence[Sequence[StageModel]],
        evaluate: Callable[[Choices], float],
        budget: float,
        samples: Sequence[int],
        max_trials: int,
    ) -> None:
        self.options, self.evaluate, self.budget = options, evaluate, budget
        self.samples, self.max_trials = list(samples), max_trials
        self.trials: dict[Choices, StageTrial] = {}
        self.largest = [max(models, key=lambda m: m.cost(1)) for models in options]
        dearest = (models.index(large) for models, large in zip(options, self.largest, strict=True))
        start = self.fitted(tuple(StageChoice(m, 1) for m in dearest), None)
        if start is None:
            least = sum(min(m.cost(1) for m in s) for s in options)
            raise ConfigError(f"the cheapest pass through all stages costs {least:g}, the budget is {budget:g}")
        self.start = self.best = self.evaluated(start)

    def run(self) -> StagePlan:
        self.begin()
        before = None
        while before != self.best and len(self.trials) < self.max_trials:
            before = self.best
            for stage in range(len(self.options)):
                self.tune(stage)
            if before == self.best:
                self.exchange()
        return StagePlan(self.best.choices, self.best.cost, self.best.value, tuple(self.trials.values()))

    def begin(self) -> None:
        """Try each model of each stage for the price of the largest's one pass, then the winners together."""
        winners = list(self.start.choices)
        for stage, models in enumerate(self.options):
            price, best = self.largest[stage].cost(1), self.start.value
            for model in range(len(models)):
                choice = StageChoice(model, self.bought(models[model], price))
                trial = self.attempt(self.start.choices, stage, choice)
                if trial is not None and trial.value > best:
                    winners[stage], best = choice, trial.value
        self.attempt(tuple(winners), None, None)

    def tune(self, stage: int) -> None:
        """Try each model of a stage, the present one first, with more and with fewer samples, the others as they are."""
        now = self.best.choices[stage]
        price = self.options[stage][now.model].cost(now.samples)
        for model in sorted(range(len(self.options[stage])), key=lambda m: m != now.model):
            first = now.samples if model == now.model else self.bought(self.options[stage][model], price)
            self.attempt(self.best.choices, stage, StageChoice(model, first))
            at = self.samples.index(first)
            for direction in (self.samples[at + 1 :], self.samples[:at][::-1]):
                self.walk(stage, model, direction)

    def exchange(self) -> None:
        """Try to give each stage more at the expense of each other one: what tuning one stage alone cannot reach."""
        choices = self.best.choices
        for stage, now in enumerate(choices):
            models = self.options[stage]
            more = [StageChoice(now.model, n) for n in self.samples if n > now.samples][:1]
            more += [StageChoice(m, 1) for m in range(len(models)) if models[m].cost(1) > models[now.model].cost(1)]
            for choice, payer in itertools.product(more, range(len(choices))):
                if payer != stage:
                    self.attempt(choices, stage, choice, payer)

    def walk(self, stage: int, model: int, numbers: Sequence[int]) -> None:
        """Go on in one direction until `PATIENCE` steps in a row gain nothing, or the budget ends it."""
        missed = 0
        for number in numbers:
            before = self.best
            if self.attempt(self.best.choices, stage, StageChoice(model, number)) is None:
                return
            missed = 0 if self.best != before else missed + 1
            if missed == PATIENCE:
                return

    def attempt(
        self, choices: Choices, stage: int | None, choice: StageChoice | None, payer: int | None = None
    ) -> StageTrial | None:
        """Evaluate choices with another one for a stage; None where it cannot be paid, or all trials are made."""
        changed = tuple(choice if choice and i == stage else c for i, c in enumerate(choices))
        fitted = self.fitted(changed, stage, payer)
        if fitted is None or (fitted not in self.trials and len(self.trials) >= self.max_trials):
            return None
        trial = self.trials.get(fitted) or self.evaluated(fitted)
        if (trial.value, -trial.cost) > (self.best.value, -self.best.cost):
            self.best = trial
        return trial

    def evaluated(self, choices: Choices) -> StageTrial:
        value = float(self.evaluate(choices))
        if not math.isfinite(value):
            raise DataError(f"the pipeline's value is {value} for {choices}")
        return self.trials.setdefault(choices, StageTrial(choices, self.cost(choices), value))

    def cost(self, choices: Choices) -> float:
        return sum(s[c.model].cost(c.samples) for s, c in zip(self.options, choices, strict=True))

    def fitted(self, choices: Choices, kept: int | None, payer: int | None = None) -> Choices | None:
        """Reduce stages but `kept` until the budget pays for all, `payer` first, then the dearest; None if it never does."""
        while self.cost(choices) > self.budget:
            smaller = [
                (math.inf if i == payer else self.options[i][c.model].cost(c.samples), -i, less)
                for i, c in enumerate(choices)
                if i != kept and (less := self.reduced(i, c)) is not None
            ]
            if not smaller:
                return None
            _, place, less = max(smaller, key=lambda entry: entry[:2])
            choices = tuple(less if i == -place else c for i, c in enumerate(choices))
        return choices

    def reduced(self, stage: int, choice: StageChoice) -> StageChoice | None:
        """Return the next fewer samples, after one sample the next cheaper model, after the cheapest None."""
        if choice.samples > 1:
            return replace(choice, samples=self.samples[self.samples.index(choice.samples) - 1])
        models = self.options[stage]
        cheaper = [m for m in range(len(models)) if models[m].cost(1) < models[choice.model].cost(1)]
        return StageChoice(max(cheaper, key=lambda m: models[m].cost(1)), 1) if cheaper else None

    def bought(self, model: StageModel, price: float) -> int:
        """Return the most samples on offer that a price pays for, at least one."""
        return max((n for n in self.samples if model.cost(n) <= price), default=1)
