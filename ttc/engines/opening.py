"""From the words of `--model` to an engine: `embedded`, a hub name, a folder, `http://HOST/v1#NAME`, or `fake`.

Several servers of one model are one engine: `http://HOST1/v1,http://HOST2/v1#NAME`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from ttc.core.errors import ConfigError
from ttc.core.parameters import validated
from ttc.core.protocols import Embedder, Engine, RewardModel
from ttc.core.secrets import without_user
from ttc.core.specs import ModelSpec

if TYPE_CHECKING:
    from ttc.engines.fake import FakeOptions
    from ttc.engines.openai_http import OpenAIOptions
    from ttc.engines.pool import PoolOptions
    from ttc.engines.rewards import Backend

T = TypeVar("T")
M = TypeVar("M")
P = TypeVar("P", bound="OpenAIOptions")
WEB = ("http://", "https://")
EMBEDDED = "embedded"
"""The shipped policy, and the shipped process reward model."""


def open_engine(spec: ModelSpec) -> Engine:
    """Return an engine that is not started yet.

    Raises:
        ConfigError: an option is unknown or the name cannot be any model's.
        EngineError: the model cannot be found.
    """
    if _is_fake(spec):
        from ttc.engines.fake import FakeEngine

        return FakeEngine(_fake_options(spec))
    if spec.path.startswith(WEB):
        return _open_servers(spec)
    from ttc.engines.vllm_engine import VLLMEngine
    from ttc.engines.vllm_profile import VLLMOptions, check_workers

    if spec.path == EMBEDDED:
        spec = _shipped(spec, "policy")
    options = _options(VLLMOptions, spec, model=spec.path)
    check_workers(options)
    engine = VLLMEngine(options)
    engine.prepare()  # a wrong name is told before anything is loaded
    return engine


def open_embedder(spec: ModelSpec) -> Embedder:
    """Return what tells a policy's hidden states, not started yet.

    Raises:
        ConfigError: an option is unknown, or the model is one whose hidden states cannot be had.
        EngineError: the model cannot be found.
    """
    if _is_fake(spec):
        from ttc.engines.fake import FakeEmbedder

        return FakeEmbedder(_fake_options(spec))
    if spec.path.startswith(WEB):
        raise ConfigError(
            f"{spec.path} is behind a server, which tells no hidden states",
            "give the model itself (hub name or folder), or do without these features",
        )
    from ttc.engines.vllm_embedding import VLLMEmbedding
    from ttc.engines.vllm_profile import VLLMOptions

    if spec.path == EMBEDDED:
        spec = _shipped(spec, "policy")
    return VLLMEmbedding(_options(VLLMOptions, spec, model=spec.path))


def _shipped(spec: ModelSpec, part: str) -> ModelSpec:
    """Return the spec of one of the shipped models by its folder."""
    options = {"kv_cache_gib": 1.0, **spec.options}  # plenty for models so small, on any machine
    label = spec.label or EMBEDDED
    return spec.model_copy(update={"path": str(files("ttc.embedded") / part), "label": label, "options": options})


def _open_servers(spec: ModelSpec) -> Engine:
    from ttc.engines.openai_http import OpenAIEngine, OpenAIOptions
    from ttc.engines.server_pools import PoolEngine

    return _served(spec, OpenAIOptions, OpenAIEngine, PoolEngine)


def _open_reward_servers(spec: ModelSpec) -> Backend:
    from ttc.engines.openai_pooling import PoolingServer, PoolingServerOptions
    from ttc.engines.server_pools import PoolingPool

    return _served(spec, PoolingServerOptions, PoolingServer, PoolingPool)


def _served(
    spec: ModelSpec, cls: type[P], one: Callable[[P], T], many: Callable[[list[T], str, PoolOptions], M]
) -> T | M:
    """Return what asks one server, or a pool of several."""
    from ttc.engines.pool import PoolOptions

    urls, name = _servers(spec)
    first, *others = (_options(cls, spec, base_url=url, model=name) for url in urls)
    if not others:
        return one(first)
    # The pool retries, elsewhere where it can.
    servers = [one(replace(options, max_retries=0)) for options in (first, *others)]
    return many(servers, first.label or name, PoolOptions(max_retries=first.max_retries))


def _servers(spec: ModelSpec) -> tuple[list[str], str]:
    """Return the addresses and the model's name."""
    addresses, _, name = spec.path.partition("#")
    urls = addresses.split(",")
    if not name or not all(url.startswith(WEB) and _has_host(url) for url in urls):
        raise ConfigError(f"{without_user(spec.path)} is not a model of a server", "write http://HOST:PORT/v1#NAME")
    return urls, name


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False  # a port that is no number, or too large a one


