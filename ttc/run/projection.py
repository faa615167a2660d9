"""What a sweep will take on a machine: tokens, seconds, memory and money, before anything is started.

Tokens come from the plan: budgets are a hard ceiling, and how many are expected follows from the length of a sample. Seconds
come from a throughput that was measured, or from a roofline: the larger of the time for arithmetic and the time for memory
traffic, which no engine beats and none reaches. A pure function of what is stated; `assumptions` says what was.

Not covered: a reward model's time, the start of an engine, grading, and times without enough requests to fill the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttc.core.errors import ConfigError, DataError
from ttc.core.protocols import requirements
from ttc.core.specs import SweepConfig
from ttc.engines.planned import PlannedEngine, PlannedReward
from ttc.metrics.compute import AttentionShape, Hardware, attention_shape
from ttc.run.bench import make_benches
from ttc.run.forecasting import teller
from ttc.run.plan import CHARACTERS_A_TOKEN, Cell, make_cells

BYTES_PER_ELEMENT = 2
"""Weights and cache in bfloat16 or float16: what vLLM makes of all that is not quantised."""
MEMORY_SHARE = 0.9
"""Of a GPU's memory that vLLM takes (its default gpu_memory_utilization)."""
CONCURRENCY = 256
"""Requests decoded at once (vLLM's default max_num_seqs for smaller GPUs and CPUs)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's tokens cost depends on."""

    parameters: int
    attention: AttentionShape
    weight_bits: int = 8 * BYTES_PER_ELEMENT

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights."""
        return self.parameters * self.weight_bits // 8

    @property
    def kv_bytes(self) -> int:
        """Return the bytes that one token keeps in the cache."""
        return self.attention.kv_elements * BYTES_PER_ELEMENT


@dataclass(frozen=True, slots=True)
class Habits:
    """What a finished run tells of its samples."""

    sample_tokens: float
    """Mean length of a call's completion."""
    prompt_tokens: float
    """Mean length of a call's prompt, cached or not."""
    prefilled: float
    """Prompt tokens that were computed, for each completion token."""
    tokens_per_s: float | None
    """Completion tokens a second, None where the run has no times."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The tokens of a sweep, over all its cells."""

    ceiling: int
    """No run can charge more."""
    charged: int
    """Expected charge: the smaller of the grant and what the samples come to."""
    generated: int
    """Expected to be generated: samples that cells share are drawn once."""
    prefilled: int
    """Prompt tokens computed; a problem's further samples find them in the prefix cache."""
    prompt_tokens: float
    """Of one call."""
    sample_tokens: float
    longest: int
    """Most tokens of one sequence: the longest prompt, and a completion as long as its cap."""
    assumptions: tuple[str, ...]

    @property
    def prompted(self) -> int:
        """Return the prompt tokens of all calls, computed or not: what a server prices."""
        return round(self.generated / max(1.0, self.sample_tokens) * self.prompt_tokens)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a sweep shall run on."""

    name: str
    hardware: Hardware
    gpus: int = 1
    concurrency: int = CONCURRENCY


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: of the weights, of the cache at the stated concurrency, and of what there is."""

    weights: int
    cache: int
    """Every sequence in flight at its longest."""
    available: int
    fits: int
    """Sequences of the longest kind that fit at once."""


@dataclass(frozen=True, slots=True)
class Projection:
    """What a sweep takes."""

    seconds: float
    """Of the whole machine."""
    tokens_per_s: float
    """Completion tokens while decoding."""
    prefill_s: float
    """Part of `seconds`; 0 where the throughput has it in it."""
    assumptions: tuple[str, ...]

    def price(self, per_hour: float, gpus: int = 1) -> float:
        """Return the money at a price of one accelerator's hour."""
        return self.seconds / 3600 * gpus * per_hour


def of_config(config: SweepConfig, cells: Sequence[Cell], habits: Habits | None = None) -> Workload:
    """Count the tokens of a sweep's cells; whether they share samples is the configuration's to say."""
    return workload(cells, cached=config.cache != "off" and not config.overlap, habits=habits)


def problems_of(cells: Sequence[Cell]) -> int:
    """Return the problems of all tasks on all models."""
    return sum(len(s.problem_ids) for s in {id(cell.subject): cell.subject for cell in cells}.values())


