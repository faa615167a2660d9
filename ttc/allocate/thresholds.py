"""Prices that prompts arriving one by one have to meet: time-fair thresholds and dual descent.

Setting of the online knapsack: upgrades arrive with a gain per token (their density) in [low, high], each small beside
the capacity, and are bought or refused for good. The competitive ratio is the worst case of optimum / achieved.
Source of the thresholds: Lechowicz et al. 2023 (arXiv 2305.13293).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ttc.allocate.envelope import envelope
from ttc.allocate.greedy import critical_price
from ttc.core.allocation import admitted, total
from ttc.core.curves import Curves
from ttc.core.errors import ConfigError


class Threshold(Protocol):
    """What an upgrade must gain per token. Immutable: learning from an arrival gives another one."""

    def price(self, used: float) -> float:
        """Return the least accepted density when the share `used` of the capacity is spent."""

    def density(self, slope: float) -> float:
        """Return the density that an upgrade of this slope counts as."""

    def after(self, spent: int, target: float) -> Threshold:
        """Return the threshold for the next arrival: this one spent `spent`, an even pace would be `target` tokens."""


@dataclass(frozen=True, slots=True)
class _Bounded:
    """Densities lie in [low, high]; what is observed outside counts as the nearest bound."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ConfigError(f"densities need 0 < low <= high, found low {self.low} and high {self.high}")

    def density(self, slope: float) -> float:
        """Return the slope, clipped."""
        return min(max(slope, self.low), self.high)


@dataclass(frozen=True, slots=True)
class ExtendedConstant(_Bounded):
    """ECT: accept everything until the share `fair` of the capacity is spent, then ask for ever more.

    On that share acceptance depends on the density alone, not on the time of arrival. `fair` lies in
    [1 / (1 + ln(high / low)), 1); the competitive ratio is `ect_beta`.
    """

    fair: float

    def price(self, used: float) -> float:
        """Return low, from `fair` on high * exp(beta * (used - 1))."""
        if used < self.fair:
            return self.low
        return self.high * math.exp(ect_beta(self.high / self.low, self.fair) * (used - 1))

    def after(self, spent: int, target: float) -> ExtendedConstant:
        """Return itself: the price depends on what is spent alone."""
        return self


@dataclass(frozen=True, slots=True)
class PredictedPrice(_Bounded):
    """LA-ECT: a constant price for the share `trust` of the capacity, where `critical` was predicted to be right.

    `critical` is the shadow price of like traffic, counted like a density. Whatever it is, the competitive ratio is at most
    (1 + ln(high / low)) / (1 - trust); the better it is, the more a large `trust` gains.
    """

    critical: float
    trust: float = 0.5

    def __post_init__(self) -> None:
        _Bounded.__post_init__(self)  # a dataclass with slots is another class, which plain `super()` misses
        if not 0 <= self.trust <= 1:
            raise ConfigError(f"trust lies between 0 and 1, found {self.trust}")

    def price(self, used: float) -> float:
        """Return a steep start, `critical` for a stretch of length `trust`, then a steep end."""
        critical = self.density(self.critical)
        if self.trust == 1:
            return critical
        start = self._steep(used / (1 - self.trust))
        return start if start < critical else max(self._steep((used - self.trust) / (1 - self.trust)), critical)

    def _steep(self, used: float) -> float:
        """Return (high * e / low)^used * low / e, at most high."""
        low, high = math.log(self.low), math.log(self.high)
        return math.exp(min(used * (high - low + 1) + low - 1, high))

    def after(self, spent: int, target: float) -> PredictedPrice:
        """Return itself: the price depends on what is spent alone."""
        return self


@dataclass(frozen=True, slots=True)
class DualDescent:
    """Raise the price after arrivals that spend more than their share, lower it after others.

    Simpler than a threshold and usually better where the number of arrivals is known and they are alike; no
    guarantee against an adversary.
    """

    start: float
    rate: float = 0.05

    def __post_init__(self) -> None:
        if not (self.start > 0 and self.rate > 0):
            raise ConfigError(f"dual descent needs a positive price and rate, found {self.start} and {self.rate}")

    def price(self, used: float) -> float:
        """Return the current price."""
        return self.start

    def density(self, slope: float) -> float:
        """Return the slope."""
        return slope

    def after(self, spent: int, target: float) -> DualDescent:
        """Return it at a price of price * exp(rate * (spent / target - 1))."""
        pace = spent / target if target > 0 else 1.0
        # One large arrival may not move the price by more than e: the pace after it corrects the rest.
        return replace(self, start=self.start * math.exp(min(1.0, self.rate * (pace - 1))))


def ect_beta(ratio: float, fair: float) -> float:
    """Return beta of ECT, which is its competitive ratio; `ratio` is high / low.

    beta = W0(ratio * (1 - fair) / fair) / (1 - fair), for `fair` in [1 / (1 + ln ratio), 1).
    """
    from scipy.special import lambertw

    least = 1 / (1 + math.log(ratio))
    if not least - 1e-6 <= fair < 1:
        raise ConfigError(f"the fair share lies between {least:.6f} and 1, found {fair}")
    return float(lambertw(ratio * (1 - fair) / fair).real) / (1 - fair)


def baseline_ratio(ratio: float, fair: float) -> float:
    """Return the competitive ratio of a constant threshold on the share `fair` with the classical one after it."""
    log = math.log(ratio)
    shift = (fair * log + fair - 1) / log
    return ratio * (1 + log) / (fair * (1 + log) + (ratio - 1) * (1 - shift))


def calibrated(curves: Curves, total_tokens: int, trust: float = 0.5) -> PredictedPrice:
    """Return the threshold that like traffic suggests: curves of other prompts, with a total at the same pace.

    low and high are the 5th and 95th percentile of the slopes of their upgrades, `critical` is their shadow price.
    """
    offered, _ = admitted(curves, total_tokens)
    hull = envelope(offered)
    if not hull.slopes.size:
        return PredictedPrice(1.0, 1.0, 0.0, trust)
    price, _ = critical_price(hull.slopes, hull.steps, total(total_tokens) - int(offered.cheapest().sum()))
    low, high = np.quantile(hull.slopes, [0.05, 0.95])
    return PredictedPrice(float(low), float(high), price, trust)
