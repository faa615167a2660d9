"""What was drawn once is not drawn again, and is never told otherwise than it was drawn."""

import asyncio
import dataclasses
import sqlite3

import pytest

from ttc.core.errors import EngineError, StorageError
from ttc.core.identity import sample_seed
from ttc.core.types import Completion, GenRequest, Message, Problem, Prompt, Sampling, Usage
from ttc.engines.cache import CachedEngine
from ttc.engines.fake import FakeEngine
from ttc.run.context import MeteredContext, World
from ttc.run.ledger import Ledger


class Typist(FakeEngine):
    """Types a seeded text of 40 letters, one a token, tells each one's log-probability, and counts its calls."""

    def __init__(self, *, gate=None, fail=0, tells_ids=True):
        super().__init__()
        self.calls, self.gate, self.failures, self.tells_ids = 0, gate, fail, tells_ids
        self.immediate = gate is None

    async def generate(self, requests):
        (request,) = requests
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise EngineError("failed")
        letters = "".join(chr(97 + (request.seed * 7 + i * i) % 26) for i in range(40))[: request.max_tokens]
        each = tuple(-(1 + ord(c) % 5) / 4 for c in letters)
        return [
            Completion(
                index=request.index,
                text=letters,
                tokens=tuple(map(ord, letters)) if self.tells_ids else (),
                finish="stop" if request.max_tokens >= 40 else "length",
                usage=Usage(prompt=3, cached=2, completion=len(letters)),
                stop_reason="\n" if request.max_tokens >= 40 else None,
                logprob=sum(each),
                confidence=-sum(each) / len(each),
                token_logprobs=each,
                token_confidences=tuple(-x for x in each),
            )
        ]


def ask(*, seed=1, index=0, max_tokens=50, prompt=(1, 2, 3), **sampling):
    return GenRequest("p", Prompt((), tuple(prompt)), Sampling(**sampling), max_tokens, seed, index)


def run(cached, *requests):
    return [asyncio.run(cached.generate([r]))[0] for r in requests]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "new" / "cache.sqlite"


def test_a_text_that_ended_within_the_cap_is_returned_whole(file):
    engine = Typist()
    cached = CachedEngine(engine, file)
    first, again, tight = run(cached, ask(), ask(index=7), ask(max_tokens=40))
    assert engine.calls == 1
    assert not first.from_cache
    assert again == dataclasses.replace(first, index=7, from_cache=True)
    assert tight == dataclasses.replace(first, from_cache=True)


def test_a_longer_text_is_cut_where_the_engine_would_have_cut_it(file):
    engine = Typist()
    cached = CachedEngine(engine, file)
    run(cached, ask())
    (cut,) = run(cached, ask(max_tokens=13))
    (fresh,) = run(Typist(), ask(max_tokens=13))
    assert engine.calls == 1
    assert (cut.logprob, cut.confidence) == (pytest.approx(fresh.logprob), pytest.approx(fresh.confidence))
    same = {"from_cache": True, "logprob": cut.logprob, "confidence": cut.confidence}
    assert cut == dataclasses.replace(fresh, **same)


def test_a_shorter_cut_text_is_drawn_again_and_replaced(file):
    engine = Typist()
    cached = CachedEngine(engine, file)
    short, longer, whole, again = run(cached, ask(max_tokens=10), ask(max_tokens=20), ask(), ask(max_tokens=20))
    assert engine.calls == 3
    assert [len(c.tokens) for c in (short, longer, whole, again)] == [10, 20, 40, 20]
    assert (whole.finish, again.finish, again.from_cache) == ("stop", "length", True)


def test_the_same_cap_finds_the_cut_text(file):
    engine = Typist()
    cut, again = run(CachedEngine(engine, file), ask(max_tokens=10), ask(max_tokens=10))
    assert engine.calls == 1
    assert again == dataclasses.replace(cut, from_cache=True)


