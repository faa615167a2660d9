"""Joint engines: who answers which sample, against each member alone and against brute force."""

import asyncio
import itertools
from dataclasses import replace

import pytest
from scripted import Scripted, answered

from ttc.core.errors import ConfigError, EngineError
from ttc.core.identity import sample_seed
from ttc.core.types import Exhausted, GenRequest, Message, Problem, Prompt, Sampling
from ttc.engines.cache import CachedEngine
from ttc.engines.fake import FakeEngine, FakeOptions
from ttc.engines.joint import HasRates, Member, MixedEngine, RoutedEngine, proportional_sequence
from ttc.engines.replay import ReplayEngine
from ttc.run.context import MeteredContext, World
from ttc.run.ledger import Ledger
from ttc.store.bank import Bank, Row
from ttc_strategies.adaptive import AdaptiveConsistency
from ttc_strategies.coverage import Coverage
from ttc_strategies.voting import SelfConsistency

ASKED = (Message("user", "What is 12 * 12?"),)


# --- the order of a mix


def spread(given, counts, places):
    """Return how far a prefix is from proportional: the largest distance of a member from its share."""
    return max(abs(places * c / sum(counts) - g) for c, g in zip(counts, given, strict=True))


GRID = [c for c in itertools.product(range(5), repeat=3) if sum(c)]


def test_the_whole_sequence_holds_the_counts_and_ties_go_to_the_first():
    for counts in GRID:
        turns = proportional_sequence(counts)
        assert [turns.count(i) for i in range(3)] == list(counts)
        for places, turn in enumerate(turns, start=1):
            deficits = [places * c / sum(counts) - turns[: places - 1].count(i) for i, c in enumerate(counts)]
            assert deficits[turn] == pytest.approx(max(deficits))
            assert all(d < deficits[turn] - 1e-9 for d in deficits[:turn])


def test_no_prefix_could_be_nearer_given_the_one_before():
    for counts in GRID:
        given = [0, 0, 0]
        for places, turn in enumerate(proportional_sequence(counts), start=1):
            squared = []
            for i in range(3):
                option = [g + (i == j) for j, g in enumerate(given)]
                squared.append(sum((places * c / sum(counts) - g) ** 2 for c, g in zip(counts, option, strict=True)))
            assert squared[turn] == pytest.approx(min(squared))
            given[turn] += 1


def orders(counts):
    if not any(counts):
        yield ()
    for i, left in enumerate(counts):
        if left:
            fewer = [c - (i == j) for j, c in enumerate(counts)]
            yield from ((i, *rest) for rest in orders(fewer))


def test_no_order_at_all_keeps_its_farthest_prefix_nearer():
    def worst(order, counts):
        return max(spread([order[:n].count(i) for i in range(3)], counts, n) for n in range(1, len(order) + 1))

    for counts in (c for c in GRID if sum(c) <= 6):
        best = min(worst(order, counts) for order in orders(counts))
        found = worst(proportional_sequence(counts), counts)
        assert found == pytest.approx(best)
        assert found < 1


def test_a_mix_is_spread_and_not_dealt_in_blocks():
    assert proportional_sequence([1, 1]) == (0, 1)
    assert proportional_sequence([2, 1]) == (0, 1, 0)
    assert proportional_sequence([1, 4]) == (1, 1, 0, 1, 1)


# --- dealing


def row(sample, config, problem="p", tokens=None, **other):
    tokens = sample + 1 if tokens is None else tokens
    return Row(problem, "How many?", config, sample, f"{config}{sample}", sample % 3 == 0, tokens, 7, "stop", **other)


def bank_of(sizes, problems=("p", "q")):
    pools = {c: {p: tuple(row(i, c, p) for i in range(n)) for p in problems} for c, n in sizes.items()}
    return Bank("made-up", "f", pools)


def request(index, problem="p", draw=0, prompt=None, max_tokens=1000, temperature=0.7):
    prompt = prompt if prompt is not None else Prompt((), (0,) * 7)
    return GenRequest(
        problem, prompt, Sampling(temperature), max_tokens, sample_seed(0, problem, "", index), index, draw
    )  # fmt: skip


def dealt(engine, indices, **asked):
    return asyncio.run(engine.generate([request(i, **asked) for i in indices]))


def replays(sizes, seed=0):
    bank = bank_of(sizes)
    return [Member(ReplayEngine(bank, config, seed)) for config in sizes]


