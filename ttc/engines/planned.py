"""An engine that a sweep is only planned with: it has a name, offers everything, and cannot be started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ttc.core.errors import EngineError
from ttc.core.identity import identity
from ttc.core.protocols import Capability
from ttc.core.specs import ModelSpec
from ttc.core.types import Completion, GenRequest, Message, Problem, Prompt, Steps, StepScores, Tokens
from ttc.engines.fingerprint import model_label


class PlannedEngine:
    """Implements `ttc.core.protocols.Engine` without a model. Nothing is looked for: any name will do."""

    capabilities: frozenset[Capability] = frozenset({"live", "extends", "temperature", "top_logprobs"})
    immediate = False
    parameters: int | None = None

    def __init__(self, spec: ModelSpec) -> None:
        self.label = spec.label or model_label(spec.path.rpartition("#")[2])
        self.fingerprint = identity(["planned", spec.path, sorted(spec.options.items())])
        self.context_tokens = spec.max_model_len

    async def start(self) -> None:
        """Refuse."""
        raise self._planned()

    async def close(self) -> None:
        """Do nothing: there is no process."""

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Refuse."""
        raise self._planned()

    def encode(self, text: str) -> Tokens:
        """Refuse."""
        raise self._planned()

    def decode(self, tokens: Sequence[int]) -> str:
        """Refuse."""
        raise self._planned()

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Refuse."""
        raise self._planned()

    def _planned(self) -> EngineError:
        return EngineError(f"{self.label} is only planned with", "ttc sweep runs it")


class PlannedReward:
    """Implements `ttc.core.protocols.RewardModel` without a model."""

    parameters: int | None = None

    def __init__(self, path: str) -> None:
        self.label = Path(path).name
        self.fingerprint = identity(["planned", path])

    async def start(self) -> None:
        """Refuse."""
        raise EngineError(f"{self.label} is only planned with", "ttc sweep runs it")

    async def close(self) -> None:
        """Do nothing: there is no process."""

    def count_tokens(self, problem: Problem, responses: Sequence[Steps]) -> int:
        """Return 0: nothing is read."""
        return 0

    async def score(self, problem: Problem, responses: Sequence[Steps]) -> tuple[list[StepScores], int]:
        """Refuse."""
        raise EngineError(f"{self.label} is only planned with", "ttc sweep runs it")