def test_a_text_without_token_ids_cannot_be_cut_and_is_drawn_again(file):
    engine = Typist(tells_ids=False)
    run(CachedEngine(engine, file), ask(), ask(max_tokens=10), ask(max_tokens=10))
    assert engine.calls == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 2}, {"prompt": (1, 2, 4)}, {"prompt": (1, 2)}, {"temperature": 0.8}, {"top_p": 0.9}, {"top_k": 3},
        {"min_p": 0.1}, {"stop": ("x",)}, {"stop_token_ids": (5,)}, {"top_logprobs": 20},
    ],
)  # fmt: skip
def test_another_sample_is_drawn_where_anything_that_matters_differs(file, changed):
    engine = Typist()
    run(CachedEngine(engine, file), ask(), ask(**changed))
    assert engine.calls == 2


def test_what_does_not_matter_does_not_draw_again(file):
    engine = Typist()
    run(
        CachedEngine(engine, file),
        ask(top_logprobs=20),
        ask(),
        ask(index=5),
        dataclasses.replace(ask(), problem_id="q", draw=0),
        dataclasses.replace(ask(kind="probe")),
    )
    assert engine.calls == 1


def test_greedy_decoding_reads_no_seed(file):
    engine = Typist()
    run(CachedEngine(engine, file), ask(temperature=0.0, seed=1), ask(temperature=0.0, seed=2))
    assert engine.calls == 1


def test_an_extended_prefix_is_known_by_all_its_tokens(file):
    engine = Typist()
    one = dataclasses.replace(ask(), prompt=Prompt((), (1, 2), (3,)))
    other = dataclasses.replace(ask(), prompt=Prompt((), (1,), (2, 3)))
    run(CachedEngine(engine, file), one, other, ask())
    assert engine.calls == 1


def test_chats_without_token_ids_are_told_apart_by_their_messages(file):
    engine = Typist()
    chats = [Prompt((Message(role, text),)) for role, text in (("user", "a"), ("user", "b"), ("system", "a"))]
    run(CachedEngine(engine, file), *(dataclasses.replace(ask(), prompt=chat) for chat in chats * 2))
    assert engine.calls == 3


def test_another_engine_shares_a_file_but_no_sample(file):
    first, second = Typist(), Typist()
    second.fingerprint = "another"
    run(CachedEngine(first, file), ask())
    run(CachedEngine(second, file), ask())
    assert (first.calls, second.calls) == (1, 1)


def test_samples_survive_the_process(file):
    cached = CachedEngine(Typist(), file)
    (first,) = run(cached, ask())
    cached.close_cache()
    engine = Typist()
    (again,) = run(CachedEngine(engine, file), ask())
    assert engine.calls == 0
    assert again == dataclasses.replace(first, from_cache=True)


def draw(engine, n, grant=10_000, cap=50):
    problem = Problem("p", "q", Prompt((), (1, 2, 3)))

    class Reader:
        async def read(self, problem_id, completions):
            return list(completions)

    ctx = MeteredContext(World(engine, Reader(), Sampling(max_tokens=cap), 9, 1), problem, Ledger(grant))
    return ctx, asyncio.run(ctx.sample(problem.prompt, n, ctx.sampling))


def test_best_of_8s_samples_are_the_first_8_of_best_of_64s(file):
    engine = Typist()
    cached = CachedEngine(engine, file)
    _, sixty_four = draw(cached, 64)
    assert engine.calls == 64
    _, eight = draw(cached, 8)
    assert engine.calls == 64
    assert eight == [dataclasses.replace(c, from_cache=True) for c in sixty_four[:8]]
    assert sixty_four[3].text == run(Typist(), ask(seed=sample_seed(9, "p", "", 3)))[0].text


