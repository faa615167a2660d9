"""One vLLM engine core: started in processes of its own, heard when it dies, ended without a trace.

What text generation, scoring and embedding share. Run on a CPU only.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from ttc.core.errors import EngineError
from ttc.core.types import Tokens
from ttc.engines.vllm_process import CoreProcesses
from ttc.engines.vllm_profile import set_environment

Work = Literal["generate", "classify", "token_classify", "embed"]

_SHUTDOWN_S = 30.0
"""How long a core may take to leave by itself before it is killed."""
_MEANT_FOR: dict[Work, tuple[str, str]] = {
    "generate": ("does not generate text", "give a causal language model"),
    "classify": ("does not classify sequences", "give a model with a ...ForSequenceClassification architecture"),
    "token_classify": ("does not classify tokens", "give a model with a ...ForProcessRewardModel architecture"),
    "embed": ("tells no hidden states", "give a causal language model"),
}
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


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded model, and what its requests raise."""

    engine: Any
    dead: type[Exception]
    refused: tuple[type[Exception], ...]
    cpu: bool
    context_tokens: int


class VLLMCore:
    """An `AsyncLLM` with its processes. A dead one fails every call with its cause, at once and from then on."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._ids = itertools.count()
        self._loaded: Loaded | None = None
        self._dead_because: str | None = None
        self._processes: CoreProcesses | None = None
        self._thread: ThreadPoolExecutor | None = None

    @property
    def closed(self) -> bool:
        """Say whether there is nothing left to end."""
        return self._processes is None

    @property
    def unfinished(self) -> int:
        """Return how many requests are waiting or running."""
        return 0 if self._loaded is None else int(self._loaded.engine.get_num_unfinished_requests())

    async def start(self, work: Work, arguments: Callable[[bool], dict[str, Any]]) -> Loaded:
        """Load a model. `arguments` gives those of `AsyncEngineArgs` once vLLM is imported, told whether on a CPU.

        Raises EngineError with its cause, and for a model that is not meant for this work.
        """
        self._dead_because = None
        self._processes = CoreProcesses(capture="VLLM_LOGGING_LEVEL" not in os.environ)
        # The processes end with the thread that started them, so it lives until `close`.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vllm-start")
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._launch, self._processes, arguments)
            loaded = self.alive()
            await self._check_work(loaded, work)
        except BaseException:  # cancelled as well: a start that did not end well leaves no process; raised again
            await self.close()
            raise
        return loaded

    def alive(self) -> Loaded:
        """Return the loaded model. Raises EngineError where there is none."""
        if self._dead_because is not None:
            raise self.died()
        if self._loaded is None:
            raise EngineError(f"the engine {self._label!r} is not running", "start it first")
        return self._loaded

    def next_id(self) -> str:
        """Return a name for a request."""
        return str(next(self._ids))

    async def pool(self, work: Work, tokens: Tokens, problem_id: str) -> Any:
        """Have a pooling model read one list of tokens; returns vLLM's own output.

        Raises EngineError for a list that does not fit the context, for a refused one, and for a dead engine: at once,
        then and at every later call.
        """
        loaded = self.alive()
        if not 0 < len(tokens) <= loaded.context_tokens:
            raise EngineError(
                f"problem {problem_id!r}: {len(tokens)} tokens do not fit the context of {loaded.context_tokens} "
                f"tokens of {self._label!r}",
                "raise its max_model_len, or shorten what it reads",
            )
        from vllm import PoolingParams

        prompt = {"type": "token", "prompt_token_ids": list(tokens)}
        final: Any = None
        try:
            # Parameters serve one request: vLLM writes into them.
            async for output in loaded.engine.encode(prompt, PoolingParams(task=work), self.next_id()):
                final = output
        except (loaded.dead, *loaded.refused) as error:
            raise self.failed(error, problem_id) from error
        if final is None or final.error is not None:
            if self.closed:
                raise self.died()
            raise EngineError(f"vLLM ended problem {problem_id!r} without a result", retryable=True)
        return final

    def failed(self, error: Exception, problem_id: str) -> EngineError:
        """Say what a request's failure means: the engine died, or it refused this one."""
        loaded = self._loaded
        if loaded is None or isinstance(error, loaded.dead) or loaded.engine.errored:
            return self.died()
        return EngineError(f"vLLM refused problem {problem_id!r}: {one_line(error.__cause__ or error)}")

    def died(self) -> EngineError:
        """Return the error of an engine that is gone, with the cause its process left behind."""
        if self._dead_because is None:
            if self._processes is None:
                return EngineError(f"the engine {self._label!r} was closed", fatal=True)
            self._dead_because = self._processes.root_cause() or "its process ended without a word (killed?)"
        return EngineError(
            f"the engine {self._label!r} died: {self._dead_because}",
            "look for a lack of memory; start again to resume the run",
            fatal=True,
        )

    async def close(self) -> None:
        """Stop every process this core started. Doing it twice is no error."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        processes, self._processes = self._processes, None
        thread, self._thread = self._thread, None
        loaded, self._loaded = self._loaded, None
        if processes is None or thread is None:
            return
        if loaded is not None:
            loaded.engine.shutdown(_SHUTDOWN_S)
        processes.kill()
        thread.shutdown()
        # A start that was cancelled may have come to its end meanwhile; its processes died with the thread.
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.engine.shutdown(0.0)
        processes.end()
        del loaded
        gc.unfreeze()
        gc.collect()  # the client is part of a cycle; finalised at exit, it would complain that vLLM is gone

    def _launch(self, processes: CoreProcesses, arguments: Callable[[bool], dict[str, Any]]) -> None:
        try:
            with processes.launching():
                set_environment()
                _import_vllm()
                self._loaded = _build(arguments)
                # vLLM and what it imports are millions of objects that stay: looking through them again and again for
                # garbage took seconds of each minute of a search.
                gc.collect()
                gc.freeze()
                if processes.capture:
                    # What vLLM's client logs as an error, it raises as well.
                    logging.getLogger("vllm").setLevel(logging.CRITICAL)
        except _START_ERRORS as error:
            cause = processes.root_cause() or one_line(error)
            raise EngineError(f"vLLM cannot start {self._label!r}: {cause}", _start_hint(cause)) from error

    async def _check_work(self, loaded: Loaded, work: Work) -> None:
        try:
            # Also starts the task that hears of a core's death.
            tasks = await loaded.engine.get_supported_tasks()
        except loaded.dead as error:
            raise self.died() from error
        if work not in tasks:
            fault, hint = _MEANT_FOR[work]
            raise EngineError(f"model {self._label!r} {fault}", hint)


def one_line(error: BaseException) -> str:
    """Return the reason an error of vLLM gives."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A pydantic error starts with a count; its reason follows.
    reasons = [line.removeprefix("Value error, ").partition(" [type=")[0] for line in lines if "[type=" in line]
    return (reasons or lines or [type(error).__name__])[0]


def _import_vllm() -> None:
    # Apart from the building of the engine: some failed optional import keeps its traceback, and with it the frames.
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())  # until vLLM has configured it
    import vllm.v1.engine.async_llm  # noqa: F401


def _build(arguments: Callable[[bool], dict[str, Any]]) -> Loaded:
    from vllm import AsyncEngineArgs
    from vllm.exceptions import VLLMClientError
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    cpu = current_platform.is_cpu()
    # vLLM's own counters would be exported to Prometheus at every step.
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments(cpu), disable_log_stats=True))
    return Loaded(
        engine=engine,
        dead=EngineDeadError,
        refused=(VLLMClientError, EngineGenerateError, ValueError),
        cpu=cpu,
        context_tokens=engine.model_config.max_model_len,
    )


def _start_hint(cause: str) -> str:
    lowered = cause.lower()
    if "memory" in lowered or "kv cache" in lowered:
        return "lower max_model_len or kv_cache_gib, or free memory"
    if "torchvision" in lowered:
        return "pip uninstall torchvision torchaudio: vLLM runs without them"
    return "run with VLLM_LOGGING_LEVEL=INFO to see vLLM's own log"
