"""What a sweep is asked to do: the schema of its YAML file, which the flags override."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ttc.core.errors import ConfigError, did_you_mean
from ttc.core.protocols import Isolation

_MOST_VALUES = 100_000


def _numeric(value: Any) -> Any:
    """Refuse `yes` and `true`, which YAML reads as booleans and Python as 1."""
    if isinstance(value, bool):
        raise ValueError("a number is needed")  # noqa: TRY004 - pydantic reports ValueErrors
    return value


Money = Annotated[float, BeforeValidator(_numeric), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[int, BeforeValidator(_numeric), Field(ge=1, le=10**12)]
"""Bounded, so that no product of two leaves the 64 bits of a table's column."""
Temperature = Annotated[float, BeforeValidator(_numeric), Field(ge=0, le=5)]
Weight = Annotated[float, BeforeValidator(_numeric), Field(gt=0, allow_inf_nan=False)]


def _listed(value: Any) -> Any:
    """Let a single value stand for a list of one, and `a,b` for two."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value if isinstance(value, list | tuple) else [value]


def _listed_models(value: Any) -> Any:
    """List models, but leave the servers of one pool together: all but the last lack their #NAME."""
    if not isinstance(value, str):
        return _listed(value)
    found, pool = [], ""
    for part in _listed(value):
        pool += part
        if part.startswith(("http://", "https://")) and "#" not in part:
            pool += ","
        else:
            found.append(pool)
            pool = ""
    return [*found, pool.rstrip(",")] if pool else found


def _named(key: str) -> BeforeValidator:
    """Let a plain string or path stand for an object with only that key."""
    return BeforeValidator(lambda value: {key: str(value)} if isinstance(value, str | Path) else value)


class Spec(BaseModel):
    """A part of the configuration: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSpec(Spec):
    """Which problems: a registered task or `file.py:Class`, and where its rows are."""

    name: str
    """Of the task."""
    data: Path | None = None
    """A JSON Lines or Parquet file with the rows, in place of the hub's."""
    split: str | None = None
    """Of the data set; the task's own without it."""
    hub: str | None = None
    """Data set on the hub, where it is not the task's own."""
    hub_config: str | None = None
    """Configuration of that data set."""
    revision: str | None = None
    """Branch, tag or commit of that data set."""
    fields: dict[str, str] | None = None
    """Columns by the task's names for them, as in `question: problem_text`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Of problems that are generated; the sweep's own without it."""


class ModelSpec(Spec):
    """Which model: a hub name, a folder, `http://HOST/v1#NAME`, `fake`, or a bank's configuration.

    `PATH;key=value` is a path with options.
    """

    path: str
    """What `--model` takes."""
    label: str | None = None
    """Its name in the tables."""
    max_model_len: Positive | None = None
    """Context, prompt included, in tokens; the model's own without it, at most 32,768 on a CPU."""
    profile: str | dict[str, Any] | None = None
    """How the model writes: a built-in profile's name, or some of its fields; None goes by the model's name."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Of its engine: docs/scaling.md lists them."""
    temperature: Temperature | None = None
    """In place of the sweep's; a path that is given several times is loaded once."""
    weight: Weight = 1.0
    """Budget tokens that one of its tokens costs where models are joined in one cell (`route`, `mixed`)."""

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        path = value.get("path") if isinstance(value, dict) else None
        if not isinstance(path, str) or ";" not in path or path.startswith("fake:"):  # the fake's words are its own
            return value
        path, *words = path.split(";")
        pairs = [word.partition("=") for word in words if word]
        if strange := [word for word, equals, _ in pairs if not (word and equals)]:
            raise ConfigError(
                f"{path};{strange[0]}: options of a model are key=value", f"for example '{path};max_model_len=4096'"
            )
        options = {**dict(value.get("options") or {}), **{key: given for key, _, given in pairs}}
        return {**value, "path": path, "options": options}


class ChoiceSpec(Spec):
    """A strategy or an allocator: registered name or `file.py:Class`, parameters, and a label for the tables."""

    name: str
    """As registered, or `file.py:Class`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Its parameters: docs/strategies.md and docs/allocators.md list them."""
    label: str | None = None
    """Its name in the tables."""
    predictor: Path | None = None
    """What an allocator is told by, where it is not the sweep's own."""


