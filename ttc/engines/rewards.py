"""Reward models that read token ids: one score a step, from a pooling engine or server behind one small seam.

Nothing is re-tokenised, so policy and reward model must share a tokenizer, and the question stands as the policy's
own chat template renders it. Not covered: a conversation in the reward model's own template, and blank lines between
steps that some process reward models saw removed.

Tokens are counted as read when a request moved them and the prefix cache did not hold them. What was scored before
in this process is remembered, not sent again and not counted: a run that is resumed, or a cell that comes later, may
read less or more than another one.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ttc.core.errors import ConfigError, EngineError
from ttc.core.protocols import HasEndpoints, Warns
from ttc.core.types import Problem, Steps, StepScores, Tokens
from ttc.engines.together import together

RewardKind = Literal["classify", "token_classify", "outcome"]
"""How a model is asked.

classify: one request a step, which reads the prefix that the step ends, scored at its last token.
token_classify: one request a response, with a separator token after each step, scored at the separators.
outcome: one request a response, scored at its last token; every step has this score, so all aggregations but
`product` agree.
"""

QWEN_SEPARATOR = "<extra_0>"
"""What Qwen2.5-Math-PRM reads after each step (its model card)."""
_REMEMBERED = 1 << 18


@dataclass(frozen=True, slots=True)
class RewardFormat:
    """How one model is asked, and how its logits become scores."""

    kind: RewardKind
    separator: int | None = None
    end_tokens: Tokens = ()
    """Left out where a step ends in them: end tokens of the policy that the model never saw there."""
    logit_mean: float | None = None
    logit_sigma: float | None = None
    """score = sigmoid((logit - mean) / sigma)"""


@dataclass(frozen=True, slots=True)
class Scored:
    """What one request said and moved."""

    scores: tuple[float, ...]
    """One for a sequence, one a separator for its tokens."""
    cached: int
    """Tokens that the prefix cache held; 0 where that is not told."""


class Backend(Protocol):
    """Scores token lists. Many calls are in flight at once."""

    label: str
    fingerprint: str
    parameters: int | None

    @property
    def format(self) -> RewardFormat:
        """Return how the model is asked; known once the backend has started."""

    async def start(self) -> None:
        """Load the model. Raises EngineError with its cause."""

    async def read(self, tokens: Tokens, problem_id: str) -> Scored:
        """Score one list. Raises EngineError where the engine is dead or refuses it."""

    async def close(self) -> None:
        """Stop every process this backend started."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One request: what is read, how many scores it gives, and which of them belong to the steps, in order."""

    tokens: Tokens
    n_scores: int
    places: tuple[int, ...]


class PoolingReward:
    """Implements `ttc.core.protocols.RewardModel`.

    Equal calls at the same time are both sent: only what has been answered is remembered.
    """

    def __init__(self, backend: Backend, remembered: int = _REMEMBERED) -> None:
        self._backend = backend
        self._limit = remembered
        self._memory: OrderedDict[bytes, tuple[float, ...]] = OrderedDict()
        self.label = backend.label
        self.fingerprint = backend.fingerprint
        self.parameters = backend.parameters

    @property
    def warnings(self) -> list[str]:
        """Return what a user should know of the model so far."""
        return self._backend.warnings if isinstance(self._backend, Warns) else []

    def endpoints(self) -> list[dict[str, Any]]:
        """Return what each server did where several score together; none where it is one model."""
        return self._backend.endpoints() if isinstance(self._backend, HasEndpoints) else []

    async def start(self) -> None:
        """Load the model. Raises EngineError with its cause."""
        await self._backend.start()

    async def close(self) -> None:
        """Stop every process this model started."""
        await self._backend.close()

    def count_tokens(self, problem: Problem, responses: Sequence[Steps]) -> int:
        """Return the tokens that scoring these would read at most: all but what is remembered."""
        readings = (reading for steps in responses for reading in self._readings(problem, steps))
        distinct = {_key(reading.tokens): len(reading.tokens) for reading in readings}
        return sum(length for key, length in distinct.items() if self._recall(key) is None)

    async def score(self, problem: Problem, responses: Sequence[Steps]) -> tuple[list[StepScores], int]:
        """Return the scores, a tuple a response, and the tokens read.

        Raises EngineError for a dead engine, a refused request, or a score outside [0, 1].
        """
        asked = [self._readings(problem, steps) for steps in responses]
        known: dict[bytes, tuple[float, ...]] = {}
        new: dict[bytes, _Reading] = {}
        for reading in (reading for readings in asked for reading in readings):
            key = _key(reading.tokens)
            found = self._recall(key)
            if found is None:
                new[key] = reading
            else:
                known[key] = found
        answers = await together([self._backend.read(reading.tokens, problem.id) for reading in new.values()])
        tokens_read = 0
        for (key, reading), answer in zip(new.items(), answers, strict=True):
            known[key] = self._checked(answer.scores, reading.n_scores)
            self._remember(key, known[key])
            tokens_read += len(reading.tokens) - answer.cached
        rows = [[known[_key(reading.tokens)][i] for reading in readings for i in reading.places] for readings in asked]
        return [tuple(row) for row in rows], tokens_read

    def _readings(self, problem: Problem, steps: Steps) -> list[_Reading]:
        form = self._backend.format
        if not steps:
            return []
        if form.kind == "outcome":
            whole = sum((step.tokens for step in steps), ())
            return [_Reading(problem.prompt.ids + _without_end(whole, form.end_tokens), 1, (0,) * len(steps))]
        if form.kind == "token_classify":
            return [_separated(problem.prompt.ids, steps, form)]
        readings, response = [], Tokens()
        for step in steps:
            response += step.tokens
            readings.append(_Reading(problem.prompt.ids + _without_end(response, form.end_tokens), 1, (0,)))
        return readings

    def _checked(self, scores: tuple[float, ...], expected: int) -> tuple[float, ...]:
        if len(scores) != expected:
            raise EngineError(
                f"the reward model {self.label!r} gave {len(scores)} scores for {expected} steps",
                "its separator token is another one: name it as `separator` in prm.json, or in the options of a server",
            )
        outside = [score for score in scores if not 0 <= score <= 1]  # NaN as well
        if outside:
            raise EngineError(
                f"the reward model {self.label!r} gave the score {outside[0]:g}; one in [0, 1] is needed",
                "serve it with its activation on",
            )
        return scores

    def _recall(self, key: bytes) -> tuple[float, ...] | None:
        if key in self._memory:
            self._memory.move_to_end(key)  # what was counted as remembered is not the next to be forgotten
        return self._memory.get(key)

    def _remember(self, key: bytes, scores: tuple[float, ...]) -> None:
        self._memory[key] = scores
        while len(self._memory) > self._limit:
            self._memory.popitem(last=False)


