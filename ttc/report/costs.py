"""What a cell cost, in every unit that its records and what is known of its model allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ttc.core.errors import ConfigError, did_you_mean
from ttc.metrics.compute import HARDWARE, AttentionShape, Counts, kinetics_of_counts

Cell = Mapping[str, Any]
DEFAULT_HARDWARE = "B200"
"""The one that Kinetics was published for, so that numbers stand beside the paper's."""
ANY_MODEL = ""


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Money for a million tokens."""

    prompt: float
    completion: float
    cached: float | None = None
    """Prompt tokens from a cache; None is the price of any prompt token."""

    def of(self, cell: Cell) -> float:
        """Return what the policy's tokens of a cell cost."""
        cached = self.prompt if self.cached is None else self.cached
        paid = cell["prompt_tokens"] * self.prompt + cell["cached_tokens"] * cached
        return float(paid + cell["tokens_total"] * self.completion) / 1e6


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the cost of a model's tokens depends on."""

    parameters: int
    attention: AttentionShape


@dataclass(frozen=True, slots=True)
class Rates:
    """What turns counted tokens into arithmetic, traffic and money. Shapes and prices are by model, ANY_MODEL for all."""

    shapes: Mapping[str, ModelShape] = field(default_factory=dict)
    prices: Mapping[str, TokenPrice] = field(default_factory=dict)
    hardware: str = DEFAULT_HARDWARE
    attention: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By cell: what its tokens attended to, and what was read for it (`ttc.report.aggregate.Attention`)."""

    def price(self, model: str) -> TokenPrice | None:
        """Return a model's price."""
        return self.prices.get(model, self.prices.get(ANY_MODEL))

    def facts(self) -> list[tuple[str, str]]:
        """Return what the axes were computed with, as (name, value)."""
        found = []
        if self.shapes:
            machine = HARDWARE[self.hardware]
            found.append(("Hardware of the equivalent FLOPs",
                          f"{self.hardware}, {machine.intensity:.5g} FLOP a byte ({machine.source})"))  # fmt: skip
        for model, price in self.prices.items():
            cached = "" if price.cached is None else f", {price.cached:g} a million cached ones"
            words = (
                f"{price.prompt:g} a million prompt tokens, {price.completion:g} a million completion tokens{cached}"
            )
            found.append(("Price", f"{model}: {words}" if model else words))
        return found


@dataclass(frozen=True, slots=True)
class Axis:
    """One cost: what it is called, and a cell's total of it, None where that is not known."""

    label: str
    total: Callable[[Cell, Rates], float | None]


def _column(key: str) -> Callable[[Cell, Rates], float | None]:
    def total(cell: Cell, _: Rates) -> float | None:
        value = cell[key]
        return None if value is None else float(value)

    return total


def _all_tokens(cell: Cell, _: Rates) -> float:
    return float(cell["tokens_total"] + cell["prompt_tokens"] + cell["reward_tokens"])


def _equivalent_flops(cell: Cell, rates: Rates) -> float | None:
    shape, attention = rates.shapes.get(cell["model"]), rates.attention.get(cell["cell"])
    if shape is None or attention is None:
        return None
    counts = Counts(cell["tokens_total"], *attention)
    cost = kinetics_of_counts(shape.parameters, shape.attention, counts, HARDWARE[rates.hardware].intensity)
    return float(cost.eflops)


def _price(cell: Cell, rates: Rates) -> float | None:
    price = rates.price(cell["model"])
    return None if price is None else price.of(cell)


AXES: Mapping[str, Axis] = {
    "completion_tokens": Axis("Completion tokens", _column("tokens_total")),
    "all_tokens": Axis("All computed tokens (completion, prompt, reward)", _all_tokens),
    "flops": Axis("FLOPs (2 a parameter and token, reward model included)", _column("flops")),
    "eflops": Axis("Equivalent FLOPs (Kinetics: generation with its cache reads)", _equivalent_flops),
    "kv_token_steps": Axis("KV token-steps of a search", _column("kv_token_steps")),
    "wall_s": Axis("Wall seconds", _column("wall_s")),
    "price": Axis("Price (policy tokens)", _price),
}
"""Every cost that a chart can be drawn in. All are means over problems when they are read by `per_problem`."""


def label(key: str) -> str:
    """Return an axis' title: `FLOPs per problem (2 a parameter and token, ...)`."""
    name, bracket, rest = AXES[key].label.partition(" (")
    return f"{name} per problem{bracket}{rest}"


def per_problem(cell: Cell, rates: Rates) -> dict[str, float]:
    """Return the mean cost of a problem on every axis on which the cell has one."""
    found = {}
    for key, axis in AXES.items():
        total = axis.total(cell, rates)
        if total is not None and math.isfinite(total):
            found[key] = total / max(int(cell["n_problems"]), 1)
    return found


def cost_of(cell: Cell, key: str, rates: Rates) -> float | None:
    """Return the mean cost of a problem on one axis.

    Raises:
        ConfigError: there is no such axis.
    """
    if key not in AXES:
        raise ConfigError(f"there is no cost {key!r}", did_you_mean(key, AXES))
    total = AXES[key].total(cell, rates)
    return None if total is None else total / max(int(cell["n_problems"]), 1)


def rates_of(manifest: Mapping[str, Any]) -> Rates:
    """Return the rates that a run recorded."""
    shapes = {}
    for model, found in (manifest.get("shapes") or {}).items():
        attention = AttentionShape(found["layers"], found["query_heads"], found["kv_heads"], found["head_dim"])
        shapes[model] = ModelShape(found["parameters"], attention)
    given = manifest.get("price_per_mtok")
    return Rates(shapes, {ANY_MODEL: TokenPrice(*given)} if given else {})


def joined_rates(parts: Iterable[tuple[Mapping[str, Any], Iterable[str]]]) -> Rates:
    """Return the rates of several runs, each a manifest and its models; where two disagree on a model, none."""
    shapes: dict[str, ModelShape | None] = {}
    prices: dict[str, TokenPrice | None] = {}
    for manifest, models in parts:
        rates = rates_of(manifest)
        for model in models:
            shape, price = rates.shapes.get(model), rates.price(model)
            shapes[model] = shape if shapes.get(model, shape) == shape else None
            prices[model] = price if prices.get(model, price) == price else None
    return Rates(
        {model: shape for model, shape in shapes.items() if shape is not None},
        {model: price for model, price in prices.items() if price is not None},
    )


def with_options(rates: Rates, hardware: str | None, prices: Mapping[str, TokenPrice]) -> Rates:
    """Return the rates with what a user chose for this report.

    Raises:
        ConfigError: unknown hardware.
    """
    if hardware is not None and hardware not in HARDWARE:
        raise ConfigError(f"unknown hardware {hardware!r}", did_you_mean(hardware, HARDWARE))
    return replace(rates, hardware=hardware or rates.hardware, prices=prices or rates.prices)


def parse_prices(words: Sequence[str]) -> dict[str, TokenPrice]:
    """Read `IN,OUT` or `IN,OUT,CACHED`, each with `MODEL=` in front of it or without, for all models.

    Raises:
        ConfigError: something else.
    """
    found = {}
    for word in words:
        model, equals, text = word.rpartition("=")
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (2, 3) or any(not (0 <= number < math.inf) for number in numbers):
            raise ConfigError(f"--price-per-mtok {word}: expected IN,OUT, for example 0.10,0.40")
        found[model if equals else ANY_MODEL] = TokenPrice(*numbers)
    return found
