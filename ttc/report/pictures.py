"""Small pictures drawn as SVG in the page's own colours: spending a problem, and reliability of predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ttc.report.grid import show

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ttc.report.grid import Line

WIDTH, HEIGHT = 320.0, 170.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 8.0, 10.0, 34.0
KINDS = ("right", "wrong", "unanswered", "failed")
RELIABILITY_SIZE = 240.0


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn picture and the words under it."""

    title: str
    svg: str


def ceiling(value: float) -> float:
    """Return the next round number: the end of an axis."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if step * scale >= value)


def spending_picture(
    title: str, bars: NDArray[np.float64], grants: NDArray[np.float64], top: float, levels: Sequence[str] = ()
) -> Picture:
    """Draw groups of problems as stacked bars, and their mean grant as a stepped line.

    `bars` has shape (groups, 4), in the order of KINDS; `top` is the end of the axis, in tokens. `levels` name the groups;
    without them they are cheapest first.
    """
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    step = width / max(len(bars), 1)
    gap = 8.0 if levels else 0.7
    sizes = height * bars / top
    tops = TOP + height - sizes.cumsum(axis=1)
    parts = _axis(top, height)
    # One path a kind: a rectangle of its own for each bar would be most of a large page.
    for kind, name in enumerate(KINDS):
        path = "".join(
            f"M{LEFT + i * step + gap / 2:.1f},{tops[i, kind]:.1f}h{max(step - gap, 0.5):.1f}v{size:.1f}h-{max(step - gap, 0.5):.1f}z"
            for i, size in enumerate(sizes[:, kind])
            if size >= 0.05
        )
        if path:
            parts.append(f'<path class="{name}" d="{path}"/>')
    corners = [(LEFT + (i + end) * step, TOP + height * (1 - min(float(g) / top, 1.0)))
               for i, g in enumerate(grants) if math.isfinite(g) for end in (0, 1)]  # fmt: skip
    if corners:
        parts.append('<polyline class="grant" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in corners) + '"/>')
    under = "problems, easiest to hardest" if levels else "problems, cheapest to dearest"
    for i, level in enumerate(levels):
        # Narrow places: the first word tells "mostly right" from "never right", and numbers are short.
        word = level.split()[0] if step < 7 * len(level) else level
        parts.append(f'<text class="level" x="{LEFT + (i + 0.5) * step:.1f}" y="{HEIGHT - BOTTOM + 13:.0f}" text-anchor="middle">'
                     f"{escape(word)}</text>")  # fmt: skip
    parts.append(f'<text x="{LEFT + width / 2:.0f}" y="{HEIGHT - 3:.0f}" text-anchor="middle">{under}</text>')
    total = bars.sum()
    share = bars.sum(axis=0) / total if total else bars.sum(axis=0)
    words = ", ".join(f"{100 * part:.0f} % on {kind}" for kind, part in zip(KINDS, share, strict=True) if part > 0)
    label = f"Tokens per problem of {title}: {words or 'none'}"
    return Picture(title, _svg(WIDTH, HEIGHT, label, parts))


def _axis(top: float, height: float) -> list[str]:
    parts = []
    for part in (0, 0.5, 1):
        y = TOP + height * (1 - part)
        parts.append(f'<line class="grid" x1="{LEFT:.0f}" x2="{WIDTH - RIGHT:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5:.0f}" y="{y + 4:.1f}" text-anchor="end">{show("count", part * top)}</text>')
    return parts


def reliability_picture(title: str, lines: Sequence[Line]) -> Picture:
    """Draw observed against predicted scores with their intervals; the diagonal is a predictor that is right."""
    inner = RELIABILITY_SIZE - LEFT - RIGHT

    def x(value: float) -> float:
        return LEFT + inner * value

    def y(value: float) -> float:
        return TOP + inner * (1 - value)

    parts = []
    for part in (0.0, 0.5, 1.0):
        parts.append(f'<line class="grid" x1="{x(0):.1f}" x2="{x(1):.1f}" y1="{y(part):.1f}" y2="{y(part):.1f}"/>')
        parts.append(f'<text x="{LEFT - 5:.0f}" y="{y(part) + 4:.1f}" text-anchor="end">{100 * part:.0f} %</text>')
        anchor = {0.0: "start", 1.0: "end"}.get(part, "middle")
        parts.append(f'<text x="{x(part):.1f}" y="{y(0) + 17:.1f}" text-anchor="{anchor}">{100 * part:.0f} %</text>')
    parts.append(f'<line class="diagonal" x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}"/>')
    for line in lines:
        n, predicted, observed, *more = line.values[2:]
        if not (isinstance(predicted, float) and isinstance(observed, float)):
            continue
        at, interval = x(predicted), more[0] if more else None
        whisker = ""
        if isinstance(interval, tuple):
            low, high = interval
            whisker = f'<line class="whisker" x1="{at:.1f}" x2="{at:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>'
        parts.append(
            f"<g><title>predicted {100 * predicted:.0f} %, observed {100 * observed:.0f} %, n = {n:g}</title>"
            f'{whisker}<circle class="right" cx="{at:.1f}" cy="{y(observed):.1f}" r="4.5"/></g>'
        )
    parts.append(f'<text x="{x(0.5):.1f}" y="{RELIABILITY_SIZE - 2:.0f}" text-anchor="middle">predicted score</text>')
    label = f"Observed against predicted score of {title}, {len(lines)} groups of problems"
    return Picture(title, _svg(RELIABILITY_SIZE, RELIABILITY_SIZE + 4, label, parts))


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    return (f'<svg class="small" role="img" aria-label="{escape(label)}" viewBox="0 0 {width:.0f} {height:.0f}">'
            + "".join(parts) + "</svg>")  # fmt: skip
