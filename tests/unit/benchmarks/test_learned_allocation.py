"""The study of learned allocation: its controls, and one small study from end to end."""

import json
from collections import Counter

import numpy as np
import pytest
from bench_scripts import load_script

from ttc.metrics.frontier import Curve
from ttc.store.bank import Row, read_bank, write_bank
from ttc.store.features import Feature, write_features

study = load_script("learned_allocation")


def made_up(folder, problems, seed):
    """Write a bank in which the question and the state tell how likely a sample is right."""
    rng = np.random.default_rng(seed)
    rows, states = [], []
    for i in range(problems):
        rate = (0.05, 0.5, 0.95)[i % 3]
        name, text = (
            f"{folder.name}-{i:03}",
            f"A {('hard', 'fair', 'easy')[i % 3]} question about {rng.integers(99)} apples?",
        )
        states.append(Feature(problem_id=name, config="m", vector=np.float32([rate, *rng.normal(size=3)])))
        for j in range(8):
            right = bool(rng.random() < rate)
            answer = "42" if right else str(rng.integers(5))
            rows.append(Row(name, text, "m", j, answer, right, int(rng.integers(20, 40)), 20, "stop"))
    write_bank(rows, folder, "made-up")
    write_features(folder, "m", states)
    return folder


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return read_bank(made_up(tmp_path_factory.mktemp("banks") / "test", 30, 0))


def test_shuffling_moves_whole_problems_and_leaves_the_questions(bank):
    moved = list(study.shuffled_questions(bank, 0))
    pool = bank.pools["m"]
    assert {(r.problem_id, r.prompt) for r in moved} == {(r.problem_id, r.prompt) for r in bank.rows()}
    before = Counter(tuple(r.answer for r in rows) for rows in pool.values())
    after = Counter(tuple(r.answer for r in moved if r.problem_id == name) for name in pool)
    assert before == after
    assert sum(r.correct for r in moved if r.prompt.startswith("A easy")) < 60


def test_grading_anew_leaves_half_without_hope_and_the_mode_right_elsewhere(bank):
    graded = list(study.half_hopeless(bank, 0))
    rates = {}
    for name, rows in bank.pools["m"].items():
        new = [r for r in graded if r.problem_id == name]
        rates[name] = sum(r.correct for r in new)
        most = Counter(r.answer for r in rows).most_common(1)[0][1]
        assert rates[name] in (0, most)
        assert [(r.answer, r.completion_tokens) for r in new] == [(r.answer, r.completion_tokens) for r in rows]
    assert sum(rate == 0 for rate in rates.values()) == len(rates) // 2


def test_an_oracle_that_needs_fewer_tokens_keeps_its_score():
    uniform = study.Method("uniform", Curve(np.array([[10.0, 10], [40, 40]]), np.array([[0.0, 0], [0, 1]])))
    oracle = study.Method("oracle", Curve(np.array([[10.0, 10], [20, 20]]), np.array([[0.0, 0], [1, 1]])))
    point = Curve(np.array([[40.0, 40]]), np.array([[1.0, 1]]))
    assert study._share(point, uniform, oracle).estimate == pytest.approx(1.0)


def test_what_is_infinite_is_null_in_json():
    rows = [{"ratio": {"estimate": 0.5, "low": 0.25, "high": np.inf}, "tokens": None}, {"gap": {"low": -np.inf}}]
    assert study.bounded(rows) == [{"ratio": {"estimate": 0.5, "low": 0.25, "high": None}, "tokens": None},
                                   {"gap": {"low": None}}]  # fmt: skip


def test_a_small_study(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "FIT_DRAWS", 1)
    monkeypatch.setattr(study, "SAMPLES", (1, 2))
    monkeypatch.setattr(study, "BEYOND", (0.5, 3))
    train, test = made_up(tmp_path / "train", 20, 1), made_up(tmp_path / "held-out", 15, 2)
    arguments = [str(train), str(test), "--out", str(tmp_path / "out"), "--draws", "1", "--strategies", "coverage"]
    study.main(arguments)
    rows = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert {row["study"] for row in rows} == {"real", "shuffled", "rewritten"}
    assert {row["allocator"] for row in rows if row["study"] == "real"} >= {
        "uniform", "oracle", "oracle-split", "knapsack (text)", "sequential (hidden)", "binned-policy (text)",
    }  # fmt: skip
    for row in rows:
        if row.get("less_uniform"):
            assert row["less_uniform"]["low"] <= row["less_uniform"]["mean"] <= row["less_uniform"]["high"]
    told = capsys.readouterr().out
    assert "## rewritten: coverage" in told
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/predictor.json")}
    study.Study(train, test, tmp_path / "out", 1, ("coverage",), 0).rewritten()  # everything is kept
    assert told.endswith(capsys.readouterr().out)
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/predictor.json")}
