"""MBPP: short Python functions from one sentence and three tests (Austin et al. 2021)."""

from __future__ import annotations

from ttc.core.protocols import Checker, Dataset, LoadOptions
from ttc.core.types import Example
from ttc_evals import prompts
from ttc_evals.code import CodeChecker, CodeReference
from ttc_evals.loading import Row, Source, ask, load_examples


class MBPP:
    """500 test problems. The tests are shown, as in the paper: they name the function."""

    name: str = "mbpp"
    prompt_template: str = prompts.CODE
    checker: Checker = CodeChecker()
    source: Source = Source(
        {"question": "text", "tests": "test_list", "setup": "test_setup_code", "id": "task_id"},
        hub="google-research-datasets/mbpp",
        config="full",
    )

    def load(self, options: LoadOptions) -> Dataset:
        """Load the examples. Raises DataError with file, line and field."""
        return load_examples(self.name, self.source, options, self._build)

    def _build(self, problem_id: str, row: Row) -> Example:
        tests = "\n".join(row.texts("tests"))
        setup = row.text("setup") if row.has("setup") else ""
        question = f"{row.text('question').strip()}\n\nYour code must pass these tests:\n\n```python\n{tests}\n```"
        gold = CodeReference("", tests, setup=setup)
        return Example(problem_id, question, gold.to_json(), ask(self.prompt_template, question))
