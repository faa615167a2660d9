"""What tokens cost in arithmetic and in memory traffic.

FLOPs count a multiply-add as two. Traffic is bytes of the key-value cache read in attention. Prefill is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttc.core.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The part of a transformer that its key-value cache depends on."""

    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int

    @property
    def kv_elements(self) -> int:
        """Return the key and value elements that one token keeps, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Hardware:
    """An accelerator's peak: FLOP/s, bytes/s of its memory, and how many bytes it holds."""

    peak_flops: float
    bandwidth: float
    source: str = ""
    memory: float = 0.0

    @property
    def intensity(self) -> float:
        """Return the FLOPs that take as long as reading one byte."""
        return self.peak_flops / self.bandwidth


HARDWARE: Mapping[str, Hardware] = {
    "A100-80GB": Hardware(312e12, 2.039e12, "NVIDIA A100 80GB SXM data sheet: dense bf16", 80e9),
    "L40S": Hardware(362.05e12, 864e9, "NVIDIA L40S data sheet: dense bf16", 48e9),
    "H100-SXM": Hardware(989.4e12, 3.35e12, "NVIDIA H100 SXM data sheet: dense bf16", 80e9),
    "H200-SXM": Hardware(989.4e12, 4.8e12, "NVIDIA H200 SXM data sheet: dense bf16", 141e9),
    "B200": Hardware(4.5e15, 8e12, "Kinetics (arXiv 2506.05333): 562.5 FLOP a byte", 180e9),
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What was generated: tokens, the tokens before each of them, and those of them that the cache was read for.

    `read` counts once a step what traces drawn together share; `attended` counts it for each of them.
    """

    tokens: ArrayLike
    attended: ArrayLike
    read: ArrayLike


@dataclass(frozen=True, slots=True)
class KineticsCost:
    """What generation costs: arithmetic, bytes of the cache read, and both as equivalent FLOPs; one entry a problem."""

    flops: Floats
    kv_bytes: Floats
    eflops: Floats


def attention_shape(config: Mapping[str, Any]) -> AttentionShape:
    """Read the attention shape from a model's `config.json`.

    Raises:
        DataError: a key is missing or no positive integer.
    """
    text = config.get("text_config", config)  # multimodal models keep their language model's shape there
    layers, heads = _positive(text, "num_hidden_layers"), _positive(text, "num_attention_heads")
    kv_heads = heads if text.get("num_key_value_heads") is None else _positive(text, "num_key_value_heads")
    if text.get("head_dim") is not None:
        return AttentionShape(layers, heads, kv_heads, _positive(text, "head_dim"))
    return AttentionShape(layers, heads, kv_heads, _positive(text, "hidden_size") // heads)


def flops(parameters: float, tokens: ArrayLike) -> Floats:
    """Return the FLOPs of reading or generating tokens, 2 * parameters * tokens; attention is left out.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1.
    """
    return np.asarray(2.0 * parameters * np.asarray(tokens, dtype=np.float64))


def kinetics_cost(
    parameters: float,
    shape: AttentionShape,
    prompt_tokens: ArrayLike,
    completion_tokens: ArrayLike,
    intensity: float,
    *,
    kv_budget: int | None = None,
) -> KineticsCost:
    """Return the cost of parallel traces that share their prompt, counting reads of the key-value cache.

    `prompt_tokens` is (...,) and `completion_tokens` (..., N): the length of each trace, 0 for one that is not there.
    `intensity` is FLOP a byte (`Hardware.intensity`); the cache is 2 bytes an element. Lengths are counted trace by
    trace, since the cost is quadratic in them. With `kv_budget` each token attends to at most so many others
    (top-k sparse attention), and traces no longer share reads of the prompt. Large batches are assumed, in which
    reading the parameters costs nothing.

    Source: Kinetics, Sadhukhan et al. 2025 (arXiv 2506.05333).

    Raises:
        ValueError: a negative length, or shapes that do not fit.
    """
    prompt = np.asarray(prompt_tokens, dtype=np.float64)
    length = np.asarray(completion_tokens, dtype=np.float64)
    if length.ndim == 0 or prompt.shape not in {(), length.shape[:-1]} or (prompt < 0).any() or (length < 0).any():
        raise ValueError(
            f"prompts {prompt.shape} and traces {length.shape} must be lengths of (...,) and (..., traces)"
        )
    each = np.broadcast_to(prompt[..., None], length.shape)
    if kv_budget is None:
        attended = (each * length + length**2 / 2).sum(axis=-1)
        # The prompt is read once a step for all traces that still run, so as often as the longest has steps.
        read = prompt * length.max(axis=-1, initial=0.0) + (length**2 / 2).sum(axis=-1)
    else:
        attended = read = sparse_kv_reads(each, length, kv_budget).sum(axis=-1)
    return kinetics_of_counts(parameters, shape, Counts(length.sum(axis=-1), attended, read), intensity)


def kinetics_of_counts(parameters: float, shape: AttentionShape, counts: Counts, intensity: float) -> KineticsCost:
    """Return the cost of generation from what was counted while it ran, in the terms of `kinetics_cost`.

    It is linear in the counts, so that those of many traces may be summed beforehand: they were counted one by one.
    """
    ratio = shape.query_heads / shape.kv_heads
    attended = np.asarray(counts.attended, dtype=np.float64)
    arithmetic = flops(parameters, counts.tokens) + 2 * ratio * shape.kv_elements * attended
    traffic = kv_bytes(shape, counts.read)
    return KineticsCost(np.asarray(arithmetic), traffic, np.asarray(arithmetic + intensity * traffic))


def sparse_kv_reads(prompt_tokens: ArrayLike, completion_tokens: ArrayLike, kv_budget: int) -> Floats:
    """Return how many cached tokens a trace reads when each step reads at most `kv_budget`.

    Exact: the sum over t < completion_tokens of min(kv_budget, prompt_tokens + t).
    """
    prompt, length = np.broadcast_arrays(
        np.asarray(prompt_tokens, dtype=np.float64), np.asarray(completion_tokens, dtype=np.float64)
    )
    below = np.clip(kv_budget - prompt, 0, length)  # steps that still read everything
    return np.asarray(below * prompt + below * (below - 1) / 2 + (length - below) * kv_budget)


def kv_bytes(shape: AttentionShape, kv_token_steps: ArrayLike, bytes_per_element: int = 2) -> Floats:
    """Return the bytes read from the cache, given the sum over steps of the tokens live in it."""
    return np.asarray(float(shape.kv_elements * bytes_per_element) * np.asarray(kv_token_steps, dtype=np.float64))


def matched_multiplier(size_ratio: float, pretraining_tokens: float, inference_tokens: float) -> float:
    """Return how much more inference a model affords at the total FLOPs of one `size_ratio` times larger.

    Pre-training costs 6 and inference 2 FLOPs a parameter and token; both models are trained on the same tokens.
    `inference_tokens` are all that the small model would generate in its life at one sample a query.

    Source: Snell et al. 2024 (arXiv 2408.03314), section 7: M + 3 (D_pre / D_inf) (M - 1).

    Raises:
        ValueError: an argument is not above 0.
    """
    if min(size_ratio, pretraining_tokens, inference_tokens) <= 0:
        raise ValueError("the ratio of sizes and both numbers of tokens must be above 0")
    return size_ratio + 3 * pretraining_tokens / inference_tokens * (size_ratio - 1)


def _positive(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DataError(f"the model's config.json has {key} = {value!r}, a positive integer is needed")
    return value
