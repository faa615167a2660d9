"""The engine on vLLM: one continuously batching `AsyncLLM`, one request a sample. The only module that imports vllm."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
from ttc.engines.vllm_process import CoreProcesses
from ttc.engines.vllm_profile import VLLMOptions, engine_arguments, engine_fingerprint, set_environment

_SHUTDOWN_S = 30.0
"""How long a core may take to leave by itself before it is killed."""
# What building an engine raises: vLLM and what it stands on have no common class.
_START_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


@dataclass(slots=True)
class EngineStatistics:
    """Peaks and totals since the engine started, as its scheduler reports them."""

    running_peak: int = 0
    waiting_peak: int = 0
    kv_cache_usage_peak: float = 0.0
    """Share of the KV cache, in [0, 1]."""
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class _Running:
    """A loaded model, and what every request needs of vLLM, imported once."""

    engine: Any
    tokenizer: Any
    params: Any
    final_only: Any
    dead: type[Exception]
    refused: tuple[type[Exception], ...]
    cpu: bool
    context_tokens: int


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
        self.statistics = EngineStatistics()
        self.warnings: list[str] = []
        """What a user should know about the requests so far; each is said once."""
        self._folder = ""
        self._config: dict[str, Any] = {}
        self._running: _Running | None = None
        self._dead_because: str | None = None
        self._processes: CoreProcesses | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._ids = itertools.count()

    @property
    def unfinished(self) -> int:
        """Return how many requests are waiting or running."""
        return 0 if self._running is None else int(self._running.engine.get_num_unfinished_requests())

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

    def weights_sha256(self) -> str | None:
        """Return the SHA-256 of the weights, None where they are too large to read whole."""
        self.prepare()
        return weights_sha256(Path(self._folder)) if self.fingerprint.startswith("sha256:") else None

    async def start(self) -> None:
        """Load the model. Raises EngineError with its cause."""
        await asyncio.to_thread(self.prepare)
        self._dead_because = None
        self._processes = CoreProcesses(capture="VLLM_LOGGING_LEVEL" not in os.environ)
        # The processes end with the thread that started them, so it lives until `close`.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vllm-start")
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._launch, self._processes)
            running = self._alive()
            await self._check_task(running)
        except BaseException:  # cancelled as well: a start that did not end well leaves no process; raised again
            await self.close()
            raise
        self.context_tokens = running.context_tokens

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Apply the chat template, with the header of the assistant's turn."""
        from jinja2 import TemplateError

        tokenizer = self._alive().tokenizer
        chat = [{"role": message.role, "content": message.content} for message in messages]
        try:
            ids = tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, return_dict=False)
        except (TemplateError, ValueError) as error:
            roles = ", ".join(message.role for message in messages)
            raise ConfigError(
                f"the chat template of {self.label!r} refuses a chat of {roles}: {_one_line(error)}",
                "some templates take no system message",
            ) from error
        return Prompt(tuple(messages), tuple(ids))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, without special tokens."""
        text: str = self._alive().tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Draw one completion a request, in request order.

        Raises EngineError for a prompt that leaves no room in the context (before anything is submitted), for
        settings vLLM refuses, and for a dead engine: at once, then and at every later call.
        """
        ready = [(request, self._params(request)) for request in requests]
        if len(ready) == 1:
            return [await self._draw(*ready[0])]
        draws = [asyncio.ensure_future(self._draw(request, params)) for request, params in ready]
        try:
            return await asyncio.gather(*draws)
        finally:
            for draw in draws:
                draw.cancel()

    async def close(self) -> None:
        """Stop every process this engine started. Doing it twice is no error."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        processes, self._processes = self._processes, None
        thread, self._thread = self._thread, None
        running, self._running = self._running, None
        if processes is None or thread is None:
            return
        if running is not None:
            running.engine.shutdown(_SHUTDOWN_S)
        processes.kill()
        thread.shutdown()
        # A start that was cancelled may have come to its end meanwhile; its processes died with the thread.
        running, self._running = self._running, None
        if running is not None:
            running.engine.shutdown(0.0)
        processes.end()
        del running
        gc.collect()  # the client is part of a cycle; finalised at exit, it would complain that vLLM is gone

    def _launch(self, processes: CoreProcesses) -> None:
        try:
            with processes.launching():
                set_environment()
                _import_vllm()
                self._running = self._build()
                if processes.capture:
                    # What vLLM's client logs as an error, it raises as well.
                    logging.getLogger("vllm").setLevel(logging.CRITICAL)
        except _START_ERRORS as error:
            cause = processes.root_cause() or _one_line(error)
            raise EngineError(f"vLLM cannot start {self.label!r}: {cause}", _start_hint(cause)) from error

    def _build(self) -> _Running:
        from vllm import AsyncEngineArgs, SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.platforms import current_platform
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        cpu = current_platform.is_cpu()
        arguments = engine_arguments(self._options, self._folder, self._config, cpu=cpu)
        # vLLM's own counters would be exported to Prometheus at every step; ours are a few comparisons.
        config = AsyncEngineArgs(**arguments, disable_log_stats=True)
        engine = AsyncLLM.from_engine_args(config, stat_loggers=[self._statistics_logger])
        return _Running(
            engine=engine,
            tokenizer=engine.renderer.get_tokenizer(),
            params=SamplingParams,
            final_only=RequestOutputKind.FINAL_ONLY,
            dead=EngineDeadError,
            refused=(VLLMClientError, EngineGenerateError, ValueError),
            cpu=cpu,
            context_tokens=engine.model_config.max_model_len,
        )

    async def _check_task(self, running: _Running) -> None:
        try:
            # Also starts the task that hears of a core's death.
            tasks = await running.engine.get_supported_tasks()
        except running.dead as error:
            raise self._died() from error
        if "generate" not in tasks:
            raise EngineError(f"model {self.label!r} does not generate text", "give a causal language model")

    def _statistics_logger(self, *_: object) -> _StatisticsLogger:
        return _StatisticsLogger(self.statistics)

    def _alive(self) -> _Running:
        if self._dead_because is not None:
            raise self._died()
        if self._running is None:
            raise EngineError(f"the engine {self.label!r} is not running", "start it first")
        return self._running

    def _params(self, request: GenRequest) -> Any:
        sampling = request.sampling
        running = self._alive()
        length = len(request.prompt.ids) + len(request.prompt.generated)
        if not 0 < length < running.context_tokens:
            raise EngineError(
                f"problem {request.problem_id!r}: a prompt of {length} tokens does not fit "
                f"the context of {running.context_tokens} tokens of {self.label!r}",
                "raise max_model_len, or shorten the prompt",
            )
        if running.cpu and not self.warnings and (sampling.top_p < 1 or sampling.top_k > 0):
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
        except running.refused as error:
            raise ConfigError(f"vLLM refuses these sampling settings: {_one_line(error)}") from error

    async def _draw(self, request: GenRequest, params: Any) -> Completion:
        running = self._alive()
        prompt = {"type": "token", "prompt_token_ids": [*request.prompt.ids, *request.prompt.generated]}
        final: Any = None
        try:
            async for output in running.engine.generate(prompt, params, str(next(self._ids))):
                final = output
        except running.dead as error:
            raise self._died() from error
        except running.refused as error:
            if running.engine.errored:
                raise self._died() from error
            reason = _one_line(error.__cause__ or error)
            raise EngineError(f"vLLM refused problem {request.problem_id!r}: {reason}") from error
        return self._completion(request, final, running.tokenizer)

    def _completion(self, request: GenRequest, output: Any, tokenizer: Any) -> Completion:
        sample = output.outputs[0]
        finish = sample.finish_reason
        if finish not in ("stop", "length"):
            if self._processes is None:
                raise self._died()
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
            logprob=None if logprobs is None else math.fsum(logprobs),
            confidence=math.fsum(confidences) / len(confidences) if confidences else None,
            token_logprobs=logprobs,
            token_confidences=confidences,
        )

    def _died(self) -> EngineError:
        if self._dead_because is None:
            if self._processes is None:
                return EngineError(f"the engine {self.label!r} was closed", fatal=True)
            self._dead_because = self._processes.root_cause() or "its process ended without a word (killed?)"
        return EngineError(
            f"the engine {self.label!r} died: {self._dead_because}",
            "look for a lack of memory; start again to resume the run",
            fatal=True,
        )


def _import_vllm() -> None:
    # Apart from the building of the engine: some failed optional import keeps its traceback, and with it the frames.
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())  # until vLLM has configured it
    import vllm.v1.engine.async_llm  # noqa: F401


class _StatisticsLogger:
    """vLLM's stat-logger interface, by shape."""

    def __init__(self, statistics: EngineStatistics) -> None:
        self._statistics = statistics

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: object, **__: object) -> None:
        """Take one step's numbers."""
        kept = self._statistics
        if scheduler_stats is not None:
            kept.running_peak = max(kept.running_peak, scheduler_stats.num_running_reqs)
            kept.waiting_peak = max(kept.waiting_peak, scheduler_stats.num_waiting_reqs)
            kept.kv_cache_usage_peak = max(kept.kv_cache_usage_peak, scheduler_stats.kv_cache_usage)
        if iteration_stats is not None:
            kept.preemptions += iteration_stats.num_preempted_reqs

    def log_engine_initialized(self) -> None:
        """Say nothing."""

    def log(self) -> None:
        """Say nothing."""


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


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A pydantic error starts with a count; its reason follows.
    reasons = [line.removeprefix("Value error, ").partition(" [type=")[0] for line in lines if "[type=" in line]
    return (reasons or lines or [type(error).__name__])[0]


def _start_hint(cause: str) -> str:
    lowered = cause.lower()
    if "memory" in lowered or "kv cache" in lowered:
        return "lower max_model_len or kv_cache_gib, or free memory"
    if "torchvision" in lowered:
        return "pip uninstall torchvision torchaudio: vLLM runs without them"
    return "run with VLLM_LOGGING_LEVEL=INFO to see vLLM's own log"
