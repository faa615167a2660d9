"""What a sweep is said to take, against closed forms, against models' own weights, and against runs that were made."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from ttc.api import sweep
from ttc.core.errors import ConfigError, DataError
from ttc.core.specs import parse_config
from ttc.engines.fingerprint import count_parameters, read_config
from ttc.metrics.compute import HARDWARE, AttentionShape, Hardware
from ttc.run.projection import (
    Habits,
    Machine,
    Shape,
    Workload,
    by_throughput,
    dense_parameters,
    habits_of,
    memory,
    planned_cells,
    roofline,
    shape_of,
    workload,
)

POLICY = Path(str(files("ttc.embedded") / "policy"))
SHAPE = Shape(8_000_000_000, AttentionShape(layers=32, query_heads=32, kv_heads=8, head_dim=128))
WORK = Workload(0, 1_000_000, 1_000_000, 100_000, 100.0, 400.0, 1024, ())


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [f'{{"question": "What is {n} + {3 * n}? Think of it carefully.", "answer": "{4 * n}"}}' for n in range(40)]
    path.write_text("\n".join(lines))
    return path


def config(rows, **changes):
    asked = {
        "tasks": [{"name": "local", "data": str(rows)}],
        "models": ["fake"],
        "strategies": ["self-consistency", "best-of-n", {"name": "coverage", "params": {"n": 2}}],
        "budgets": [200, 400],
        "sampling": {"max_tokens": 160},
    }
    return parse_config({**asked, **changes}, "test")


def totals(run):
    cells, candidates = run.cells.to_pylist(), run.candidates.to_pylist()
    longest = {}
    for c in candidates:  # equal samples are drawn once: (problem, index), the longest cut
        key = (c["problem_id"], c["index"])
        longest[key] = max(longest.get(key, 0), c["completion_tokens"])
    return sum(c["tokens_total"] for c in cells), sum(longest.values())


def test_tokens_agree_with_the_run(rows, tmp_path):
    first = sweep(config(rows, budgets=[200], strategies=["self-consistency"], cache="off"), tmp_path / "first")
    habits = habits_of(first.records.to_pylist(), first.cells.to_pylist())
    asked = config(rows)
    work = workload(planned_cells(asked), cached=True, habits=habits)
    charged, generated = totals(sweep(asked, tmp_path / "second"))
    assert charged <= work.ceiling == 3 * 40 * (200 + 400)
    assert work.charged == pytest.approx(charged, rel=0.05)
    assert work.generated == pytest.approx(generated, rel=0.15)
    assert habits.tokens_per_s is not None


def test_what_grows_prefixes_shares_nothing(rows):
    asked = config(rows, strategies=["self-consistency", "beam"], prm="fake", budgets=[100, 300])
    cells = planned_cells(asked)
    work = workload(cells, cached=True)
    assert work.generated == 40 * (300 + 100 + 300)
    assert workload(cells, cached=False).generated == work.charged == 40 * 2 * 400 == work.ceiling


def test_without_a_run_a_sample_is_half_its_cap(rows):
    work = workload(planned_cells(config(rows)), cached=True)
    assert work.sample_tokens == 80
    # Two samples of 80 tokens for coverage, below both grants; the others spend their grants.
    assert work.charged == 40 * (2 * (200 + 400) + 2 * 160)
    assert work.generated == 40 * 400


def test_the_longest_sequence_is_the_longest_prompt_with_its_cap(rows):
    questions = [json.loads(line) for line in rows.read_text().splitlines()]
    questions[7]["question"] = "So? " * 1000 + questions[7]["question"]
    rows.write_text("\n".join(map(json.dumps, questions)))
    work = workload(planned_cells(config(rows)), cached=True)
    assert work.prompt_tokens < 200
    assert 160 + 1000 < work.longest < 160 + 1100
    assert work.prompted == pytest.approx(work.generated / 80 * work.prompt_tokens, rel=1e-3)


def test_a_model_need_not_be_there(rows):
    cells = planned_cells(config(rows, models=["nobody/has-this-70b"]))
    assert {cell.subject.model for cell in cells} == {"nobody/has-this-70b"}


def test_a_roofline_is_the_slower_of_arithmetic_and_traffic():
    slow_memory = Machine("m", Hardware(1e15, 1e12, "", 80e9), concurrency=16)
    found = roofline(WORK, SHAPE, slow_memory)
    # 16 GB of weights and 16 sequences of 300 tokens at 2 * 32 * 8 * 128 * 2 bytes, at 1 TB/s.
    step_s = (16e9 + 16 * 300 * 131072) / 1e12
    assert found.tokens_per_s == pytest.approx(16 / step_s)
    assert found.prefill_s == pytest.approx(100_000 * 2 * 8e9 / 1e15)
    assert found.seconds == pytest.approx(1_000_000 / 16 * step_s + found.prefill_s)
    assert "memory traffic" in " ".join(found.assumptions)
    slow_cores = Machine("m", Hardware(1e12, 1e15, "", 80e9), concurrency=16)
    found = roofline(WORK, SHAPE, slow_cores)
    assert found.tokens_per_s == pytest.approx(1e12 / (2 * 8e9 + 4 * 32 * 32 * 128 * 300))
    assert "arithmetic" in " ".join(found.assumptions)


def test_a_cache_that_does_not_fit_cuts_the_batch():
    machine = Machine("H100-SXM", HARDWARE["H100-SXM"], concurrency=1000)
    held = memory(WORK, SHAPE, machine)
    assert held.fits == int((0.9 * 80e9 - 16e9) // (1024 * 131072)) < 1000
    assert held.cache == 1000 * 1024 * 131072
    assert f"only {held.fits} of the 1000" in " ".join(roofline(WORK, SHAPE, machine).assumptions)
    big = Shape(70_000_000_000, SHAPE.attention)
    with pytest.raises(ConfigError, match="do not fit") as told:
        roofline(WORK, big, machine)
    assert "--gpus" in told.value.hint
    four = Machine("H100-SXM", HARDWARE["H100-SXM"], gpus=4)
    assert roofline(WORK, big, four).price(2.0, 4) == pytest.approx(roofline(WORK, big, four).seconds / 3600 * 8)


def test_a_measured_throughput_is_taken_as_it_is():
    assert by_throughput(WORK, 500.0, "given").seconds == 2000
    with pytest.raises(ConfigError, match="above 0"):
        by_throughput(WORK, 0.0, "given")


def test_a_run_without_times_tells_its_lengths():
    rows = [{"calls": 2.0, "completion_tokens": 60.0, "prompt_tokens": 10.0, "cached_tokens": 10.0}] * 3
    assert habits_of(rows, [{"wall_s": None, "tokens_total": 180}]) == Habits(30.0, 10.0, 1 / 6, None)
    with pytest.raises(DataError, match="drew nothing"):
        habits_of([], [])


def test_parameters_are_counted_as_the_weights_are():
    config, counted = read_config(POLICY), count_parameters(POLICY)
    heads, layers = (config["num_attention_heads"] + 2 * config["num_key_value_heads"]) * config["head_dim"], 6
    assert counted is not None
    assert dense_parameters(config) + layers * heads == pytest.approx(counted, rel=0.01)  # its biases are left out
    assert shape_of(config, None).parameters == dense_parameters(config)
    published = {"hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256, "num_hidden_layers": 32,
                 "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False}  # fmt: skip
    assert dense_parameters(published) == 8_030_261_248  # Llama 3 8B, as its model card counts
    with pytest.raises(DataError, match="mixture of experts"):
        dense_parameters({**published, "num_local_experts": 8})
    with pytest.raises(DataError, match="vocab_size"):
        dense_parameters({k: v for k, v in published.items() if k != "vocab_size"})


@pytest.mark.parametrize(
    ("quantised", "bits"),
    [
        (None, 16),
        ({"quant_method": "gptq", "bits": 4}, 4),
        ({"quant_method": "awq", "bits": 4}, 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, 4),
        ({"quant_method": "fp8"}, 8),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}, 4),
    ],
)
def test_quantised_weights_take_their_bits(quantised, bits):
    shape = shape_of({**read_config(POLICY), "quantization_config": quantised}, 1000)
    assert (shape.weight_bytes, shape.kv_bytes) == (1000 * bits // 8, shape_of(read_config(POLICY), 1000).kv_bytes)


@pytest.mark.parametrize(
    "quantised", [{"quant_method": "new"}, {"bits": "4"}, {"bits": 0}, "yes", {"config_groups": [1]}]
)
def test_weights_of_unknown_bits_are_not_planned(quantised):
    with pytest.raises(DataError, match="to how many bits"):
        shape_of({**read_config(POLICY), "quantization_config": quantised}, 1000)
