"""The seams: what an engine, a reward model, a task, a strategy and an allocator must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from ttc.core.errors import ConfigError
from ttc.core.profiles import ModelProfile
from ttc.core.types import (
    Answer,
    Completion,
    Example,
    GenRequest,
    Message,
    Problem,
    Prompt,
    Sampling,
    Steps,
    StepScores,
    Tokens,
)

if TYPE_CHECKING:  # numpy comes with them, and most commands need none
    import numpy as np
    from numpy.typing import NDArray

    from ttc.core.allocation import Allocation
    from ttc.core.curves import Curves, FloatArray
    from ttc.core.forecast import Training

Capability = Literal["live", "extends", "temperature", "top_logprobs", "reward", "score"]
"""What a strategy may need.

live: a real model, not a recorded bank; extends: continue a prefix; temperature: choose it per call;
top_logprobs: log-probabilities of other tokens than the sampled one; reward: a reward model; score: every
sample can be given a score, by a reward model or because the bank recorded one.
"""


class Engine(Protocol):
    """A source of completions. All problems share one; it batches as it likes."""

    label: str
    """The name in the `model` column; never a path."""
    fingerprint: str
    """Changes whenever equal requests could give other answers."""
    capabilities: frozenset[Capability]
    immediate: bool
    """Answers without waiting: calls need no task of their own."""
    context_tokens: int | None
    """Longest prompt plus completion, None where it is not known."""
    parameters: int | None
    """Parameter count, for FLOPs; None where it is not known."""

    async def start(self) -> None:
        """Load the model. Raises EngineError with its cause."""

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Apply the chat template; `flags` are extra variables of it."""

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text that is put into a response, without special tokens around it.

        Raises ConfigError or EngineError where the engine cannot extend a prefix.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`."""

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Draw one completion a request, in request order.

        Raises EngineError where the engine is dead (`fatal`) or refused; its `usage` holds the tokens that
        the failed call is known to have moved.
        """

    async def close(self) -> None:
        """Stop every process this engine started."""


@runtime_checkable
class HasWeights(Protocol):
    """An engine that can name the weights it serves, for the record."""

    def weights_sha256(self) -> str | None:
        """Return the SHA-256 of the weights, None where they are too large to read whole."""


@runtime_checkable
class HasModelConfig(Protocol):
    """An engine that knows its model's `config.json`: the shape of its attention decides what tokens cost."""

    @property
    def model_config(self) -> Mapping[str, Any]:
        """Return the file's content."""


@runtime_checkable
class HasArchitecture(Protocol):
    """An engine that knows its model's class: profiles are matched by it."""

    @property
    def architecture(self) -> str | None:
        """Return the class name, None where it is not known."""


@runtime_checkable
class Warns(Protocol):
    """An engine or a reward model that knows things a user should know; each stands there once."""

    @property
    def warnings(self) -> list[str]:
        """Return them, oldest first."""


@runtime_checkable
class HasEndpoints(Protocol):
    """An engine or a reward model that is made of servers or workers."""

    def endpoints(self) -> list[dict[str, Any]]:
        """Return what each of them did."""


@runtime_checkable
class HasParts(Protocol):
    """A reward model that is made of others; what they have to say is theirs."""

    @property
    def parts(self) -> tuple[RewardModel, ...]:
        """Return them."""


class RewardModel(Protocol):
    """Scores steps. One number in [0, 1] a step; the last one judges the whole response."""

    label: str
    fingerprint: str
    parameters: int | None
    """Parameter count, for FLOPs; None where it is not known, or where two models of other sizes share the work."""

    async def start(self) -> None:
        """Load the model. Raises EngineError with its cause."""

    def count_tokens(self, problem: Problem, responses: Sequence[Steps]) -> int:
        """Return the tokens that scoring these would read at most."""

    async def score(self, problem: Problem, responses: Sequence[Steps]) -> tuple[list[StepScores], int]:
        """Return the scores, a tuple a response, and the tokens read."""

    async def close(self) -> None:
        """Stop every process this model started."""


class Embedder(Protocol):
    """Turns prompts into vectors that say how hard they are: a policy's own last hidden state. Nothing is generated."""

    label: str
    fingerprint: str
    """Changes whenever an equal prompt could give another vector."""

    async def start(self) -> None:
        """Load the model. Raises EngineError with its cause."""

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Apply the chat template exactly as the policy's engine does; `flags` are extra variables of it."""

    async def embed(self, prompt: Prompt, problem_id: str) -> tuple[NDArray[np.float32], int]:
        """Return a prompt's vector, (width,), and the tokens read; many calls may be in flight at once.

        Raises EngineError where the model is dead (`fatal`) or refuses the prompt.
        """

    async def close(self) -> None:
        """Stop every process this model started."""


class Context(Protocol):
    """All a strategy may touch. Every call is metered against the problem's grant."""

    @property
    def remaining(self) -> int:
        """Return the tokens that are neither spent nor reserved."""

    @property
    def sampling(self) -> Sampling:
        """Return the run's own sampling settings."""

    @property
    def profile(self) -> ModelProfile:
        """Return how the run's model writes."""

    @property
    def ended(self) -> Literal["budget", "exhausted"] | None:
        """Say why the last `sample` returned fewer completions than asked for, if it did."""

    async def sample(self, prefix: Prompt, n: int | None, sampling: Sampling) -> list[Completion]:
        """Draw up to `n` completions of `prefix` in index order; None means as many as the grant pays for.

        `answer` is that of the whole response: what the prefix already holds, and the completion. One that stopped
        at a separator of the profile, and so goes on, has none.
        """

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Apply the chat template with the profile's flags."""

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text to be put into a response: `prompt.extend(ctx.encode(text))`.

        They count as prompt tokens: the policy did not generate them.
        """

    async def score(self, responses: Sequence[Steps]) -> list[StepScores]:
        """Score each response's steps by the run's reward model."""

    def branch(self, key: str) -> Context:
        """Return a context on the same grant with its own seed stream."""


@runtime_checkable
class Strategy(Protocol):
    """Turns a problem and a metered context into an answer. A frozen dataclass: its fields are its parameters.

    Two attributes are optional: `requires`, a frozenset of capabilities, and `oracle`, True where it can only
    be graded by looking at the ground truth.
    """

    async def solve(self, problem: Problem, ctx: Context) -> Answer:
        """Answer one problem within the context's grant."""


@runtime_checkable
class Resolvable(Protocol):
    """A strategy with a parameter that means "what fits": it is made definite before the run and recorded so."""

    def resolve(self, available: frozenset[Capability]) -> Strategy:
        """Return the strategy with every `auto` replaced."""


def requirements(strategy: Strategy) -> frozenset[Capability]:
    """Return the capabilities a strategy cannot do without."""
    found: frozenset[Capability] = getattr(strategy, "requires", frozenset())
    return found


def is_oracle(chosen: object) -> bool:
    """Say whether a strategy's grade, or an allocator's split, sees the ground truth."""
    return bool(getattr(chosen, "oracle", False))


@dataclass(frozen=True, slots=True)
class Dataset:
    """A loaded task: its examples, a fingerprint of their content, and where they came from."""

    examples: tuple[Example, ...]
    fingerprint: str
    source: Mapping[str, str]
    """Hub name, config, split and resolved revision, or the local file's name and SHA-256."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a user may override when a task is loaded."""

    data: Path | None = None
    split: str | None = None
    limit: int | None = None
    fields: Mapping[str, str] | None = None
    hub: str | None = None
    hub_config: str | None = None
    revision: str | None = None
    seed: int = 0


class Checker(Protocol):
    """Reads and judges answers. Stateless and importable, so that worker processes can run it."""

    isolated: bool
    """True where a call may be slow or hang: it then runs in a worker process with a hard time limit."""
    executes_code: bool
    """True where grading runs model-written code: needs the user's consent."""
    version: str
    """Changes whenever a grade could."""

    def extract(self, text: str) -> str | None:
        """Return the normalised final answer of a completion, None where there is none."""

    def equivalent(self, a: str, b: str) -> bool:
        """Say whether two extracted answers mean the same."""

    def grade(self, answer: str, gold: str) -> bool:
        """Say whether an extracted answer is right. Raises TimeoutError where the answer itself never ends."""


Isolation = Literal["namespaces", "landlock", "filter", "limits"]
"""What model-written code runs in, strongest first (docs/sandbox.md)."""


@runtime_checkable
class Sandboxed(Protocol):
    """A checker whose sandbox can be chosen."""

    def bound(self, least: Isolation | None) -> tuple[Checker, Isolation]:
        """Return this checker bound to the strongest isolation there is here, and which one that is.

        Raises:
            ConfigError: it is weaker than `least`, or none works.
        """


class Task(Protocol):
    """A named benchmark: how to load it, how to ask, how to check."""

    name: str

    @property
    def checker(self) -> Checker:
        """Return the checker of this task's answers."""

    @property
    def prompt_template(self) -> str:
        """Return the exact wording around a question, for the record."""

    def load(self, options: LoadOptions) -> Dataset:
        """Load the examples. Raises DataError with file, line and field."""


Need = Literal["curves", "scores", "samples", "training", "bank"]
"""What an allocator must be told: predicted curves, predicted difficulty, predicted tokens of a sample, training problems,
or a bank's own outcomes."""

Joins = Literal["strategies", "models"]
"""What an allocator puts into one cell, instead of splitting over each alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One of the strategies or models that an allocator joins, with what it needs to know of it."""

    name: str
    curves: Curves | None = None
    scores: FloatArray | None = None
    """Predicted chance that a single sample is right, (n,)."""
    sample_tokens: FloatArray | None = None
    """Predicted tokens of a single sample, (n,)."""
    training: Training | None = None
    weight: float = 1.0
    """Budget tokens that one of its completion tokens costs."""
    parameters: int | None = None
    """The model's, None where it is not known."""
    samples: int | None = None
    """Recorded samples that every problem has at least, None where the model is live."""


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """What an allocator is asked: whom to split which total over, and what is known of them."""

    problem_ids: tuple[str, ...]
    total_tokens: int
    cap_tokens: int
    """The longest a single call may be."""
    seed: int = 0
    curves: Curves | None = None
    """Predicted, in the order of `problem_ids`; an oracle's where the allocator needs a bank."""
    scores: FloatArray | None = None
    """Predicted chance that a single sample is right, (n,)."""
    training: Training | None = None
    parts: tuple[Part, ...] = ()
    """What a joining allocator chooses from; the fields above then say nothing of curves, scores and training."""

    def known(self) -> Curves:
        """Return the curves. Raises ConfigError where there are none."""
        if self.curves is None:
            raise ConfigError("this allocator needs predicted curves", "give --predictor (ttc fit makes one)")
        return self.curves

    def difficulty(self) -> FloatArray:
        """Return the scores. Raises ConfigError where there are none."""
        if self.scores is None:
            raise ConfigError("this allocator needs predicted scores", "give --predictor (ttc fit makes one)")
        return self.scores

    def learned(self) -> Training:
        """Return the training problems. Raises ConfigError where there are none."""
        if self.training is None:
            raise ConfigError("this allocator learns from other problems", "give --predictor (ttc fit makes one)")
        return self.training


def needs(allocator: object) -> frozenset[Need]:
    """Return what an allocator must be told."""
    found: frozenset[Need] = getattr(allocator, "needs", frozenset())
    return found


def joins(allocator: object) -> Joins | None:
    """Return what an allocator joins in one cell, None where it splits over one strategy of one model."""
    found: Joins | None = getattr(allocator, "joins", None)
    return found


def needs_predictor(allocator: object) -> bool:
    """Say whether an allocator must be told predictions."""
    told = needs(allocator)
    return bool(told) and "bank" not in told


class Allocator(Protocol):
    """Splits a total over problems: a pure function. A frozen dataclass: its fields are its parameters.

    Optional attributes: `needs`, a frozenset of `Need`; `oracle`, True where it sees recorded outcomes of the very
    problems it splits over; `pilot`, samples drawn of every problem before it is asked; `unit`, what its curves'
    options grant (`tokens` by default); `joins`, where it chooses among strategies or models: it is then told `parts`,
    and its allocation says which of them is whose.
    """

    def allocate(self, ask: Ask) -> Allocation:
        """Return each problem's grant; their sum is at most the total."""