class GridSpec(Spec):
    """Strategies x allocators x budgets."""

    strategies: Annotated[tuple[Annotated[ChoiceSpec, _named("name")], ...], BeforeValidator(_listed)] = ()
    """How each problem is solved."""
    allocators: Annotated[tuple[Annotated[ChoiceSpec, _named("name")], ...], BeforeValidator(_listed)] = (
        ChoiceSpec(name="uniform"),
    )
    """How the total is split over the problems."""
    budgets: Annotated[tuple[Positive, ...], BeforeValidator(_listed)] = ()
    """Mean completion tokens a problem; a run's total is this times its problems."""


class SamplingSpec(Spec):
    """How one completion is drawn. top_p and top_k sort the whole vocabulary at each token: slow on a CPU."""

    temperature: Temperature = 0.7
    """0 always takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw from so many likeliest tokens; 0 from all."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Leave out tokens less likely than this share of the likeliest one's probability."""
    max_tokens: Positive | None = None
    """Cap of one completion; None is 512 live, and the configuration's longest sample in a bank."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion, and are not part of its text."""


class SweepConfig(GridSpec):
    """A sweep: every task x model x strategy x allocator x budget is one cell."""

    also: tuple[GridSpec, ...] = ()
    """Further grids on the same tasks and models, where one product would be too much; no budgets: the sweep's own."""

    tasks: Annotated[tuple[Annotated[TaskSpec, _named("name")], ...], BeforeValidator(_listed)] = ()
    """Which problems; `task` where there is one."""
    bank: Path | None = None
    """A folder of recorded samples to replay, in place of tasks; `models` then names some of its configurations."""
    draws: Positive = 64
    """Orders of a bank's samples to average over."""
    models: Annotated[tuple[Annotated[ModelSpec, _named("path")], ...], BeforeValidator(_listed_models)] = ()
    """Which models; `model` where there is one."""
    prm: str | None = None
    """Process reward model: a hub name, a folder, `http://HOST/v1#NAME`, `embedded`, `logprob` (the policy's own
    log-probabilities), or `off`: none, also where the policy is `embedded`, which brings its own otherwise."""
    predictor: Path | None = None
    """A folder that `ttc fit` wrote; without one, `embedded` takes the shipped one, and a bank sweep fits on the bank's
    other problems."""
    sampling: SamplingSpec = SamplingSpec()
    """How completions are drawn."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Every sample's own seed is a hash of this one, its problem and its place."""
    limit: Positive | None = None
    """Only the first so many problems of each task."""
    price: dict[Literal["prompt", "cached", "reward"], Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    """Budget tokens that a token of a prompt, of a cached prompt, or read by the reward model costs; 0 where it is not said."""
    price_per_mtok: Annotated[tuple[Money, ...], Field(min_length=2, max_length=3)] | None = None
    """Money for a million tokens, read and generated, and read from a cache where that has its own price: for the
    estimate and the report, and never a budget."""
    min_call_tokens: Positive | None = None
    """Smallest rest of a grant that still starts a call; None is 16 live, and in a bank a quarter of its
    mean sample, at most 64."""
    problem_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds that one problem may take; it is wrong then."""
    grade_timeout_s: Annotated[float, Field(gt=0)] = 15.0
    """Seconds that grading one answer may take; it is wrong then."""
    max_errors: Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)] = "1%"
    """Failed problems tolerated a cell: a share, or a number."""
    overlap: bool = False
    """Run all cells at once; times mean nothing then."""
    store_text: bool = True
    """Keep questions, and what the model wrote, in the run folder."""
    allow_code_execution: bool = False
    """Let tasks run model-written code, in a sandbox."""
    sandbox: Isolation | None = None
    """The weakest isolation that model-written code may run in; None takes the strongest that the machine offers."""
    track: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Who is told of the finished run: `wandb:PROJECT`, `mlflow:EXPERIMENT`, `trackio:PROJECT`, `file.py:Class:TARGET`."""
    cache: str | None = None
    """A folder to share the generation cache, `off`, or None: inside the run folder."""

    @model_validator(mode="before")
    @classmethod
    def _singular(cls, value: Any) -> Any:
        # `task: gsm8k` and `model: NAME` read better where there is one.
        if isinstance(value, dict):
            for one, many in (("task", "tasks"), ("model", "models")):
                if one in value and many in value:
                    raise ValueError(f"give {one} or {many}, not both")
                if one in value:
                    value = {**value, many: value[one]}
                    del value[one]
        return value

    @model_validator(mode="after")
    def _complete(self) -> SweepConfig:
        if self.bank is not None and self.tasks:
            raise ValueError("give a task or a bank, not both")
        max_errors(self.max_errors, 1)
        return self


def grids(config: SweepConfig) -> list[GridSpec]:
    """Return every grid of a sweep: its own, and the further ones with their budgets filled in."""
    own = [config] if config.strategies or not config.also else []
    return [*own, *(g if g.budgets else g.model_copy(update={"budgets": config.budgets}) for g in config.also)]


def max_errors(text: str, n_problems: int) -> int:
    """Return how many failed problems are tolerated: `1%` of them, or a plain number.

    Raises:
        ValueError: it is neither.
    """
    try:
        if text.endswith("%"):
            share = float(text[:-1])
            if 0 <= share <= 100:
                return math.floor(share * n_problems / 100 + 1e-9)
        elif int(text) >= 0:
            return int(text)
    except ValueError:
        pass
    raise ValueError(f"max_errors is {text!r}: give a share such as 1% or a number of problems")


def parse_config(values: Mapping[str, Any], source: str) -> SweepConfig:
    """Validate a configuration.

    Raises:
        ConfigError: naming the key, what was given, and the nearest allowed key.
    """
    try:
        return SweepConfig.model_validate(dict(values))
    except ValidationError as error:
        raise _explain(error, source) from error


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file as plain data.

    Raises:
        ConfigError: missing, not YAML, or not a mapping.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        size = _expanded(value, {})
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that there is not
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply, or refers to itself") from error
    if size > _MOST_VALUES:
        raise ConfigError(
            f"{path} holds {size:,} values once its references are followed, at most {_MOST_VALUES:,} may be"
        )
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold keys and values, found {type(value).__name__}")
    return value


def _expanded(value: Any, known: dict[int, int]) -> int:
    """Return how many values there are with every reference followed: a few lines of YAML may stand for billions.

    Raises:
        RecursionError: something holds itself.
        UnicodeEncodeError: a text is none: it holds half of a character.
    """
    if isinstance(value, str):
        value.encode()
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_expanded(one, known) for one in inner)
    return known[id(value)]


