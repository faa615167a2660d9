"""Scores of a local reward model by vLLM: one continuously batching `AsyncLLM` with the pooling runner.

Run on a CPU only. Where a policy and a reward model share a GPU, each needs its share of the memory: give both
`gpu_memory_utilization`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ttc.core.identity import identity
from ttc.core.types import Tokens
from ttc.engines.fingerprint import count_parameters, find_model, fingerprint_folder, model_label, read_config
from ttc.engines.rewards import RewardFormat, RewardKind, Scored, label_count, read_format
from ttc.engines.vllm_core import VLLMCore, Work
from ttc.engines.vllm_profile import VLLMOptions, engine_arguments, engine_fingerprint

_CPU_CACHE_GIB = 1.0
"""A prefix is read once and kept for the next step; a policy beside it needs the memory more."""


@dataclass(frozen=True, slots=True)
class PoolingOptions(VLLMOptions):
    """What a user may choose about a reward model. None leaves it to the model and the machine."""

    kind: RewardKind | None = None


class VLLMPooling:
    """Implements `ttc.engines.rewards.Backend`."""

    def __init__(self, options: PoolingOptions) -> None:
        """Find the model and read how it is asked, without loading vLLM.

        Raises ConfigError for a path that does not exist or no reward model, EngineError for one that cannot be used.
        """
        folder = find_model(options.model, options.revision)
        self._options = options
        self._folder = str(folder)
        self._config = read_config(folder)
        self._form = read_format(folder, self._config, options.kind)
        form = self._form
        self.label = options.label or model_label(options.model)
        self.parameters: int | None = count_parameters(folder)
        asked = [form.kind, form.separator, form.end_tokens, form.logit_mean, form.logit_sigma]
        self.fingerprint = f"{engine_fingerprint(options, fingerprint_folder(folder))}+{identity(asked)}"
        self._work: Work = "token_classify" if form.kind == "token_classify" else "classify"
        self._core = VLLMCore(self.label)

    @property
    def format(self) -> RewardFormat:
        """Return how the model is asked."""
        return self._form

    async def start(self) -> None:
        """Load the model. Raises EngineError with its cause."""
        await self._core.start(self._work, self._arguments)

    async def read(self, tokens: Tokens, problem_id: str) -> Scored:
        """Score one list of tokens.

        Raises EngineError for one that does not fit the context, for a refused one, and for a dead engine: at once,
        then and at every later call.
        """
        final = await self._core.pool(self._work, tokens, problem_id)
        rows = final.outputs.data.tolist()
        if self._work == "classify":
            rows = [rows]
        # Of two labels the second one is "right".
        return Scored(tuple(float(row[-1]) for row in rows), int(final.num_cached_tokens or 0))

    async def close(self) -> None:
        """Stop every process this engine started. Doing it twice is no error."""
        await self._core.close()

    def _arguments(self, cpu: bool) -> dict[str, Any]:
        from vllm.config import PoolerConfig

        form = self._form
        arguments = engine_arguments(self._options, self._folder, self._config, cpu=cpu, cpu_cache_gib=_CPU_CACHE_GIB)
        pooler = PoolerConfig(
            task=self._work, logit_mean=form.logit_mean, logit_sigma=form.logit_sigma, step_tag_id=form.separator
        )
        arguments |= {"runner": "pooling", "pooler_config": pooler}
        if self._work == "token_classify":
            arguments["enable_prefix_caching"] = False  # it needs every token's hidden state, so it reads them all
        else:
            # One label gets a sigmoid, whatever loss it was trained with; two get a softmax.
            problem = "single_label_classification" if label_count(self._config) == 2 else "multi_label_classification"
            arguments["hf_overrides"] = {"problem_type": problem}
        return arguments
