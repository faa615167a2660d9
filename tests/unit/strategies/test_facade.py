"""`ttc.strategies` offers what is registered."""

import tomllib
from pathlib import Path

import ttc.strategies


def test_every_registered_strategy_can_be_imported_from_one_place():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    registered = project["entry-points"]["ttc.strategies"].values()
    assert sorted(ttc.strategies.__all__) == sorted(place.partition(":")[2] for place in registered)
    for place in registered:
        module, _, name = place.partition(":")
        assert getattr(ttc.strategies, name).__module__ == module
