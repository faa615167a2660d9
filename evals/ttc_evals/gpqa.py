"""GPQA Diamond: graduate-level multiple choice in the sciences (Rein et al. 2023)."""

from __future__ import annotations

from ttc.core.identity import identity
from ttc.core.protocols import Checker, Dataset, LoadOptions
from ttc.core.types import Example
from ttc_evals import prompts
from ttc_evals.choice import ChoiceChecker
from ttc_evals.loading import Row, Source, ask, load_examples

_OPTIONS = ("answer", "incorrect1", "incorrect2", "incorrect3")


class GPQADiamond:
    """198 questions with four options in an order hashed from the seed and the id.

    The authors ask that the texts never appear in the open: `meta["private"]` is 1, which keeps them out of
    run folders. The data set is gated: accept its terms on the hub first.
    """

    name: str = "gpqa-diamond"
    prompt_template: str = prompts.CHOICE
    checker: Checker = ChoiceChecker()
    source: Source = Source(
        {
            "question": "Question",
            "answer": "Correct Answer",
            "incorrect1": "Incorrect Answer 1",
            "incorrect2": "Incorrect Answer 2",
            "incorrect3": "Incorrect Answer 3",
            "id": "Record ID",
        },
        hub="Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
    )

    def load(self, options: LoadOptions) -> Dataset:
        """Load the examples. Raises DataError with file, line and field."""

        def build(problem_id: str, row: Row) -> Example:
            order = sorted(_OPTIONS, key=lambda option: identity([options.seed, problem_id, option], digits=64))
            lines = [f"{letter}) {row.answer(option)}" for letter, option in zip("ABCD", order, strict=True)]
            question = "\n".join([row.text("question").strip(), "", *lines])
            gold = "ABCD"[order.index("answer")]
            return Example(problem_id, question, gold, ask(self.prompt_template, question), {"private": 1})

        return load_examples(self.name, self.source, options, build)
