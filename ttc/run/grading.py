"""Read and grade answers: one grader for all problems of a run, over any checker.

Quick checkers run inline. Checkers that may hang run in worker processes with a hard time limit each; a
hanging or memory-eating call costs its own worker and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Literal, TypeVar

from pebble import ProcessExpired, ProcessPool

from ttc.core.protocols import Checker
from ttc.core.registry import UserModule, user_module
from ttc.core.spawning import forkserver
from ttc.core.types import Completion

Verdict = bool | Literal["timeout", "error"]
"""True or False; timeout: the answer or its program never ended, scores 0; error: the grader itself failed."""

_TASKS_PER_WORKER = 1000
"""Then a worker is replaced: SymPy's caches grow without bound."""
_WORKER_MEMORY_BYTES = 4 << 30
_ORPHAN_S = 2.0
"""A worker whose parent was killed ends itself this long after its time limit."""
_LOOKS_EACH_LIMIT = 8
_LONGEST_PAUSE_S = 1.0
"""How often a call is looked after that waits for a worker: its time begins when one has taken it."""
_PROBE = "0"
"""An answer that hangs even against this one is compared no more: it is different from all others."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Spellings:
    """The answers of one problem seen so far, each with the first of its equivalence class."""

    known: dict[str, str] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)
    """Representatives in the order they were seen."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def add(self, answer: str, representative: str | None) -> str:
        """Enter an answer with its representative; without one it stands for a new class."""
        if representative is None:
            self.first.append(answer)
        self.known[answer] = representative or answer
        return self.known[answer]


class CheckerGrader:
    """Reads and grades the completions of all problems by one checker.

    Args:
        checker: how answers are read, compared and judged.
        golds: the reference answer of each problem.
        workers: worker processes for an isolated checker; an inline one starts none.
        time_limit_s: hard limit of one call in a worker.
    """

    def __init__(self, checker: Checker, golds: Mapping[str, str], workers: int, time_limit_s: float) -> None:
        self._checker = checker
        self._golds = golds
        self._pool = _Pool(checker, workers, time_limit_s) if checker.isolated else None
        self._spellings: defaultdict[str, _Spellings] = defaultdict(_Spellings)
        self._verdicts: defaultdict[str, dict[str, Verdict]] = defaultdict(dict)

    async def read(self, problem_id: str, completions: Sequence[Completion]) -> list[Completion]:
        """Return the completions with their answers, in the order given.

        An answer is spelled as the first equivalent answer of the same problem, by index within a call and
        by earlier calls before it. A completion cut by its cap has none.
        """
        spellings = self._spellings[problem_id]
        if self._pool is None:
            found = self._read_inline(spellings, completions)
        else:
            async with spellings.lock:  # two readers of one problem would each found the same class
                found = await self._read_isolated(self._pool, spellings, completions)
        return [
            c if c.answer == (answer := found.get(i)) else replace(c, answer=answer) for i, c in enumerate(completions)
        ]

    def _read_inline(self, spellings: _Spellings, completions: Sequence[Completion]) -> dict[int, str]:
        found: dict[int, str] = {}
        known, extract, equivalent = spellings.known, self._checker.extract, self._checker.equivalent
        for i in _finished(completions):
            answer = extract(completions[i].text)
            if answer is not None:
                if answer not in known:
                    spellings.add(answer, next((r for r in spellings.first if equivalent(r, answer)), None))
                found[i] = known[answer]
        return found

    async def _read_isolated(
        self, pool: _Pool, spellings: _Spellings, completions: Sequence[Completion]
    ) -> dict[int, str]:
        order = _finished(completions)
        if not order:
            return {}
        texts = list(dict.fromkeys(completions[i].text for i in order))
        read = await pool.read(texts, spellings.known, spellings.first)
        answers: dict[str, str] = {}
        for text, (answer, representative) in zip(texts, read, strict=True):
            if answer is not None:
                answers[text] = spellings.known.get(answer) or spellings.add(answer, representative)
        return {i: answers[completions[i].text] for i in order if completions[i].text in answers}

    async def grade(self, problem_id: str, answers: Sequence[str]) -> list[Verdict]:
        """Return a verdict for each answer. Each (problem, answer) is judged once in the grader's life.

        Raises:
            KeyError: no such problem.
        """
        gold, verdicts = self._golds[problem_id], self._verdicts[problem_id]
        if self._pool is None:
            for answer in answers:
                if answer not in verdicts:
                    verdicts[answer] = self._grade_inline(problem_id, answer, gold)
        else:
            async with self._spellings[problem_id].lock:
                new = [answer for answer in dict.fromkeys(answers) if answer not in verdicts]
                judged = await asyncio.gather(*[self._grade_isolated(self._pool, problem_id, a, gold) for a in new])
                verdicts.update(zip(new, judged, strict=True))
        return [verdicts[answer] for answer in answers]

    def _grade_inline(self, problem_id: str, answer: str, gold: str) -> Verdict:
        try:
            return self._checker.grade(answer, gold)
        except TimeoutError:
            return "timeout"
        except Exception:  # one problem's isolation: a checker may be anybody's code
            logger.warning("grading %s failed", problem_id, exc_info=True)
            return "error"

    async def _grade_isolated(self, pool: _Pool, problem_id: str, answer: str, gold: str) -> Verdict:
        try:
            return await pool.grade(answer, gold)
        except (TimeoutError, MemoryError):
            return "timeout"
        except Exception:  # one problem's isolation: a checker may be anybody's code
            logger.warning("grading %s failed", problem_id, exc_info=True)
            return "error"

    def close(self) -> None:
        """Stop the worker processes, whatever they are doing."""
        if self._pool is not None:
            self._pool.close()


