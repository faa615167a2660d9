"""Take the secrets out of addresses: who signs in, and what is asked for, may be nobody else's business."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

_USER = re.compile(r"(https?://)[^\s/?#]*@", re.IGNORECASE)
_QUERY = re.compile(r"(https?://[^\s?#]*\?)(?:(?!,https?://)[^\s#'\"])*", re.IGNORECASE)
_SHORTEST = 4
"""Shorter words stand in too many other words; nobody's password is that short."""


def without_secrets(text: str) -> str:
    """Return a text whose http addresses name neither user nor password, and no values after `?`."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1", text))


def without_user(address: str) -> str:
    """Return an address that is none without what stands before an @: that may be the password which broke it."""
    user, _, rest = address.rpartition("@")
    return f"***@{rest}" if ":" in user else address


def secrets_of(url: str) -> list[str]:
    """Return the words in an address that are to be kept secret, as they stand there and decoded; longest first."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return []
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    words = {user, password, *(value for _, value in parse_qsl(parts.query))}
    return sorted({w for word in words for w in (word, unquote(word)) if len(w) >= _SHORTEST}, key=len, reverse=True)
