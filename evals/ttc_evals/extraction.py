r"""Find the final answer in a completion: the last `\boxed{}`, else an "answer is" phrase.

A text that opens a box answers in boxes only: an unclosed or empty one is no answer, and nothing else in the
text is taken instead. Every scan is linear in the text.
"""

from __future__ import annotations

import re

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_PHRASE = re.compile(r"\banswer(?:\*\*)?\s*(?:is\b|:|=)[\s:*]*([^\n]*)|^####\s*([^\n]*)", re.IGNORECASE | re.MULTILINE)


def opens_box(text: str) -> bool:
    """Say whether a box is opened anywhere."""
    return _BOX.search(text) is not None


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last balanced `\boxed{}` (the innermost where nested), None where there is none."""
    first = _BOX.search(text)
    if first is None:
        return None
    last: tuple[int, int] | None = None
    open_braces: list[tuple[bool, int]] = []
    for token in _BRACES.finditer(text, first.start()):
        spelling = token.group()
        if spelling == "}":
            if open_braces:
                is_box, start = open_braces.pop()
                if is_box and (last is None or start > last[0]):
                    last = (start, token.start())
        elif spelling.endswith("{") and spelling != "\\{":
            open_braces.append((len(spelling) > 1, token.end()))
    return None if last is None else text[slice(*last)]


def last_phrase(text: str) -> str | None:
    """Return the rest of the line after the last "answer is", "answer:" or "####", None where there is none."""
    found: str | None = None
    for match in _PHRASE.finditer(text):
        found = (match[1] if match[1] is not None else match[2]).strip() or found
    return found
