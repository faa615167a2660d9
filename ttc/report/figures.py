"""The Pareto picture: first its numbers, then its drawing."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttc.metrics.frontier import frontier
from ttc.report.labels import Series, allocator_labels, plain, series_of, strategy_labels
from ttc.store.tables import rows_of

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Okabe and Ito 2008, "Color universal design", less yellow (too faint on white) and black (kept for the frontier).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
INK = "#333333"
GRID = "#DDDDDD"
FRONTIER = "#888888"
HALO = "#88888855"
BRAND = "#B35A00"
LABEL_WIDTH = 56
PANEL_WIDTH, PANEL_HEIGHT, LEGEND_ROW_HEIGHT = 6.4, 4.2, 0.22
# Longest label, in characters, with which two columns of the legend fit a panel's width at its font size.
TWO_COLUMNS = 36
FRONTIER_LABEL = "Pareto frontier"


@dataclass(frozen=True, slots=True)
class Point:
    """One cell: realised tokens per problem (or another cost), accuracy and its interval."""

    cell: str
    tokens: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One strategy under one allocator and one seed, cheapest point first."""

    series: Series
    label: str
    oracle: bool
    seed: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """The curves of one (task, model), and the frontier as (tokens, accuracy), oracles left out."""

    task: str
    model: str
    curves: tuple[Curve, ...]
    frontier: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Along:
    """The cost on the horizontal axis: its title, and a cell's value, None where it is not known."""

    title: str
    of: Callable[[Mapping[str, Any]], float | None]


TOKENS = Along("Completion tokens per problem", lambda cell: float(cell["tokens_per_problem"]))


def panels(cells: pa.Table, incomplete: Set[str] = frozenset(), along: Along = TOKENS) -> list[Panel]:
    """Return the figure's numbers: one panel for each (task, model), in the run's order.

    Cells without an accuracy, or without a cost above 0 (a log axis has no place for them), are left out. Cells
    that differ only in their seed are averaged before the frontier is taken: the luckiest seed is no method.
    Incomplete cells (ids) are drawn, but are not in the frontier.
    """
    rows = [{**r, "cost": along.of(r)} for r in rows_of(cells) if r["accuracy"] is not None]
    rows = [r for r in rows if r["cost"] is not None and r["cost"] > 0]
    labels = _curve_labels(rows)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["model"]), []).append(row)
    return [
        Panel(task, model, _curves(members, labels), _frontier([r for r in members if r["cell"] not in incomplete]))
        for (task, model), members in groups.items()
    ]


