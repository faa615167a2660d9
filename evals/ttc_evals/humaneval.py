"""HumanEval: Python functions from their signature and docstring (Chen et al. 2021)."""

from __future__ import annotations

from ttc.core.protocols import Checker, Dataset, LoadOptions
from ttc.core.types import Example
from ttc_evals import prompts
from ttc_evals.code import CodeChecker, CodeReference
from ttc_evals.loading import Row, Source, ask, load_examples


class HumanEval:
    """164 problems. The prompt's code runs before the answer: the tests of some use its helper functions."""

    name: str = "humaneval"
    prompt_template: str = prompts.CODE
    checker: Checker = CodeChecker()
    source: Source = Source(
        {"question": "prompt", "tests": "test", "entry_point": "entry_point", "id": "task_id"},
        hub="openai/openai_humaneval",
    )

    def load(self, options: LoadOptions) -> Dataset:
        """Load the examples. Raises DataError with file, line and field."""
        return load_examples(self.name, self.source, options, self._build)

    def _build(self, problem_id: str, row: Row) -> Example:
        prompt = row.text("question")
        question = f"Complete this Python function:\n\n```python\n{prompt.strip()}\n```"
        gold = CodeReference(prompt, row.text("tests"), row.text("entry_point"))
        return Example(problem_id, question, gold.to_json(), ask(self.prompt_template, question))
