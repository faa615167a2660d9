"""What every allocator returns, and the rule that decides whether anyone has to abstain."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from ttc.core.curves import Curves, FloatArray, IntArray
from ttc.core.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """A split of a total over n prompts. Arrays are (n,), in the order of the curves."""

    grants: IntArray
    """Whole tokens; their sum is at most `total_tokens`."""
    choice: IntArray
    """The number of the option in its prompt's curve, -1 for abstained."""
    predicted_values: FloatArray
    predicted_tokens: FloatArray
    """Expected spend, at most the grant."""
    total_tokens: int
    price: float | None = None
    """The shadow price: value a further token would buy, 0 where tokens are left over; None where it is not known."""
    bound: float | None = None
    """No split of this total is worth more; None where it is not known."""
    member: IntArray | None = None
    """Which of the joined strategies or models each prompt is given to, None where there is one."""
    counts: IntArray | None = None
    """How many samples of each joined model one round of every prompt's mix holds, None where nothing is mixed."""

    @property
    def value(self) -> float:
        """Return the expected score, summed over prompts."""
        return float(self.predicted_values.sum())

    @property
    def gap(self) -> float | None:
        """Return how far the value may be from the best, as a share of the bound."""
        if self.bound is None:
            return None
        return max(0.0, self.bound - self.value) / max(abs(self.bound), 1e-12)


def allocation(
    curves: Curves, total_tokens: int, choice: IntArray, price: float | None = None, bound: float | None = None
) -> Allocation:
    """Grant every prompt the cost of its chosen option."""
    taken = choice >= 0
    flat = curves.offsets[:-1] + np.maximum(choice, 0)
    grants = np.where(taken, curves.costs[flat], 0)
    spend = grants.astype(np.float64) if curves.tokens is None else np.where(taken, curves.tokens[flat], 0.0)
    values = np.where(taken, curves.values[flat], 0.0)
    # Sums in another order may round differently: a bound is never below what was reached.
    bound = None if bound is None else max(bound, float(values.sum()))
    return Allocation(grants, choice, values, spend, total_tokens, price, bound)


def blind(grants: IntArray, total_tokens: int) -> Allocation:
    """Describe grants that were made without any prediction."""
    unknown = np.full(grants.size, np.nan)
    return Allocation(grants, np.full(grants.size, -1), unknown, unknown, total_tokens)


def at_grants(curves: Curves, grants: IntArray, total_tokens: int) -> Allocation:
    """Describe grants that were made without looking at the curves: what they buy according to them.

    Raises:
        ConfigError: the grants sum to more than the total.
    """
    if grants.sum() > total(total_tokens):
        raise ConfigError(f"grants sum to {grants.sum()} tokens, the total is {total_tokens}")
    bought = allocation(curves, total_tokens, curves.affordable(grants))
    spend = np.minimum(bought.predicted_tokens, grants)
    return Allocation(grants, bought.choice, bought.predicted_values, spend, total_tokens)


def total(tokens: int) -> int:
    """Return a total as an int.

    Raises:
        ConfigError: it is negative or no whole number.
    """
    if not isinstance(tokens, Integral) or tokens < 0:
        raise ConfigError(f"a total is a whole number of tokens, at least 0, found {tokens!r}")
    return int(tokens)


def admitted(curves: Curves, total_tokens: int) -> tuple[Curves, int]:
    """Return the curves to solve, and by how much their option numbers are shifted.

    Where the total pays for everyone's cheapest option, nobody abstains. Below that an option of no cost and no value
    is put in front of each prompt's own (shift 1), and the solver decides who goes without.
    """
    if int(curves.cheapest().sum()) <= total(total_tokens):
        return curves, 0
    return curves.with_abstention(), 1
