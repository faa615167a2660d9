"""Answers that are Python code, graded by running the benchmark's tests in the sandbox."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass

from ttc.core.errors import ConfigError
from ttc.core.protocols import Isolation
from ttc_evals.sandbox import LEVELS, SandboxLimits, TooWeakError, run_program, strong_enough

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\n`]*)$", re.MULTILINE)
_PYTHON = {"", "python", "python3", "py"}
_LONGEST_CODE = 100_000


@dataclass(frozen=True, slots=True)
class CodeReference:
    """What grading a program needs. Written into `Example.gold` as JSON."""

    prompt: str
    """Code before the answer: imports and helper functions that the tests rely on."""
    tests: str
    entry_point: str = ""
    """A function for `tests` to check as `check(entry_point)`; empty where the tests call it themselves."""
    setup: str = ""
    """Code between the answer and the tests; it may use what the answer defines."""

    def to_json(self) -> str:
        """Return the JSON string for `Example.gold`."""
        parts = {"prompt": self.prompt, "tests": self.tests, "entry_point": self.entry_point, "setup": self.setup}
        return json.dumps(parts, sort_keys=True)

    @classmethod
    def from_json(cls, gold: str) -> CodeReference:
        """Read what `to_json` wrote. Raises ValueError or TypeError on anything else."""
        return cls(**json.loads(gold))

    def program(self, answer: str) -> list[str]:
        """Return the parts to run, in order; the answer's definitions replace the prompt's."""
        call = f"check({self.entry_point})" if self.entry_point else ""
        return [part for part in (self.prompt, answer, self.setup, self.tests, call) if part.strip()]


def last_code_block(text: str) -> str | None:
    """Return the content of the last closed fenced Python block, None where there is none."""
    last: str | None = None
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and not fence[2].strip():
            if opened[2].strip().lower() in _PYTHON:
                last = text[opened.end() + 1 : fence.start()]
            opened = None
        elif fence[2].strip():
            opened = fence  # a block that was never closed before the next began
    return last


class CodeChecker:
    """Whole functions, taken from the last fenced code block, else the whole text where it is Python.

    Two answers are equivalent where their normalised code is the same text: nothing is run to compare them.
    """

    isolated: bool = True
    executes_code: bool = True
    version: str = "code-1"

    def __init__(self, limits: SandboxLimits | None = None, isolation: Isolation | None = None) -> None:
        self.limits = limits or SandboxLimits()
        self.isolation = isolation
        """Answers run in this one or not at all; None takes the strongest that there is when the first one runs."""

    def bound(self, least: Isolation | None) -> tuple[CodeChecker, Isolation]:
        """Return this checker bound to the strongest isolation there is here, and which one that is.

        Raises:
            ConfigError: it is weaker than `least`, or none works.
        """
        try:
            level = strong_enough(least or LEVELS[-1])
        except TooWeakError as error:
            raise ConfigError(
                str(error), "ttc doctor says why; docs/sandbox.md says what each level holds, and --sandbox accepts one"
            ) from error
        except OSError as error:
            raise ConfigError(str(error), "ttc doctor says more; docs/sandbox.md says what is needed") from error
        return CodeChecker(self.limits, level), level

    def extract(self, text: str) -> str | None:
        """Return the code with comments and layout normalised, None where it does not parse or is too long."""
        block = last_code_block(text)
        code = text if block is None else block
        if len(code) > _LONGEST_CODE:
            return None
        try:
            tree = ast.parse(code)
            if block is None and not any(isinstance(node, ast.FunctionDef) for node in tree.body):
                return None
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        try:
            return ast.unparse(tree) or None
        except (ValueError, RecursionError):  # some f-strings have no spelling that Python 3.11 can unparse
            return code.strip()

    def equivalent(self, a: str, b: str) -> bool:
        """Say whether it is the same code."""
        return a == b

    def grade(self, answer: str, gold: str) -> bool:
        """Run the tests. Raises TimeoutError where the program never ends, OSError where no sandbox works."""
        result = run_program(CodeReference.from_json(gold).program(answer), self.limits, self.isolation)
        if result.status == "timeout":
            raise TimeoutError("the program did not end in its time")
        return result.status == "ok"
