"""Hostile programs reach nothing, at every level that this machine offers. The programs are in benchmarks/attacks.py."""

import pytest
from attack_script import load_attacks

attacks = load_attacks()
OFFERED = attacks.offered()
# What holds at every level is tried at the strongest; at the weaker ones, what their own means must stop.
CASES = [
    (level, attack)
    for level in OFFERED
    for attack in attacks.ATTACKS
    if attacks.promised(attack, level) and (level == OFFERED[0] or attack.held != "limits")
]


@pytest.fixture(scope="module")
def scene():
    with attacks.scene() as around:
        yield around


@pytest.mark.parametrize(
    ("level", "attack"), CASES, ids=[f"{level}-{attack.tries.replace(' ', '-')}" for level, attack in CASES]
)
def test_attack_is_stopped(level, attack, scene, record_property):
    record_property("isolation", level)
    assert attacks.run(attack, level, scene).got == ""


def test_the_scene_notices_what_is_done_to_it():
    """The same programs, run without any sandbox where that is harmless, do get through."""
    harmless = ("read a file beside its folder", "connect to a server", "find a key in its environment")
    with attacks.scene() as around:
        seen = [attacks.unconfined(attack, around) for attack in attacks.ATTACKS if attack.tries in harmless]
        (around.folder / "mark").write_text("x")
        seen.append("; ".join(around.harm()))
    assert ["GOT" in text for text in seen[:3]] == [True] * 3
    assert seen[3] == "TCP was reached; files were made or deleted"


def test_there_are_at_least_25_and_each_is_named_once():
    names = [attack.tries for attack in attacks.ATTACKS]
    assert len(names) == len(set(names)) >= 25
    assert {attack.group for attack in attacks.ATTACKS} >= {
        "files", "environment", "network", "time", "processes", "memory", "disk", "parent"
    }  # fmt: skip
