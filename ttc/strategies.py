"""The built-in strategies, by their public import path: `from ttc.strategies import BestOfN`."""

from ttc_strategies.adaptive import AdaptiveConsistency, EarlyStoppingConsistency
from ttc_strategies.best_of_n import BestOfN
from ttc_strategies.coverage import Coverage
from ttc_strategies.single import Greedy
from ttc_strategies.voting import SelfConsistency, WeightedVote

__all__ = [
    "AdaptiveConsistency",
    "BestOfN",
    "Coverage",
    "EarlyStoppingConsistency",
    "Greedy",
    "SelfConsistency",
    "WeightedVote",
]
