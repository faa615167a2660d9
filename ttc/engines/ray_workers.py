"""Models on a Ray cluster: actors hold them, and the driver keeps everything else.

An engine here is an ordinary `Engine` whose calls are answered by actors: budgets, allocators, the cache and the journal
never leave the driver, so there is one ledger and one record of a problem, whatever an actor does. Calls travel in
batches: one message takes all that were made in the same moment, one brings back all that ended.

Not covered: one model spread over several machines (vLLM's own business), and Ray's client protocol (`ray://`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ttc.core.errors import EngineError
from ttc.core.protocols import Engine, HasArchitecture, HasModelConfig, HasWeights, RewardModel
from ttc.core.specs import ModelSpec
from ttc.core.types import Completion, GenRequest, Message, Prompt, Tokens
from ttc.engines.opening import WEB, open_backend, open_engine, open_reward
from ttc.engines.pool import Pool, PoolOptions, drawn, scored
from ttc.engines.ray_actor import PLACED_S, Worker
from ttc.engines.ray_cluster import RayOptions, check_installed, join_cluster
from ttc.engines.ray_host import Host, Load, Part, Reading, Result
from ttc.engines.rewards import Backend, RewardFormat, Scored
from ttc.engines.together import together

_PATIENT = PoolOptions(patience_s=PLACED_S)
_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


@runtime_checkable
class TextAlone(Protocol):
    """An engine whose `render`, `encode` and `decode` can work in a process that does not hold the model."""

    async def start_text(self) -> None:
        """Load the tokenizer alone. Raises EngineError with its cause."""


class _Held:
    """One model on one worker: implements `ttc.engines.pool.Endpoint`."""

    version = ""
    """Part of the fingerprint, which is compared at each start."""

    def __init__(self, worker: Worker, name: str, asked: Load, fingerprint: str) -> None:
        self.host, self.fingerprint = worker.label, fingerprint
        self.context_tokens: int | None = None
        self._worker, self._name, self._asked = worker, name, asked

    @property
    def offer(self) -> tuple[int | None, ...]:
        """Return the model's context; its content is compared at each start."""
        return (self.context_tokens,)

    async def start(self) -> None:
        """Have the worker load the model. Raises EngineError with its cause, and for a model of another content."""
        loaded = await self._worker.load(self._name, self._asked)
        if loaded.fingerprint != self.fingerprint:
            raise EngineError(
                f"{self.host} finds another model or another vLLM than this machine behind {self._asked.spec.path!r}",
                "use the same files and the same environment on all machines",
            )
        self.context_tokens = loaded.context_tokens

    async def healthy(self) -> bool:
        """Say whether the worker lives and has the model: an actor's death is told, so nobody need be asked."""
        return self._worker.holds(self._name)

    async def close(self) -> None:
        """Have the worker stop the model."""
        await self._worker.unload(self._name)

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Return one completion a request, in request order."""
        return await together([self._draw(request) for request in requests])

    async def _draw(self, request: GenRequest) -> Completion:
        answer = await self._ask(request)
        if not isinstance(answer, Completion):
            raise EngineError(f"{self.host} answered {type(answer).__name__} when a completion was asked for")
        return answer

    async def read(self, tokens: Tokens, problem_id: str) -> Scored:
        """Return the scores of one list of tokens."""
        answer = await self._ask(Reading(tokens, problem_id))
        if not isinstance(answer, Scored):
            raise EngineError(f"{self.host} answered {type(answer).__name__} when scores were asked for")
        return answer

    async def _ask(self, asked: GenRequest | Reading) -> Result:
        try:
            return await self._worker.ask(self._name, asked)
        except EngineError as error:
            if error.fatal and error.retryable:
                raise
            if not error.fatal:  # told as without Ray: only a death has others try
                raise EngineError(error.message, error.hint, usage=error.usage) from error
            # The worker lives and its model died: another one answers, and this one loads it again.
            self._worker.drop(self._name)
            raise EngineError(f"{self.host}: {error.message}", error.hint, retryable=True, fatal=True) from error


class RayEngine:
    """A policy on every worker: implements `ttc.core.protocols.Engine`.

    Args:
        fleet: the workers.
        spec: the model, as every worker opens it.
        local: the same engine in this process, never started: it knows the model's name and renders its text.
    """

    immediate = False

    def __init__(self, fleet: Fleet, spec: ModelSpec, local: Engine) -> None:
        self.fleet, self._spec, self._local = fleet, spec, local
        self._pool: Pool[_Held] | None = None
        self.label, self.fingerprint, self.parameters = local.label, local.fingerprint, local.parameters
        self.capabilities, self.context_tokens = local.capabilities, local.context_tokens

    @property
    def model_config(self) -> Mapping[str, Any]:
        """Return the model's config.json, empty where there is none."""
        return self._local.model_config if isinstance(self._local, HasModelConfig) else {}

    @property
    def architecture(self) -> str | None:
        """Return the model's class name, None where it is not known."""
        return self._local.architecture if isinstance(self._local, HasArchitecture) else None

    def weights_sha256(self) -> str | None:
        """Return the SHA-256 of the weights, None where it is not known."""
        return self._local.weights_sha256() if isinstance(self._local, HasWeights) else None

    @property
    def warnings(self) -> list[str]:
        """Return what a user should know of the workers so far."""
        return [] if self._pool is None else self._pool.warnings

    def endpoints(self) -> list[dict[str, Any]]:
        """Return the workers and what each did, for the record."""
        return [] if self._pool is None else self._pool.endpoints()

    async def start(self) -> None:
        """Load the model on every worker. Raises EngineError where none can."""
        if isinstance(self._local, TextAlone):
            await self._local.start_text()
        self._pool = await self.fleet.pool("policy", self._spec, self.label, self.fingerprint)
        self.context_tokens = self._pool.up[0].context_tokens

    async def close(self) -> None:
        """Stop the model on every worker, and what was started for this run with the last model."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await self.fleet.release(pool)

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Apply the model's chat template, here."""
        return self._local.render(messages, flags)

    def encode(self, text: str) -> Tokens:
        """Return the model's tokens of a text."""
        return self._local.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the model's text of `tokens`."""
        return self._local.decode(tokens)

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Have each request answered by a worker, in request order."""
        pool = _running(self._pool, self.label)
        return await together([drawn(pool, request) for request in requests])


class RayBackend:
    """A reward model on every worker: implements `ttc.engines.rewards.Backend`. Arguments as those of `RayEngine`."""

    def __init__(self, fleet: Fleet, spec: ModelSpec, local: Backend) -> None:
        self.fleet, self._spec, self._local = fleet, spec, local
        self._pool: Pool[_Held] | None = None
        self.label, self.fingerprint, self.parameters = local.label, local.fingerprint, local.parameters

    @property
    def format(self) -> RewardFormat:
        """Return how the model is asked."""
        return self._local.format

    @property
    def warnings(self) -> list[str]:
        """Return what a user should know of the workers so far."""
        return [] if self._pool is None else self._pool.warnings

    def endpoints(self) -> list[dict[str, Any]]:
        """Return the workers and what each did, for the record."""
        return [] if self._pool is None else self._pool.endpoints()

    async def start(self) -> None:
        """Load the model on every worker. Raises EngineError where none can."""
        self._pool = await self.fleet.pool("reward", self._spec, self.label, self.fingerprint)

    async def close(self) -> None:
        """Stop the model on every worker."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await self.fleet.release(pool)

    async def read(self, tokens: Tokens, problem_id: str) -> Scored:
        """Have one list of tokens scored by a worker."""
        return await scored(_running(self._pool, self.label), tokens, problem_id)


