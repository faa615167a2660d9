"""Hostile programs reach nothing, at every level that this machine offers. The programs are in benchmarks/attacks.py."""

from dataclasses import replace

import pytest
from attack_script import load_attacks

from ttc_evals.sandbox import SandboxLimits

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


@pytest.mark.parametrize(("tries", "changes", "noticed"), [
    ("take memory in 12 processes", {"limits": SandboxLimits(wall_s=0.2)}, "it ended otherwise"),
    ("wait for ever", {"ends": "memory"}, "it ended otherwise"),
    ("type into the terminal", {"refusal": "Inappropriate ioctl for device"}, "it was not told"),
])  # fmt: skip
def test_another_end_than_the_expected_counts_as_getting_through(tries, changes, noticed, scene):
    (attack,) = (one for one in attacks.ATTACKS if one.tries == tries)
    assert noticed in attacks.run(replace(attack, **changes), OFFERED[0], scene).got


def test_there_are_at_least_25_and_each_is_named_once():
    names = [attack.tries for attack in attacks.ATTACKS]
    assert len(names) == len(set(names)) >= 25
    assert {attack.group for attack in attacks.ATTACKS} >= {
        "files", "environment", "network", "time", "processes", "memory", "disk", "parent"
    }  # fmt: skip
