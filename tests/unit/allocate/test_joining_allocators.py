"""Choosing among strategies and models, against enumeration of everything that could have been chosen."""

import itertools

import numpy as np
import pytest

from ttc.core.closed_forms import coverage, smoothed_rates
from ttc.core.curves import Curves
from ttc.core.errors import ConfigError
from ttc.core.forecast import Training
from ttc.core.parameters import build
from ttc.core.protocols import Ask, Part

IDS = ("p0", "p1", "p2", "p3")


def asked(parts, total, seed=0):
    return Ask(IDS, total, 100, seed, parts=tuple(parts))


def learned(scores, values, options, ids=()):
    return Training(np.asarray(scores, float), Curves.from_table(options, values), tuple(ids))


def test_each_bin_gets_the_strategy_that_did_best_on_other_problems_of_that_bin():
    rng = np.random.default_rng(1)
    scores = rng.random(60)
    tables = [rng.random((60, 3)) for _ in range(3)]
    ids = [f"t{i}" for i in range(60)]
    mixed_up = rng.permutation(60)  # the second strategy's problems come in another order
    trained = [
        learned(scores, tables[0], [10, 20, 40], ids),
        learned(scores[mixed_up], tables[1][mixed_up], [10, 20, 40], [ids[i] for i in mixed_up]),
        learned(scores, tables[2], [10, 20, 40], ids),
    ]
    mine = np.array([0.1, 0.4, 0.6, 0.95])
    curves = [Curves.from_table([10, 20], rng.random((4, 2))) for _ in range(3)]
    parts = [Part(n, c, mine, None, t) for n, c, t in zip("abc", curves, trained, strict=True)]
    split = build("allocators", "compute-optimal", {"bins": 4}).allocate(asked(parts, 4 * 25 + 3))
    edges = np.quantile(scores, [0.25, 0.5, 0.75])
    for i, score in enumerate(mine):
        same = np.searchsorted(edges, scores, side="right") == np.searchsorted(edges, score, side="right")
        means = [table[same, 1].mean() for table in tables]  # 25 tokens buy the option of 20
        assert split.member[i] == int(np.argmax(means))
        assert split.predicted_values[i] == curves[split.member[i]].values.reshape(4, 2)[i, 1]
        assert split.choice[i] == 2 * split.member[i] + 1
    assert split.grants.tolist() == [25] * 4


def test_the_knapsack_form_comes_within_one_upgrade_of_everything_that_could_be_bought():
    rng = np.random.default_rng(2)
    allocator = build("allocators", "compute-optimal", {"form": "knapsack"})
    for total in (30, 60, 90, 150):
        tables = [np.sort(rng.random((4, 3)), axis=1) for _ in range(2)]
        costs = [[5, 15, 30], [8, 20, 40]]
        split = allocator.allocate(asked([Part(n, Curves.from_table(c, v)) for n, c, v in
                                          zip("ab", costs, tables, strict=True)], total))  # fmt: skip
        options = [[(costs[s][k], tables[s][i, k]) for s in range(2) for k in range(3)] for i in range(4)]
        best = max(
            sum(v for _, v in chosen) for chosen in itertools.product(*options) if sum(c for c, _ in chosen) <= total
        )
        upgrade = np.concatenate(tables, axis=1)
        assert (
            best - (upgrade.max(axis=1) - upgrade.min(axis=1)).max() <= split.value <= best + 1e-9 <= split.bound + 2e-9
        )
        for i, (member, choice, grant) in enumerate(zip(split.member, split.choice, split.grants, strict=True)):
            assert member == choice // 3
            assert grant == costs[member][choice % 3]
            assert split.predicted_values[i] == tables[member][i, choice % 3]
        assert split.grants.sum() <= total


@pytest.mark.parametrize("total", [0, 39, 40, 70, 100, 160, 500])
def test_the_dear_model_gets_those_who_gain_most_from_it(total):
    weak, strong = np.array([0.1, 0.5, 0.9, 0.3]), np.array([0.8, 0.6, 0.7, 0.65])
    parts = [Part("big", None, strong, np.full(4, 20.0), None, 3.0), Part("small", None, weak, np.full(4, 10.0))]
    split = build("allocators", "route", {}).allocate(asked(parts, total))
    assert split.grants.sum() <= total
    if total < 40:
        assert (split.choice == -1).sum() == 4 - total // 10
        return
    best = max(
        (sum((strong - weak)[list(sent)]), sent)
        for size in range(5)
        for sent in itertools.combinations(range(4), size)
        if 40 + 50 * size <= total
    )
    assert sorted(np.flatnonzero(split.member == 0).tolist()) == sorted(best[1])
    assert split.predicted_values.tolist() == np.where(split.member == 0, strong, weak).tolist()
    assert split.grants.tolist() == np.where(split.member == 0, 60, 10).tolist()