def workload(cells: Sequence[Cell], *, cached: bool, habits: Habits | None = None) -> Workload:
    """Count a sweep's tokens; `cached` says whether cells share their samples.

    Without `habits` a sample is taken to be half its cap long, and a prompt a quarter of its characters.
    """
    charged = {id(cell): _charged(cell, habits) for cell in cells}
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        # A sample's seed does not know its strategy, so whole answers are shared; what grows prefixes draws its own.
        grows = bool(requirements(cell.strategy.instance) & {"extends", "temperature"})
        own = (cell.strategy.name, cell.allocator.name, cell.budget) if grows else ()
        groups.setdefault((id(cell.subject), *(own if cached else (id(cell),))), []).append(cell)
    generated = sum(max(charged[id(cell)] for cell in group) for group in groups.values())
    subjects = {id(cell.subject): cell.subject for cell in cells}.values()
    problems = max(1, problems_of(cells))
    prompt = sum(len(s.problem_ids) * s.prompt_characters for s in subjects) / problems / CHARACTERS_A_TOKEN
    cap = max((s.sampling.max_tokens for s in subjects), default=0)
    said: tuple[str, ...]
    if habits is None:
        sample = cap / 2
        prefilled = sum(len(group[0].subject.problem_ids) for group in groups.values()) * prompt
        said = (
            f"a sample has {sample:g} tokens: half its cap (--from-run takes a finished run's)",
            f"a prompt has {prompt:.0f} tokens, at {CHARACTERS_A_TOKEN} characters a token, and is computed once a problem",
        )
    else:
        sample, prompt, prefilled = habits.sample_tokens, habits.prompt_tokens, habits.prefilled * generated
        said = (
            f"a call writes {sample:.1f} tokens and reads {prompt:.1f}, as in the given run;"
            f" {habits.prefilled:.2f} prompt tokens are computed for each written one",
        )
    shared = "cells share their samples (the generation cache is on)" if cached else "every cell draws its own samples"
    return Workload(
        ceiling=sum(cell.total_tokens for cell in cells),
        charged=round(sum(charged.values())),
        generated=round(generated),
        prefilled=round(prefilled),
        prompt_tokens=prompt,
        sample_tokens=sample,
        longest=max(
            (math.ceil(max(prompt, s.longest_prompt / CHARACTERS_A_TOKEN)) + s.sampling.max_tokens for s in subjects),
            default=0,
        ),
        assumptions=(*said, shared),
    )


def _charged(cell: Cell, habits: Habits | None) -> float:
    """Return what a cell is expected to spend: its total, or less where the strategy draws few samples."""
    cap = cell.subject.sampling.max_tokens
    sample = min(cap, habits.sample_tokens) if habits is not None else cap / 2
    n = 1 if cell.strategy.spec.name == "greedy" else cell.strategy.params.get("n")
    a_problem = min(cell.budget, n * sample) if isinstance(n, int) else cell.budget
    return a_problem * len(cell.subject.problem_ids)


def by_throughput(work: Workload, tokens_per_s: float, source: str) -> Projection:
    """Return the time at a measured number of completion tokens a second, prefill included in it."""
    if not 0 < tokens_per_s < math.inf:
        raise ConfigError(f"a throughput must be above 0 and finite, not {tokens_per_s:g}")
    said = f"{tokens_per_s:,.0f} completion tokens a second ({source}), whatever the strategy and the concurrency"
    return Projection(work.generated / tokens_per_s, tokens_per_s, 0.0, (*work.assumptions, said))


def memory(work: Workload, shape: Shape, machine: Machine) -> Memory:
    """Return the memory of weights and cache on a machine, all in bytes.

    Raises:
        ConfigError: the weights alone do not fit, or not one sequence beside them.
    """
    available = int(machine.hardware.memory * machine.gpus * MEMORY_SHARE)
    sequence = shape.kv_bytes * work.longest
    fits = (available - shape.weight_bytes) // max(1, sequence)
    if fits < 1:
        raise ConfigError(
            f"{shape.weight_bytes / 1e9:,.1f} GB of weights and one sequence of {work.longest:,} tokens do not fit the"
            f" {available / 1e9:,.1f} GB that vLLM takes of {machine.gpus} x {machine.name}",
            "give more --gpus, or --hardware with more memory",
        )
    return Memory(shape.weight_bytes, sequence * machine.concurrency, available, fits)


def roofline(work: Workload, shape: Shape, machine: Machine) -> Projection:
    """Return the least time that arithmetic and memory traffic allow.

    A decode step of B sequences computes 2 * parameters * B + 4 * layers * heads * head_dim * L * B FLOPs at a mean
    length L, and reads all weights and B * L tokens of the cache; it takes the longer of the two. Prefill is arithmetic.

    Source: Williams et al. 2009 (doi 10.1145/1498765.1498785); counts as in `ttc.metrics.compute`.

    Raises:
        ConfigError: the model does not fit.
    """
    held = memory(work, shape, machine)
    batch = min(machine.concurrency, held.fits)
    length = work.prompt_tokens + work.sample_tokens / 2
    a = shape.attention
    computed = batch * (2 * shape.parameters + 4 * a.layers * a.query_heads * a.head_dim * length)
    moved = shape.weight_bytes + batch * length * shape.kv_bytes
    flops, bandwidth = machine.hardware.peak_flops * machine.gpus, machine.hardware.bandwidth * machine.gpus
    step_s = max(computed / flops, moved / bandwidth)
    tokens_per_s = batch / step_s
    prefill_s = work.prefilled * 2 * shape.parameters / flops
    bound = "memory traffic" if moved / bandwidth > computed / flops else "arithmetic"
    said = [
        f"a roofline: peak FLOP/s and bandwidth of {machine.gpus} x {machine.name} ({machine.hardware.source}), bound by"
        f" {bound}: a floor, real engines take longer; give --throughput where it was measured",
        f"{batch} sequences of {length:.0f} tokens on average are decoded at once",
        f"weights of {shape.weight_bits} bits, cache of {BYTES_PER_ELEMENT} bytes a number; vLLM takes {MEMORY_SHARE:.0%} of the memory",
    ]
    if batch < machine.concurrency:
        said.append(f"only {batch} of the {machine.concurrency} sequences asked for fit at their longest")
    if machine.gpus > 1:
        said.append("several accelerators are as fast as one that many times larger")
    seconds = work.generated / tokens_per_s + prefill_s
    return Projection(seconds, tokens_per_s, prefill_s, (*work.assumptions, *said))


