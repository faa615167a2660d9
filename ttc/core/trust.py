"""What a configuration file of somebody else must not do unasked: run code, write elsewhere, be sent a key or a run.

Limits: a file still names what is read and what is computed, and so what it costs. A model's folder is loaded by the
engine with its own rules (vLLM takes no code from it).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ttc.core.errors import ConfigError
from ttc.core.secrets import without_secrets

_HERE = {"localhost", "127.0.0.1", "::1", "api.openai.com"}
"""Who may be sent the key without a question: this machine, and whom the key's name belongs to."""


def check_trust(values: Mapping[str, Any], source: str) -> None:
    """Refuse a file that needs its reader's trust.

    Raises:
        ConfigError: naming the first such value, and what it would do.
    """
    for found in _reasons(values):
        raise ConfigError(f"{source}: {found}", "look at the file, then add --trust-config")


def _reasons(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("allow_code_execution"):
        yield "allow_code_execution lets code run that a model writes"
    texts = list(_texts(values))
    yield from (f"{text} is a Python file, which would be run" for text in texts if ".py:" in text)
    for tracker in _texts(values.get("track")):
        yield f"track: {without_secrets(tracker)} would be sent the run, with your own key where it takes one"
    cache = values.get("cache")
    if isinstance(cache, str) and (cache.startswith(("/", "~")) or ".." in Path(cache).parts):
        yield f"cache: {cache} is outside the working directory, and would be written"
    if os.environ.get("OPENAI_API_KEY"):
        for text in texts:
            if (host := _foreign_host(text)) is not None:
                yield f"{host} would be sent the key in OPENAI_API_KEY, for {without_secrets(text)}"


def _foreign_host(text: str) -> str | None:
    for part in text.split(","):
        address = part[part.find("http") :]
        if address.startswith(("http://", "https://")):
            try:
                host = urlsplit(address).hostname
            except ValueError:
                return address
            if host not in _HERE:
                return host or address
    return None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
