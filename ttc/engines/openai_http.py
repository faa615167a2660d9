"""The engine behind any OpenAI-compatible server: `http://HOST/v1#NAME`.

A vLLM server is given token ids and returns them, so prefixes can be extended. Any other server is only chatted
with: its tokens are what its usage field says, `Completion.tokens` is empty, and nothing can be extended.

Not covered: a request that was sent again after a lost connection or a timeout may have been generated twice; only
the answer that arrived is counted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from ttc.core.errors import EngineError, did_you_mean
from ttc.core.identity import identity
from ttc.core.protocols import Capability
from ttc.core.secrets import secrets_of, without_secrets
from ttc.core.types import Completion, GenRequest, Message, Prompt, Tokens, Usage
from ttc.engines.openai_answers import GENERATED, chatted, completed, failure, not_now
from ttc.engines.together import together

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

T = TypeVar("T")
_NO_KEY = "none"
_DECODED = 4096
_CHATS: frozenset[Capability] = frozenset({"live", "temperature"})
"""What every server can do."""


@dataclass(frozen=True, slots=True)
class OpenAIOptions:
    """Where the server is, what it is asked for, and how patiently."""

    base_url: str
    """As the OpenAI SDK takes it; it usually ends in /v1."""
    model: str
    label: str | None = None
    api_key: str | None = None
    """None reads OPENAI_API_KEY; a server without keys needs neither."""
    timeout_s: float = 600.0
    text_timeout_s: float = 10.0
    """Of turning text into tokens and back, which nothing else runs beside."""
    max_retries: int = 5
    """Of rate limits, server errors and lost connections, with growing waits or as Retry-After says."""
    max_concurrency: int = 256
    logprobs: bool = True


class OpenAIEngine:
    """Completions of a model behind an OpenAI-compatible server."""

    def __init__(self, options: OpenAIOptions) -> None:
        self._options = options
        self._key = options.api_key or os.environ.get("OPENAI_API_KEY") or _NO_KEY
        self.host = without_secrets(options.base_url)
        self._root = options.base_url.rstrip("/").removesuffix("/v1")
        self.label = options.label or options.model
        self.fingerprint = _fingerprint(options, "")
        """Names the server and the model, not the weights: a server does not tell them."""
        self.capabilities: frozenset[Capability] = _CHATS
        self.immediate = False
        self.context_tokens: int | None = None
        self.parameters: int | None = None
        self.warnings: list[str] = []
        self._client: AsyncOpenAI | None = None
        self._blocking: OpenAI | None = None
        self._slots = asyncio.Semaphore(options.max_concurrency)
        self._takes_tokens = False
        self._logprobs = options.logprobs
        self._cap = "max_tokens"
        self.ends: set[int] = set()
        """The model's own end tokens, as far as they were seen."""
        self.version = ""
        """The server's build, where it tells; known once it has started."""
        self._decode = lru_cache(_DECODED)(self._detokenize)
        self._encode = lru_cache(_DECODED)(self._tokenize)

    async def start(self) -> None:
        """Reach the server and find out what it can do. Raises EngineError with its cause."""
        from openai import AsyncOpenAI, OpenAI

        options = self._options
        self._client = AsyncOpenAI(
            base_url=options.base_url, api_key=self._key, timeout=options.timeout_s, max_retries=options.max_retries
        )
        self._blocking = OpenAI(
            base_url=options.base_url,
            api_key=self._key,
            timeout=options.text_timeout_s,
            max_retries=options.max_retries,
        )
        self._slots = asyncio.Semaphore(options.max_concurrency)  # belongs to the loop that first waits for it
        try:
            await self._find_model(self._client)
            self._takes_tokens = await self._probe_tokens(self._client)
        except BaseException:  # cancelled as well: a start that did not end well leaves nothing open; raised again
            await self.close()
            raise
        self.capabilities = _CHATS | {"extends", "top_logprobs"} if self._takes_tokens else _CHATS

    def render(self, messages: Sequence[Message], flags: Mapping[str, bool | int | str] | None = None) -> Prompt:
        """Apply the chat template on a vLLM server; elsewhere keep the messages."""
        chat = tuple(messages)
        if not self._takes_tokens:
            if flags:
                raise EngineError(f"{self.host} takes no chat-template flags", "serve the model with vLLM")
            return Prompt(chat)
        body: dict[str, Any] = {"model": self._options.model, "messages": _chat(chat), "add_generation_prompt": True}
        if flags:
            body["chat_template_kwargs"] = dict(flags)
        return Prompt(chat, tuple(self._post_now("tokenize", body)["tokens"]))

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text, asked of a vLLM server; raises EngineError on any other."""
        if not self._takes_tokens:
            raise EngineError(f"{self.host} cannot turn text into tokens", "serve the model with vLLM")
        return self._encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, asked of a vLLM server; raises EngineError on any other."""
        if not tokens:
            return ""
        if not self._takes_tokens:
            raise EngineError(f"{self.host} cannot turn tokens into text", "serve the model with vLLM")
        # The server's tokenizer spells end tokens out; nobody reads them.
        return self._decode(tuple(token for token in tokens if token not in self.ends))

    async def generate(self, requests: Sequence[GenRequest]) -> list[Completion]:
        """Draw one completion a request, in request order.

        Raises EngineError, `retryable` where the same call may succeed later.
        """
        draw = self._complete if self._takes_tokens else self._chat_once
        return await together([draw(request) for request in requests])

    async def post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the JSON of another address of the server, asked as patiently and with the same errors."""
        return await self._ask(lambda client: _fetch(client, f"{self._root}/{path}", body))

    @property
    def offer(self) -> tuple[bool, int | None]:
        """Return what servers of one pool must agree on: whether prefixes can be extended, and the context length."""
        return "extends" in self.capabilities, self.context_tokens

    async def healthy(self) -> bool:
        """Say whether the server answers a health check, whatever it may think of that address."""
        from openai import APIStatusError, OpenAIError

        if self._client is None:
            return False
        try:
            await self._client.get(f"{self._root}/health", cast_to=object)
        except APIStatusError as error:
            return error.status_code < 500
        except OpenAIError:
            return False
        except ValueError:
            return True  # whatever it says, it answers
        return True

    async def close(self) -> None:
        """Close the connections. Doing it twice is no error."""
        client, self._client = self._client, None
        blocking, self._blocking = self._blocking, None
        if client is not None:
            await client.close()
        if blocking is not None:
            blocking.close()

    async def _find_model(self, client: AsyncOpenAI) -> None:
        from openai import NotFoundError, OpenAIError

        try:
            listed = (await _fetch(client, f"{self._options.base_url.rstrip('/')}/models")).get("data")
        except NotFoundError:
            return  # a server need not list its models
        except (OpenAIError, ValueError) as error:
            raise self._told(error) from None
        if not isinstance(listed, list):
            raise EngineError(f"{self.host} does not speak the OpenAI protocol", "the address usually ends in /v1")
        found = {str(entry.get("id")): entry for entry in listed if isinstance(entry, dict)}
        if found and self._options.model not in found:
            raise EngineError(
                f"{self.host} has no model {self._options.model!r}, but {', '.join(sorted(found)[:10])}",
                did_you_mean(self._options.model, found),
            )
        length = found.get(self._options.model, {}).get("max_model_len")
        self.context_tokens = length if isinstance(length, int) else None

    async def _probe_tokens(self, client: AsyncOpenAI) -> bool:
        from openai import APIStatusError, OpenAIError

        body = {"model": self._options.model, "messages": [{"role": "user", "content": "1"}]}
        try:
            ids = (await _fetch(client, f"{self._root}/tokenize", body)).get("tokens")
            version = (await _fetch(client, f"{self._root}/version")).get("version")
            if not ids or not version:
                return False
            answer: Any = await client.completions.create(
                model=self._options.model, prompt=ids, max_tokens=1, extra_body={"return_token_ids": True}
            )
        except APIStatusError as error:
            if not_now(error.status_code):
                raise self._told(error) from None
            return False  # not vLLM, or not one that does this
        except (OpenAIError, ValueError) as error:
            raise self._told(error) from None
        self.version = str(version)
        self.fingerprint = _fingerprint(self._options, self.version)
        choices = getattr(answer, "choices", None)
        return bool(choices and getattr(choices[0], "token_ids", None))

    async def _complete(self, request: GenRequest) -> Completion:
        sampling = request.sampling
        prompt = list(request.prompt.tokens)
        if self.context_tokens is not None and len(prompt) >= self.context_tokens:
            raise EngineError(
                f"problem {request.problem_id!r}: a prompt of {len(prompt)} tokens does not fit the context of "
                f"{self.context_tokens} tokens of {self.label!r}",
                "serve the model with a longer context, or shorten the prompt",
            )
        wants = sampling.top_logprobs or (0 if self._options.logprobs else None)
        # Everything is said: what is left out, the server fills in from the model's own generation_config.json.
        answer = await self._ask(
            lambda client: client.completions.create(
                model=self._options.model,
                prompt=prompt,
                max_tokens=request.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=request.seed,
                stop=list(sampling.stop) or None,
                logprobs=wants,
                presence_penalty=0.0,
                frequency_penalty=0.0,
                extra_body={
                    "top_k": sampling.top_k,
                    "min_p": sampling.min_p,
                    "repetition_penalty": 1.0,
                    "stop_token_ids": list(sampling.stop_token_ids),
                    "return_token_ids": True,
                    "return_tokens_as_token_ids": True,
                },
            )
        )
        choice = self._choice(answer)
        completion = completed(request, answer, choice)
        if completion.finish == "stop" and completion.stop_reason is None and completion.tokens:
            self.ends.add(completion.tokens[-1])
        return completion

    async def _chat_once(self, request: GenRequest) -> Completion:
        answer = await self._ask(lambda client: self._create_chat(client, request))
        return chatted(request, answer, self._choice(answer))

    async def _create_chat(self, client: AsyncOpenAI, request: GenRequest) -> Any:
        from openai import BadRequestError

        try:
            return await self._send_chat(client, request)
        except BadRequestError as error:
            # Two settings that some servers know by another name, or not at all: found out once.
            if self._cap == "max_tokens" and "max_completion_tokens" in error.message:
                self._cap = "max_completion_tokens"
            elif self._logprobs and "logprobs" in error.message and not request.sampling.top_logprobs:
                self._logprobs = False
            else:
                raise
        return await self._create_chat(client, request)

    async def _send_chat(self, client: AsyncOpenAI, request: GenRequest) -> Any:
        sampling = request.sampling
        if request.prompt.generated:
            raise EngineError(f"{self.host} only takes chats: it cannot continue a prefix", "serve the model with vLLM")
        body: dict[str, Any] = {self._cap: request.max_tokens}
        if sampling.top_k > 0:
            body["top_k"] = sampling.top_k
        if sampling.min_p > 0:
            body["min_p"] = sampling.min_p
        if sampling.stop_token_ids:
            body["stop_token_ids"] = list(sampling.stop_token_ids)
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self._logprobs or sampling.top_logprobs:
            body["logprobs"] = True
        if sampling.top_logprobs:
            body["top_logprobs"] = sampling.top_logprobs
        messages: Any = _chat(request.prompt.messages)
        return await client.chat.completions.create(
            model=self._options.model,
            messages=messages,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=request.seed,
            extra_body=body,
        )

    def _choice(self, answer: Any) -> Any:
        choices = getattr(answer, "choices", None)
        if not choices:
            raise EngineError(f"{self.host} answered with something else than a completion", retryable=True)
        return choices[0]

    async def _ask(self, call: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        client = self._client
        if client is None:
            raise EngineError(f"the engine {self.label!r} is not running", "start it first")
        from openai import APIStatusError, OpenAIError

        try:
            async with self._slots:
                return await call(client)
        except (OpenAIError, ValueError) as error:
            told = self._told(error)
            if isinstance(error, APIStatusError) and error.status_code not in GENERATED:
                # A refusal: nothing was generated, so the problem's budget is there for another try.
                told.usage = Usage()
            # Without the cause: a server may repeat the key in its answer.
            raise told from None

    def _post_now(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        from openai import OpenAIError

        if self._blocking is None:
            raise EngineError(f"the engine {self.label!r} is not running", "start it first")
        try:
            answer: Any = self._blocking.post(f"{self._root}/{path}", cast_to=object, body=body)
        except (OpenAIError, ValueError) as error:
            raise self._told(error, self._options.text_timeout_s) from None
        if not isinstance(answer, dict):
            raise EngineError(f"{self.host}/{path} answered with something else than JSON", retryable=True)
        return answer

    def _tokenize(self, text: str) -> Tokens:
        body = {"model": self._options.model, "prompt": text, "add_special_tokens": False}
        return tuple(self._post_now("tokenize", body)["tokens"])

    def _detokenize(self, tokens: Tokens) -> str:
        text: str = self._post_now("detokenize", {"model": self._options.model, "tokens": tokens})["prompt"]
        return text

    def _told(self, error: Exception, timeout_s: float | None = None) -> EngineError:
        options = self._options
        return failure(
            error,
            self.host,
            options.model,
            [*([self._key] if self._key != _NO_KEY else []), *secrets_of(options.base_url)],
            retries=options.max_retries,
            timeout_s=timeout_s or options.timeout_s,
        )


async def _fetch(client: AsyncOpenAI, url: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    answer: Any = await (
        client.get(url, cast_to=object) if body is None else client.post(url, cast_to=object, body=body)
    )
    return answer if isinstance(answer, dict) else {}


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _fingerprint(options: OpenAIOptions, version: str) -> str:
    return "server:" + identity({"url": without_secrets(options.base_url), "model": options.model, "version": version})
