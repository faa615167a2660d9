"""The programme of ETS against brute force, and its clusters against plain average linkage."""

import itertools
import math
import random

import pytest

from ttc_strategies.pruning import Leaves, clusters, kept_leaves


def objective(leaves, leaf_costs, branch_costs, coverage, kept):
    """Return the programme's value of a set of leaves, straight from its definition."""
    branches = {branch for i in kept for branch in leaves.paths[i]}
    value = sum(leaves.gains[i] - leaf_costs[i] for i in kept) - sum(branch_costs[b] for b in branches)
    if leaves.clusters is not None:
        value += coverage * len({leaves.clusters[i] for i in kept}) / len(set(leaves.clusters))
    return value


def best_by_brute_force(leaves, *costs):
    n = len(leaves.gains)
    subsets = (s for size in range(1, n + 1) for s in itertools.combinations(range(n), size))
    return max(objective(leaves, *costs, subset) for subset in subsets)


EXAMPLE = Leaves((0.5, 0.3, 0.15, 0.05), (("a", 0), ("a", 0), ("b", 0), ("c", 0)), (0, 0, 1, 1))


@pytest.mark.parametrize(("coverage", "kept", "value"), [(0.0, [0, 1], 0.30), (1.5, [0, 1, 2], 1.70)])
def test_worked_example(coverage, kept, value):
    """Four leaves under branches a, a, b, c below the root: 8 nodes, lambda_b = 1."""
    leaf_costs, branch_costs = [1 / 8] * 4, {"a": 1 / 8, "b": 1 / 8, "c": 1 / 8, 0: 1 / 8}
    assert kept_leaves(EXAMPLE, leaf_costs, branch_costs, coverage) == kept
    assert objective(EXAMPLE, leaf_costs, branch_costs, coverage, kept) == pytest.approx(value)
    assert best_by_brute_force(EXAMPLE, leaf_costs, branch_costs, coverage) == pytest.approx(value)


def random_tree(dice):
    """Return up to 9 leaves below random branches, chains and single-leaf branches among them."""
    n = dice.randint(1, 9)
    parent_of, level, branches = {-1: None}, [-1], [-1]
    for _ in range(dice.randint(0, 3)):
        made = []
        for _ in range(dice.randint(1, 4)):
            branch = len(branches)
            parent_of[branch] = dice.choice(level)
            branches.append(branch)
            made.append(branch)
        level = made
    paths = []
    for _ in range(n):
        at, path = dice.choice(level), []
        while at is not None:
            path.append(at)
            at = parent_of[at]
        paths.append(path)
    weights = [dice.choice([0, 1, 1, 2, 5]) for _ in range(n)]
    gains = [w / (sum(weights) or 1) for w in weights]
    labels = [dice.randrange(4) for _ in range(n)]
    numbers = {}
    labels = [numbers.setdefault(label, len(numbers)) for label in labels]
    return Leaves(gains, paths, labels if dice.random() < 0.7 else None)


def test_500_random_trees_reach_the_brute_force_optimum():
    dice = random.Random(20250213)
    for _ in range(500):
        leaves = random_tree(dice)
        lambda_b, coverage = dice.choice([0.0, 0.5, 1.0, 2.0]), dice.choice([0.0, 0.3, 1.5])
        nodes = len(leaves.gains) + len(leaves.branches)
        by_tokens = dice.random() < 0.5
        weight = {b: dice.randint(1, 30) if by_tokens else 1 for b in leaves.branches}
        own = [dice.randint(1, 30) if by_tokens else 1 for _ in leaves.gains]
        total = sum(weight.values()) + sum(own) if by_tokens else nodes
        leaf_costs = [lambda_b * w / total for w in own]
        branch_costs = {b: lambda_b * w / total for b, w in weight.items()}
        kept = kept_leaves(leaves, leaf_costs, branch_costs, coverage)
        assert kept
        reached = objective(leaves, leaf_costs, branch_costs, coverage, kept)
        assert reached == pytest.approx(best_by_brute_force(leaves, leaf_costs, branch_costs, coverage), abs=1e-9)


def test_the_marginal_reading_decides_a_leaf():
    """Leaf i stays iff O_i + (lambda_d / K) [its cluster is not covered] > lambda_b (nodes only it keeps) / (M + N)."""
    for gain, kept in ((0.24, [0]), (0.26, [0, 1])):
        leaves = Leaves((1 - gain, gain), ((1, 0), (2, 0)))
        costs = [1 / 8] * 2, {0: 1 / 8, 1: 1 / 8, 2: 1 / 8}  # a leaf and its own branch: 2/8
        assert kept_leaves(leaves, *costs, 0.0) == kept
        covered = Leaves(leaves.gains, leaves.paths, (0, 1))
        assert kept_leaves(covered, *costs, 0.1) == [0, 1]  # .05 more for its own cluster tips the balance


def average_linkage(vectors, limit):
    """Merge the two nearest clusters until none is within the limit: the textbook, on lists."""

    def distance(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    groups = [[i] for i in range(len(vectors))]
    while len(groups) > 1:
        pairs = [
            (sum(distance(vectors[i], vectors[j]) for i in a for j in b) / (len(a) * len(b)), x, y)
            for x, a in enumerate(groups)
            for y, b in enumerate(groups)
            if x < y
        ]
        nearest, x, y = min(pairs)
        if nearest > limit:
            break
        groups[x] += groups.pop(y)
    label = {i: g for g, members in enumerate(groups) for i in members}
    numbers = {}
    return [numbers.setdefault(label[i], len(numbers)) for i in range(len(vectors))]


def grams(text):
    padded = f" {text} ".encode()
    return [padded[i : i + n] for n in (2, 3, 4) for i in range(len(padded) - n + 1)]


def test_clusters_are_those_of_average_linkage():
    dice = random.Random(3)
    for _ in range(20):
        texts = ["".join(dice.choice("ab+=1") for _ in range(dice.randint(1, 8))) for _ in range(8)]
        alphabet = sorted({g for t in texts for g in grams(t)})
        vectors = [[grams(t).count(g) for g in alphabet] for t in texts]
        for limit in (0.05, 0.4):
            assert clusters(texts, limit, "characters") == average_linkage(vectors, limit)


def test_equal_texts_share_a_cluster_and_any_text_has_one():
    assert clusters(["x", "x", "x"], 0.05, "characters") == [0, 0, 0]
    assert clusters(["", "a", "", "🙂", "\ud800"], 0.05, "characters") == [0, 1, 0, 2, 3]
    assert clusters(["add 3 to 4", "to 4 add 3", "stop"], 0.05, "words") == [0, 0, 1]