def _is_fake(spec: ModelSpec) -> bool:
    return spec.path == "fake" or spec.path.startswith("fake:")


def _fake_options(spec: ModelSpec) -> FakeOptions:
    from ttc.engines.fake import FakeOptions

    words = [word for word in spec.path.partition(":")[2].split(";") if word]
    given = dict(word.partition("=")[::2] for word in words)
    return _options(FakeOptions, spec, **given)


def _options(cls: type[T], spec: ModelSpec, **given: str) -> T:
    """Validate an engine's options: the model's own `options` in the YAML file join what its name says.

    Raises:
        ConfigError: they contradict it, as an address would that nobody has checked, or one is unknown.
    """
    if twice := sorted(given.keys() & spec.options.keys()):
        raise ConfigError(f"{spec.path}: {twice[0]} is said by the model's name", "leave it out of its options")
    values: dict[str, Any] = {**given, **spec.options}
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    shared = {"label": spec.label, "max_model_len": spec.max_model_len}
    values.update({key: value for key, value in shared.items() if value is not None and key in names})
    return validated(cls, values, spec.path)


def _phased(spec: ModelSpec, place: Callable[[ModelSpec], Backend]) -> RewardModel:
    plan, _, execution = spec.path.removeprefix("plan=").partition(",execution=")
    if not plan or not execution:
        raise ConfigError(f"{spec.path} names no two reward models", "write plan=MODEL,execution=MODEL")
    from ttc.engines.phased_reward import PhasedReward

    opened = [open_reward(spec.model_copy(update={"path": path}), place) for path in (plan, execution)]
    return PhasedReward(*[reward for reward in opened if reward is not None])


def open_backend(spec: ModelSpec) -> Backend:
    """Return what reads tokens for a local reward model, not started yet.

    Raises:
        ConfigError: an option is unknown, or the name cannot be any reward model's.
        EngineError: the model cannot be found.
    """
    if spec.path == EMBEDDED:
        spec = _shipped(spec, "prm")
    elif "/" not in spec.path and not Path(spec.path).exists():
        raise ConfigError(
            f"unknown reward model {spec.path!r}",
            "allowed: embedded, fake, a model folder, ORGANISATION/NAME, http://HOST/v1#NAME",
        )
    from ttc.engines.vllm_pooling import PoolingOptions, VLLMPooling
    from ttc.engines.vllm_profile import check_workers

    options = _options(PoolingOptions, spec, model=spec.path)
    check_workers(options)
    return VLLMPooling(options)


def open_reward(
    spec: ModelSpec | str | None, place: Callable[[ModelSpec], Backend] = open_backend
) -> RewardModel | None:
    """Return a reward model that is not started yet, or None where none is asked for.

    `off` asks for none. `logprob` scores by the policy's own log-probabilities. `plan=MODEL,execution=MODEL` is one for
    each phase of a step (`dual-phase`). `place` opens what reads for a local model, where that is not to run in this
    process.

    Raises:
        ConfigError: an option is unknown, or the name cannot be any reward model's.
        EngineError: the model cannot be found.
    """
    if spec is None or spec == "off":
        return None
    if isinstance(spec, str):
        spec = ModelSpec(path=spec)
    if spec.path.startswith("plan="):
        return _phased(spec, place)
    if spec.path == "fake":
        from ttc.engines.fake import FakeReward

        return FakeReward()
    if spec.path == "logprob":
        from ttc.engines.likelihood import LikelihoodReward

        return LikelihoodReward()
    from ttc.engines.rewards import PoolingReward

    if spec.path.startswith(WEB):
        return PoolingReward(_open_reward_servers(spec))
    return PoolingReward(place(spec))
