"""What the page's script draws: the curves in every cost that was recorded, as JSON that no text can break out of."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ttc.report.figures import COLOURS, MARKERS, Panel, curve_styles
from ttc.report.grid import Column, Grid, Line, Value, show
from ttc.report.labels import plain
from ttc.report.leaderboard import Section, verdict
from ttc.report.outcomes import Cell


def _of(key: str) -> Callable[[Cell], float | None]:
    def cost(cell: Cell) -> float | None:
        value = cell[key]
        return None if value is None else float(value) / int(cell["n_problems"])

    return cost


def _all_tokens(cell: Cell) -> float:
    return float(cell["tokens_total"] + cell["prompt_tokens"] + cell["reward_tokens"]) / int(cell["n_problems"])


COSTS: Mapping[str, tuple[str, Callable[[Cell], float | None]]] = {
    "completion_tokens": ("Completion tokens per problem", _of("tokens_total")),
    "all_tokens": ("All computed tokens per problem (completion, prompt, reward)", _all_tokens),
    "flops": ("FLOPs per problem", _of("flops")),
    "kv_token_steps": ("KV token-steps per problem", _of("kv_token_steps")),
    "wall_s": ("Wall seconds per problem", _of("wall_s")),
}
"""Every cost the chart can be drawn in: its label and its value for a cell, None where it was not recorded."""


def curves_grid(section: Section, cells: Mapping[str, Cell]) -> Grid:
    """Return the chart's points as a table: accuracy and every cost of every cell."""
    columns = (
        Column("series", "Strategy"), Column("accuracy", "Accuracy", "percent"), Column("n", "Problems", "count"),
        Column("accuracy_interval", "95 % interval", "interval"),
        *(Column(key, label, "number") for key, (label, _) in COSTS.items()),
    )  # fmt: skip
    lines = []
    for row in section.rows:
        interval = None if row.ci_low is None or row.ci_high is None else (row.ci_low, row.ci_high)
        costs: list[Value] = [cost(cells[row.cell]) for _, cost in COSTS.values()]
        lines.append(Line(row.cell, (row.series, row.accuracy, row.n_problems, interval, *costs)))
    return Grid("curves", section.title, columns, tuple(lines))


def payload(sections: Sequence[Section], content: Sequence[Panel], cells: Mapping[str, Cell]) -> dict[str, Any]:
    """Return the script's data: panels of curves, the costs they have, and every baseline's claims."""
    styles = curve_styles(content)
    rows = {row.cell: row for section in sections for row in section.rows}
    found: list[dict[str, Any]] = []
    for panel in content:
        curves = []
        for curve in panel.curves:
            colour, marker = styles[curve.label]
            several = len({other.seed for other in panel.curves}) > 1
            curves.append({
                "name": curve.label + (f", seed {curve.seed}" if several else ""), "oracle": curve.oracle,
                "colour": COLOURS.index(colour), "marker": MARKERS.index(marker),
                "points": [_point(cells[p.cell], rows[p.cell].complete) for p in curve.points],
            })  # fmt: skip
        found.append({"title": f"{plain(panel.task)}, {plain(panel.model)}", "curves": curves})
    present = {key for panel in found for curve in panel["curves"] for point in curve["points"] for key in point["x"]}
    return {
        "costs": [[key, label] for key, (label, _) in COSTS.items() if key in present],
        "panels": found,
        "claims": [_claims(section) for section in sections],
    }


def _point(cell: Cell, complete: bool) -> dict[str, Any]:
    costs = {key: cost(cell) for key, (_, cost) in COSTS.items()}
    settings = [plain(f"{key} {_short(value)}") for name in ("strategy_params", "allocator_params")
                for key, value in _parsed(cell[name]).items() if value is not None]  # fmt: skip
    return {
        "y": _rounded(cell["accuracy"]), "low": _rounded(cell["ci_low"]), "high": _rounded(cell["ci_high"]),
        "method": cell["ci_method"], "n": cell["n_problems"], "budget": cell["budget"], "seed": cell["seed"],
        "draws": cell["draws"], "unanswered": cell["n_unanswered"], "errors": cell["n_errors"],
        "settings": ", ".join(settings), "complete": complete,
        "x": {key: _rounded(value) for key, value in costs.items() if value is not None and value > 0},
    }  # fmt: skip


def _claims(section: Section) -> dict[str, dict[str, list[str]]]:
    """Return, for every baseline and cell, what the table shows: difference, its sort key, q, verdict."""
    found: dict[str, dict[str, list[str]]] = {}
    for series, by_cell in section.claims.items():
        shown = {}
        for row in section.rows:
            claim = by_cell.get(row.cell)
            own = row.series == series
            word = "baseline" if own else verdict(row, claim)
            if claim is None:
                shown[row.cell] = [show("points", None), "", show("number", None), "baseline" if own else
                                   "incomplete" if not row.complete else "no claim"]  # fmt: skip
            else:
                shown[row.cell] = [show("points", claim.points), f"{claim.mean:.6g}",
                                   show("number", claim.q), word]  # fmt: skip
        found[series] = shown
    return found


def claims_grid(section: Section) -> Grid:
    """Return every claim against every baseline, for the file of numbers; the page shows one baseline at a time."""
    columns = (Column("difference", "Difference", "points"), Column("p", "p", "number"), Column("q", "q", "number"),
               Column("differing", "Differing problems", "count"))  # fmt: skip
    lines = [
        Line(f"{cell} against {series}", (claim.points, claim.difference.p_value, claim.q, claim.discordant))
        for series, by_cell in section.claims.items()
        for cell, claim in by_cell.items()
    ]
    return Grid("claims", section.title, columns, tuple(lines))


def _parsed(params: str) -> Mapping[str, Any]:
    try:
        value = json.loads(params or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else text[:79] + "\N{HORIZONTAL ELLIPSIS}"


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def script_json(value: Any) -> str:
    """Return JSON that may stand in a script element: nothing in it can end the element or start another.

    The marks of HTML and the two line separators of JavaScript are written as escapes, which JSON reads back.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text
