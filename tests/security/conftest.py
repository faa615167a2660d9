"""Which sandbox was attacked, said at the end: a machine without namespaces passes at the level that it has."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEVELS_RUN = set()


def load_attacks():
    """Return benchmarks/attacks.py as a module."""
    if "benchmark_attacks" not in sys.modules:
        spec = importlib.util.spec_from_file_location("benchmark_attacks", ROOT / "benchmarks" / "attacks.py")
        sys.modules["benchmark_attacks"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["benchmark_attacks"])
    return sys.modules["benchmark_attacks"]


def pytest_runtest_logreport(report):
    LEVELS_RUN.update(value for name, value in report.user_properties if name == "isolation")


def pytest_terminal_summary(terminalreporter):
    if LEVELS_RUN:
        terminalreporter.line(f"hostile programs ran in the isolation: {', '.join(sorted(LEVELS_RUN))}")