def _curve_labels(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    strategies, allocators = strategy_labels(rows), allocator_labels(rows)
    alone = len(set(allocators.values())) == 1
    return {r["cell"]: strategies[r["cell"]] + ("" if alone else f", {allocators[r['cell']]}") for r in rows}


def _curves(rows: Sequence[dict[str, Any]], labels: dict[str, str]) -> tuple[Curve, ...]:
    by_curve: dict[tuple[Series, bool, int], list[dict[str, Any]]] = {}
    for row in rows:
        by_curve.setdefault((series_of(row), row["oracle"], row["seed"]), []).append(row)
    curves = []
    for (series, oracle, seed), members in by_curve.items():
        points = [Point(r["cell"], r["cost"], r["accuracy"], r["ci_low"], r["ci_high"]) for r in members]
        ordered = tuple(sorted(points, key=lambda p: p.tokens))
        curves.append(Curve(series, labels[members[0]["cell"]], oracle, seed, ordered))
    return tuple(curves)


def _frontier(rows: Sequence[dict[str, Any]]) -> tuple[tuple[float, float], ...]:
    by_seed: dict[tuple[Series, int], list[dict[str, Any]]] = {}
    for row in rows:
        if not row["oracle"]:
            by_seed.setdefault((series_of(row), row["budget"]), []).append(row)
    costs = [math.fsum(r["cost"] for r in same) / len(same) for same in by_seed.values()]
    values = [math.fsum(r["accuracy"] for r in same) / len(same) for same in by_seed.values()]
    return tuple((costs[i], values[i]) for i in frontier(costs, values))


def pareto_figure(
    cells: pa.Table, incomplete: Set[str] = frozenset(), *, limited: bool = False, along: Along = TOKENS
) -> Figure:
    """Draw accuracy against a realised cost per problem, one panel for each (task, model).

    Oracle curves are dashed, marked, and left out of the frontier. The legend stands below the panels. A limited run
    says so in every panel.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    content = panels(cells, incomplete, along)
    styles = curve_styles(content)
    columns = min(len(content), 2) or 1
    lines = -(-len(content) // columns) or 1
    # Labels come from users: a dollar sign in one is no formula.
    with mpl.rc_context({"text.parse_math": False, "font.size": 10, "svg.fonttype": "none"}):
        legend_columns = columns * (1 if max(map(len, styles), default=0) > TWO_COLUMNS else 2)
        legend_rows = -(-(len(styles) + 1) // legend_columns)
        height = lines * PANEL_HEIGHT + LEGEND_ROW_HEIGHT * legend_rows + 0.4
        figure = Figure(figsize=(columns * PANEL_WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        handles: dict[str, Any] = {}
        for index, panel in enumerate(content):
            axes = figure.add_subplot(lines, columns, index + 1)
            _draw_panel(axes, panel, styles, handles)
            axes.set_xlabel(f"{along.title} (log scale)", color=INK)
            if limited:
                axes.text(0.99, 0.02, "LIMITED RUN", transform=axes.transAxes, ha="right", color=BRAND, weight="bold")
        if handles:
            names = [_shown(label) for label in handles]
            figure.legend(handles.values(), names, loc="outside lower center", ncols=legend_columns, fontsize=9,
                          frameon=False, labelcolor=INK)  # fmt: skip
    return figure


def curve_styles(content: Sequence[Panel]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each curve's label, the same in every picture of a report."""
    # One marker a curve. Where there are colours enough, one of them too; else one a strategy, so that the allocators
    # of a strategy stay recognisable as relatives.
    curves = {curve.label: curve.series[:2] for panel in content for curve in panel.curves}
    if len(curves) <= len(COLOURS) or len(set(curves.values())) == 1:
        return {label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(curves)}
    colours = {strategy: COLOURS[i % len(COLOURS)] for i, strategy in enumerate(dict.fromkeys(curves.values()))}
    return {label: (colours[key], MARKERS[i % len(MARKERS)]) for i, (label, key) in enumerate(curves.items())}


def _shown(label: str) -> str:
    # The end is kept: it tells namesakes apart and says "(oracle)".
    half = LABEL_WIDTH // 2
    return label if len(label) <= LABEL_WIDTH else f"{label[: half - 1]}\N{HORIZONTAL ELLIPSIS}{label[-half:]}"


def _draw_panel(axes: Axes, panel: Panel, styles: dict[str, tuple[str, str]], handles: dict[str, Any]) -> None:
    for curve in panel.curves:
        handles.setdefault(curve.label, _draw_curve(axes, curve, *styles[curve.label]))
    if panel.frontier:
        handles.setdefault(FRONTIER_LABEL, _draw_frontier(axes, panel))
    task, model = plain(panel.task), plain(panel.model)
    # What is too long for one line is written on two before it is cut.
    title = f"{task}, {model}" if len(task) + len(model) <= LABEL_WIDTH else f"{_shown(task)}\n{_shown(model)}"
    axes.set_title(title, color=INK, fontsize=11)
    axes.set_ylabel("Accuracy", color=INK)
    axes.tick_params(which="both", colors=INK, length=3)
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.patch.set_alpha(0.0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(INK)
    _scale(axes, panel)


def _draw_curve(axes: Axes, curve: Curve, colour: str, marker: str) -> Line2D:
    tokens = [p.tokens for p in curve.points]
    # Pale bars without caps: cells of one budget stand close together, and their marks must stay in sight.
    axes.vlines(tokens, [p.low for p in curve.points], [p.high for p in curve.points], color=colour, linewidth=1.2,
                alpha=0.45, zorder=2)  # fmt: skip
    return axes.plot(tokens, [p.accuracy for p in curve.points], color=colour, marker=marker, markersize=6.5,
                     linestyle="--" if curve.oracle else "-", linewidth=1.5, markeredgecolor="white",
                     markeredgewidth=0.7, zorder=3)[0]  # fmt: skip


def _draw_frontier(axes: Axes, panel: Panel) -> Line2D:
    # Steps: between two of its points, nothing better than the cheaper one was observed.
    tokens, accuracy = map(list, zip(*panel.frontier, strict=True))
    marked = range(len(tokens))
    tokens.append(max(p.tokens for curve in panel.curves for p in curve.points))
    accuracy.append(accuracy[-1])
    return axes.plot(tokens, accuracy, drawstyle="steps-post", color=FRONTIER, linewidth=1.2, linestyle=":",
                     marker="o", markevery=list(marked), markersize=14, markerfacecolor=HALO, markeredgecolor="none",
                     zorder=1)[0]  # fmt: skip


def _scale(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    points = [p for curve in panel.curves for p in curve.points]
    low, high = min(p.tokens for p in points), max(p.tokens for p in points)
    # At least a factor of 3, so that one of the ticks at 1, 2, 5 is in sight.
    margin = max(1.12, math.sqrt(3 * low / high))
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    wide = high / low > 2000
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    bottom, top = min(p.low for p in points), max(p.high for p in points)
    space = max(0.04 * (top - bottom), 0.01)
    axes.set_ylim(max(bottom - space, -0.02), min(top + space, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _tick(value: float) -> str:
    return (
        f"{value:,.10g}"
        if 1e-4 <= value < 1e7
        else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    )


def svg_text(figure: Figure) -> str:
    """Return the figure as SVG with real text, the same bytes for the same figure."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pareto"}):
        figure.savefig(
            out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return out.getvalue()


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as PNG on white."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return out.getvalue()
