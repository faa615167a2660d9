"""Answers that are one letter of a multiple choice."""

from __future__ import annotations

import re

from ttc_evals.extraction import last_boxed, last_phrase, opens_box

_LETTER = re.compile(
    r"[\s(\[$*]*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?[\s(\[*]*(?:(?:option|choice)\s+)?\(?([A-Za-z])(?![\w'])"
)


class ChoiceChecker:
    """One letter out of `letters`, taken from the last box, else after "answer is"."""

    isolated: bool = False
    executes_code: bool = False
    version: str = "choice-1"

    def __init__(self, letters: str = "ABCD") -> None:
        self.letters = letters

    def extract(self, text: str) -> str | None:
        """Return the chosen letter in upper case, None where it is not one of `letters`."""
        stated = last_boxed(text) if opens_box(text) else last_phrase(text)
        match = None if stated is None else _LETTER.match(stated)
        letter = match[1].upper() if match else ""
        return letter if letter and letter in self.letters else None

    def equivalent(self, a: str, b: str) -> bool:
        """Say whether it is the same letter."""
        return a == b

    def grade(self, answer: str, gold: str) -> bool:
        """Say whether it is the right letter."""
        return answer == gold