def test_a_hit_is_charged_like_a_call(file):
    cached = CachedEngine(Typist(), file)
    first, drawn = draw(cached, None, grant=130)
    again, found = draw(cached, None, grant=130)
    assert first.ledger.spent == again.ledger.spent == 130
    assert first.meter.usage == again.meter.usage
    assert (first.meter.calls, again.meter.calls) == (4, 4)
    assert (first.meter.cache_hits, again.meter.cache_hits) == (0, 4)
    assert [c.tokens for c in drawn] == [c.tokens for c in found]


async def together(cached, n, gate):
    tasks = [asyncio.create_task(cached.generate([ask(index=i)])) for i in range(n)]
    for _ in range(5):
        await asyncio.sleep(0)
    gate.set()
    return tasks


def test_equal_requests_at_the_same_time_draw_once(file):
    async def go():
        gate = asyncio.Event()
        engine = Typist(gate=gate)
        tasks = await together(CachedEngine(engine, file), 5, gate)
        return engine.calls, [(await t)[0] for t in tasks]

    calls, drawn = asyncio.run(go())
    assert calls == 1
    assert [c.index for c in drawn] == list(range(5))
    assert [c.from_cache for c in drawn] == [False, True, True, True, True]
    assert len({c.text for c in drawn}) == 1


def test_when_the_one_that_draws_fails_the_next_one_draws(file):
    async def go():
        gate = asyncio.Event()
        engine = Typist(gate=gate, fail=1)
        tasks = await together(CachedEngine(engine, file), 3, gate)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return engine.calls, results

    calls, results = asyncio.run(go())
    assert calls == 2
    assert isinstance(results[0], EngineError)
    assert [r[0].finish for r in results[1:]] == ["stop", "stop"]


@pytest.mark.parametrize("victim", [0, 1])
def test_cancelling_one_of_equal_requests_leaves_the_others_theirs(file, victim):
    async def go():
        gate = asyncio.Event()
        cached = CachedEngine(Typist(gate=gate), file)
        tasks = [asyncio.create_task(cached.generate([ask(index=i)])) for i in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        tasks[victim].cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        gate.set()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)

    results = asyncio.run(go())
    assert isinstance(results.pop(victim), asyncio.CancelledError)
    assert [r[0].finish for r in results] == ["stop", "stop"]


def test_several_requests_of_one_call_come_back_in_order(file):
    cached = CachedEngine(Typist(), file)
    drawn = asyncio.run(cached.generate([ask(seed=s, index=i) for i, s in enumerate((5, 6, 5, 7))]))
    assert [c.index for c in drawn] == [0, 1, 2, 3]
    assert drawn[0].text == drawn[2].text != drawn[1].text


# --- damage


def test_a_file_that_is_no_database_is_told_with_a_way_out(file):
    file.parent.mkdir()
    file.write_bytes(b"this is no database, but it is long enough to be looked at" * 40)
    with pytest.raises(StorageError, match=r"cache\.sqlite failed") as caught:
        CachedEngine(Typist(), file)
    assert "--cache off" in caught.value.hint
    assert caught.value.exit_code == 6


def test_a_database_damaged_later_is_a_storage_error(file):
    cached = CachedEngine(Typist(), file)
    run(cached, *(ask(seed=s) for s in range(200)))
    cached.close_cache()
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xaa" * (len(data) - 4096)
    file.write_bytes(data)
    with pytest.raises(StorageError):
        run(CachedEngine(Typist(), file), *(ask(seed=s) for s in range(200)))


@pytest.mark.parametrize(
    "damage", ["usage = 'x'", "usage = '[1]'", "tokens = x'0102'", "stop_reason = '{'", "token_logprobs = x'00'"]
)
def test_a_damaged_row_is_a_storage_error(file, damage):
    cached = CachedEngine(Typist(), file)
    run(cached, ask())
    with sqlite3.connect(file) as db:
        db.execute(f"UPDATE completions SET {damage}")
    with pytest.raises(StorageError):
        run(cached, ask())


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        CachedEngine(Typist(), tmp_path / "file" / "cache.sqlite")