def _running(pool: Pool[_Held] | None, label: str) -> Pool[_Held]:
    if pool is None:
        raise EngineError(f"the engine {label!r} is not running", "start it first")
    return pool


class Fleet:
    """The workers of one run: actors that are started with the first model and ended with the last."""

    def __init__(self, options: RayOptions) -> None:
        check_installed()
        self.workers: list[Worker] = []
        """Those that hold models now."""
        self._options = options
        self._gpus_a_worker = 0
        self._names = itertools.count()
        self._pools = 0
        self._connected = False

    def open_engine(self, spec: ModelSpec) -> Engine:
        """Return a model's engine, not started yet; one behind a server is asked from here, as without Ray."""
        local = open_engine(spec)
        if spec.path.startswith(WEB):
            return local
        return RayEngine(self, self._counted(spec), local)

    def open_reward(self, spec: ModelSpec | str | None) -> RewardModel | None:
        """Return a reward model, not started yet; what holds no model here holds none there either."""
        return open_reward(spec, self._open_backend)

    def _open_backend(self, spec: ModelSpec) -> Backend:
        local = open_backend(spec)  # first: it refuses options that cannot be counted
        return RayBackend(self, self._counted(spec), local)

    def _counted(self, spec: ModelSpec) -> ModelSpec:
        """Note the GPUs that a model needs; a folder is named so that each worker finds it."""
        if spec.path.partition(":")[0] != "fake":
            gpus = math.prod(int(spec.options.get(name, 1)) for name in _PARALLEL)
            self._gpus_a_worker = max(self._gpus_a_worker, gpus)
        path = Path(spec.path)
        return spec.model_copy(update={"path": str(path.resolve())}) if path.is_dir() else spec

    async def pool(self, part: Part, spec: ModelSpec, label: str, fingerprint: str) -> Pool[_Held]:
        """Load a model on every worker and return what deals its calls; `release` stops it.

        Raises:
            EngineError: there is no such cluster, or no worker can hold the model.
        """
        if not self._pools:
            self._connect()
        self._pools += 1
        name = f"{part} {next(self._names)}"
        held = [_Held(worker, name, Load(part, spec), fingerprint) for worker in self.workers]
        pool = Pool(held, label, _PATIENT, "worker")
        try:
            await pool.start()
        except BaseException:  # a start that did not end well leaves no worker; raised again
            await self.release(pool)
            raise
        return pool

    async def release(self, pool: Pool[_Held]) -> None:
        """Stop a model; the last one leaves the cluster, and ends one that was started here."""
        try:
            await pool.close()
        finally:
            self._pools -= 1
            if not self._pools:
                self.workers = []
                self._disconnect()

    def _connect(self) -> None:
        import ray

        if not ray.is_initialized():
            join_cluster(self._options)
            self._connected = True
        offered = ray.cluster_resources()
        gpus = self._gpus_a_worker if offered.get("GPU") else 0
        machines = sum(bool(node["Alive"]) for node in ray.nodes())
        count = self._options.workers or (int(offered["GPU"] // gpus) if gpus else machines)
        if not count:
            self._disconnect()
            raise EngineError(
                f"a worker needs {gpus} GPUs, and the cluster has {offered['GPU']:g}",
                "lower tensor_parallel_size, or use another cluster",
            )
        actor = ray.remote(Host).options(
            num_cpus=1, num_gpus=gpus, max_concurrency=1_000_000, scheduling_strategy="SPREAD"
        )
        self.workers = [Worker(number, actor.remote) for number in range(1, count + 1)]

    def _disconnect(self) -> None:
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False
