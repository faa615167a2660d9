"""A run in Python: its tables, its leaderboard, its pictures, its look in a notebook."""

import re
import sys

import pytest
from made_up_runs import cell, end, failed, record, run_of, sweep

import ttc
from ttc.core.errors import ConfigError, DataError
from ttc.report.build import Options
from ttc.report.costs import parse_prices
from ttc.result import TABLES, RunResult

STRATEGIES = {("self-consistency", "uniform"): 0.0, ("best-of-n", "uniform"): 0.2, ("coverage", "uniform"): 0.4}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    lines = sweep(STRATEGIES, (256, 512), problems=30, parameters=1000)
    for line in lines:
        if line.get("problem_id") is not None:
            line["allocation"] = {"predicted_value": 0.5, "predicted_tokens": 90.0, "option": None, "price": None}
    return RunResult(run_of(tmp_path_factory.mktemp("run"), lines, limit=30))


def test_a_finished_sweep_is_a_result(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": "p", "question": "What is 2 + 2?", "answer": "4"}\n')
    config = {"tasks": [{"name": "local", "data": str(tmp_path / "rows.jsonl")}], "models": ["fake"],
              "strategies": ["greedy"], "budgets": [256]}  # fmt: skip
    run = ttc.sweep(config, tmp_path / "run")
    assert isinstance(run, ttc.RunResult)
    assert run.path == tmp_path / "run"
    assert run.cells["strategy"].to_pylist() == ["greedy"]
    assert run.manifest["state"] == "finished"
    again = ttc.RunResult.open(str(run.path))
    assert again.records.equals(run.records)
    assert repr(again) == f"RunResult({str(run.path)!r})"
    with pytest.raises(DataError, match="not a run folder"):
        ttc.RunResult.open(tmp_path)


def test_tables_as_data_frames(result):
    assert result.to_pandas().shape[0] == result.cells.num_rows == 6
    assert result.to_pandas("records")["score"].mean() == pytest.approx(sum(result.records["score"].to_pylist()) / 180)
    assert result.to_pandas("candidates").shape[0] == result.candidates.num_rows == 180
    board = result.to_pandas("leaderboard")
    assert next(iter(board["strategy"])) == "coverage (oracle)"
    assert board["accuracy"].is_monotonic_decreasing
    for table in TABLES:
        assert result.to_pandas(table) is not None
    with pytest.raises(ConfigError) as caught:
        result.to_pandas("cell")
    assert "cells" in caught.value.hint


def test_without_pandas_the_extra_is_named(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pandas is not installed") as caught:
        result.to_pandas()
    assert "ttc-toolkit[notebook]" in caught.value.hint
    assert result.cells.num_rows == 6  # Arrow needs none


def test_leaderboards(result):
    (section,) = result.leaderboard
    assert section.baseline == "self-consistency under uniform"
    (other,) = result.leaderboard_against("best-of-n")
    assert other.baseline == "best-of-n under uniform"
    with pytest.raises(ConfigError, match="no series is called"):
        result.leaderboard_against("greed")


def test_the_report_is_written_where_it_is_wanted(result, tmp_path):
    report = result.report(tmp_path / "deep" / "report", Options(baseline="best-of-n"))
    assert report.html.is_file()
    assert report.sections[0].baseline == "best-of-n under uniform"


def test_pictures_hold_the_numbers(result):
    (axes,) = result.plot_pareto("flops").axes
    drawn = sorted(x for line in axes.lines if line.get_linestyle() == "-" for x in line.get_xdata())
    known = sorted(c["flops"] / 30 for c in result.cells.to_pylist() if not c["oracle"])
    assert drawn == pytest.approx(known)
    assert axes.get_xlabel().startswith("FLOPs per problem")
    priced = result.plot_pareto("price", Options(prices=parse_prices(["1,2"])))
    assert priced.axes[0].get_xlabel().startswith("Price per problem")
    (axes,) = result.plot_difficulty().axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "coverage (oracle)",
        "best-of-n",
        "self-consistency",
    ]
    (axes,) = result.plot_allocation().axes
    heights = [patch.get_height() for patch in axes.patches]
    assert max(heights) == pytest.approx(max(row.values[-1] for row in result._chapters[0].allocation.lines), rel=0.2)
    (axes,) = result.plot_reliability().axes
    assert len(axes.lines) == 1 + 6  # the diagonal, and every cell
    (axes,) = result.plot_latency().axes
    assert axes.get_xscale() == "log"


def test_what_cannot_be_drawn_is_told(tmp_path):
    lines = [cell("a", n_problems=1), record("a", "1", wall_s=None), end("a")]
    alone = RunResult(run_of(tmp_path, lines))
    for draw in (alone.plot_difficulty, alone.plot_reliability, alone.plot_latency):
        with pytest.raises(DataError):
            draw()
    with pytest.raises(DataError, match="no cell has a cost of eflops"):
        alone.plot_pareto("eflops")
    with pytest.raises(ConfigError) as caught:
        alone.plot_pareto("token")
    assert "completion_tokens" in caught.value.hint or "tokens" in caught.value.hint


def test_a_notebook_shows_headline_picture_and_table(result):
    html = result._repr_html_()
    assert html.count("<svg") == 1
    assert html.count("<tr>") == 7
    assert "Limited run: only 30 problems" in html
    assert result.leaderboard[0].title in html
    assert not re.search(r"<script|url\((?!#)", html)


def test_hostile_names_stay_text_in_a_notebook(tmp_path):
    hostile = "<img src=x onerror=alert(1)>"
    lines = [cell("a", hostile, task=hostile, model=hostile, n_problems=1), record("a", "1"), end("a")]
    html = RunResult(run_of(tmp_path, lines))._repr_html_()
    assert "<img" not in html
    assert "&lt;img" in html


def test_an_empty_run_says_so_in_a_notebook(tmp_path):
    empty = RunResult(run_of(tmp_path / "a", []))
    assert "holds no finished problem" in empty._repr_html_()
    broken = RunResult(run_of(tmp_path / "b", [cell("a"), failed("a", "1"), end("a")]))
    assert "No strategy has a graded answer" in broken._repr_html_()
