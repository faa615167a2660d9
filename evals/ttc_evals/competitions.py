"""Competition mathematics whose answers are numbers: AIME 2024 and 2025, AMC 2023."""

from __future__ import annotations

from ttc.core.errors import DataError
from ttc.core.protocols import Checker, Dataset, LoadOptions
from ttc.core.types import Example
from ttc_evals import prompts
from ttc_evals.loading import Row, Source, ask, load_examples
from ttc_evals.numeric import NumericChecker, parse_number, spell_number


class _Competition:
    """Problems with one number each."""

    name: str
    source: Source
    prompt_template: str = prompts.MATH
    checker: Checker = NumericChecker()

    def load(self, options: LoadOptions) -> Dataset:
        """Load the examples. Raises DataError with file, line and field."""
        return load_examples(self.name, self.source, options, self._build)

    def _build(self, problem_id: str, row: Row) -> Example:
        question, answer = row.text("question"), row.answer("answer")
        number = parse_number(answer)
        if number is None:
            raise DataError(f"{row.where}: field {row.fields['answer']!r} is not a number: {answer[:40]!r}")
        return Example(problem_id, question, spell_number(number), ask(self.prompt_template, question))


class AIME24(_Competition):
    """30 problems of the two AIME papers of 2024; answers are integers from 0 to 999."""

    name: str = "aime24"
    source: Source = Source(
        {"question": "problem", "answer": "answer", "id": "id"}, hub="HuggingFaceH4/aime_2024", split="train"
    )


class AIME25(_Competition):
    """30 problems of the two AIME papers of 2025; answers are integers from 0 to 999."""

    name: str = "aime25"
    source: Source = Source({"question": "problem", "answer": "answer", "id": "id"}, hub="math-ai/aime25")


class AMC23(_Competition):
    """40 problems of the AMC 12 papers of 2023, without their choices."""

    name: str = "amc23"
    source: Source = Source({"question": "question", "answer": "answer", "id": "id"}, hub="math-ai/amc23")
