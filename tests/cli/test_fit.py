"""ttc fit and ttc allocate: from a bank or finished runs to a predictor, and from it to grants."""

import json
import random

import pyarrow.parquet as pq
import pytest

from ttc.cli.main import run
from ttc.core.forecast import load_predictor
from ttc.store.bank import Row, write_bank

PROBLEMS, SAMPLES = 40, 8


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two banks of one configuration: long questions are hard, short ones easy."""
    rng = random.Random(0)
    for part in ("one", "two"):
        rows = []
        for p in range(PROBLEMS):
            hard = p % 2
            text = ("What is the sum of these many numbers: " + "7 + 8 + " * 9 + str(p)) if hard else f"{p} + 1?"
            for i in range(SAMPLES):
                right = rng.random() < (0.1 if hard else 0.9)
                answer = "right" if right else rng.choice("abcdefgh")
                rows.append(Row(f"{part}{p}", text, "m", i, answer, right, rng.randint(30, 60), 9, "stop", -4.0))
        write_bank(rows, tmp_path / part, "sums")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_banks_to_a_predictor_that_tells_easy_from_hard_and_to_grants(folder, capsys):
    assert run(["fit", "one", "two", "--out", "predictor", "--draws", "4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (quality,) = said["success"]
    assert quality["spearman"] > 0.6
    assert abs(sum(row["share"] for row in quality["reliability"]) - 1) < 0.01
    assert {row["strategy"] for row in said["allocated"]} == {"coverage", "self-consistency"}
    for row in said["allocated"]:
        assert row["predicted"] <= row["oracle"] + 1e-9
    predictor = load_predictor(folder / "predictor")
    assert {(m, s) for m, s, _ in predictor.known()} == {("m", "coverage"), ("m", "self-consistency")}
    assert predictor.options("m", "coverage", "calls").tolist() == list(range(1, SAMPLES + 1))
    words = ["allocate", "one", "--predictor", "predictor", "--budget", "90", "--strategy", "coverage"]
    assert run([*words, "--out", "grants.parquet"]) == 0
    rows = pq.read_table("grants.parquet").to_pylist()
    assert sum(row["grant_tokens"] for row in rows) <= 90 * PROBLEMS
    value = {int(row["problem_id"][3:]): row["predicted_value"] for row in rows}
    easy, hard = ([value[p] for p in value if p % 2 == odd] for odd in (0, 1))
    assert min(easy) > max(hard)


def test_a_sweep_is_told_by_the_predictor_and_a_table_may_be_learned(folder, capsys):
    assert run(["fit", "one", "--out", "predictor", "--draws", "3", "--strategies", "coverage"]) == 0
    words = ["sweep", "--bank", "two", "--predictor", "predictor", "--strategies", "coverage", "--budgets", "60,120"]
    chosen = "uniform,knapsack,sequential,streaming,binned-policy,saturation"
    assert run([*words, "--allocators", chosen, "--draws", "2", "--display", "none", "--out", "run"]) == 0
    cells = pq.read_table("run/cells.parquet").to_pylist()
    assert len(cells) == 12
    for cell in cells:
        assert cell["tokens_max"] <= cell["budget"] * PROBLEMS
    accuracy = {(cell["allocator"], cell["budget"]): cell["accuracy"] for cell in cells}
    assert accuracy["sequential", 60] > accuracy["uniform", 60]
    options = {row["option"] for row in pq.read_table("run/allocation.parquet").to_pylist()}
    assert any(option and option.endswith("calls") for option in options)


def test_from_finished_runs(folder, capsys):
    lines = [{"id": f"q{i}", "question": f"What is {i} + {i * i}?", "answer": str(i + i * i)} for i in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [
        "sweep",
        "--task",
        "local",
        "--data",
        "rows.jsonl",
        "--model",
        "fake",
        "--max-tokens",
        "60",
        "--prm",
        "fake",
    ]
    assert run([*words, "--strategies", "beam", "--budgets", "100,200,400", "--out", "runs", "--display", "none"]) == 0
    assert run(["fit", "runs", "--out", "predictor"]) == 0
    predictor = load_predictor(folder / "predictor")
    assert predictor.known() == [("fake", "beam", "tokens")]
    more = [*words, "--strategies", "beam", "--budgets", "150", "--predictor", "predictor", "--display", "none"]
    assert run([*more, "--allocators", "knapsack", "--out", "told"]) == 0
    (cell,) = pq.read_table("told/cells.parquet").to_pylist()
    assert cell["tokens_total"] <= 150 * 12
    capsys.readouterr()
    assert run([*more, "--allocators", "sequential", "--out", "not"]) == 2
    assert "whole answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fit", "one", "--out", "p", "--features", "hiden"], 2, "did you mean 'hidden'?"),
        (["fit", "one", "--out", "p", "--strategies", "beam"], 2, "needs"),
        (["fit", "one", "--out", "p", "--strategies", "self-consistancy"], 2, "did you mean 'self-consistency'?"),
        (["fit", "one", "one", "--out", "p"], 3, "stands in one and in another bank"),
        (["fit", "one", "--out", "two"], 6, "holds something else"),
        (["fit", "nothing", "--out", "p"], 3, "nothing"),
        (["sweep", "--bank", "one", "--strategies", "coverage", "--allocators", "binned-policy", "--budgets", "60"], 2, "ttc fit"),
        (["sweep", "--task", "local", "--data", "x.jsonl", "--model", "fake", "--strategies", "coverage",
          "--allocators", "knapsack", "--budgets", "60"], 2, "--predictor FOLDER"),
        (["sweep", "--task", "local", "--data", "x.jsonl", "--model", "fake", "--strategies", "coverage",
          "--allocators", "oracle", "--budgets", "60"], 2, "--bank BANK"),
        (["sweep", "--bank", "one", "--strategies", "coverage", "--allocators", "knapsack", "--budgets", "60",
          "--predictor", "two"], 3, "predictor"),
        (["allocate", "one", "--predictor", "two", "--budget", "9", "--out", "x.parquet"], 3, "predictor"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(folder, capsys, words, code, said):
    (folder / "x.jsonl").write_text('{"id": "a", "question": "1 + 1?", "answer": "2"}\n')
    assert run(words) == code
    assert said in capsys.readouterr().err


def test_a_predictor_says_what_it_knows(folder, capsys):
    assert run(["fit", "one", "--out", "p", "--draws", "2", "--strategies", "coverage"]) == 0
    words = ["sweep", "--bank", "two", "--predictor", "p", "--allocators", "knapsack", "--budgets", "60"]
    capsys.readouterr()
    assert run([*words, "--strategies", "self-consistency"]) == 2
    assert "it knows coverage" in capsys.readouterr().err
    assert run(["allocate", "two", "--predictor", "p", "--budget", "60", "--strategy", "coverage",
                "--allocator", "sequential", "--out", "x.parquet"]) == 2  # fmt: skip
    assert "no split beforehand" in capsys.readouterr().err
