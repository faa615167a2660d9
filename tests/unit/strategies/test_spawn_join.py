"""Child threads see their brief, the parent their conclusions, and half the grant stays the parent's."""

import json
from dataclasses import replace

import pytest
from talker import Talker, run

from ttc.core.profiles import DEFAULT, PROFILES
from ttc_strategies.spawn_join import SpawnJoin

SHORT = replace(DEFAULT, sample_tokens=50)


class Parent:
    def __init__(self, briefs=("try sums", "try products"), said=None, child="hard work\nConclusion: 7 works"):
        self.spawn, self.child, self.asked = said or json.dumps(list(briefs)), child, []

    def __call__(self, question, written, request):
        if "The helpers returned" in question:
            kind, text = "join", "\\boxed{7}"
        elif "Sub Call Budget" in question:
            kind, text = "spawn", self.spawn
        elif "Conclusion: ..." in question:
            kind, text = "child", self.child
        else:
            kind, text = "plain", "\\boxed{0}"
        self.asked.append((kind, question, request))
        return text

    def of(self, kind):
        return [question for k, question, _ in self.asked if k == kind]


def test_children_see_their_brief_alone_and_return_their_conclusion_alone():
    parent = Parent()
    answer, _ = run(SpawnJoin(), Talker(parent), 2000, profile=SHORT)
    assert (answer.text, len(answer.candidates)) == ("7", 1)
    children = parent.of("child")
    assert [c.startswith(f"<user>try {what}") for c, what in zip(children, ("sums", "products"), strict=True)] == [
        True
    ] * 2
    assert not any("How many?" in c for c in children)
    (join,) = parent.of("join")
    assert "1. 7 works\n2. 7 works" in join
    assert "hard work" not in join
    assert "How many?" in join


def test_the_grant_bounds_the_children():
    many = [f"try {i}" for i in range(9)]
    for grant, most in ((100, 1), (250, 2), (399, 3), (4000, 4)):
        parent = Parent(many)
        run(SpawnJoin(), Talker(parent), grant, profile=SHORT)
        assert f"Sub Call Budget: {most}." in parent.of("spawn")[0]
        assert len(parent.of("child")) <= most
    parent = Parent(many)
    run(SpawnJoin(children=2), Talker(parent), 4000, profile=SHORT)
    assert len(parent.of("child")) == 2


def test_half_the_grant_stays_with_the_parent():
    parent = Parent(child="x" * 900)
    run(SpawnJoin(), Talker(parent), 800, profile=SHORT)
    assert sum(r.max_tokens for kind, _, r in parent.asked if kind == "child") <= 400
    (last,) = [r for kind, _, r in parent.asked if kind == "join"]
    assert last.max_tokens >= 300


@pytest.mark.parametrize("child", ["x" * 900, "Conclusion:", "", "7 may work"])
def test_a_child_that_is_cut_or_concludes_nothing_found_no_solution(child):
    parent = Parent(child=child)
    run(SpawnJoin(), Talker(parent), 800, profile=SHORT)
    assert "1. no solution\n2. no solution" in parent.of("join")[0]


@pytest.mark.parametrize("said", ["no list", "[]", "[1, 2]", '{"a": ["b"]}', '["", "x"]'])
def test_briefs_that_cannot_be_read_leave_a_plain_sample(said):
    parent = Parent(said=said)
    answer, _ = run(SpawnJoin(), Talker(parent), 2000, profile=SHORT)
    assert answer.text == "0"
    assert not parent.of("child")


def test_a_small_grant_or_an_uninstructed_model_is_one_plain_sample():
    for grant, profile in ((99, SHORT), (0, SHORT), (4000, PROFILES["embedded"])):
        parent = Parent()
        run(SpawnJoin(), Talker(parent), grant, profile=profile)
        assert [kind for kind, _, _ in parent.asked] == ["plain"] * min(1, grant)


def test_the_children_count_as_parallel_in_the_sequential_tokens():
    parent = Parent()
    _, ctx = run(SpawnJoin(), Talker(parent), 2000, profile=SHORT)
    sequential = len(parent.spawn) + 1 + len(parent.child) + 1 + len("\\boxed{7}") + 1
    assert ctx.meter.sequential_tokens == sequential
    assert ctx.meter.usage.completion == sequential + len(parent.child) + 1
