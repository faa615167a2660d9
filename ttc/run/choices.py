"""Strategies, allocators and models before a run: built, named, and refused where they do not fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttc.core.errors import ConfigError
from ttc.core.parameters import build, parameters
from ttc.core.protocols import Capability, Resolvable, is_oracle, requirements
from ttc.core.specs import ChoiceSpec
from ttc.core.types import Sampling


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy or allocator, built, with the name and parameters that the tables show."""

    name: str
    spec: ChoiceSpec
    params: Mapping[str, Any]
    instance: Any


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked of whom: one task on one model, described without loading the model."""

    task: str
    model: str
    task_fingerprint: str
    engine_fingerprint: str
    capabilities: frozenset[Capability]
    problem_ids: tuple[str, ...]
    sampling: Sampling
    draws: int
    reward_fingerprint: str | None = None
    parameters: int | None = None
    reward_parameters: int | None = None
    prompt_characters: float = 0.0
    """Mean length of a question with its wording, for the projection."""
    longest_prompt: int = 0
    """The longest one's, in characters."""
    weight: float = 1.0
    """Budget tokens that one of the model's tokens costs where it is joined with others."""
    members: tuple[Subject, ...] = ()
    """The models that stand in one cell together; none where it is one model."""


@dataclass(frozen=True, slots=True)
class Several:
    """Strategies that share a cell: what one of them needs, all of them need. Each problem is solved by one of them."""

    instances: tuple[Any, ...]

    @property
    def requires(self) -> frozenset[Capability]:
        """Return what any of them needs."""
        return frozenset().union(*map(requirements, self.instances))

    @property
    def oracle(self) -> bool:
        """Say whether any of them sees the ground truth."""
        return any(map(is_oracle, self.instances))


def choices(kind: str, specs: Sequence[ChoiceSpec]) -> list[Choice]:
    """Build strategies or allocators and give each a name of its own.

    Raises:
        ConfigError: unknown name or parameter, or one name twice without labels.
    """
    if not specs:
        hint = "ttc ls strategies names them" if kind == "strategies" else ""
        raise ConfigError(f"no {kind} given", hint)
    built: list[Choice] = []
    for spec in specs:
        instance = build("strategies" if kind == "strategies" else "allocators", spec.name, spec.params)
        name = spec.label or (spec.name.rpartition(":")[2] if ".py:" in spec.name else spec.name)
        if any(other.name == name for other in built):
            raise ConfigError(f"{kind}: {name!r} stands twice", "give each a label of its own in the YAML file")
        method = "solve" if kind == "strategies" else "allocate"
        if not callable(getattr(instance, method, None)):
            raise ConfigError(f"{name} is none of the {kind}: it has no method {method}")
        built.append(Choice(name, spec, parameters(instance), instance))
    return built


def resolve(choice: Choice, subject: Subject) -> Choice:
    """Make `auto` parameters definite, and refuse what this subject cannot give.

    Raises:
        ConfigError: the strategy needs something that the model or bank does not offer.
    """
    instance = choice.instance
    if isinstance(instance, Resolvable):
        instance = instance.resolve(subject.capabilities)
    missing = sorted(requirements(instance) - subject.capabilities)
    if missing:
        raise lacking(choice, subject, missing[0])
    return Choice(choice.name, choice.spec, parameters(instance), instance)


def lacking(choice: Choice, subject: Subject, missing: Capability) -> ConfigError:
    """Return the error that says what a strategy needs and a subject lacks."""
    return ConfigError(f"{choice.name} cannot run on {subject.model}: {_LACKS[missing]}", _HINTS[missing])


_LACKS: dict[Capability, str] = {
    "live": "it needs a live model, not recorded samples",
    "extends": "this engine cannot continue a prefix",
    "temperature": "it needs its own temperature, and recorded samples have theirs",
    "top_logprobs": "this engine tells no log-probabilities of other tokens",
    "reward": "there is no reward model",
    "score": "its samples have no reward scores",
}
_HINTS: dict[Capability, str] = {
    "live": "give --model instead of --bank, or another strategy",
    "extends": "use a vLLM engine or server, or a strategy that only draws whole answers",
    "temperature": "give --model instead of --bank, or another strategy",
    "top_logprobs": "give a vLLM model, or best-of-n with select: logprob",
    "reward": "give --prm MODEL",
    "score": "give --prm MODEL, a bank with the field 'score', or a strategy such as self-consistency",
}
