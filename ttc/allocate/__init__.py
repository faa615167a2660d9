"""Split one token budget over problems: pure functions of curves and costs.

from ttc.allocate import Curves, knapsack
curves = Curves.from_success(rates=[0.02, 0.3, 0.9], sample_tokens=120, samples=range(1, 17))
grants = knapsack(curves, total_tokens=2000).grants
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttc.allocate.baselines import equal_grants, random_grants
    from ttc.allocate.binned import BinnedPolicy, fit_bins
    from ttc.allocate.difficulty import ComputeOptimal, compute_optimal, difficulty_bins
    from ttc.allocate.effort import effort_grants, shared_effort
    from ttc.allocate.exact import knapsack_dp, knapsack_exact
    from ttc.allocate.greedy import knapsack, shadow_price
    from ttc.allocate.mixture import Mix, expected_coverage, mixed, unbiased_coverage
    from ttc.allocate.online import Stream, streaming
    from ttc.allocate.routing import preference, route
    from ttc.allocate.saturation import Saturation, fit_saturation, saturation_point, saturation_points
    from ttc.allocate.thresholds import DualDescent, ExtendedConstant, PredictedPrice, calibrated
    from ttc.core.allocation import Allocation, at_grants
    from ttc.core.closed_forms import coverage, informativeness, majority, smoothed_rates, success_from_nll
    from ttc.core.curves import Curves, joined, origin, sample_costs

__all__ = [
    "Allocation",
    "BinnedPolicy",
    "ComputeOptimal",
    "Curves",
    "DualDescent",
    "ExtendedConstant",
    "Mix",
    "PredictedPrice",
    "Saturation",
    "Stream",
    "at_grants",
    "calibrated",
    "compute_optimal",
    "coverage",
    "difficulty_bins",
    "effort_grants",
    "equal_grants",
    "expected_coverage",
    "fit_bins",
    "fit_saturation",
    "informativeness",
    "joined",
    "knapsack",
    "knapsack_dp",
    "knapsack_exact",
    "majority",
    "mixed",
    "origin",
    "preference",
    "random_grants",
    "route",
    "sample_costs",
    "saturation_point",
    "saturation_points",
    "shadow_price",
    "shared_effort",
    "smoothed_rates",
    "streaming",
    "success_from_nll",
    "unbiased_coverage",
]

_HOMES = {
    "Allocation": "core.allocation",
    "BinnedPolicy": "allocate.binned",
    "ComputeOptimal": "allocate.difficulty",
    "Curves": "core.curves",
    "DualDescent": "allocate.thresholds",
    "ExtendedConstant": "allocate.thresholds",
    "Mix": "allocate.mixture",
    "PredictedPrice": "allocate.thresholds",
    "Saturation": "allocate.saturation",
    "Stream": "allocate.online",
    "at_grants": "core.allocation",
    "calibrated": "allocate.thresholds",
    "compute_optimal": "allocate.difficulty",
    "coverage": "core.closed_forms",
    "difficulty_bins": "allocate.difficulty",
    "effort_grants": "allocate.effort",
    "equal_grants": "allocate.baselines",
    "expected_coverage": "allocate.mixture",
    "fit_bins": "allocate.binned",
    "fit_saturation": "allocate.saturation",
    "informativeness": "core.closed_forms",
    "joined": "core.curves",
    "knapsack": "allocate.greedy",
    "knapsack_dp": "allocate.exact",
    "knapsack_exact": "allocate.exact",
    "majority": "core.closed_forms",
    "mixed": "allocate.mixture",
    "origin": "core.curves",
    "preference": "allocate.routing",
    "random_grants": "allocate.baselines",
    "route": "allocate.routing",
    "sample_costs": "core.curves",
    "saturation_point": "allocate.saturation",
    "saturation_points": "allocate.saturation",
    "shadow_price": "allocate.greedy",
    "shared_effort": "allocate.effort",
    "smoothed_rates": "core.closed_forms",
    "streaming": "allocate.online",
    "success_from_nll": "core.closed_forms",
    "unbiased_coverage": "allocate.mixture",
}


def __getattr__(name: str) -> Any:
    # Looked up on first use: a run that splits evenly loads no numpy for it.
    if name not in _HOMES:
        raise AttributeError(f"module 'ttc.allocate' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"ttc.{_HOMES[name]}"), name)
