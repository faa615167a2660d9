"""GSM8K: grade-school word problems with a number for an answer (Cobbe et al. 2021)."""

from __future__ import annotations

from ttc.core.errors import DataError
from ttc.core.protocols import Checker, Dataset, LoadOptions
from ttc.core.types import Example
from ttc_evals import prompts
from ttc_evals.loading import Row, Source, ask, load_examples
from ttc_evals.numeric import NumericChecker, parse_number, spell_number


class GSM8K:
    """1,319 test problems; the reference is the number after `####`."""

    name: str = "gsm8k"
    prompt_template: str = prompts.MATH
    checker: Checker = NumericChecker()
    source: Source = Source({"question": "question", "answer": "answer", "id": "id"}, hub="openai/gsm8k", config="main")

    def load(self, options: LoadOptions) -> Dataset:
        """Load the examples. Raises DataError with file, line and field."""
        return load_examples(self.name, self.source, options, self._build)

    def _build(self, problem_id: str, row: Row) -> Example:
        question = row.text("question")
        number = parse_number(row.answer("answer").rpartition("####")[2].strip())
        if number is None:
            raise DataError(f"{row.where}: field {row.fields['answer']!r} has no number after '####'")
        return Example(problem_id, question, spell_number(number), ask(self.prompt_template, question))
