"""What a terminal shows of a run, and the costs a user may choose."""

import io
import json
import re
import sys

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from ttc.cli import report as report_commands
from ttc.cli.main import run
from ttc.result import RunResult


def ttc(words):
    return run(words.split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("terminal")
    rows = [{"id": f"p{i}", "question": f"What is {i + 3} + {i * 7 % 13}?", "answer": str(i + 3 + i * 7 % 13)}
            for i in range(24)]  # fmt: skip
    (place / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        words = (
            "--strategies self-consistency,greedy,coverage --budgets 128,512 --display none --price-per-mtok 1,2,0.5"
        )
        assert ttc(f"sweep --model fake --task local --data many.jsonl {words} --out run") == 0
    return place / "run"


def drawn(finished, width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard", highlight=False)
    result = RunResult.open(finished)
    report_commands.draw_boards(console, result.leaderboard, ["a [bold]note[/bold]"])
    return console.file.getvalue(), result.leaderboard[0]


def test_a_terminal_gets_a_table_that_fits(finished):
    text, section = drawn(finished, 80)
    assert "a [bold]note[/bold]" in text  # no markup of ours
    plain = _without_colour(text)
    assert "\x1b[2;3m" in text  # the oracle is dim
    for row in section.rows:
        assert f"{100 * row.accuracy:.1f}" in plain
    assert all(len(line.rstrip()) <= 80 for line in plain.splitlines())
    header = next(line for line in plain.splitlines() if "Strategy" in line)
    assert [word in header for word in ("Acc. %", "Verdict", "95 %", " q ")] == [True, True, False, False]


def test_a_wide_terminal_gets_every_number(finished):
    text = _without_colour(drawn(finished, 140)[0])
    header = next(line for line in text.splitlines() if "Strategy" in line)
    assert [word in header for word in ("Tokens", "Acc. %", "95 %", "Against baseline", " q ", "Verdict")] == [True] * 6
    assert "Allocator" not in header  # all are uniform
    assert "Failed" not in header  # none is


def _without_colour(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_pipes_get_plain_text(finished, capsys):
    capsys.readouterr()
    assert ttc(f"show {finished}") == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "Allocator" in text


def test_terminals_are_told_apart_by_stdout(finished, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdout", Terminal())
    report_commands.tell_run(finished)
    assert "Against baseline" in sys.stdout.getvalue()


def prices_in(folder):
    rows = pq.read_table(folder / "numbers.parquet").to_pylist()
    return {row["item"]: row["value"] for row in rows if (row["table"], row["name"]) == ("curves", "price")}


def test_the_price_given_to_a_sweep_is_an_axis_of_its_report(finished):
    cells = {row["cell"]: row for row in pq.read_table(finished / "cells.parquet").to_pylist()}
    prices = prices_in(finished / "report")
    assert set(prices) == set(cells)
    for item, price in prices.items():
        cell = cells[item]
        money = cell["prompt_tokens"] + 0.5 * cell["cached_tokens"] + 2 * cell["tokens_total"]
        assert price == pytest.approx(money / 1e6 / 24)
    assert json.loads((finished / "manifest.json").read_text())["price_per_mtok"] == [1, 2, 0.5]


def test_a_report_takes_another_price_and_other_hardware(finished, tmp_path, capsys):
    out = tmp_path / "elsewhere"
    assert ttc(f"report {finished} --out {out} --price-per-mtok fake=10,20 --hardware H100-SXM") == 0
    cells = {row["cell"]: row for row in pq.read_table(finished / "cells.parquet").to_pylist()}
    prices = prices_in(out)
    assert set(prices) == set(cells)
    for item, price in prices.items():
        cell = cells[item]
        tokens = 10 * (cell["prompt_tokens"] + cell["cached_tokens"]) + 20 * cell["tokens_total"]
        assert price == pytest.approx(tokens / 1e6 / 24)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("--hardware H100", "unknown hardware 'H100'", "H100-SXM"),
        ("--price-per-mtok 1", "--price-per-mtok 1: expected IN,OUT", ""),
        ("--baseline greedi", "no series is called 'greedi'", "greedy"),
    ],
)
def test_what_cannot_be_is_told(finished, capsys, words, message, hint):
    capsys.readouterr()
    assert ttc(f"report {finished} {words}") == 2
    told = capsys.readouterr().err
    assert message in told
    assert hint in told


def test_a_sweep_has_one_price(finished, capsys, monkeypatch):
    monkeypatch.chdir(finished.parent)
    words = "sweep --model fake --task local --data many.jsonl --strategies greedy --budgets 64 --dry-run"
    assert ttc(f"{words} --price-per-mtok fake=1,2") == 2
    assert "one price for all models" in capsys.readouterr().err