def test_members_count_their_own_samples_without_gaps_or_repeats():
    for counts in [(1, 1), (3, 1), (2, 5), (0, 2), (4, 4)]:
        engine = MixedEngine(replays({"a": 40, "b": 40}), counts)
        seen = {0: [], 1: []}
        for index in range(40):
            position, own = engine.place("p", index)
            seen[position].append(own)
        assert all(own == list(range(len(own))) for own in seen.values())
        for start in range(0, 40 - sum(counts), sum(counts)):  # every round holds the counts
            places = [engine.place("p", i)[0] for i in range(start, start + sum(counts))]
            assert (places.count(0), places.count(1)) == counts


@pytest.mark.parametrize("draw", [0, 1, 7])
def test_a_mix_deals_the_samples_of_its_members_own_cells_in_their_order(draw):
    members = replays({"a": 8, "b": 4})
    mix = MixedEngine(members, (2, 1))
    drawn = dealt(mix, range(12), draw=draw)
    assert [c.index for c in drawn] == list(range(12))
    assert sorted(c.answer for c in drawn) == sorted([*(f"a{i}" for i in range(8)), *(f"b{i}" for i in range(4))])
    for position, member in enumerate(members):
        alone = dealt(member.engine, range(8 - 4 * position), draw=draw)
        assert [c.answer for c in drawn if c.member == position] == [c.answer for c in alone]
    for index, completion in enumerate(drawn):
        assert mix.row("p", draw, index).answer == completion.answer


def test_a_mix_ends_with_the_first_pool_that_is_used_up():
    mix = MixedEngine(replays({"a": 8, "b": 2}), (1, 1))
    assert len(dealt(mix, range(5))) == 5
    with pytest.raises(Exhausted):
        dealt(mix, [5])


def test_one_engine_as_two_members_repeats_no_sample():
    (member,) = replays({"a": 12})
    drawn = dealt(MixedEngine([member, member], (1, 2)), range(12))
    assert len({c.answer for c in drawn}) == 12


def test_a_route_deals_each_problem_its_members_own_cell():
    members = replays({"weak": 6, "strong": 6})
    engine = RoutedEngine(members, {"p": 1, "q": 0})
    for problem, position in (("p", 1), ("q", 0)):
        drawn = dealt(engine, range(6), problem=problem, draw=3)
        alone = dealt(members[position].engine, range(6), problem=problem, draw=3)
        assert drawn == [replace(c, member=position) for c in alone]
        assert engine.row(problem, 3, 2).answer == alone[2].answer
    with pytest.raises(ConfigError, match="'r' is not on the route"):
        dealt(engine, [0], problem="r")


# --- live members


class Chat(FakeEngine):
    """A fake with a template of its own, which notes what happens to it."""

    def __init__(self, name, template="{}", *, broken=False, **options):
        super().__init__(FakeOptions(label=name, **options))
        self.template, self.broken, self.events, self.asked = template, broken, [], []

    def render(self, messages, flags=None):
        told = "".join(f"<{k}={v}>" for k, v in (flags or {}).items())
        text = told + self.template.format(messages[-1].content)
        return Prompt(tuple(messages), tuple(map(ord, text)))

    async def start(self):
        self.events.append("start")
        if self.broken:
            raise EngineError("it will not start")

    async def close(self):
        self.events.append("close")

    async def generate(self, requests):
        self.asked += requests
        return await super().generate(requests)


def drawn_by(engine, indices, temperature=0.7):
    prompt = engine.render(ASKED)
    requests = [request(i, prompt=prompt, temperature=temperature) for i in indices]
    return asyncio.run(engine.generate(requests))


def test_a_live_sample_is_that_of_its_members_own_cell():
    a, b = Chat("a", "[{}]"), Chat("b", "<<{}>>", p=0.1)
    mix = MixedEngine([Member(a), Member(b)], (2, 1))
    drawn = drawn_by(mix, range(30))
    alone = [drawn_by(e, range(30)) for e in (a, b)]
    assert [c.member for c in drawn] == [0, 1, 0] * 10
    assert drawn == [replace(alone[c.member][i], member=c.member) for i, c in enumerate(drawn)]
    assert len({c.text for c in drawn}) > 3


def test_every_member_gets_its_own_template_and_its_own_flags():
    a, b = Chat("a", "[{}]"), Chat("b", "<<{}>>")
    mix = MixedEngine([Member(a), Member(b, flags={"think": False})], (1, 1))
    prompt = mix.render(ASKED, {"think": True})
    # the longest of the two stands for both
    assert prompt.ids == b.render(ASKED, {"think": False}).ids
    asyncio.run(mix.generate([request(i, prompt=prompt) for i in range(2)]))
    assert "".join(map(chr, a.asked[0].prompt.tokens)) == "<think=True>[What is 12 * 12?]"
    assert "".join(map(chr, b.asked[0].prompt.tokens)) == "<think=False><<What is 12 * 12?>>"


