"""What can be read off a question without a model: plain statistics of its text."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE = re.compile(r"[.!?]+(?:\s|$)")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_SPACE = re.compile(r"\s+")

STATISTICS = (
    "characters",
    "words",
    "sentences",
    "words_a_sentence",
    "letters_a_word",
    "capitals",
    "digits",
    "numbers",
    "distinct_numbers",
    "digits_a_number",
    "largest_number",
    "fractions",
    "pluses",
    "minuses",
    "products",
    "divisions",
    "relations",
    "brackets",
    "latex_commands",
    "dollars",
    "percents",
    "questions",
    "lines",
)
"""Counts are logarithms of one more, so that long questions do not stand alone."""


def statistics(text: str | None) -> NDArray[np.float32]:
    """Return the statistics of a question, (len(STATISTICS),); not a number where there is no text."""
    if text is None:
        return np.full(len(STATISTICS), np.nan, dtype=np.float32)
    words, numbers = _WORD.findall(text), _NUMBER.findall(text)
    sentences = max(1, len(_SENTENCE.findall(text)))
    digits = sum(map(str.isdigit, text))
    values = [_value(number) for number in numbers]
    log = math.log1p
    return np.array(
        [
            log(len(text)),
            log(len(words)),
            log(sentences),
            len(words) / sentences,
            sum(map(len, words)) / max(1, len(words)),
            log(sum(word[0].isupper() for word in words)),
            log(digits),
            log(len(numbers)),
            log(len(set(numbers))),
            digits / max(1, len(numbers)),
            max(values, default=0.0),
            log(sum("." in number for number in numbers) + text.count("/")),
            log(text.count("+")),
            log(text.count("-")),
            log(text.count("*") + text.count("\u00d7") + text.count(r"\cdot") + text.count(r"\times")),
            log(text.count("/") + text.count("÷") + text.count(r"\frac")),
            log(sum(text.count(sign) for sign in "=<>≤≥")),
            log(sum(text.count(sign) for sign in "([{")),
            log(len(_COMMAND.findall(text))),
            log(text.count("$")),
            log(text.count("%")),
            log(text.count("?")),
            log(text.count("\n")),
        ],
        dtype=np.float32,
    )


def masked(text: str) -> str:
    """Return a question with its numbers hidden: what near-duplicates have in common."""
    return _SPACE.sub(" ", _NUMBER.sub("0", text.lower())).strip()


def _value(number: str) -> float:
    # Digits before any separator: 1,200 and 1.200 are read as thousands, which is right or close enough for a size.
    whole = re.sub(r"\D", "", number) if re.fullmatch(r"\d+(?:,\d{3})+", number) else number.split(".")[0].split(",")[0]
    return math.log1p(float(whole[:18]))
