"""What a cell cost on every axis, against sums over single tokens."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_runs import cell, end, record, run_of

from ttc.core.errors import ConfigError
from ttc.metrics.compute import HARDWARE, AttentionShape, kinetics_cost
from ttc.report.build import Options, build_report, content_of
from ttc.report.costs import (
    ANY_MODEL,
    AXES,
    TokenPrice,
    cost_of,
    joined_rates,
    label,
    parse_prices,
    per_problem,
    rates_of,
    with_options,
)
from ttc.report.merge import load, merge

SHAPE = {"parameters": 8_190_000_000, "layers": 36, "query_heads": 32, "kv_heads": 8, "head_dim": 128}
MANIFEST = {"shapes": {"tiny": SHAPE}, "price_per_mtok": [0.5, 2.0]}


def counted(prompt, lengths):
    """Return what a run counts of traces that share a prompt, one token at a time."""
    attended = sum(prompt + t for length in lengths for t in range(length))
    read = sum(prompt + t * sum(length > t for length in lengths) for t in range(max(lengths)))
    return {"attended_tokens": float(attended), "kv_read_tokens": float(read)}


def row_of(*traces, **described):
    """Return the cell of problems that each drew traces from one prompt: pairs of prompt and lengths."""
    rows = [
        record("a", str(i), tokens=sum(lengths), prompt_tokens=prompt, cached_tokens=prompt * (len(lengths) - 1),
               reward_tokens=30, **counted(prompt, lengths))
        for i, (prompt, lengths) in enumerate(traces)
    ]  # fmt: skip
    return [cell("a", n_problems=len(rows), **described), *rows, end("a", 12.0)]


def cells_of(path, lines, **manifest):
    """Return the cells of a run and its rates."""
    content = content_of(run_of(path, lines, **manifest))
    return content.tables.cells.to_pylist(), content.rates


TRACES = ((200, [300, 40, 1]), (50, [500, 500]))


def test_every_axis_by_hand(tmp_path):
    lines = row_of(*TRACES, parameters=SHAPE["parameters"], reward_parameters=1000)
    (row,), rates = cells_of(tmp_path, lines, **MANIFEST)
    costs = per_problem(row, rates)
    tokens, prompts, cached = 1341, 250, 450
    assert costs["completion_tokens"] == tokens / 2
    assert costs["all_tokens"] == (tokens + prompts + 60) / 2
    assert costs["flops"] == (2 * SHAPE["parameters"] * (tokens + prompts) + 2 * 1000 * 60) / 2
    assert costs["price"] == pytest.approx(((prompts + cached) * 0.5 + tokens * 2) / 2e6)
    assert costs["wall_s"] == 6.0
    assert "kv_token_steps" not in costs  # no search recorded a tree


def test_equivalent_flops_are_kinetics_own_per_trace(tmp_path):
    (row,), rates = cells_of(tmp_path, row_of(*TRACES), **MANIFEST)
    shape = AttentionShape(36, 32, 8, 128)
    for hardware in ("B200", "H100-SXM"):
        chosen = with_options(rates, hardware, {})
        exact = sum(
            float(kinetics_cost(SHAPE["parameters"], shape, prompt, lengths, HARDWARE[hardware].intensity).eflops)
            for prompt, lengths in TRACES
        )
        # The published form takes L^2 / 2 for the sum of 0 to L - 1.
        assert cost_of(row, "eflops", chosen) == pytest.approx(exact / 2, rel=2e-3)
    longest = [(200, [400, 400]), (200, [1, 799])]
    found = [cells_of(tmp_path / str(i), row_of(traces), **MANIFEST) for i, traces in enumerate(longest)]
    equal, unequal = (per_problem(row, rates) for (row,), rates in found)
    # As many tokens, and 1.3 times the cost: what one trace attends to grows with its square.
    assert unequal["eflops"] > 1.3 * equal["eflops"]
    assert unequal["completion_tokens"] == equal["completion_tokens"]


@pytest.mark.parametrize("lost", ["shapes", "price_per_mtok"])
def test_what_is_not_known_is_no_axis(tmp_path, lost):
    manifest = {key: value for key, value in MANIFEST.items() if key != lost}
    (row,), rates = cells_of(tmp_path, row_of(*TRACES), **manifest)
    costs = per_problem(row, rates)
    assert {"shapes": "eflops", "price_per_mtok": "price"}[lost] not in costs
    assert "flops" not in costs  # no parameter count
    assert "eflops" not in per_problem(row, rates_of(MANIFEST))  # what its tokens attended to was not counted


def test_cached_tokens_may_have_a_price_of_their_own():
    row = {"prompt_tokens": 100.0, "cached_tokens": 900.0, "tokens_total": 10.0}
    assert TokenPrice(1.0, 5.0).of(row) == pytest.approx(1050e-6)
    assert TokenPrice(1.0, 5.0, 0.1).of(row) == pytest.approx(240e-6)


def test_prices_are_read_by_model_and_for_all():
    found = parse_prices(["1,2", "a=b=3,4,0.5"])
    assert found == {ANY_MODEL: TokenPrice(1, 2), "a=b": TokenPrice(3, 4, 0.5)}
    for wrong in ("1", "1,2,3,4", "x,1", "-1,2", "1,inf", "nan,1", ""):
        with pytest.raises(ConfigError, match="expected IN,OUT"):
            parse_prices([wrong])


def test_unknown_hardware_and_axes_are_told_the_nearest():
    with pytest.raises(ConfigError) as caught:
        with_options(rates_of({}), "H100", {})
    assert "H100-SXM" in caught.value.hint
    with pytest.raises(ConfigError) as caught:
        cost_of({}, "flop", rates_of({}))
    assert "flops" in caught.value.hint


def test_runs_that_disagree_on_a_model_have_no_rate_for_it():
    other = {"shapes": {"tiny": {**SHAPE, "layers": 2}, "small": SHAPE}, "price_per_mtok": [0.5, 2.0]}
    rates = joined_rates([(MANIFEST, {"tiny"}), (other, {"tiny", "small"})])
    assert list(rates.shapes) == ["small"]
    assert rates.prices == {"tiny": TokenPrice(0.5, 2.0), "small": TokenPrice(0.5, 2.0)}


def test_the_page_offers_what_was_measured_and_says_how(tmp_path):
    run = run_of(tmp_path / "a", row_of(*TRACES, parameters=7), **MANIFEST)
    report = build_report(run, options=Options(hardware="L40S", prices=parse_prices(["tiny=10,20"])))
    text = report.html.read_text()
    for shown in ("Equivalent FLOPs", "L40S, 419.0", "NVIDIA L40S data sheet", "tiny: 10 a million prompt tokens"):
        assert shown in text
    rows = {r["name"]: r["value"] for r in pq.read_table(report.numbers).to_pylist() if r["table"] == "curves"}
    assert rows["price"] == pytest.approx((700 * 10 + 1341 * 20) / 2e6)
    assert set(rows) == {"budget", "accuracy", "n", *AXES} - {"kv_token_steps", "flops"}
    merged = merge(load([run]))
    assert merged.rates.price("tiny") == TokenPrice(0.5, 2.0)
    assert merged.rates.shapes["tiny"].attention.layers == 36
    assert set(merged.rates.attention) == {"a"}


def test_seeds_that_are_averaged_average_what_they_cost(tmp_path):
    runs = []
    for seed, traces in enumerate((((200, [400, 400]),), ((200, [100, 200]),))):
        lines = row_of(*traces, seed=seed)
        for line in lines:
            line["cell"] = f"seed{seed}"
        runs.append(run_of(tmp_path / str(seed), lines, **MANIFEST))
    alone = [per_problem(c.tables.cells.to_pylist()[0], c.rates)["eflops"] for c in map(content_of, runs)]
    together = merge(load(runs))
    (row,) = together.tables.cells.to_pylist()
    assert per_problem(row, together.rates)["eflops"] == pytest.approx(sum(alone) / 2)


def test_axes_are_named_per_problem():
    assert label("completion_tokens") == "Completion tokens per problem"
    assert label("flops").startswith("FLOPs per problem (2 a parameter")
    assert np.isfinite([machine.intensity for machine in HARDWARE.values()]).all()
    assert all(machine.source for machine in HARDWARE.values())
