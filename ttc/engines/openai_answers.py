"""What an OpenAI-compatible server says: completions are read, and refusals are put into one line without the key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ttc.core.errors import EngineError
from ttc.core.types import Completion, Finish, GenRequest, Usage

GENERATED = (408, 502, 504)
"""What is said of a request that took too long, or whose answer was lost: it may have been generated."""
_MESSAGE_CHARACTERS = 300


class NotNowError(EngineError):
    """A server may do it later; `retry_after_s` is how long it asked to be left alone, None if it did not say."""

    def __init__(self, message: str, hint: str, retry_after_s: float | None) -> None:
        super().__init__(message, hint, retryable=True)
        self.retry_after_s = retry_after_s


def completed(request: GenRequest, answer: Any, choice: Any) -> Completion:
    """Return what vLLM completed, by its tokens."""
    stop = getattr(choice, "stop_reason", None)
    if isinstance(stop, int) and stop not in request.sampling.stop_token_ids:
        stop = None  # one of the model's own end tokens
    recorded = choice.logprobs
    values = None if recorded is None else _numbers(recorded.token_logprobs)
    tops = None if recorded is None or not recorded.top_logprobs else [list(d.values()) for d in recorded.top_logprobs]
    tokens = tuple(getattr(choice, "token_ids", None) or ())
    if not all(isinstance(token, int) for token in tokens):
        raise EngineError("the server answered with token_ids that are not whole numbers", "look at the server's log")
    return _completion(request, answer, choice, (choice.text or "", tokens, stop), values, tops)


def chatted(request: GenRequest, answer: Any, choice: Any) -> Completion:
    """Return what a server said in a chat; it tells no tokens."""
    recorded = getattr(choice.logprobs, "content", None) if choice.logprobs is not None else None
    values = None if not recorded else _numbers([entry.logprob for entry in recorded])
    tops = None if not recorded else [[top.logprob for top in entry.top_logprobs or []] for entry in recorded]
    text = getattr(getattr(choice, "message", None), "content", None) or ""
    return _completion(request, answer, choice, (text, (), None), values, tops)


def failure(
    error: Exception, host: str, model: str, secrets: Sequence[str], *, retries: int, timeout_s: float
) -> EngineError:
    """Return in one line what went wrong with a call of the SDK."""
    import openai

    said = " ".join(str(getattr(error, "message", error)).split())
    for secret in secrets:
        said = said.replace(secret, "***")
    said = said[:_MESSAGE_CHARACTERS]
    status = getattr(error, "status_code", None)
    if isinstance(error, openai.APITimeoutError):
        return EngineError(
            f"{host} gave no answer within {timeout_s:g} s",
            "ask for fewer tokens, raise the time limit, or look at the server",
            retryable=True,
        )
    if isinstance(error, openai.APIConnectionError):
        cause = " ".join(str(error.__cause__ or "").split())
        return EngineError(
            f"cannot reach {host}{f': {cause}' if cause else ''}", "is the server running?", retryable=True, fatal=True
        )
    if status in (401, 403):
        return EngineError(f"{host} refuses the key ({status})", "set OPENAI_API_KEY to a valid key", fatal=True)
    if status == 404:
        return EngineError(f"{host} knows no such address or model {model!r} (404): {said}")
    if status == 429:
        after = f" after {retries} retries" if retries else ""  # in a pool, the pool retries
        return NotNowError(
            f"{host} is over its rate limit (429){after}: {said}",
            "lower the concurrency, or try later",
            _retry_after_s(error),
        )
    if isinstance(status, int) and not_now(status):
        return NotNowError(f"{host} failed ({status}): {said}", "look at the server's log", _retry_after_s(error))
    if isinstance(status, int):
        return EngineError(f"{host} refused the request ({status}): {said}")
    return EngineError(f"{host} answered with something else than JSON: {said}", retryable=True)


def not_now(status: int) -> bool:
    """Say whether a server that answers so may do it later."""
    return status in (408, 409, 429) or (status >= 500 and status != 501)


def _completion(
    request: GenRequest,
    answer: Any,
    choice: Any,
    said: tuple[str, tuple[int, ...], int | str | None],
    values: tuple[float, ...] | None,
    tops: list[list[float]] | None,
) -> Completion:
    text, tokens, stop = said
    top = request.sampling.top_logprobs
    confidences = None
    if top and tops and all(tops):
        # The sampled token may be among the top ones, or one more beside them.
        kept = [sorted(position, reverse=True)[:top] for position in tops]
        confidences = tuple(-math.fsum(position) / len(position) for position in kept)
    finish: Finish = "length" if choice.finish_reason == "length" else "stop"
    return Completion(
        index=request.index,
        text=text,
        tokens=tokens,
        finish=finish,
        usage=_usage(answer, request),
        stop_reason=stop,
    ).recording(values, confidences)


def _usage(answer: Any, request: GenRequest) -> Usage:
    usage = getattr(answer, "usage", None)
    completion = getattr(usage, "completion_tokens", None)
    if not isinstance(completion, int) or completion < 0:
        return Usage(completion=request.max_tokens)  # nothing was reported: charge the worst case
    prompt = max(0, getattr(usage, "prompt_tokens", None) or 0)
    cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None) or 0
    cached = min(max(0, cached), prompt)
    return Usage(prompt=prompt - cached, cached=cached, completion=max(completion, 1))  # free answers would never end


def _numbers(values: Sequence[float | None] | None) -> tuple[float, ...] | None:
    return None if not values or None in values else tuple(value for value in values if value is not None)


def _retry_after_s(error: Exception) -> float | None:
    """Return a refusal's Retry-After in seconds; None where there is none, or it is a date."""
    response = getattr(error, "response", None)
    try:
        return max(0.0, float(response.headers["retry-after"])) if response is not None else None
    except (KeyError, ValueError):
        return None
