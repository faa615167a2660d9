"""The comparison of mixes, on made-up banks whose answers are known."""

import itertools
import json

import numpy as np
import pytest
from bench_scripts import load_script

from ttc.allocate import unbiased_coverage
from ttc.core.errors import ConfigError
from ttc.core.vote import majority
from ttc.metrics.estimators import maj_at_k
from ttc.store.bank import Bank, Row, read_bank, write_bank

mixed = load_script("mixed")

CONFIGS = tuple(f"{m} T={t}" for m in ("small", "large") for t in (0.3, 0.7, 1.1))


def made_up_rows(rates, lengths, samples, seed=0):
    """Return rows of configurations with success rates (C, P); wrong answers are of three kinds."""
    rng = np.random.default_rng(seed)
    rows = []
    for config, of_config, length in zip(CONFIGS, rates, lengths, strict=False):
        for i, rate in enumerate(of_config):
            for j in range(samples):
                right = bool(rng.random() < rate)
                answer = "right" if right else f"wrong{rng.integers(3)}"
                tokens = int(rng.integers(length // 2, length * 3 // 2 + 1))
                rows.append(Row(f"p{i:03}", None, config, j, answer, right, tokens, 9, "stop"))
    return rows


def bank_of(rows):
    pools = {}
    for r in rows:
        pools.setdefault(r.config, {}).setdefault(r.problem_id, []).append(r)
    return Bank("made-up", "f", {c: {p: tuple(s) for p, s in pool.items()} for c, pool in pools.items()})


def pools_of(rates, lengths=(40,) * 6, samples=6, seed=0):
    bank = bank_of(made_up_rows(rates, lengths, samples, seed))
    configs = tuple(bank.pools)
    return mixed.make_pools(bank, configs, mixed.common_problems(bank, configs), [1.0] * len(configs))


def complementary(problems, seed=0):
    """Return rates of six configurations, each good at its own sixth of the problems."""
    rng = np.random.default_rng(seed)
    rates = rng.uniform(0.02, 0.1, (6, problems))
    for i in range(problems):
        rates[i % 6, i] = 0.7
    return rates


def test_coverage_is_the_mean_over_all_ways_to_draw():
    pools = pools_of([[0.4, 0.1, 0.7], [0.2, 0.5, 0.0]], samples=4)
    order = [0, 1, 0]
    for problem, name in enumerate(pools.problems):
        first, second = ([r.correct for r in pools.bank.pools[c][name]] for c in pools.configs)
        ways = [any((*a, b)) for a in itertools.combinations(first, 2) for b in second]
        assert mixed.coverage_of(pools, order)[problem] == pytest.approx(np.mean(ways))
    whole = unbiased_coverage(pools.correct, pools.samples, [2, 1])
    assert mixed.coverage_of(pools, order).mean() == pytest.approx(whole)
    assert mixed.coverage_of(pools, []).tolist() == [0, 0, 0]


def test_votes_of_one_configuration_are_those_of_the_closed_form():
    pools = pools_of([np.linspace(0.1, 0.9, 20)], samples=8)
    for k in (1, 3, 5):
        exact = maj_at_k(pools.votes[0], k)
        found = mixed.votes_of(pools, [0] * k, draws=100)
        error = np.sqrt(exact * (1 - exact) / 100) + 1e-9
        assert (np.abs(found - exact) < 4.5 * error).all()
        assert found.mean() == pytest.approx(exact.mean(), abs=4 * 0.5 / np.sqrt(100 * 20))


def test_votes_of_a_mix_are_the_mean_over_all_ways_to_draw():
    pools = pools_of([[0.5, 0.3], [0.6, 0.2]], samples=4)
    found = mixed.votes_of(pools, [0, 1, 0], draws=300)
    for problem, name in enumerate(pools.problems):
        first, second = (pools.bank.pools[c][name] for c in pools.configs)
        # The mix deals first, second, first; ties go to whom was seen first.
        ways = [(a, b, c) for a, c in itertools.permutations(first, 2) for b in second]
        won = [way[majority([r.answer for r in way])].correct for way in ways]
        assert found[problem] == pytest.approx(np.mean(won), abs=4 * 0.5 / np.sqrt(300))


def test_costs_are_equal_where_values_are_compared():
    pools = pools_of([[0.5] * 5] * 2, lengths=(20, 60), samples=6)
    each = pools.tokens.mean(axis=1)
    order = [0, 1, 0, 1, 0]

    def count(some):
        return np.full(5, len(some), dtype=float)

    for k in range(6):
        assert mixed.at_spend(pools, order, mixed.spend_of(pools, order[:k]), count).tolist() == [k] * 5
    half = each[0] + 0.25 * each[1]
    assert mixed.at_spend(pools, order, half, count) == pytest.approx(np.full(5, 1.25))
    assert mixed.at_spend(pools, order, 3 * each[0] + 2 * each[1] + 1, count) is None


def test_costs_of_a_larger_model_count_by_its_parameters():
    assert mixed.weights_of(CONFIGS, {}) == [1.0] * 6
    assert mixed.weights_of(CONFIGS, {"small": 5e8, "large": 15e8}) == [1.0] * 3 + [3.0] * 3
    with pytest.raises(ConfigError, match=r"0 of the names \['small'\] are in 'large"):
        mixed.weights_of(CONFIGS, {"small": 5e8})
    bank = bank_of(made_up_rows([[0.5] * 4] * 6, (40,) * 6, 3))
    plain, dear = (
        mixed.make_pools(bank, CONFIGS, mixed.common_problems(bank, CONFIGS), w) for w in ([1.0] * 6, [1.0] * 3 + [3.0] * 3)
    )  # fmt: skip
    assert (dear.tokens / plain.tokens).mean(axis=1) == pytest.approx([1, 1, 1, 3, 3, 3])


def test_configurations_that_complement_each_other_are_mixed_to_advantage():
    rates = complementary(240)
    train, test = pools_of(rates[:, :120], samples=16), pools_of(rates[:, 120:], samples=16, seed=1)
    row = mixed.compare(train, test, 6, draws=2)
    gain = row["coverage"]["mixed - single"]
    assert gain["significant"]
    assert gain["mean"] > 0.2
    assert row["tokens"] <= 1.1 * row["budget_tokens"]
    # All are alike: the even mix is the best there is, and the fitted one is about as good.
    assert abs(row["coverage"]["mixed - even"]["mean"]) < 0.05
    assert sum(row["mix"].values()) == 6


def test_where_one_configuration_is_best_everywhere_the_mix_is_that_one():
    rates = np.full((6, 200), 0.1)
    rates[4] = 0.5
    train, test = pools_of(rates[:, :100], samples=16), pools_of(rates[:, 100:], samples=16, seed=1)
    row = mixed.compare(train, test, 4.5, draws=2)
    assert row["mix"] == {CONFIGS[4]: 4}
    for score in mixed.SCORES:
        assert row[score]["single_config"] == CONFIGS[4]
        assert row[score]["mixed - single"]["mean"] == 0
        assert row[score]["mixed - even"]["significant"]


def test_every_budget_is_a_row_and_the_halves_share_no_problem(tmp_path, capsys):
    write_bank(made_up_rows(complementary(60), (40,) * 6, 8), tmp_path / "bank", "made-up")
    bank = str(tmp_path / "bank")
    mixed.main(
        [
            bank,
            "--budgets",
            "1,4",
            "--draws",
            "4",
            "--flops",
            "small=1e9",
            "large=2e9",
            "--json",
            str(tmp_path / "o.json"),
        ]
    )
    printed = capsys.readouterr().out
    assert "6 configurations, 30 problems to fit on, 30 to score on" in printed
    assert printed.count("| 4 |") == 2
    told = json.loads((tmp_path / "o.json").read_text())
    assert [row["samples_worth"] for row in told["rows"]] == [1, 4]
    assert told["weights"] == [2.0] * 3 + [1.0] * 3
    problems = mixed.common_problems(read_bank(tmp_path / "bank"), CONFIGS)
    first, second = mixed.split_problems(problems, 0.5, 0)
    assert sorted(first + second) == problems
    assert mixed.split_problems(problems, 0.5, 1)[0] != first
