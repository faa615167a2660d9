"""Test-time compute for language models: strategies, token budgets and honest Pareto curves.

import ttc
run = ttc.sweep({"task": "gsm8k", "model": "Qwen/Qwen2.5-0.5B-Instruct",
                 "strategies": ["self-consistency"], "budgets": [512, 2048]})
run.to_pandas()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttc.api import make_plan, sweep
    from ttc.core.errors import TtcError
    from ttc.core.protocols import Context
    from ttc.core.specs import SweepConfig
    from ttc.core.types import Answer, Completion, Problem, Sampling, Usage
    from ttc.result import RunResult

__all__ = [
    "Answer",
    "Completion",
    "Context",
    "Problem",
    "RunResult",
    "Sampling",
    "SweepConfig",
    "TtcError",
    "Usage",
    "make_plan",
    "sweep",
]

_HOMES = {
    "Answer": "ttc.core.types",
    "Completion": "ttc.core.types",
    "Context": "ttc.core.protocols",
    "Problem": "ttc.core.types",
    "RunResult": "ttc.result",
    "Sampling": "ttc.core.types",
    "SweepConfig": "ttc.core.specs",
    "TtcError": "ttc.core.errors",
    "Usage": "ttc.core.types",
    "make_plan": "ttc.api",
    "sweep": "ttc.api",
}


def __getattr__(name: str) -> Any:
    # Looked up on first use: `import ttc` and `ttc --help` load nothing heavy.
    if name not in _HOMES:
        raise AttributeError(f"module 'ttc' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
