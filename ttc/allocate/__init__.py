"""Split one token budget over problems: pure functions of curves and costs.

from ttc.allocate import Curves, knapsack
curves = Curves.from_success(rates=[0.02, 0.3, 0.9], sample_tokens=120, samples=range(1, 17))
grants = knapsack(curves, total_tokens=2000).grants
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttc.allocate.allocation import Allocation, at_grants
    from ttc.allocate.baselines import equal_grants, random_grants
    from ttc.allocate.binned import BinnedPolicy, fit_bins
    from ttc.allocate.closed_forms import coverage, informativeness, majority, smoothed_rates, success_from_nll
    from ttc.allocate.curves import Curves, joined, origin, sample_costs
    from ttc.allocate.difficulty import ComputeOptimal, compute_optimal, difficulty_bins
    from ttc.allocate.effort import effort_for, effort_grants, shared_effort
    from ttc.allocate.exact import knapsack_dp, knapsack_exact
    from ttc.allocate.greedy import knapsack, shadow_price
    from ttc.allocate.mixture import Mix, expected_coverage, mixed, unbiased_coverage
    from ttc.allocate.online import Stream, streaming
    from ttc.allocate.routing import preference, route
    from ttc.allocate.saturation import Saturation, fit_saturation, saturation_point, saturation_points
    from ttc.allocate.thresholds import DualDescent, ExtendedConstant, PredictedPrice, calibrated

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
    "effort_for",
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
    "Allocation": "allocation",
    "BinnedPolicy": "binned",
    "ComputeOptimal": "difficulty",
    "Curves": "curves",
    "DualDescent": "thresholds",
    "ExtendedConstant": "thresholds",
    "Mix": "mixture",
    "PredictedPrice": "thresholds",
    "Saturation": "saturation",
    "Stream": "online",
    "at_grants": "allocation",
    "calibrated": "thresholds",
    "compute_optimal": "difficulty",
    "coverage": "closed_forms",
    "difficulty_bins": "difficulty",
    "effort_for": "effort",
    "effort_grants": "effort",
    "equal_grants": "baselines",
    "expected_coverage": "mixture",
    "fit_bins": "binned",
    "fit_saturation": "saturation",
    "informativeness": "closed_forms",
    "joined": "curves",
    "knapsack": "greedy",
    "knapsack_dp": "exact",
    "knapsack_exact": "exact",
    "majority": "closed_forms",
    "mixed": "mixture",
    "origin": "curves",
    "preference": "routing",
    "random_grants": "baselines",
    "route": "routing",
    "sample_costs": "curves",
    "saturation_point": "saturation",
    "saturation_points": "saturation",
    "shadow_price": "greedy",
    "shared_effort": "effort",
    "smoothed_rates": "closed_forms",
    "streaming": "online",
    "success_from_nll": "closed_forms",
    "unbiased_coverage": "mixture",
}


def __getattr__(name: str) -> Any:
    # Looked up on first use: a run that splits evenly loads no numpy for it.
    if name not in _HOMES:
        raise AttributeError(f"module 'ttc.allocate' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"ttc.allocate.{_HOMES[name]}"), name)
