"""The script of attacks as a module."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def load_attacks():
    """Return benchmarks/attacks.py as a module."""
    if "benchmark_attacks" not in sys.modules:
        spec = importlib.util.spec_from_file_location("benchmark_attacks", ROOT / "benchmarks" / "attacks.py")
        sys.modules["benchmark_attacks"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["benchmark_attacks"])
    return sys.modules["benchmark_attacks"]