def habits_of(records: Iterable[Mapping[str, Any]], cells: Iterable[Mapping[str, Any]]) -> Habits:
    """Return what the tables of a finished run tell.

    Raises:
        DataError: nothing was drawn in it.
    """
    keys = ("calls", "completion_tokens", "prompt_tokens", "cached_tokens")
    calls = written = computed = cached = 0.0
    for row in records:
        calls, written, computed, cached = (
            total + (row[key] or 0) for total, key in zip((calls, written, computed, cached), keys, strict=True)
        )
    if not calls or not written:
        raise DataError("the run drew nothing that a plan could go by")
    timed = [cell for cell in cells if cell["wall_s"]]
    seconds = sum(cell["wall_s"] for cell in timed)
    speed = sum(cell["tokens_total"] for cell in timed) / seconds if seconds else None
    return Habits(written / calls, (computed + cached) / calls, computed / written, speed)


def shape_of(config: Mapping[str, Any], parameters: int | None) -> Shape:
    """Return a model's shape by its `config.json`; None counts the parameters by it.

    Raises:
        DataError: a key is missing, it is a mixture of experts whose parameters were not counted, or it is quantised
            and does not tell to how many bits.
    """
    counted = dense_parameters(config) if parameters is None else parameters
    return Shape(counted, attention_shape(config), _weight_bits(config.get("quantization_config")))


def _weight_bits(quantised: Any) -> int:
    """Return the bits of a weight by the keys that the quantisers write; scales and what is left whole are not counted."""
    if not quantised:
        return 8 * BYTES_PER_ELEMENT
    told = quantised if isinstance(quantised, dict) else {}
    groups = told.get("config_groups")
    first: Any = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    bits = told.get("bits") or (weights.get("num_bits") if isinstance(weights, dict) else None)
    if bits is None:
        eight = told.get("load_in_8bit") or told.get("quant_method") in ("fp8", "fbgemm_fp8")
        bits = 4 if told.get("load_in_4bit") or told.get("quant_method") == "mxfp4" else 8 if eight else None
    if not isinstance(bits, int) or not 1 <= bits <= 32:
        raise DataError(
            "the model is quantised, and its config.json does not tell to how many bits",
            "give --throughput instead of --hardware",
        )
    return bits


def dense_parameters(config: Mapping[str, Any]) -> int:
    """Return the parameters of a dense decoder of the Llama family: embeddings, attention, gated MLP, norms.

    Biases are left out. Raises DataError where a key is missing, or for a mixture of experts.
    """
    text = config.get("text_config", config)
    if any(text.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise DataError(
            "the model is a mixture of experts: its config.json does not tell its parameters",
            "give the folder with its safetensors",
        )
    shape = attention_shape(config)
    try:
        hidden, inner, vocabulary = (int(text[key]) for key in ("hidden_size", "intermediate_size", "vocab_size"))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the model's config.json does not tell its size: {error} is missing") from error
    attention = hidden * shape.head_dim * (2 * shape.query_heads + 2 * shape.kv_heads)
    layer = attention + 3 * hidden * inner + 2 * hidden
    tables = 1 if text.get("tie_word_embeddings", config.get("tie_word_embeddings", True)) else 2
    return shape.layers * layer + tables * vocabulary * hidden + hidden


def planned_cells(config: SweepConfig) -> list[Cell]:
    """Return the cells of a sweep without looking for its models.

    Raises:
        ConfigError, DataError: the task cannot be loaded, or a part of the configuration does not fit.
    """
    if config.bank is not None:
        raise ConfigError("a bank's samples are recorded: replaying them needs no model", "plan a sweep of a task")
    reward = PlannedReward(config.prm) if config.prm not in (None, "off") else None
    benches, least = make_benches(config, PlannedEngine, reward)
    return make_cells(config, [bench.subject for bench in benches], least, teller(config, benches))
