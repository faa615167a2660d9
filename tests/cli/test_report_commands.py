"""`ttc report`, `ttc leaderboard` and `ttc compare` as a user types them."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from ttc.cli.main import run


def ttc(words):
    return run(words.split())


def out_of(capsys, words):
    capsys.readouterr()
    assert ttc(words) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two seeds of one sweep, and another task's run."""
    place = tmp_path_factory.mktemp("finished")
    rows = [{"id": f"p{i}", "question": f"What is {i + 3} + {i * 7 % 13}?", "answer": str(i + 3 + i * 7 % 13)}
            for i in range(24)]  # fmt: skip
    (place / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = "sweep --model fake --strategies self-consistency,greedy --budgets 128,512 --display none"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for seed in (0, 1):
            assert ttc(f"{shared} --task local --data many.jsonl --seed {seed} --out seed{seed}") == 0
        assert ttc(f"{shared} --task arithmetic --limit 16 --out sums") == 0
    return place


@pytest.fixture
def runs(finished, tmp_path, monkeypatch):
    """The finished runs as the working directory; what a test writes goes into folders of its own."""
    place = tmp_path / "work"
    shutil.copytree(finished, place)
    monkeypatch.chdir(place)
    return place


def test_problems_are_described_as_the_task_states_them(runs):
    table = pq.read_table("sums/problems.parquet").to_pylist()
    assert len(table) == 16
    assert {row["difficulty"] for row in table} == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}
    assert all(row["question"] and row["reference"] for row in table)
    page = (runs / "sums" / "report" / "index.html").read_text()
    assert "Accuracy in percent at each difficulty that the task states." in page
    untold = pq.read_table("seed0/problems.parquet").to_pylist()
    assert {row["difficulty"] for row in untold} == {None}


def test_no_text_keeps_questions_out(folder):
    words = "sweep --task local --data problems.jsonl --model fake --strategies greedy --budgets 64 --display none"
    assert ttc(f"{words} --no-text --out quiet") == 0
    rows = pq.read_table("quiet/problems.parquet").to_pylist()
    assert [row["problem_id"] for row in rows] == ["p0", "p1", "p2"]
    assert all(row["question"] is None and row["reference"] is None for row in rows)
    assert "What is" not in (folder / "quiet" / "report" / "index.html").read_text()


def test_a_bank_describes_its_problems(folder):
    assert (
        ttc("sweep --bank bank --strategies self-consistency --budgets 128 --draws 4 --out replay --display none") == 0
    )
    rows = pq.read_table("replay/problems.parquet").to_pylist()
    assert sorted(row["problem_id"] for row in rows) == ["b0", "b1", "b2", "b3"]


def test_another_baseline(runs, capsys):
    text = out_of(capsys, "report seed0 --out other --baseline greedy")
    assert "greedy under uniform" in (runs / "other" / "leaderboard.md").read_text().split("Baseline: ")[1]
    lines = [line for line in text.splitlines() if line.startswith("greedy ")]
    assert lines
    assert all(" baseline " in line for line in lines)
    assert ttc("report seed0 --baseline gredy") == 2
    captured = capsys.readouterr()
    assert "no series is called 'gredy'" in captured.err
    assert "hint: did you mean 'greedy" in captured.err


def test_leaderboard_joins_and_separates(runs, capsys):
    text = out_of(capsys, "leaderboard seed0 seed1 sums --out joint")
    assert "\nlocal, fake\n" in text
    assert "\narithmetic, fake\n" in text
    for name in ("index.html", "leaderboard.md", "leaderboard.csv", "pareto.svg", "pareto.png", "numbers.parquet"):
        assert (runs / "joint" / name).stat().st_size > 100
    alone = out_of(capsys, "leaderboard seed0 seed1")
    assert "2 seeds are averaged problem by problem" in alone
    accuracy = {
        seed: {
            (c["strategy"], c["budget"]): c["accuracy"] for c in pq.read_table(f"seed{seed}/cells.parquet").to_pylist()
        }
        for seed in (0, 1)
    }
    mean = 50 * sum(accuracy[seed]["self-consistency", 512] for seed in (0, 1))
    (line,) = [line for line in alone.splitlines() if line.startswith("self-consistency") and " 512 " in line]
    assert f" {mean:.1f} " in line


def test_compare_prints_a_verdict(runs, capsys):
    text = out_of(capsys, "compare seed0:self-consistency@512 seed0:greedy@512")
    assert text.startswith("A  self-consistency under uniform, local, fake, budget 512, seed 0: ")
    assert "24 problems in both" in text
    assert "\nverdict: " in text
    both = {(c["strategy"], c["budget"]): c["accuracy"] for c in pq.read_table("seed0/cells.parquet").to_pylist()}
    difference = 100 * (both["self-consistency", 512] - both["greedy", 512])
    assert f"difference {difference:+.1f} [" in text
    assert out_of(capsys, "compare seed0 seed1").count("verdict: ") >= 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("compare seed0 seed0", 2, "A and B have no strategy in common, or are the same"),
        ("compare seed0:greed seed1", 2, "seed0 has no strategy 'greed'"),
        ("compare seed0:greedy/knapsack seed1", 2, "no allocator 'knapsack'"),
        ("compare seed0:greedy@99 seed1", 2, "at budget 99"),
        ("compare nowhere seed1", 3, "no such run: nowhere"),
        ("compare seed0:greedy sums:greedy", 2, "no task in common"),
        ("leaderboard nowhere", 3, "no such run: nowhere"),
    ],
)
def test_bad_requests_are_told_in_one_line(runs, capsys, words, code, message):
    capsys.readouterr()
    assert ttc(words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    first, *rest = captured.err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert all(line.startswith("hint: ") for line in rest)
    assert rest
