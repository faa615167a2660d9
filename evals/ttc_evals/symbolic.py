r"""Mathematical answers in LaTeX: read from the last box, compared by math-verify.

math-verify parses both sides and compares them numerically and by SymPy; its own timeouts are off (they need
signals in the main thread), because a worker process with a hard limit runs these calls.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ttc_evals.extraction import last_boxed, last_phrase, opens_box

_LONGEST_PARSED = 1000
"""Longer answers are compared as strings only: no reference of these benchmarks comes near, parsing is slow."""
_SPELLINGS = str.maketrans({"\u2212": "-", "\u00d7": r"\times ", "\u00a0": " ", "\u2009": " ", "\u202f": " "})
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\.?|\\[!,;:]")
_FRACTION = re.compile(r"\\[dt]frac(?![a-zA-Z])")
_WORDS = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\s+")
_INLINE = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)")
_RATIONAL = re.compile(r"(-?[0-9]{1,18})|(-?)\\frac\{([0-9]{1,18})\}\{(0*[1-9][0-9]{0,17})\}", re.ASCII)
_SENTENCE_END = re.compile(r"[.!]\s")


def normalise(answer: str) -> str | None:
    """Return one spelling for answers that differ in layout only; None where nothing is left."""
    text = _FRACTION.sub(r"\\frac", _SIZES.sub("", answer.translate(_SPELLINGS)))
    text = _SPACES.sub(" ", text.replace("\\$", "").replace("$", "").replace("\\ ", " ")).strip()
    words = _WORDS.fullmatch(text)
    if words is not None:
        text = words[1].strip()
    return text.strip("*").rstrip(".").strip() or None


@lru_cache(maxsize=1024)
def _parse(answer: str) -> list[Any]:
    from math_verify import parse

    if len(answer) > _LONGEST_PARSED:
        return []
    # Said once a process otherwise: that our own time limits must replace theirs, which they do.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    try:
        parsed: list[Any] = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
    except RecursionError:
        return []
    return parsed


@lru_cache(maxsize=1024)
def _exact(answer: str) -> Fraction | None:
    """Return an integer or a fraction of integers: most answers, and compared a thousand times faster."""
    match = _RATIONAL.fullmatch(answer)
    if match is None:
        return None
    return Fraction(int(match[1])) if match[1] else Fraction(int(f"{match[2]}{match[3]}"), int(match[4]))


def _verify(gold: str, answer: str) -> bool:
    from math_verify import verify

    try:
        return bool(verify(_parse(gold), _parse(answer), timeout_seconds=None))
    except RecursionError:
        return False


class MathChecker:
    """Answers that are expressions, sets, intervals, or words, for MATH.

    Taken from the last box, else after "answer is". Graded with the reference as math-verify's gold.
    """

    isolated: bool = True
    executes_code: bool = False
    version: str = "math-1"

    def extract(self, text: str) -> str | None:
        """Return the answer in one spelling."""
        if opens_box(text):
            boxed = last_boxed(text)
            return normalise(boxed) if boxed else None
        phrase = last_phrase(text)
        if phrase is None:
            return None
        phrase = phrase[:_LONGEST_PARSED]
        inline = _INLINE.search(phrase)
        return normalise((inline[1] or inline[2]) if inline else _SENTENCE_END.split(phrase, maxsplit=1)[0])

    def equivalent(self, a: str, b: str) -> bool:
        """Say whether two answers mean the same, in either order."""
        if a == b:
            return True
        first, second = _exact(a), _exact(b)
        if first is not None and second is not None:
            return first == second
        # math-verify accepts "x = 5" where "5" is the gold but not the reverse: the shorter is the gold, always.
        return _verify(*sorted((a, b), key=lambda answer: (len(answer), answer)))

    def grade(self, answer: str, gold: str) -> bool:
        """Say whether the answer is the reference."""
        return answer == normalise(gold) or _verify(gold, answer)
