"""Costs against published values and sums over single tokens."""

import numpy as np
import pytest

from ttc.core.errors import DataError
from ttc.metrics.compute import (
    HARDWARE,
    AttentionShape,
    Hardware,
    attention_shape,
    flops,
    kinetics_cost,
    kv_bytes,
    matched_multiplier,
    sparse_kv_reads,
)

QWEN3_8B = AttentionShape(layers=36, query_heads=32, kv_heads=8, head_dim=128)


def token_by_token(parameters, shape, prompt, lengths, intensity, budget=None):
    """Return the cost as it arises: each step multiplies, and reads the cache of 2 bytes an element."""
    elements = shape.layers * shape.kv_heads * shape.head_dim
    arithmetic = traffic = 0.0
    for t in range(max(lengths)):
        running = [n for n in lengths if n > t]
        reach = prompt + t if budget is None else min(budget, prompt + t)
        # Two products (scores and values) of 2 FLOPs for each query head.
        arithmetic += len(running) * (2 * parameters + 4 * shape.layers * shape.query_heads * shape.head_dim * reach)
        own = reach * len(running) if budget is not None else prompt + t * len(running)
        traffic += own * 2 * elements * 2
    return arithmetic, traffic, arithmetic + intensity * traffic


def test_kinetics_published():
    intensity = HARDWARE["B200"].intensity
    assert intensity == 562.5
    one = kinetics_cost(8.19e9, QWEN3_8B, 200, [16_000], intensity)
    many = kinetics_cost(8.19e9, QWEN3_8B, 200, [16_000] * 16, intensity)
    assert float(one.eflops) == pytest.approx(1.12217e16, rel=1e-5)
    assert float(many.eflops) == pytest.approx(1.75566e17, rel=1e-5)
    assert flops(8.19e9, 16_000) / one.eflops == pytest.approx(0.023, abs=0.0005)


@pytest.mark.parametrize("budget", [None, 300])
def test_cost_is_the_sum_over_tokens(budget):
    shape = AttentionShape(3, 8, 2, 16)
    for prompt, lengths in ((120, [900, 400, 1]), (7, [500]), (450, [800, 800])):
        exact = token_by_token(1e6, shape, prompt, lengths, 200.0, budget)
        found = kinetics_cost(1e6, shape, prompt, [*lengths, 0], 200.0, kv_budget=budget)
        # The closed form takes L^2 / 2 for the sum of 0 to L - 1.
        close = 1e-12 if budget else 2 / min(n for n in lengths if n > 1)
        assert (found.flops, found.kv_bytes, found.eflops) == pytest.approx(exact, rel=close)


def test_costs_of_many_problems_are_each_their_own():
    prompts, lengths = np.array([10.0, 200.0]), np.array([[30.0, 50.0], [400.0, 0.0]])
    together = kinetics_cost(1e6, QWEN3_8B, prompts, lengths, 300.0)
    alone = [kinetics_cost(1e6, QWEN3_8B, p, row, 300.0).eflops for p, row in zip(prompts, lengths, strict=True)]
    assert together.eflops == pytest.approx(np.array(alone))


def test_unequal_traces_cost_more_than_equal_ones_of_the_same_mean():
    equal = kinetics_cost(1e9, QWEN3_8B, 100, [1000, 1000], 300.0)
    unequal = kinetics_cost(1e9, QWEN3_8B, 100, [100, 1900], 300.0)
    assert unequal.eflops > 1.5 * equal.eflops


def test_sparse_reads_are_the_exact_sum():
    assert float(sparse_kv_reads(200, 4000, 1024)) == 3_756_100
    # The continuous approximation, B L - (B - L_in)^2 / 2.
    assert pytest.approx(float(sparse_kv_reads(200, 4000, 1024)), rel=2e-4) == 1024 * 4000 - 0.5 * (1024 - 200) ** 2
    for prompt, length, budget in [(0, 5, 3), (10, 5, 3), (2, 1, 9), (2, 20, 9), (4, 0, 2), (9, 3, 9)]:
        expected = sum(min(budget, prompt + t) for t in range(length))
        assert float(sparse_kv_reads(prompt, length, budget)) == expected


def test_cache_traffic():
    assert QWEN3_8B.kv_elements == 2 * 36 * 8 * 128
    assert float(kv_bytes(QWEN3_8B, 10)) == 10 * 147_456  # 144 KiB a token at 2 bytes an element
    assert float(kv_bytes(QWEN3_8B, 10, bytes_per_element=1)) == 10 * 73_728
    assert Hardware(1e12, 1e10).intensity == 100


def test_matched_multiplier():
    small, large = 3, 42
    m = matched_multiplier(14, 100, 7)
    assert m == pytest.approx(571.142857)
    assert 6 * small * 100 + m * 2 * small * 7 == pytest.approx(6 * large * 100 + 2 * large * 7)
    assert matched_multiplier(1, 100, 7) == 1
    with pytest.raises(ValueError, match="above 0"):
        matched_multiplier(14, 100, 0)


CONFIG = {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
          "hidden_size": 4096}  # fmt: skip


def test_shape_of_a_config():
    assert attention_shape(CONFIG) == QWEN3_8B
    assert attention_shape({"text_config": CONFIG, "num_hidden_layers": 2}) == QWEN3_8B
    old = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768}
    assert attention_shape(old) == AttentionShape(12, 12, 12, 64)
    assert attention_shape({**old, "head_dim": None, "num_key_value_heads": None}) == AttentionShape(12, 12, 12, 64)


@pytest.mark.parametrize("value", [None, 0, "36", 1.5, True])
def test_a_config_without_a_shape_is_refused(value):
    with pytest.raises(DataError, match="num_hidden_layers"):
        attention_shape({**CONFIG, "num_hidden_layers": value})


def test_bad_lengths_are_refused():
    for prompt, lengths in ((5, 10.0), ([5.0], [1.0, 2.0]), (-1, [3.0]), (1, [-3.0])):
        with pytest.raises(ValueError, match="lengths"):
            kinetics_cost(1e6, QWEN3_8B, prompt, lengths, 300.0)