def read_format(folder: Path, config: Mapping[str, Any], kind: RewardKind | None = None) -> RewardFormat:
    """Return how the model in a folder is asked, by its architecture and its `prm.json`.

    `prm.json` may hold `kind`, `separator` (a token or its number), `end_tokens` (numbers), `logit_mean` and
    `logit_sigma`; other keys are the author's own.

    Raises:
        ConfigError: an architecture that is no reward model's, or a value of `prm.json` that does not fit.
    """
    said = _read_json(folder / "prm.json")
    found = _kind_of(config, kind or said.get("kind"), folder.name)
    mean, sigma = (_number(said, name, folder) for name in ("logit_mean", "logit_sigma"))
    if sigma is not None and sigma <= 0:
        raise ConfigError(f"{folder.name}/prm.json: logit_sigma must be above 0, not {sigma:g}")
    ends = said.get("end_tokens", _own_ends(config) if found == "token_classify" else [])
    if not isinstance(ends, list) or not all(type(token) is int for token in ends):
        raise ConfigError(f"{folder.name}/prm.json: end_tokens must be a list of token numbers, not {ends!r}")
    separator = _separator(folder, said.get("separator", QWEN_SEPARATOR)) if found == "token_classify" else None
    return RewardFormat(found, separator, tuple(ends), mean, sigma)


def label_count(config: Mapping[str, Any]) -> int:
    """Return how many labels a classifier tells apart; transformers writes none where there are two."""
    return len(config.get("id2label") or ()) or int(config.get("num_labels") or 2)


def _kind_of(config: Mapping[str, Any], wanted: object, name: str) -> RewardKind:
    architecture = str(next(iter(config.get("architectures") or []), ""))
    labels = label_count(config)
    if architecture.endswith("ForProcessRewardModel"):
        allowed: tuple[RewardKind, ...] = ("token_classify",)
    elif architecture.endswith("ForSequenceClassification") and labels <= 2:
        allowed = ("classify", "outcome")
    else:
        what = f" with {labels} labels" if architecture.endswith("ForSequenceClassification") else ""
        raise ConfigError(
            f"{name} is not a reward model: its architecture is {architecture}{what}",
            "allowed: ...ForSequenceClassification with 1 or 2 labels, ...ForProcessRewardModel",
        )
    for kind in allowed:
        if wanted in (None, kind):
            return kind
    raise ConfigError(f"{name} ({architecture}) cannot be asked by kind {wanted!r}", f"allowed: {', '.join(allowed)}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path.parent.name}/{path.name}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path.parent.name}/{path.name} must hold a JSON object, found {type(value).__name__}")
    return value


def _number(said: Mapping[str, Any], name: str, folder: Path) -> float | None:
    value = said.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ConfigError(f"{folder.name}/prm.json: {name} must be a number, not {value!r}")
    return None if value is None else float(value)


def _own_ends(config: Mapping[str, Any]) -> list[int]:
    end = config.get("eos_token_id")
    return [] if end is None else [end] if isinstance(end, int) else list(end)


def _separator(folder: Path, wanted: object) -> int:
    if type(wanted) is int:
        return wanted
    tokenizer = _read_json(folder / "tokenizer.json")
    added = {entry.get("content"): entry.get("id") for entry in tokenizer.get("added_tokens") or []}
    vocabulary = (tokenizer.get("model") or {}).get("vocab")
    found = added.get(wanted, vocabulary.get(wanted) if isinstance(vocabulary, dict) else None)
    if type(found) is not int:
        raise ConfigError(
            f"{folder.name} has no token {wanted!r} to put between steps", "name its own as `separator` in prm.json"
        )
    return found


def _separated(prompt: Tokens, steps: Steps, form: RewardFormat) -> _Reading:
    """Put a separator after each step. One that the policy wrote itself is scored too, but is no step's end."""
    if form.separator is None:
        raise ConfigError("a reward model that scores tokens needs a separator", "name it in prm.json")
    tokens = list(prompt)
    seen, places = prompt.count(form.separator), []
    for step in steps:
        said = _without_end(step.tokens, form.end_tokens)
        seen += said.count(form.separator)
        places.append(seen)
        tokens += [*said, form.separator]
        seen += 1
    return _Reading(tuple(tokens), seen, tuple(places))


def _without_end(tokens: Tokens, ends: Tokens) -> Tokens:
    length = len(tokens)
    while length and tokens[length - 1] in ends:
        length -= 1
    return tokens[:length]


def _key(tokens: Tokens) -> bytes:
    return hashlib.blake2b(array("q", tokens).tobytes(), digest_size=16).digest()
