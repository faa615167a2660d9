"""Load a script of benchmarks/ as a module."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def load_script(name):
    known = f"benchmark_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, ROOT / "benchmarks" / f"{name}.py")
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]
