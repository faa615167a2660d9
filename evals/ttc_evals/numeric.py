r"""Numbers in answers: read exactly, compared exactly.

Read: signs, thousands separators (`1,000`, `1{,}000`), decimals, `a/b`, `\frac{a}{b}` and mixed numbers,
scientific notation (`1e3`, `1.5 \times 10^{3}`), with currency before and units after. A percent sign is a
unit: "50%" is 50, as the references of these benchmarks are written.

Not read: what would have to be computed (`2^{10}`, `3\sqrt{2}`, `3x`), lists, ranges, and numbers of more
than 300 digits.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from ttc_evals.extraction import last_boxed, last_phrase, opens_box

_MOST_DIGITS = 300
_SPELLINGS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\uff0d", "-"),
        **dict.fromkeys("\u20ac\u00a3\u00a5\u20b9\uff04\u2009\u202f", None),
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        "\u00a0": " ",
        "\u00b0": " ",
        "\u00d7": "*",
        "\u2044": "/",
        "\uff0c": ",",
        "\uff0e": ".",
        "\uff05": "%",
    }
)
_LATEX = re.compile(
    r"(?P<comma>\{,\})|(?P<drop>\\(?:[!,;:$\\]|left\b|right\b)|\$)|(?P<percent>\\%)|(?P<frac>\\[dt]frac\b)"
    r"|(?P<times>\\(?:times|cdot)\b)|\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{(?P<words>[^{}]*)\}|\^\s*\{?\s*\\circ\b\s*\}?"
    r"|\\approx\b|~"
)
_PLAIN = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)

_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_SIGNED = r"\s*-?[0-9]+\s*"
_FRACTION = rf"\\frac\s*(?:\{{(?P<top>{_SIGNED})\}}\s*\{{(?P<below>{_SIGNED})\}}|(?P<digits>[0-9]{{2}}))"
_NUMBER = re.compile(
    rf"(?<![\w.^])(?=[-+]?(?:\.?[0-9]|\\frac))(?P<sign>(?<![)}}])[-+])?(?P<decimal>{_INTEGER}(?:\.[0-9]*)?|\.[0-9]+)?"
    rf"(?:(?P<exponent>[eE][-+]?[0-9]+|\s*\*\s*10\s*\^\s*(?:\{{{_SIGNED}\}}|-?[0-9]+))"
    rf"|\s*/\s*(?P<over>{_INTEGER})|(?P<simple>\s+[0-9]+/[0-9]+)|\s*(?P<frac>{_FRACTION}))?(?<=[0-9.}}])",
    re.ASCII,
)
_COMPUTED = re.compile(
    r"[({]|\s*(?:[\^_/+=<>]|\*(?!\*)|[\u00b2\u00b3\u221a\u03c0]|-\s*[\d\\(]|,\s*[-\d\\]|:\d|\\|pi\b)"
    r"|(?![mghsLAVWNJKCF]\b|[^\W\d_]{2,})[^\W\d_]"
)
_UNITS = re.compile(
    r"[.,]?\s*%?(?:(?:\s*[mghsLAVWNJKCF]\b|\s*(?!pi\b)[^\W\d_]{2,}\.?)(?:\s*\^\{?[23]\}?|[\u00b2\u00b3])?"
    r"(?:[\s/-]+(?!pi\b)[^\W\d_]+\.?(?:\s*\^\{?[23]\}?|[\u00b2\u00b3])?)*)?(?:\s*\([^\d()]*\))?[\s.!)\]*]*"
)
_BEFORE = re.compile(r"[\s(\[*:]*(?:[^\W\d_]+[\s:,'*]+)*")


def parse_number(text: str) -> Fraction | None:
    """Return the number that `text` states, after its last equals sign and with its units; None for all else."""
    if _PLAIN.fullmatch(text := text.strip()):
        return Fraction(int(text))
    return _stated(_clean(text), whole=True)


def last_number(text: str) -> Fraction | None:
    """Return the last number written in `text`."""
    last, cleaned = None, _clean(text)
    for match in _NUMBER.finditer(cleaned):
        if not cleaned.startswith("^", match.end()):
            last = match
    return None if last is None else _value(last)


def spell_number(number: Fraction) -> str:
    """Return the shortest exact spelling: an integer, a terminating decimal, or a reduced fraction."""
    top, below = number.numerator, number.denominator
    if below == 1:
        return str(top)
    twos = (below & -below).bit_length() - 1
    rest, fives = below >> twos, 0
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return f"{top}/{below}"
    places = max(twos, fives)
    digits = str(abs(top) * 10**places // below).rjust(places + 1, "0")
    return f"{'-' if top < 0 else ''}{digits[:-places]}.{digits[-places:]}"


_number_of = lru_cache(maxsize=1 << 14)(parse_number)


def _clean(text: str) -> str:
    return _LATEX.sub(_plain, text.translate(_SPELLINGS))


def _plain(match: re.Match[str]) -> str:
    kind = match.lastgroup
    if kind == "words":
        return f" {match['words']} "
    return {"comma": ",", "drop": "", "percent": "%", "frac": r"\frac", "times": "*"}.get(kind or "", " ")


def _stated(cleaned: str, *, whole: bool) -> Fraction | None:
    tail = cleaned.rpartition("=")[2]
    before = _BEFORE.match(tail)
    match = _NUMBER.match(tail, before.end() if before else 0)
    if match is None:
        return None
    if whole:
        return _value(match) if _UNITS.fullmatch(tail, match.end()) else None
    return None if _COMPUTED.match(tail, match.end()) else _value(match)


def _value(match: re.Match[str]) -> Fraction | None:
    if match.end() - match.start() > _MOST_DIGITS:
        return None
    sign = -1 if match["sign"] == "-" else 1
    decimal = match["decimal"]
    number = Fraction(decimal.replace(",", "")) if decimal else Fraction(0)
    if match["exponent"]:
        power = int(re.split(r"[eE^]", match["exponent"])[1].strip("{} "))
        return sign * number * Fraction(10) ** power if abs(power) <= _MOST_DIGITS else None
    if match["over"]:
        over = int(match["over"].replace(",", ""))
        return sign * number / over if over else None
    if match["simple"]:
        parts: list[str] = match["simple"].split("/")
    elif match["frac"]:
        parts = list(match["digits"] or (match["top"], match["below"]))
    else:
        return sign * number
    top, below = (int(part) for part in parts)
    return sign * (number + Fraction(top, below)) if below else None


class NumericChecker:
    """Answers that are one number, for GSM8K and the competitions.

    Taken from the last box, else after "answer is" or "####", else the last number of the text.
    """

    isolated: bool = False
    executes_code: bool = False
    version: str = "numeric-1"

    def extract(self, text: str) -> str | None:
        """Return the number in its shortest exact spelling."""
        if opens_box(text):
            boxed = last_boxed(text)
            number = parse_number(boxed) if boxed else None
        else:
            phrase = last_phrase(text)
            number = None if phrase is None else _stated(_clean(phrase), whole=False)
            if number is None:
                number = last_number(text)
        return None if number is None else spell_number(number)

    def equivalent(self, a: str, b: str) -> bool:
        """Say whether two spellings are the same number, exactly."""
        return a == b or ((first := _number_of(a)) is not None and first == _number_of(b))

    def grade(self, answer: str, gold: str) -> bool:
        """Say whether the number is the reference, exactly."""
        return self.equivalent(answer, gold)
