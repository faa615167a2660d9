"""Addresses without what is secret in them."""

import pytest

from ttc.core.secrets import secrets_of, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://host/v1#m", "http://host/v1#m"),
        ("http://u:p@host:8000/v1#m", "http://host:8000/v1#m"),
        ("https://u:p@ss@host/v1", "https://host/v1"),
        ("ttc --model 'http://u:p@h/v1?key=k&x=y#m;a=1' --seed 3", "ttc --model 'http://h/v1?***#m;a=1' --seed 3"),
        ("http://a/v1?t=1,http://u@b/v1?t=2#m", "http://a/v1?***,http://b/v1?***#m"),
        ("mail me@home, or ask why?", "mail me@home, or ask why?"),
    ],
)
def test_users_and_queries_are_left_out(text, shown):
    assert without_secrets(text) == shown


def test_the_secrets_of_an_address_are_known_as_written_and_decoded():
    assert secrets_of("https://user:p%40ssword@h/v1?key=abcdef&v=1") == ["p%40ssword", "p@ssword", "abcdef", "user"]
    assert secrets_of("http://[bad") == []
