"""What a predictor may see of a problem before anything is generated: the policy's own last hidden state of its prompt.

The vectors are computed by an engine of their own, which is stopped before the policy starts. They are kept in
`features.parquet`, so that a resumed run or a bank recorded further reads only the prompts that are new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ttc.core.errors import ConfigError, EngineError, did_you_mean
from ttc.core.identity import identity
from ttc.core.protocols import Embedder
from ttc.core.specs import ModelSpec
from ttc.core.types import Example
from ttc.engines.opening import open_embedder
from ttc.engines.together import together
from ttc.run.bench import Bench
from ttc.store.features import Feature, Vector, load_features, write_features

KINDS = ("hidden",)
"""What `--features` may name."""
_CHUNK = 256
"""Prompts read between two writes."""


def check_features(kind: str, spec: ModelSpec) -> None:
    """Refuse features that this model cannot give, before anything is started.

    Raises:
        ConfigError: an unknown kind (with the nearest one), or a model without hidden states.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown features {kind!r}", did_you_mean(kind, KINDS))
    open_embedder(spec)


async def hidden_vectors(
    bench: Bench,
    spec: ModelSpec,
    folder: Path,
    *,
    config: str | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Vector], int]:
    """Return the vector of each of a bench's problems, and the prompt tokens it took to compute them all.

    What `folder` holds already is not computed again; its tokens are counted all the same, so that a resumed run counts
    as an unbroken one does. The policy's engine need not run, and should not: both would share the memory.

    Args:
        bench: whose problems, and in which words they are put.
        spec: the policy.
        folder: a run or a bank; `features.parquet` in it is read and written.
        config: the vectors' configuration in it; None names task and model.
        note: is told what happens.

    Returns:
        `{problem_id: (width,) float32}`, and the tokens. A problem whose prompt the model refused has no vector.

    Raises:
        ConfigError: recorded problems, a model without hidden states, or a chat that its template refuses.
        EngineError: the model cannot be started, died, or refused every prompt.
        DataError, StorageError: `features.parquet` cannot be read or written.
    """
    if "live" not in bench.subject.capabilities:
        raise ConfigError(
            f"the bank {bench.subject.task} has no model that could tell hidden states",
            "record them with its samples: ttc collect ... --features hidden",
        )
    config = config or f"{bench.subject.task} {bench.subject.model}"
    embedder = open_embedder(spec)
    sources = {e.id: _source(embedder, bench, e) for e in bench.examples}
    found, settled = _stored(folder, config, sources)

    def keep(rows: Sequence[Feature]) -> int:
        """Write down what was computed; returns how many problems have a vector now."""
        found.update({row.problem_id: replace(row, config=config, source=sources[row.problem_id]) for row in rows})
        if found:
            write_features(folder, config, found.values())
        return len(found)

    missing = [example for example in bench.examples if example.id not in found]
    if missing:
        note(f"starting {embedder.label} to read {len(missing):,} prompts")
        for error in await _compute(embedder, bench, missing, keep):
            note(f"no hidden state: {error.message}")
    elif not settled:
        keep(())
    tokens = sum(row.prompt_tokens or 0 for row in found.values())
    width = len(next(iter(found.values())).vector)
    note(f"hidden states of {len(found):,} prompts: {width:,} numbers each, {tokens:,} prompt tokens")
    return {pid: row.vector for pid, row in found.items()}, tokens


def _stored(folder: Path, config: str, sources: Mapping[str, str]) -> tuple[dict[str, Feature], bool]:
    """Return the vectors that are there already, by problem, and whether all of them stand under this configuration."""
    stored = load_features(folder)
    # Under any configuration: those that differ in temperature alone have the same hidden states.
    known = {(row.problem_id, row.source): replace(row, config=config) for row in stored}
    found = {pid: known[pid, source] for pid, source in sources.items() if (pid, source) in known}
    own = sum(row.config == config and row.source == sources.get(row.problem_id) for row in stored)
    return found, own >= len(found)


async def _compute(
    embedder: Embedder, bench: Bench, missing: Sequence[Example], keep: Callable[[Sequence[Feature]], int]
) -> list[EngineError]:
    """Have the model read prompts, chunk by chunk; returns what it said of those that it refused.

    Raises:
        EngineError: it cannot be started, died, or refused every prompt.
    """
    refused: list[EngineError] = []
    try:
        await embedder.start()
        for chunk in _chunks(missing):
            if not keep(await _read(embedder, bench, chunk, refused)):
                raise refused[0]
    finally:
        await embedder.close()
    return refused


def _source(embedder: Embedder, bench: Bench, example: Example) -> str:
    """Name all that decides about a vector, as far as it is known before the model runs."""
    asked = [[message.role, message.content] for message in example.messages]
    return identity([embedder.fingerprint, dict(bench.profile.template_flags), asked])


def _chunks(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), _CHUNK):
        yield examples[start : start + _CHUNK]


async def _read(
    embedder: Embedder, bench: Bench, examples: Sequence[Example], refused: list[EngineError]
) -> list[Feature]:
    """Read some prompts at once; appends what the model says to those it refuses."""

    async def one(example: Example) -> Feature | None:
        prompt = embedder.render(example.messages, bench.profile.template_flags)
        try:
            vector, tokens = await embedder.embed(prompt, example.id)
        except EngineError as error:
            if error.fatal:
                raise
            refused.append(error)
            return None
        return Feature(example.id, "", vector, tokens)

    return [row for row in await together([one(example) for example in examples]) if row is not None]