def _explain(error: ValidationError, source: str) -> ConfigError:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("str", "int"))
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        return ConfigError(f"{source}: unknown key {where!r}", did_you_mean(key, _keys_at(first["loc"][:-1])))
    message = str(first["msg"]).removeprefix("Value error, ")
    given = first.get("input")
    found = _written(given)
    secret = "api_key" in first["loc"] or re.search("api.?key", found, re.IGNORECASE)
    shown = "" if isinstance(given, dict) or secret else f", found {found[:_SHOWN]}"
    return ConfigError(f"{source}: {where + ': ' if where else ''}{message}{shown}")


_SHOWN = 200
"""Characters of a wrong value that a message repeats."""


def _written(given: Any) -> str:
    try:
        return repr(given)
    except ValueError:
        return "a number of too many digits"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys allowed in the part of the configuration that `location` leads to."""
    spec: type[BaseModel] = SweepConfig
    for part in location:
        if isinstance(part, str) and part in spec.model_fields:
            spec = _spec_in(spec.model_fields[part].annotation) or spec
    names = list(spec.model_fields)
    return [*names, "task", "model"] if spec is SweepConfig else names


def _spec_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, Union, UnionType, Annotated):
        for inner in get_args(annotation):
            found = _spec_in(inner)
            if found is not None:
                return found
    return None
