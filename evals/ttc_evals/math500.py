"""MATH-500: competition mathematics with LaTeX answers (Hendrycks et al. 2021; subset of Lightman et al. 2023)."""

from __future__ import annotations

from ttc.core.errors import DataError
from ttc.core.protocols import Checker, Dataset, LoadOptions
from ttc.core.types import Example
from ttc_evals import prompts
from ttc_evals.loading import Row, Source, ask, load_examples
from ttc_evals.symbolic import MathChecker


class MATH500:
    """500 test problems in seven subjects and five levels, both in `meta`."""

    name: str = "math500"
    prompt_template: str = prompts.MATH
    checker: Checker = MathChecker()
    source: Source = Source(
        {"question": "problem", "answer": "answer", "id": "unique_id", "level": "level", "subject": "subject"},
        hub="HuggingFaceH4/MATH-500",
    )

    def load(self, options: LoadOptions) -> Dataset:
        """Load the examples. Raises DataError with file, line and field."""
        return load_examples(self.name, self.source, options, self._build)

    def _build(self, problem_id: str, row: Row) -> Example:
        question = row.text("question")
        meta: dict[str, str | int | float] = {}
        if row.has("level"):
            level = row.answer("level").removeprefix("Level ")
            if not level.isdecimal():
                raise DataError(
                    f"{row.where}: field {row.fields['level']!r} must be a level from 1 to 5, not {level!r}"
                )
            meta["level"] = int(level)
        if row.has("subject"):
            meta["subject"] = row.text("subject")
        return Example(problem_id, question, row.answer("answer"), ask(self.prompt_template, question), meta)
