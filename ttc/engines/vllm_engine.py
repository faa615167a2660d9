"""The engine on vLLM: one continuously batching `AsyncLLM`, one request a sample."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttc.core.errors import ConfigError, EngineError
from ttc.core.protocols import Capability
from ttc.core.types import Completion, GenRequest, Message, Prompt, Tokens, Usage
from ttc.engines.fingerprint import (
    count_parameters,
    find_model,
    fingerprint_folder,
    has_chat_template,
    model_label,
    read_config,
    weights_sha256,
)
from ttc.engines.together import together
from ttc.engines.vllm_core import Loaded, VLLMCore, one_line
from ttc.engines.vllm_profile import (
    VLLMOptions,
    engine_arguments,
    engine_fingerprint,
    restored_environment,
    set_environment,
)


@dataclass(frozen=True, slots=True)
class _Running:
    """A loaded model, and what every request needs of vLLM, imported once."""

    loaded: Loaded
    tokenizer: Any
    params: Any
    final_only: Any


class VLLMEngine:
    """Completions of a local model by vLLM.

    Log-probabilities are the model's own: before temperature and truncation. A seeded request gives the same
    tokens alone and in a batch only as far as the model's kernels do. Text leaves out the end token, the stop
    token and the stop string; tokens hold all of them.
    """

    def __init__(self, options: VLLMOptions) -> None:
        self._options = options
        self.label = options.label or model_label(options.model)
        self.fingerprint = ""
        """Empty until `prepare` or `start`."""
        self.capabilities: frozenset[Capability] = frozenset({"live", "extends", "temperature", "top_logprobs"})
        self.immediate = False
        self.context_tokens: int | None = options.max_model_len
        self.parameters: int | None = None
        self.warnings: list[str] = []
        """What a user should know about the requests so far; each is said once."""
        self._folder = ""
        self._config: dict[str, Any] = {}
        self._core = VLLMCore(self.label)
        self._running: _Running | None = None
        self._text: Any = None
        """The tokenizer of a model that runs in another process."""

    @property
    def unfinished(self) -> int:
        """Return how many requests are waiting or running."""
        return self._core.unfinished

    def prepare(self) -> None:
        """Find the model and name its content, without loading vLLM. `start` does it too.

        Raises ConfigError for a path that does not exist, EngineError for a model that cannot be used.
        """
        if self.fingerprint:
            return
        folder = find_model(self._options.model, self._options.revision)
        self._config = read_config(folder)
        if not has_chat_template(folder):
            raise ConfigError(
                f"model {self.label!r} has no chat template", "use its instruct version, or add chat_template.jinja"
            )
        self._folder = str(folder)
        self.parameters = count_parameters(folder)
        self.fingerprint = engine_fingerprint(self._options, fingerprint_folder(folder))

    @property
    def model_config(self) -> Mapping[str, Any]:
        """Return what the model's config.json says."""
        self.prepare()
        return self._config

    @property
    def architecture(self) -> str | None:
        """Return the model's class name, as its config.json says it."""
        self.prepare()
        return next(iter(self._config.get("architectures") or []), None)

    def weights_sha256(self) -> str | None:
        """Return the SHA-256 of the weights, None where they are too large to read whole."""
        self.prepare()
        return weights_sha256(Path(self._folder)) if self.fingerprint.startswith("sha256:") else None

    async def start(self) -> None:
        """Load the model. Raises EngineError with its cause."""
        await asyncio.to_thread(self.prepare)
        loaded = await self._core.start("generate", self._arguments)
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._running = _Running(
            loaded, loaded.engine.renderer.get_tokenizer(), SamplingParams, RequestOutputKind.FINAL_ONLY
        )
        self.context_tokens = loaded.context_tokens

    async def start_text(self) -> None:
        """Load the tokenizer alone: `render`, `encode` and `decode` then work while another process runs the model.

        Raises EngineError with its cause.
        """
        await asyncio.to_thread(self.prepare)
        self._text = await asyncio.to_thread(load_tokenizer, self._folder, self.label)

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Apply the chat template, with the header of the assistant's turn."""
        return render_chat(self._tokenizer(), self.label, messages, flags)

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text, without special tokens around it."""
        return tuple(self._tokenizer().encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, without special tokens."""
        text: str = self._tokenizer().decode(list(tokens), skip_special_tokens=True)
        return text

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Draw one completion a request, in request order.

        Raises EngineError for a prompt that leaves no room in the context (before anything is submitted), for
        settings vLLM refuses, and for a dead engine: at once, then and at every later call.
        """
        ready = [(request, self._params(request)) for request in requests]
        return await together([self._draw(request, params) for request, params in ready])

    async def close(self) -> None:
        """Stop every process this engine started. Doing it twice is no error."""
        self._running = self._text = None
        await self._core.close()

    def _arguments(self, cpu: bool) -> dict[str, Any]:
        return engine_arguments(self._options, self._folder, self._config, cpu=cpu)

    def _tokenizer(self) -> Any:
        return self._alive().tokenizer if self._text is None else self._text

    def _alive(self) -> _Running:
        self._core.alive()
        if self._running is None:
            raise EngineError(f"the engine {self.label!r} is not running", "start it first")
        return self._running

    def _params(self, request: GenRequest) -> Any:
        sampling = request.sampling
        running = self._alive()
        length = len(request.prompt.ids) + len(request.prompt.generated)
        if not 0 < length < running.loaded.context_tokens:
            raise EngineError(
                f"problem {request.problem_id!r}: a prompt of {length} tokens does not fit "
                f"the context of {running.loaded.context_tokens} tokens of {self.label!r}",
                "raise max_model_len, or shorten the prompt",
            )
        if running.loaded.cpu and not self.warnings and (sampling.top_p < 1 or sampling.top_k > 0):
            self.warnings.append(
                "top_p and top_k sort the whole vocabulary at every token, which is very slow on a CPU: use temperature"
            )
        try:
            return running.params(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                seed=request.seed if sampling.temperature > 0 else None,
                max_tokens=request.max_tokens,
                stop=list(sampling.stop),
                stop_token_ids=list(sampling.stop_token_ids),
                logprobs=sampling.top_logprobs if self._options.logprobs or sampling.top_logprobs else None,
                # Flat lists instead of a dictionary a token, text once at the end instead of at every token, and
                # no deep copy: parameters serve one request.
                flat_logprobs=True,
                detokenize=bool(sampling.stop),
                skip_clone=True,
                output_kind=running.final_only,
            )
        except running.loaded.refused as error:
            raise ConfigError(f"vLLM refuses these sampling settings: {one_line(error)}") from error

    async def _draw(self, request: GenRequest, params: Any) -> Completion:
        running = self._alive()
        prompt = {"type": "token", "prompt_token_ids": [*request.prompt.ids, *request.prompt.generated]}
        final: Any = None
        loaded = running.loaded
        try:
            async for output in loaded.engine.generate(prompt, params, self._core.next_id()):
                final = output
        except (loaded.dead, *loaded.refused) as error:
            raise self._core.failed(error, request.problem_id) from error
        return self._completion(request, final, running.tokenizer)

    def _completion(self, request: GenRequest, output: Any, tokenizer: Any) -> Completion:
        sample = output.outputs[0]
        finish = sample.finish_reason
        if finish not in ("stop", "length"):
            if self._core.closed:
                raise self._core.died()
            raise EngineError(f"vLLM ended problem {request.problem_id!r} with {finish!r}", retryable=True)
        tokens: Tokens = tuple(sample.token_ids)
        stop = sample.stop_reason
        if isinstance(stop, str):
            text = sample.text
        else:
            text = tokenizer.decode(tokens[:-1] if finish == "stop" else tokens, skip_special_tokens=True)
            if stop not in request.sampling.stop_token_ids:
                stop = None  # one of the model's own end tokens
        cached = output.num_cached_tokens or 0
        logprobs, confidences = _logprobs(sample.logprobs, request.sampling.top_logprobs)
        return Completion(
            index=request.index,
            text=text,
            tokens=tokens,
            finish=finish,
            usage=Usage(prompt=len(output.prompt_token_ids) - cached, cached=cached, completion=len(tokens)),
            stop_reason=stop,
        ).recording(logprobs, confidences)


def load_tokenizer(folder: str, label: str) -> Any:
    """Return a model's tokenizer as vLLM loads it, without the model. Raises EngineError with its cause."""
    try:
        with restored_environment():
            set_environment()
            from vllm.tokenizers import get_tokenizer

            return get_tokenizer(folder)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise EngineError(f"the tokenizer of {label!r} cannot be loaded: {one_line(error)}") from error


def render_chat(
    tokenizer: Any, label: str, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None
) -> Prompt:
    """Apply a tokenizer's chat template, with the header of the assistant's turn; `label` is the model's.

    Raises ConfigError where the template refuses the chat.
    """
    from jinja2 import TemplateError

    chat = [{"role": message.role, "content": message.content} for message in messages]
    try:
        ids = tokenizer.apply_chat_template(
            chat, tokenize=True, add_generation_prompt=True, return_dict=False, **(flags or {})
        )
    except (TemplateError, ValueError) as error:
        roles = ", ".join(message.role for message in messages)
        raise ConfigError(
            f"the chat template of {label!r} refuses a chat of {roles}: {one_line(error)}",
            "some templates take no system message",
        ) from error
    return Prompt(tuple(messages), tuple(ids))


def _logprobs(recorded: Any, top: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    if recorded is None:
        return None, None
    values, starts = recorded.logprobs, recorded.start_indices
    if top == 0:
        return tuple(values), None
    # Each position holds the sampled token, then the `top` most likely ones.
    spans = zip(starts, recorded.end_indices, strict=True)
    confidences = tuple(-math.fsum(values[start + 1 : end]) / (end - start - 1) for start, end in spans)
    return tuple(values[start] for start in starts), confidences
