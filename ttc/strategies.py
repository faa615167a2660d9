"""The built-in strategies, by their public import path: `from ttc.strategies import BestOfN`."""

from ttc_strategies.adaptive import AdaptiveConsistency, EarlyStoppingConsistency
from ttc_strategies.beam import DVTS, Beam, Lookahead
from ttc_strategies.best_of_n import BestOfN
from ttc_strategies.budget_forcing import BudgetForcing, Effort
from ttc_strategies.certaindex import Certaindex
from ttc_strategies.coverage import Coverage
from ttc_strategies.dual_phase import DualPhase
from ttc_strategies.mcts import MCTS
from ttc_strategies.particles import ParticleFiltering
from ttc_strategies.rebase import ETS, Rebase
from ttc_strategies.revise import Revise
from ttc_strategies.scale import Scale
from ttc_strategies.single import Greedy
from ttc_strategies.spawn_join import SpawnJoin
from ttc_strategies.voting import SelfConsistency, WeightedVote

__all__ = [
    "DVTS",
    "ETS",
    "MCTS",
    "AdaptiveConsistency",
    "Beam",
    "BestOfN",
    "BudgetForcing",
    "Certaindex",
    "Coverage",
    "DualPhase",
    "EarlyStoppingConsistency",
    "Effort",
    "Greedy",
    "Lookahead",
    "ParticleFiltering",
    "Rebase",
    "Revise",
    "Scale",
    "SelfConsistency",
    "SpawnJoin",
    "WeightedVote",
]
