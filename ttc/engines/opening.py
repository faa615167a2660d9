"""From the words of `--model` to an engine: a hub name, a folder, `http://HOST/v1#NAME`, or `fake`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ttc.core.errors import ConfigError
from ttc.core.parameters import validated
from ttc.core.protocols import Engine, RewardModel
from ttc.core.specs import ModelSpec

T = TypeVar("T")


def open_engine(spec: ModelSpec) -> Engine:
    """Return an engine that is not started yet.

    Raises:
        ConfigError: an option is unknown or the name cannot be any model's.
        EngineError: the model cannot be found.
    """
    if spec.path == "fake" or spec.path.startswith("fake:"):
        return _fake(spec)
    if spec.path.startswith(("http://", "https://")):
        url, _, name = spec.path.partition("#")
        if not name or not _has_host(url):
            raise ConfigError(f"{spec.path} is not a model of a server", "write http://HOST:PORT/v1#NAME")
        from ttc.engines.openai_http import OpenAIEngine, OpenAIOptions

        return OpenAIEngine(_options(OpenAIOptions, spec, base_url=url, model=name))
    from ttc.engines.vllm_engine import VLLMEngine
    from ttc.engines.vllm_profile import VLLMOptions

    engine = VLLMEngine(_options(VLLMOptions, spec, model=spec.path))
    engine.prepare()  # a wrong name is told before anything is loaded
    return engine


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False  # a port that is no number, or too large a one


def _fake(spec: ModelSpec) -> Engine:
    from ttc.engines.fake import FakeEngine, FakeOptions

    words = [word for word in spec.path.partition(":")[2].split(";") if word]
    given = dict(word.partition("=")[::2] for word in words)
    return FakeEngine(_options(FakeOptions, spec, **given))


def _options(cls: type[T], spec: ModelSpec, **given: str) -> T:
    """Validate an engine's options: the model's own `options` in the YAML file join what its name says."""
    values: dict[str, Any] = {**given, **spec.options}
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    shared = {"label": spec.label, "max_model_len": spec.max_model_len}
    values.update({key: value for key, value in shared.items() if value is not None and key in names})
    return validated(cls, values, spec.path)


def open_reward(name: str | None) -> RewardModel | None:
    """Return a reward model that is not started yet, or None where none is asked for.

    Raises:
        ConfigError: no such reward model.
    """
    if name is None:
        return None
    if name == "fake":
        from ttc.engines.fake import FakeReward

        return FakeReward()
    raise ConfigError(f"unknown reward model {name!r}", "allowed: fake")
