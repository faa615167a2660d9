"""Any file of questions and answers."""

from __future__ import annotations

from ttc.core.protocols import Checker, Dataset, LoadOptions
from ttc.core.types import Example
from ttc_evals import prompts
from ttc_evals.loading import Row, Source, ask, load_examples
from ttc_evals.numeric import NumericChecker, parse_number
from ttc_evals.symbolic import MathChecker


class Local:
    """Rows with `question`, `answer` and perhaps `id`, from a file or a hub name that the user gives.

    Checked as numbers where every reference is one, else as mathematics; known once the rows are loaded.
    """

    name: str = "local"
    prompt_template: str = prompts.MATH
    source: Source = Source({"question": "question", "answer": "answer", "id": "id"})

    def __init__(self) -> None:
        self._checker: Checker = MathChecker()

    @property
    def checker(self) -> Checker:
        """Return the checker that suits the rows loaded last."""
        return self._checker

    def load(self, options: LoadOptions) -> Dataset:
        """Load the examples. Raises DataError with file, line and field."""
        dataset = load_examples(self.name, self.source, options, self._build)
        numeric = all(parse_number(example.gold) is not None for example in dataset.examples)
        self._checker = NumericChecker() if numeric else MathChecker()
        return dataset

    def _build(self, problem_id: str, row: Row) -> Example:
        question = row.text("question")
        return Example(problem_id, question, row.answer("answer"), ask(self.prompt_template, question))
