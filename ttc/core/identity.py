"""Identity hashes and hashed seeds. One canonical form, so equal things have equal names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces; raises TypeError on what JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def identity(value: Any, digits: int = 12) -> str:
    """Return a hexadecimal name for a JSON value (BLAKE2b)."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=32).hexdigest()[:digits]


def sample_seed(run_seed: int, problem_id: str, branch: str, index: int) -> int:
    """Return the seed of one sample, in [0, 2**63).

    Strategy, allocator and budget are left out on purpose: all cells of a run then see the same samples,
    which pairs their comparison. Hashing keeps neighbouring samples apart: vLLM gives child i of a
    request `seed + i`.
    """
    data = f"{run_seed}\x1f{problem_id}\x1f{branch}\x1f{index}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def file_sha256(path: Path, update: Callable[[int], object] | None = None) -> str:
    """Return the SHA-256 of a file's bytes; `update` is told the size of each block read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            if update is not None:
                update(len(block))
    return digest.hexdigest()
