"""The built-in tasks, by their public import path: `from ttc.evals import GSM8K`."""

from ttc_evals.arithmetic import Arithmetic
from ttc_evals.competitions import AIME24, AIME25, AMC23
from ttc_evals.countdown import Countdown
from ttc_evals.gpqa import GPQADiamond
from ttc_evals.gsm8k import GSM8K
from ttc_evals.humaneval import HumanEval
from ttc_evals.local import Local
from ttc_evals.math500 import MATH500
from ttc_evals.mbpp import MBPP

__all__ = [
    "AIME24",
    "AIME25",
    "AMC23",
    "GSM8K",
    "MATH500",
    "MBPP",
    "Arithmetic",
    "Countdown",
    "GPQADiamond",
    "HumanEval",
    "Local",
]