def test_weak_is_whoever_weighs_less_then_has_fewer_parameters_then_comes_first():
    def weak(**fields):
        """Return who answers where neither is expected to do better."""
        each = [
            Part(n, None, np.full(4, 0.5), np.full(4, 5.0), **{k: v[i] for k, v in fields.items()})
            for i, n in enumerate("ab")
        ]
        return set(build("allocators", "route", {}).allocate(asked(each, 10_000)).member.tolist())

    assert weak() == {0}
    assert weak(weight=(2.0, 1.0), parameters=(3, 7)) == {1}
    assert weak(parameters=(7, 3)) == {1}
    assert weak(parameters=(7, None)) == {0}


@pytest.mark.parametrize("budget", [9, 10, 35, 60])
def test_the_mix_is_the_best_of_all_mixes(budget):
    rng = np.random.default_rng(3)
    rates = [np.where(np.arange(30) % 2, 0.05, 0.7), np.where(np.arange(30) % 2, 0.6, 0.1), rng.random(30) * 0.3]
    counts, tokens, weights = np.arange(1, 9), [10, 10, 5], [1.0, 1.5, 2.0]
    trained = [
        Training(r, Curves.from_table(counts * t, coverage(r, counts)), tuple(f"t{i}" for i in range(30)))
        for r, t in zip(rates, tokens, strict=True)
    ]
    parts = [Part(n, training=t, weight=w) for n, t, w in zip("abc", trained, weights, strict=True)]
    split = build("allocators", "mixed", {}).allocate(asked(parts, 4 * budget))
    assert split.grants.tolist() == [budget] * 4
    if budget < 10:
        assert split.counts.tolist() == [1, 0, 0]
        return
    costs, smooth = np.array([10, 15, 10]), np.stack([smoothed_rates(r * 8, 8) for r in rates])
    fits = [c for c in itertools.product(range(8), repeat=3) if np.array(c) @ costs <= budget]
    values = [1 - np.prod((1 - smooth) ** np.array(c)[:, None], axis=0).mean() for c in fits]
    assert split.predicted_values[0] == pytest.approx(max(values))
    assert split.counts.tolist() in [list(c) for c, v in zip(fits, values, strict=True) if v > max(values) - 1e-9]


def test_what_a_bank_does_not_hold_is_not_mixed_in():
    counts, rates = np.arange(1, 5), np.full(6, 0.3)
    one = Training(rates, Curves.from_table(counts * 10, coverage(rates, counts)))
    parts = [Part("a", training=one, samples=2), Part("b", training=one, samples=3)]
    split = build("allocators", "mixed", {}).allocate(asked(parts, 4 * 1000))
    assert split.counts.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("name", "part", "told"),
    [
        ("compute-optimal", Part("a"), "predicted curves of a"),
        ("compute-optimal", Part("a", Curves.from_table([1], np.zeros((4, 1)))), "learns from other problems"),
        ("route", Part("a"), "predicted scores of a"),
        ("route", Part("a", scores=np.zeros(4)), "predicted costs of a"),
        ("mixed", Part("a"), "learns from other problems"),
    ],
)
def test_what_is_not_told_is_named(name, part, told):
    with pytest.raises(ConfigError, match=told):
        build("allocators", name, {}).allocate(asked([part, part], 100))


@pytest.mark.parametrize("name", ["compute-optimal", "mixed"])
def test_different_training_problems_are_refused(name):
    curves = Curves.from_table([1], np.zeros((4, 1)))
    each = [learned(np.arange(4), np.zeros((4, 1)), [1], [f"{n}{i}" for i in range(4)]) for n in "ab"]
    parts = [Part(n, curves, np.zeros(4), None, t) for n, t in zip("ab", each, strict=True)]
    with pytest.raises(ConfigError, match="a and b on different problems"):
        build("allocators", name, {}).allocate(asked(parts, 100))