def test_a_prompt_rendered_elsewhere_is_rendered_again_for_each_model():
    a, b = Chat("a", "[{}]"), Chat("b", "<<{}>>")
    mix = MixedEngine([Member(a), Member(b)], (1, 1))
    asyncio.run(mix.generate([request(i, prompt=a.render(ASKED)) for i in range(2)]))
    assert b.asked[0].prompt.ids == b.render(ASKED).ids


def test_one_model_at_two_temperatures():
    engine = Chat("m")
    mix = MixedEngine([Member(engine, 0.0), Member(engine, 1.2)], (1, 3))
    drawn = drawn_by(mix, range(8))
    assert [r.sampling.temperature for r in engine.asked] == [1.2, 0.0, 1.2, 1.2] * 2
    assert len({r.seed for r in engine.asked}) == 8  # no sample at one temperature is the other's again
    assert drawn[1].text == drawn[5].text  # greedy
    assert mix.label == "m@0+m@1.2"
    assert "temperature" not in mix.capabilities
    assert {"live", "extends", "top_logprobs"} <= mix.capabilities
    assert mix.decode(mix.encode("ab")) == "ab"
    asyncio.run(mix.start())
    asyncio.run(mix.close())
    assert engine.events == ["start", "close"]


def test_what_is_offered_together():
    a, b = Chat("a", context_tokens=500), Chat("b", context_tokens=400, delay_s=0.001)
    a.parameters, b.parameters = 5, 15
    mix, routed = MixedEngine([Member(a), Member(b)], (1, 1)), RoutedEngine([Member(a), Member(b)], {"p": 0, "q": 1})
    assert mix.capabilities == {"live", "temperature"}
    assert routed.capabilities == {"live", "temperature", "top_logprobs"}
    assert (mix.label, mix.context_tokens, mix.parameters, mix.immediate) == ("a+b", 400, None, False)
    b.parameters = 5
    assert MixedEngine([Member(a), Member(b)], (1, 1)).parameters == 5
    for call in (lambda: mix.encode("x"), lambda: mix.decode((1,))):
        with pytest.raises(ConfigError, match="several models"):
            call()


def test_recorded_members_offer_scores_where_all_have_them():
    scored = {"p": tuple(row(i, "a", score=0.5) for i in range(4))}
    bank = Bank("b", "f", {"a": scored, "c": {"p": tuple(row(i, "c") for i in range(4))}})
    a, c = Member(ReplayEngine(bank, "a", 0)), Member(ReplayEngine(bank, "c", 0))
    assert MixedEngine([a], (1,)).capabilities == {"score"}
    assert MixedEngine([a, c], (1, 1)).capabilities == frozenset()
    assert MixedEngine([a, c], (1, 0)).capabilities == {"score"}  # who draws nothing takes nothing away


def test_the_fingerprint_changes_with_all_that_changes_answers():
    a, b = Chat("a"), Chat("b", p=0.2)
    variants = [
        MixedEngine([Member(a), Member(b)], (1, 1)),
        MixedEngine([Member(a), Member(b)], (1, 2)),
        MixedEngine([Member(b), Member(a)], (1, 2)),
        MixedEngine([Member(a), Member(b, 0.1)], (1, 1)),
        MixedEngine([Member(a), Member(b, weight=3)], (1, 1)),
        MixedEngine([Member(a), Member(b, flags={"x": 1})], (1, 1)),
        RoutedEngine([Member(a), Member(b)], {"p": 0, "q": 1}),
        RoutedEngine([Member(a), Member(b)], {"p": 1, "q": 0}),
    ]
    assert len({v.fingerprint for v in variants}) == len(variants)
    assert MixedEngine([Member(Chat("a")), Member(Chat("b", p=0.2))], (1, 1)).fingerprint == variants[0].fingerprint


def test_who_draws_nothing_is_not_started_and_all_others_are_closed():
    a, b, idle = Chat("a"), Chat("b"), Chat("idle")
    mix = MixedEngine([Member(a), Member(idle), Member(b), Member(a)], (1, 0, 1, 1))
    asyncio.run(mix.start())
    asyncio.run(mix.close())
    assert (a.events, b.events, idle.events) == (["start", "close"], ["start", "close"], [])


def test_where_one_fails_to_start_none_stays_open():
    a, broken, after = Chat("a"), Chat("b", broken=True), Chat("c")
    engine = RoutedEngine([Member(a), Member(broken), Member(after)], {"p": 0, "q": 1, "r": 2})
    with pytest.raises(EngineError, match="it will not start"):
        asyncio.run(engine.start())
    assert (a.events, broken.events, after.events) == (["start", "close"], ["start", "close"], [])