def _finished(completions: Sequence[Completion]) -> list[int]:
    """Return the positions of the completions that ended by themselves, in sample order."""
    ended = [i for i, completion in enumerate(completions) if completion.finish == "stop"]
    ended.sort(key=lambda i: completions[i].index)
    return ended


class _Pool:
    """Worker processes that run one checker, started when first asked."""

    def __init__(self, checker: Checker, workers: int, time_limit_s: float) -> None:
        self._checker = checker
        self._workers = workers
        self._time_limit_s = time_limit_s
        self._pool: ProcessPool | None = None
        self._hanging: set[str] = set()
        self._pending: set[Future[Any]] = set()

    async def read(
        self, texts: Sequence[str], known: Mapping[str, str], first: Sequence[str]
    ) -> list[tuple[str | None, str | None]]:
        """Return each text's answer and its representative, None for a new class; one round trip if all goes well."""
        try:
            return await self._call(_read, list(texts), dict(known), list(first))
        except (TimeoutError, MemoryError, ProcessExpired):
            return await self._read_singly(texts, known, first)

    async def _read_singly(
        self, texts: Sequence[str], known: Mapping[str, str], first: Sequence[str]
    ) -> list[tuple[str | None, str | None]]:
        answers = await asyncio.gather(*[self._extract(text) for text in texts])
        known, first = dict(known), list(first)
        read: list[tuple[str | None, str | None]] = []
        for answer in answers:
            if answer is not None and answer not in known:
                representative = None
                for candidate in first:
                    if await self._equivalent(candidate, answer):
                        representative = candidate
                        break
                if representative is None:
                    first.append(answer)
                known[answer] = representative or answer
                read.append((answer, representative))
            else:
                read.append((answer, known.get(answer or "")))
        return read

    async def _extract(self, text: str) -> str | None:
        try:
            return await self._call(_extract, text)
        except (TimeoutError, MemoryError, ProcessExpired):
            return None

    async def _equivalent(self, a: str, b: str) -> bool:
        if a in self._hanging or b in self._hanging:
            return False
        same = await self._compare(a, b)
        if same is None:
            for answer in (a, b):
                if await self._compare(answer, _PROBE) is None:
                    self._hanging.add(answer)
        return same is True

    async def _compare(self, a: str, b: str) -> bool | None:
        try:
            return await self._call(_equivalent, a, b)
        except (TimeoutError, MemoryError, ProcessExpired):
            return None

    async def grade(self, answer: str, gold: str) -> bool:
        """Judge one answer. Raises what the checker raises, and TimeoutError at the hard limit."""
        return await self._call(_grade, answer, gold)

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self._workers,
                max_tasks=_TASKS_PER_WORKER,
                initializer=_start_worker,
                initargs=(user_module(self._checker), self._checker),
                context=forkserver(needs_main=b"__main__" in bytes(ForkingPickler.dumps(self._checker))),
            )
        future = self._pool.schedule(_bounded, args=(function, self._time_limit_s + _ORPHAN_S, *arguments))
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        answer = asyncio.wrap_future(future)
        try:
            await self._within_limit(future, answer)
            result: T = answer.result()
        except ProcessExpired as error:
            if error.exitcode == -signal.SIGALRM:  # this process was too busy to look before the worker's own alarm
                raise TimeoutError from error
            raise
        finally:
            answer.cancel()  # a call that nobody waits for any more costs its worker
        return result

    async def _within_limit(self, future: Future[Any], answer: asyncio.Future[Any]) -> None:
        """Wait for an answer; a call that has run too long raises TimeoutError.

        The pool's own limit reads the wall clock: set back, it never ends a call; set forward, it ends all of them.
        """
        pause = min(_LONGEST_PAUSE_S, self._time_limit_s / _LOOKS_EACH_LIMIT)
        ends: float | None = None
        while not answer.done():
            if ends is None and future.running():  # a call that waits for a free worker takes none of its time
                ends = time.monotonic() + self._time_limit_s
            left = pause if ends is None else ends - time.monotonic()
            if left <= 0:
                raise TimeoutError
            await asyncio.wait([answer], timeout=left)

    def close(self) -> None:
        """Kill the workers and wait until they are gone."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None
        # A call that was handed over in the very moment of stopping is answered by nobody else.
        for future in list(self._pending):
            future.cancel()


_worker_checker: Checker
"""Set in a worker process only."""


def _start_worker(_module: UserModule | None, checker: Checker) -> None:
    global _worker_checker  # noqa: PLW0603 - a worker process belongs to one checker
    _worker_checker = checker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    with contextlib.suppress(OSError):  # Linux only; where memory runs out, the kernel takes this process first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = _WORKER_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_WORKER_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    checker.equivalent("1", "2")  # imports what it needs, so that no answer's time limit pays for it


def _bounded(function: Callable[..., T], seconds: float, *arguments: Any) -> T:
    """Call under the kernel's own alarm, which ends this process where the pool that watched it is gone."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return function(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _extract(text: str) -> str | None:
    return _worker_checker.extract(text)


def _equivalent(a: str, b: str) -> bool:
    return _worker_checker.equivalent(a, b)


def _grade(answer: str, gold: str) -> bool:
    return _worker_checker.grade(answer, gold)


def _read(texts: list[str], known: dict[str, str], first: list[str]) -> list[tuple[str | None, str | None]]:
    read: list[tuple[str | None, str | None]] = []
    for text in texts:
        answer = _worker_checker.extract(text)
        representative = None if answer is None else known.get(answer)
        if answer is not None and representative is None:
            representative = next((r for r in first if _worker_checker.equivalent(r, answer)), None)
            if representative is None:
                first.append(answer)
            known[answer] = representative or answer
        read.append((answer, representative))
    return read
