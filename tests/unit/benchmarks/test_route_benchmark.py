"""The comparison of routes, on made-up banks in which it is known whom the strong model helps."""

import itertools
import json

import numpy as np
import pytest
from bench_scripts import load_script

from ttc.core.errors import ConfigError
from ttc.core.forecast import Seen
from ttc.store.bank import Row, read_bank, write_bank
from ttc.store.features import Feature, write_features

route = load_script("route")

WEAK, STRONG = "m-0.5B T=0.7", "m-1.5B T=0.7"
ARGUMENTS = ["--weak", "0.5B=5e8", "--strong", "1.5B=15e8"]


def made_up_rows(problems=120, samples=8, seed=0):
    """Return rows in which the strong model is better on questions about trains, and no better on those about apples."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(problems):
        hard = i % 3 == 0
        noun, verb = ("train", "travel") if hard else ("apple", "cost")
        text = (
            f"How far does the {noun} {verb} on day {i} of {rng.integers(90)}, {rng.choice(['at most', 'at least'])}?"
        )
        for config, rate, length in ((WEAK, 0.2 if hard else 0.8, 60), (STRONG, 0.8, 90)):
            for j in range(samples):
                right = bool(rng.random() < rate)
                tokens = int(rng.integers(length // 2, 2 * length))
                rows.append(Row(f"p{i:03}", text, config, j, "42" if right else "0", right, tokens, 20, "stop"))
    return rows


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank") / "bank"
    write_bank(made_up_rows(), folder, "made-up")
    return folder


@pytest.fixture(scope="module")
def pair(bank):
    return route.make_pair(read_bank(bank), route.Side(WEAK, 5e8), route.Side(STRONG, 15e8), {})


def told(pair, labels=None):
    return route.cross_fit(pair, route.preference(pair.weak_right, pair.strong_right) if labels is None else labels)


def test_costs_are_flops_of_what_is_read_and_written(bank, pair):
    rows = read_bank(bank).pools[STRONG]["p004"]
    place = [s.problem_id for s in pair.seen].index("p004")
    mean = np.mean([r.completion_tokens for r in rows])
    assert pair.strong_flops[place] == pytest.approx(2 * 15e8 * (20 + mean))
    assert pair.strong[place] == np.mean([r.correct for r in rows])
    vectors = {s.problem_id: np.ones(3, dtype=np.float32) for s in pair.seen}
    seeing = route.make_pair(read_bank(bank), route.Side(WEAK, 5e8), route.Side(STRONG, 15e8), vectors)
    assert seeing.strong_flops - pair.strong_flops == pytest.approx(np.full(120, 2 * 5e8 * 20))
    assert (seeing.weak_flops == pair.weak_flops).all()


def test_random_routing_takes_the_flops_it_is_compared_at(pair):
    low, high = pair.weak_flops.mean(), pair.strong_flops.mean()
    assert (route.random_at(pair, low) == pair.weak).all()
    assert route.random_at(pair, high) == pytest.approx(pair.strong)
    assert route.random_at(pair, (low + high) / 2) == pytest.approx((pair.weak + pair.strong) / 2)


def test_the_oracle_is_near_the_best_of_all_routes():
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = 9
        small = route.Pair(
            tuple(Seen(str(i)) for i in range(n)), np.ones(n), rng.random((n, 2)), rng.random((n, 2)),
            rng.integers(10, 20, n) * 1e6, rng.integers(30, 60, n) * 1e6,
        )  # fmt: skip
        limit = rng.uniform(small.weak_flops.mean(), small.strong_flops.mean())
        best = 0.0
        for sent in itertools.product((False, True), repeat=n):
            mask = np.array(sent)
            if np.where(mask, small.strong_flops, small.weak_flops).mean() <= limit:
                best = max(best, np.where(mask, small.strong, small.weak).mean())
        found = route.oracle_at(small, limit).mean()
        assert 0.97 * best <= found <= best + 1e-9


def test_questions_that_tell_whom_the_strong_model_helps_are_routed_to_advantage(pair):
    forecast = told(pair)
    hard = np.array(["train" in s.text for s in pair.seen])
    assert forecast.preferences[hard].min() > forecast.preferences[~hard].max()
    row = route.compare(pair, forecast, 1 / 3)
    assert row["routed - random"]["significant"]
    assert row["routed - random"]["mean"] > 0.08
    assert row["gap_closed"]["estimate"] > 0.5
    assert row["oracle"]["estimate"] >= row["routed"]["estimate"]
    assert row["sent"] <= 1 / 3 + 0.01
    nobody = route.compare(pair, forecast, 0.0)
    assert nobody["sent"] == 0
    assert nobody["oracle"] == nobody["routed"] == nobody["weak"]
    everyone = route.compare(pair, forecast, 1.0)
    assert everyone["routed"]["estimate"] > everyone["strong"]["estimate"] - 0.02  # apples stay with the weak one


def test_what_is_learned_from_shuffled_labels_gains_nothing(pair):
    labels = route.preference(pair.weak_right, pair.strong_right)
    gains = []
    for seed in range(8):
        shuffled = np.random.default_rng(seed).permutation(labels)
        gains.append(route.compare(pair, told(pair, shuffled), 0.3)["routed - random"]["mean"])
    assert abs(np.mean(gains)) < 0.03


def test_no_prediction_has_seen_its_own_problem(pair):
    labels = route.preference(pair.weak_right, pair.strong_right)
    before = told(pair, labels).preferences
    changed = labels.copy()
    changed[7] = 10.0
    after = told(pair, changed).preferences
    assert after[7] == before[7]
    assert (after != before).sum() > 60


def test_the_hidden_state_is_read_where_the_bank_holds_it(tmp_path, capsys):
    rows = [Row(**{**{f: getattr(r, f) for f in r.__dataclass_fields__}, "prompt": None}) for r in made_up_rows()]
    write_bank(rows, tmp_path / "bank", "made-up")
    arguments = [str(tmp_path / "bank"), *ARGUMENTS, "--shares", "0.33"]
    route.main([*arguments, "--json", str(tmp_path / "blind.json")])
    rng = np.random.default_rng(0)
    states = [
        Feature(f"p{i:03}", WEAK, np.append(rng.normal(0, 0.3, 5), i % 3 == 0).astype(np.float32)) for i in range(120)
    ]
    write_features(tmp_path / "bank", WEAK, states)
    route.main([*arguments, "--json", str(tmp_path / "seeing.json")])
    blind, seeing = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("blind", "seeing"))
    assert (blind["hidden"], seeing["hidden"]) == (False, True)
    assert abs(blind["rank_correlation"]) < 0.4
    assert seeing["rank_correlation"] > 0.5
    assert seeing["rows"][0]["routed - random"]["mean"] > blind["rows"][0]["routed - random"]["mean"] + 0.05
    assert "hidden state: yes" in capsys.readouterr().out


def test_a_side_is_one_configuration(bank):
    found = route.find_side(read_bank(bank), "1.5B=1.5e9")
    assert (found.config, found.parameters) == (STRONG, 1.5e9)
    for words in ("m-=1", "7B=7e9", "=1"):
        with pytest.raises(ConfigError, match="name of one configuration"):
            route.find_side(read_bank(bank), words)