def test_the_cost_of_a_call_is_its_members():
    a, b = Chat("a"), Chat("b")
    mix = MixedEngine([Member(a), Member(b, weight=3.1)], (2, 1))
    assert isinstance(mix, HasRates)
    assert [mix.rate("p", i) for i in range(6)] == [1.0, 3.1, 1.0] * 2
    assert RoutedEngine([Member(a), Member(b, weight=3.1)], {"p": 1}).rate("p", 5) == 3.1


def test_caches_around_the_members_share_their_own_cells_samples(tmp_path):
    a, b = Chat("a", "[{}]"), Chat("b", "<<{}>>", p=0.1)
    mix = MixedEngine([Member(a, flags={"f": 1}), Member(b)], (1, 1))
    prompt = mix.render(ASKED, {"f": 2})
    plain = asyncio.run(mix.generate([request(i, prompt=prompt) for i in range(6)]))
    alone = CachedEngine(b, tmp_path / "cache.sqlite")
    asyncio.run(alone.generate([request(i, prompt=b.render(ASKED, {"f": 2})) for i in range(6)]))
    alone.close_cache()
    caches = []

    def cached(engine):
        caches.append(CachedEngine(engine, tmp_path / "cache.sqlite"))
        return caches[-1]

    wrapped = mix.over(cached)
    assert wrapped.fingerprint == mix.fingerprint
    drawn = asyncio.run(wrapped.generate([request(i, prompt=prompt) for i in range(6)]))
    assert [c.from_cache for c in drawn] == [False, True] * 3
    assert [replace(c, from_cache=False) for c in drawn] == plain
    for cache in caches:
        cache.close_cache()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda m: MixedEngine([m, m], (1,)), "as many counts"),
        (lambda m: MixedEngine([m, m], (0, 0)), "not all 0"),
        (lambda m: MixedEngine([m, m], (2, -1)), "as many counts"),
        (lambda m: MixedEngine([], ()), "as many counts"),
        (lambda m: RoutedEngine([m], {"p": 1}), "members 0 to 0"),
        (lambda m: RoutedEngine([m], {}), "members 0 to 0"),
        (lambda m: Member(m.engine, weight=0), "above 0"),
        (lambda m: Member(m.engine, weight=float("nan")), "above 0"),
        (lambda m: Member(m.engine, temperature=-1), "at least 0"),
        (lambda m: Member(replays({"a": 1})[0].engine, temperature=1), "recorded"),
        (lambda m: MixedEngine([m], (1,)).row("p", 0, 0), "live model"),
    ],
)
def test_what_cannot_be_is_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build(Member(Chat("a")))


# --- strategies


def test_strategies_run_over_a_mix_as_over_one_engine():
    right, wrong = Scripted([("right", 10)]), Scripted([("wrong", 20)])
    mix = MixedEngine([Member(right), Member(wrong)], (2, 1))
    outcome = answered(SelfConsistency(6), mix)
    assert (outcome.score, outcome.spent) == (1.0, 4 * 10 + 2 * 20)
    assert [c.member for c in outcome.answer.candidates] == [0, 1, 0, 0, 1, 0]
    assert [r.index for r in right.requests] == [0, 1, 2, 3]
    assert answered(AdaptiveConsistency(), mix).score == 1.0
    assert answered(Coverage(3), MixedEngine([Member(right), Member(wrong)], (1, 2))).score == 1.0


def test_a_member_that_fails_fails_the_problem_and_is_charged():
    failing = Scripted([EngineError("refused")])
    outcome = answered(SelfConsistency(4), MixedEngine([Member(Scripted([("right", 10)])), Member(failing)], (1, 1)))
    assert (outcome.status, outcome.error, outcome.spent) == ("error", "refused", 110)  # the cap of 100 is held


def test_a_grant_cuts_a_mix_as_it_cuts_an_engine():
    mix = MixedEngine(replays({"a": 20, "b": 20}), (1, 1))

    class Reader:
        async def read(self, problem_id, completions):
            return list(completions)

    async def run():
        ctx = MeteredContext(
            World(mix, Reader(), Sampling(max_tokens=20), 0, 1), Problem("p", "?", Prompt((), (0,) * 7)), Ledger(60)
        )  # fmt: skip
        return await ctx.sample(ctx.problem.prompt, None, ctx.sampling), ctx.ledger

    drawn, ledger = asyncio.run(run())
    assert ledger.spent == sum(c.usage.completion for c in drawn) <= 60
    own = [dealt(m.engine, range(20)) for m in mix.members]
    order = [own[mix.place("p", i)[0]][mix.place("p", i)[1]].answer for i in range(len(drawn))]
    assert [c.answer for c in drawn if c.answer is not None] == [
        a for a, c in zip(order, drawn, strict=True) if c.answer is not None
    ]
