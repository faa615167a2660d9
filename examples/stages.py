"""Plan, solve, check: three subtasks under one budget, each with the model and the number of samples that suit it.

    python examples/stages.py [--small fake:p=0.8] [--large fake:p=0.98] [--price 3] [--budget 1500]

"What is 12 * 7 + 30?" is planned by its first step, solved by the second, and checked by going back: what the check
refutes loses to the next answer in the vote. `stages` looks for the best plan on one half of the questions; the other
half says what it is worth. A budget is tokens of the small model a question; one of the large costs `--price` of them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ttc.allocate.stages import Choices, StageChoice, StageModel, StagePlan, stages
from ttc.core.identity import sample_seed
from ttc.core.protocols import Engine
from ttc.core.specs import ModelSpec
from ttc.core.types import GenRequest, Message, Sampling
from ttc.engines.opening import open_engine
from ttc_evals.numeric import NumericChecker

STAGES = ("plan", "solve", "check")
WORDS = "{} Put the final answer in \\boxed{{}}."
SAMPLING = Sampling(temperature=0.7, max_tokens=256)


@dataclass(frozen=True)
class Question:
    """a * b + c."""

    a: int
    b: int
    c: int


@dataclass
class Pipeline:
    """Runs questions through the three stages and counts what each of them costs."""

    engines: Sequence[Engine]
    prices: Sequence[float]
    spent: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Budget tokens a (stage, model)."""
    samples: Counter[tuple[str, int]] = field(default_factory=Counter)

    async def ask(self, stage: str, question: str, choice: StageChoice) -> list[str]:
        """Return the answers to a subtask, the most frequent first, of equals the first seen."""
        engine, key = self.engines[choice.model], (stage, choice.model)
        prompt = engine.render([Message("user", WORDS.format(question))])
        drawn = await engine.generate(
            [
                GenRequest(question, prompt, SAMPLING, SAMPLING.max_tokens, sample_seed(0, question, stage, i), i)
                for i in range(choice.samples)
            ]
        )
        self.spent[key] += sum(c.usage.completion * self.prices[choice.model] for c in drawn)
        self.samples[key] += choice.samples
        answers = [NumericChecker().extract(c.text) for c in drawn if c.finish == "stop"]
        return [answer for answer, _ in Counter(a for a in answers if a is not None).most_common()]

    async def run(self, question: Question, choices: Choices) -> str | None:
        """Return the pipeline's answer to a question."""
        plan, solve, check = choices
        products = await self.ask("plan", f"What is {question.a} * {question.b}?", plan)
        if not products:
            return None
        found = await self.ask("solve", f"What is {products[0]} + {question.c}?", solve)
        for answer in found:
            if (await self.ask("check", f"What is {answer} - {question.c}?", check))[:1] == products[:1]:
                return answer
        return found[0] if found else None

    async def accuracy(self, questions: Sequence[Question], choices: Choices) -> float:
        """Return the share of questions answered right."""
        answers = [await self.run(q, choices) for q in questions]
        right = [str(q.a * q.b + q.c) == answer for q, answer in zip(questions, answers, strict=True)]
        return sum(right) / len(right)

    async def measured(self, names: Sequence[str], questions: Sequence[Question]) -> list[list[StageModel]]:
        """Return what a sample of each model costs in each stage, as run on some questions."""
        for model in range(len(self.engines)):
            await self.accuracy(questions, (StageChoice(model, 4),) * 3)
        return [
            [StageModel(name, 0.0, self.spent[s, m] / self.samples[s, m]) for m, name in enumerate(names)]
            for s in STAGES
        ]


async def tuned(pipeline: Pipeline, names: Sequence[str], questions: Sequence[Question], budget: float) -> StagePlan:
    """Return the plan that does best on some questions."""
    options = await pipeline.measured(names, questions[:20])
    loop = asyncio.get_running_loop()

    def evaluate(choices: Choices) -> float:
        return asyncio.run_coroutine_threadsafe(pipeline.accuracy(questions, choices), loop).result()

    return await asyncio.to_thread(stages, options, evaluate, budget, samples=(1, 2, 4, 8, 16))


async def main() -> None:
    """Tune on one half of the questions, and print what every plan is worth on the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", default="fake:p=0.8")
    parser.add_argument("--large", default="fake:p=0.98")
    parser.add_argument("--price", type=float, default=3.0)
    parser.add_argument("--budget", type=float, default=1500.0)
    parser.add_argument("--questions", type=int, default=200)
    args = parser.parse_args()
    dice, names = random.Random(0), ("small", "large")  # noqa: S311 - not for secrets
    questions = [Question(*(dice.randint(2, 99) for _ in range(3))) for _ in range(args.questions)]
    train, test = questions[::2], questions[1::2]
    engines = [open_engine(ModelSpec(path=path)) for path in (args.small, args.large)]
    for engine in engines:
        await engine.start()
    plan = await tuned(Pipeline(engines, (1.0, args.price)), names, train, args.budget)
    print(f"{len(plan.trials)} plans tried; the best costs {plan.cost:.0f} of {args.budget:.0f} tokens a question")
    print("| plan | solve | check | tokens a question | right, training | right, others |\n|---|---|---|---|---|---|")
    for choices in dict.fromkeys((plan.choices, plan.trials[0].choices)):
        fresh = Pipeline(engines, (1.0, args.price))
        there = await fresh.accuracy(test, choices)
        tokens = sum(fresh.spent.values()) / len(test)
        trained = next(t.value for t in plan.trials if t.choices == choices)
        cells = " | ".join(f"{names[c.model]} x {c.samples}" for c in choices)
        print(f"| {cells} | {tokens:.0f} | {trained:.3f} | {there:.3f} |")
    for engine in engines:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
