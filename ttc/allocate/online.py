"""Prompts that arrive one by one against a fixed total: each is decided for good before the next is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttc.allocate.envelope import Envelope, envelope
from ttc.allocate.thresholds import Threshold
from ttc.core.allocation import Allocation, admitted, allocation, total
from ttc.core.curves import Curves, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Stream:
    """Where a stream stands: a value, every step gives the next one.

    `capacity` is what is left of the total when everyone's cheapest option is set aside, `horizon` the number of
    prompts expected.
    """

    threshold: Threshold
    capacity: int
    horizon: int
    spent: int = 0
    arrived: int = 0

    def offer(self, slopes: Sequence[float], steps: Sequence[int]) -> tuple[int, Stream]:
        """Decide on one prompt's upgrades, steepest first; return how many are bought, and the stream after it.

        `slopes` is value per token, `steps` tokens, as in `Envelope`. Their cost counts as spent until `settle`.
        """
        bought, spent = 0, self.spent
        for slope, step in zip(slopes, steps, strict=True):
            used = spent / self.capacity if self.capacity else 1.0
            if spent + step > self.capacity or self.threshold.density(slope) < self.threshold.price(used):
                break
            bought, spent = bought + 1, spent + step
        pace = (self.capacity - self.spent) / max(1, self.horizon - self.arrived)
        threshold = self.threshold.after(spent - self.spent, pace)
        return bought, replace(self, threshold=threshold, spent=spent, arrived=self.arrived + 1)

    def settle(self, returned: int) -> Stream:
        """Return the stream with the tokens that an earlier prompt was granted and did not need."""
        return replace(self, spent=self.spent - returned)


def streaming(curves: Curves, total_tokens: int, threshold: Threshold, order: IntArray | None = None) -> Allocation:
    """Take prompts one by one, in `order` (n,) or as they come, and buy the upgrades that meet the threshold's price.

    Everyone's cheapest option is set aside first. Upgrades should be small beside the total, at most about 1 % of it:
    the guarantees of the thresholds suppose so; the total is held in any case. Nothing is returned by early
    finishers here; a run that has some uses `Stream`.

    Raises:
        ConfigError: a negative total.
    """
    offered, shift = admitted(curves, total_tokens)
    hull = envelope(offered)
    stream = Stream(threshold, total(total_tokens) - int(offered.cheapest().sum()), len(curves))
    levels = np.zeros(len(curves), dtype=np.int64)
    for prompt in range(len(curves)) if order is None else order.tolist():
        slopes, steps = _upgrades(hull, prompt)
        levels[prompt], stream = stream.offer(slopes.tolist(), steps.tolist())
    choice = hull.at(levels) - offered.offsets[:-1] - shift
    return allocation(curves, int(total_tokens), choice, stream.threshold.price(_share(stream)))


def _upgrades(hull: Envelope, prompt: int) -> tuple[FloatArray, IntArray]:
    first = int(hull.offsets[prompt]) - prompt
    last = int(hull.offsets[prompt + 1]) - prompt - 1
    return hull.slopes[first:last], hull.steps[first:last]


def _share(stream: Stream) -> float:
    return stream.spent / stream.capacity if stream.capacity else 1.0
