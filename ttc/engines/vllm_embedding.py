"""A policy's own last hidden state of a prompt, by vLLM: what its predictor reads before anything is generated.

Run on a CPU only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ttc.core.errors import EngineError
from ttc.core.identity import identity
from ttc.core.types import Message, Prompt
from ttc.engines.fingerprint import find_model, fingerprint_folder, model_label, read_config
from ttc.engines.vllm_core import VLLMCore
from ttc.engines.vllm_engine import render_chat
from ttc.engines.vllm_profile import VLLMOptions, engine_arguments, engine_fingerprint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CPU_CACHE_GIB = 1.0
"""Nothing is kept from one prompt to the next."""


class VLLMEmbedding:
    """Implements `ttc.core.protocols.Embedder`.

    A vector is the state of the prompt's last token after the last layer and the final norm, not normalised.
    """

    def __init__(self, options: VLLMOptions) -> None:
        """Find the model and name its content, without loading vLLM.

        Raises ConfigError for a path that does not exist, EngineError for a model that cannot be used.
        """
        folder = find_model(options.model, options.revision)
        self._options = options
        self._folder = str(folder)
        self._config = read_config(folder)
        self.label = options.label or model_label(options.model)
        self.fingerprint = f"{engine_fingerprint(options, fingerprint_folder(folder))}+{identity(['hidden', 1])}"
        self._core = VLLMCore(self.label)
        self._tokenizer: Any = None

    async def start(self) -> None:
        """Load the model. Raises EngineError with its cause."""
        loaded = await self._core.start("embed", self._arguments)
        self._tokenizer = loaded.engine.renderer.get_tokenizer()

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Apply the chat template as the policy's own engine does. Raises ConfigError where it refuses the chat."""
        self._core.alive()
        return render_chat(self._tokenizer, self.label, messages, flags)

    async def embed(self, prompt: Prompt, problem_id: str) -> tuple[NDArray[np.float32], int]:
        """Return a prompt's vector, (width,), and the tokens read.

        Raises EngineError for a prompt that does not fit the context, for a refused one, and for a dead engine: at
        once, then and at every later call.
        """
        import numpy as np

        output = await self._core.pool("embed", prompt.tokens, problem_id)
        vector = np.asarray(output.outputs.data.tolist(), dtype=np.float32)
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise EngineError(f"the model {self.label!r} gave problem {problem_id!r} no finite vector")
        return vector, len(prompt.tokens) - int(output.num_cached_tokens or 0)

    async def close(self) -> None:
        """Stop every process this engine started. Doing it twice is no error."""
        await self._core.close()

    def _arguments(self, cpu: bool) -> dict[str, Any]:
        from vllm.config import PoolerConfig

        arguments = engine_arguments(self._options, self._folder, self._config, cpu=cpu, cpu_cache_gib=_CPU_CACHE_GIB)
        # `use_activation` would divide by the length. Without the prefix cache a vector and its price depend on the
        # prompt alone, and not on what was read before it.
        pooler = PoolerConfig(task="embed", seq_pooling_type="LAST", use_activation=False)
        return arguments | {
            "runner": "pooling",
            "convert": "embed",
            "pooler_config": pooler,
            "enable_prefix_caching": False,
        }
