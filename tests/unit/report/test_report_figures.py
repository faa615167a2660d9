"""The figure's numbers, and what must not happen in its drawing."""

import itertools
import sys
import warnings
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
from made_up_runs import cell, end, failed, record, run_of, sweep

from ttc.report.aggregate import compact
from ttc.report.figures import curve_styles, panels, pareto_figure, png_bytes, svg_text

STRATEGIES = {
    ("self-consistency", "uniform"): 0.0,
    ("best-of-n", "uniform"): 0.03,
    ("best-of-n", "knapsack"): 0.06,
    ("coverage", "uniform"): 0.2,
}


def cells_of(path, lines):
    return compact(run_of(path, lines)).cells


def one(name, score, tokens, strategy="self-consistency", **other):
    scores = [1.0] * int(score) + [0.0] * (10 - int(score))
    described = cell(name, strategy, n_problems=10, **other)
    return [described, *(record(name, str(i), s, tokens) for i, s in enumerate(scores)), end(name)]


def test_numbers(tmp_path):
    lines = [
        *one("a2", 6, 400, budget=512),
        *one("a1", 3, 100, budget=128),
        *one("b1", 2, 150, "best-of-n", budget=256),
        *one("o1", 9, 50, "coverage", budget=64, oracle=True),
    ]
    (panel,) = panels(cells_of(tmp_path, lines))
    assert [(c.label, c.oracle) for c in panel.curves] == [
        ("self-consistency", False),
        ("best-of-n", False),
        ("coverage (oracle)", True),
    ]
    assert [(p.tokens, p.accuracy) for p in panel.curves[0].points] == [(100, 0.3), (400, 0.6)]
    assert all(p.low < p.accuracy < p.high for p in panel.curves[0].points)
    # The oracle is the cheapest and the best, and still not in the frontier; 150 tokens for 0.2 are dominated.
    assert panel.frontier == ((100, 0.3), (400, 0.6))


def test_seeds_are_separate_curves_and_one_frontier_point(tmp_path):
    lines = [*one("a", 2, 100, seed=0), *one("b", 6, 300, seed=1)]
    (panel,) = panels(cells_of(tmp_path, lines))
    assert [c.seed for c in panel.curves] == [0, 1]
    assert panel.frontier == ((200, pytest.approx(0.4)),)


def test_incomplete_cells_are_not_in_the_frontier(tmp_path):
    cells = cells_of(tmp_path, [*one("a", 2, 100), *one("b", 9, 100, "best-of-n")])
    (panel,) = panels(cells, frozenset({"b"}))
    assert panel.frontier == ((100, 0.2),)
    assert len(panel.curves) == 2


def test_cells_that_cannot_be_placed_are_left_out(tmp_path):
    lines = [*one("a", 2, 100), *one("nothing spent", 0, 0, "greedy"), cell("f", "best-of-n"), failed("f", "1")]
    (panel,) = panels(cells_of(tmp_path, lines))
    assert [c.label for c in panel.curves] == ["self-consistency"]


def test_allocators_and_models(tmp_path):
    lines = sweep(STRATEGIES, (256, 512), problems=20) + sweep(STRATEGIES, (256,), problems=20, model="other")
    first, second = panels(cells_of(tmp_path, lines))
    assert (first.model, second.model) == ("tiny", "other")
    assert [c.label for c in first.curves][1:3] == ["best-of-n, uniform", "best-of-n, knapsack"]


def drawn(path, lines):
    figure = pareto_figure(cells_of(path, lines))
    figure.canvas.draw()
    return figure


def test_drawing_marks_oracles_and_tells_curves_apart(tmp_path):
    figure = drawn(tmp_path, sweep(STRATEGIES, (256, 512), problems=30))
    (axes,) = figure.axes
    curves = [line for line in axes.lines if line.get_linestyle() in {"-", "--"}]
    assert [line.get_linestyle() for line in curves] == ["-", "-", "-", "--"]
    assert len({line.get_marker() for line in curves}) == 4
    assert len({line.get_color() for line in curves}) == 4
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize(("strategies", "allocators", "colours"), [(2, 3, 6), (1, 9, 6), (4, 3, 4)])
def test_colours_are_a_curves_own_while_they_last_then_its_strategys(strategies, allocators, colours):
    curves = [
        SimpleNamespace(label=f"{s}, {a}", series=(f"strategy {s}", "{}", f"allocator {a}"))
        for s in range(strategies) for a in range(allocators)
    ]  # fmt: skip
    styles = curve_styles([SimpleNamespace(curves=curves)])
    assert len({colour for colour, _ in styles.values()}) == colours
    assert len(set(styles.values())) == strategies * allocators


@pytest.mark.parametrize("models", [1, 3])
def test_nothing_is_covered_or_cut(tmp_path, models):
    lines = []
    for i in range(models):
        strategies = STRATEGIES | {(f"strategy-with-a-long-name-{n}", "uniform"): n / 50 for n in range(8)}
        lines += sweep(strategies, (64, 512, 4096), problems=12, model=f"model-{i}" + "-long" * 20)
    figure = drawn(tmp_path, lines)
    (legend,) = figure.legends
    inside = figure.bbox
    box = legend.get_window_extent()
    assert inside.x0 <= box.x0
    assert box.x1 <= inside.x1
    assert inside.y0 <= box.y0
    for axes in figure.axes:
        extent = axes.get_tightbbox()
        assert not extent.overlaps(box)
        assert extent.x1 <= inside.x1 + 1
        assert not any(axes.get_window_extent().overlaps(o.get_tightbbox()) for o in figure.axes if o is not axes)
        ticks = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text() and t.get_visible()]
        seen = [t for t in ticks if axes.bbox.x0 <= (t.x0 + t.x1) / 2 <= axes.bbox.x1]
        assert len(seen) >= 2
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize("tokens", [1, 130, 199, 5_000_000])
def test_a_single_point_has_a_labelled_tick_in_sight(tmp_path, tokens):
    figure = drawn(tmp_path, one("a", 5, tokens))
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert low < tokens < high
    assert any(low <= tick <= high for tick in axes.xaxis.get_majorticklocs())


def test_nothing_to_draw_is_still_a_figure(tmp_path):
    figure = pareto_figure(cells_of(tmp_path, [cell("f"), failed("f", "1")]))
    assert "<svg" in svg_text(figure)


def test_files_are_reproducible_and_inert(tmp_path):
    hostile = "<script>alert(1)</script> $x_{$ \\frac & --> ]]>"
    lines = sweep({("self-consistency", "uniform"): 0.0, (hostile, "uniform"): 0.1}, (256, 512), problems=9)
    cells = cells_of(tmp_path, lines)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_svg, other_svg = svg_text(pareto_figure(cells)), svg_text(pareto_figure(cells))
        assert png_bytes(pareto_figure(cells)) == png_bytes(pareto_figure(cells))
    assert one_svg == other_svg
    root = ET.fromstring(one_svg)
    assert not [e for e in root.iter() if e.tag.lower().endswith("script")]
    assert any(hostile in (e.text or "") for e in root.iter())


def test_no_global_figure_state(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    pareto_figure(cells_of(tmp_path, one("a", 5, 100)))
    assert dict(mpl.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
