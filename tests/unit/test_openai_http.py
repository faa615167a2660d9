"""The HTTP engine against a small server that answers, or misbehaves, as told."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ttc.core.errors import EngineError
from ttc.core.protocols import Engine
from ttc.core.types import Completion, GenRequest, Message, Prompt, Sampling, Usage
from ttc.engines.openai_answers import NotNowError
from ttc.engines.openai_http import OpenAIEngine, OpenAIOptions

KEY = "sk-very-secret-0123456789"
CHAT = (Message("system", "Be brief."), Message("user", "What is 2 + 2?"))
Answer = tuple[int, dict[str, str], bytes]


def reply(body: Any, status: int = 200, **headers: str) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(body).encode()


def refuse(status: int, message: str, **headers: str) -> Answer:
    return reply({"error": {"message": message, "type": "error", "code": None}}, status, **headers)


def chat_answer(**fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "4"}, "logprobs": None}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **fields}


MODELS = {"object": "list", "data": [{"id": "m", "object": "model"}, {"id": "llama-3-8b", "object": "model"}]}


class Server(ThreadingHTTPServer):
    """Routes a path to a function of the request's body; what is not routed is 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.routes: dict[str, Callable[[dict[str, Any]], Answer | None]] = {"/v1/models": lambda _: reply(MODELS)}
        self.seen: list[tuple[str, dict[str, Any], str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for seen, body, _ in self.seen if seen == path]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        self.server.seen.append((self.path, body, self.headers.get("Authorization", "")))
        route = self.server.routes.get(self.path, lambda _: refuse(404, "Not Found"))
        answer = route(body)
        if answer is None:  # close the connection without a word
            self.close_connection = True
            return
        status, headers, data = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815 (the base class finds it by name)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def options(server: Server, **changes: Any) -> OpenAIOptions:
    return OpenAIOptions(server.url, **{"model": "m", "timeout_s": 5.0, "max_retries": 1, **changes})


def ask(prompt: Prompt, sampling: Sampling | None = None, max_tokens: int = 64) -> GenRequest:
    return GenRequest("p", prompt, sampling or Sampling(temperature=0.5), max_tokens, seed=77, index=3)


def run(chosen: OpenAIOptions, sampling: Sampling | None = None, n: int = 1) -> list[Completion]:
    async def work() -> list[Completion]:
        engine = OpenAIEngine(chosen)
        await engine.start()
        try:
            prompt = engine.render(CHAT)
            return await engine.generate([ask(prompt, sampling) for _ in range(n)])
        finally:
            await engine.close()

    return asyncio.run(work())


def fails(chosen: OpenAIOptions, match: str) -> EngineError:
    with pytest.raises(EngineError, match=match) as told:
        run(chosen)
    assert "\n" not in told.value.message
    assert KEY not in told.value.message + told.value.hint
    assert KEY not in repr(told.value.__cause__)
    return told.value


def test_chats_with_a_server_that_only_chats(server: Server) -> None:
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 50,
        "total_tokens": 70,
        "prompt_tokens_details": {"cached_tokens": 16},
        "completion_tokens_details": {"reasoning_tokens": 49},
    }
    server.routes["/v1/chat/completions"] = lambda _: reply(chat_answer(usage=usage))
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=5, stop=("END",))
    completion = run(options(server), sampling)[0]
    assert completion == Completion(3, "4", (), "stop", Usage(prompt=4, cached=16, completion=50))
    body = server.bodies("/v1/chat/completions")[0]
    assert body["messages"] == [{"role": m.role, "content": m.content} for m in CHAT]
    wanted = {"model": "m", "max_tokens": 64, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 77, "stop": ["END"]}
    assert {name: body[name] for name in wanted} == wanted


def test_such_a_server_neither_extends_nor_decodes(server: Server) -> None:
    async def work() -> None:
        engine = OpenAIEngine(options(server))
        await engine.start()
        typed: Engine = engine
        prompt = typed.render(CHAT)
        assert prompt == Prompt(CHAT)
        assert typed.capabilities == {"live", "temperature"}
        assert typed.decode(()) == ""
        with pytest.raises(EngineError, match="cannot turn tokens into text"):
            typed.decode((1, 2))
        with pytest.raises(EngineError, match="cannot continue a prefix"):
            await typed.generate([ask(prompt.extend((1, 2)))])
        await engine.close()
        with pytest.raises(EngineError, match="not running"):
            await typed.generate([ask(prompt)])

    asyncio.run(work())


@pytest.mark.parametrize(("reported", "charged"), [(0, 1), (-7, 64)])
def test_no_answer_is_free(server: Server, reported: int, charged: int) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": reported, "total_tokens": reported}
    server.routes["/v1/chat/completions"] = lambda _: reply(chat_answer(usage=usage))
    assert run(options(server))[0].usage.completion == charged


def test_an_answer_without_usage_is_charged_its_cap(server: Server) -> None:
    server.routes["/v1/chat/completions"] = lambda _: reply(chat_answer())
    assert run(options(server))[0].usage == Usage(completion=64)


def test_log_probabilities_of_a_chat(server: Server) -> None:
    content = [
        {
            "token": "4",
            "logprob": -0.25,
            "top_logprobs": [{"token": "4", "logprob": -0.25}, {"token": "5", "logprob": -2}],
        },
        {
            "token": "!",
            "logprob": -3.0,
            "top_logprobs": [{"token": ".", "logprob": -0.5}, {"token": "?", "logprob": -1}],
        },
    ]
    answer = chat_answer(usage={"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11})
    answer["choices"][0]["logprobs"] = {"content": content}
    server.routes["/v1/chat/completions"] = lambda _: reply(answer)
    completion = run(options(server), Sampling(top_logprobs=2))[0]
    assert completion.token_logprobs == (-0.25, -3.0)
    assert completion.logprob == -3.25
    assert completion.token_confidences == (1.125, 0.75)
    assert completion.confidence == 0.9375
    assert server.bodies("/v1/chat/completions")[0]["top_logprobs"] == 2


def test_settings_a_server_does_not_know_are_left_out_from_then_on(server: Server) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        if "max_tokens" in body:
            return refuse(400, "Unsupported parameter: use 'max_completion_tokens' instead.")
        if "logprobs" in body:
            return refuse(400, "logprobs are not supported by this model")
        return reply(chat_answer(usage={"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}))

    server.routes["/v1/chat/completions"] = answer

    async def work() -> list[int]:
        engine = OpenAIEngine(options(server))
        await engine.start()
        for _ in range(2):
            assert (await engine.generate([ask(engine.render(CHAT))]))[0].usage.completion == 5
        await engine.close()
        return [len(server.bodies("/v1/chat/completions"))]

    assert asyncio.run(work()) == [4]
    assert server.bodies("/v1/chat/completions")[-1]["max_completion_tokens"] == 64


def vllm_routes(server: Server, choice: dict[str, Any], usage: dict[str, Any]) -> None:
    entry = {"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 100}
    answer = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    server.routes |= {
        "/v1/models": lambda _: reply({"object": "list", "data": [entry]}),
        "/version": lambda _: reply({"version": "0.32.0"}),
        "/tokenize": lambda _: reply({"tokens": [5, 6, 7], "count": 3, "max_model_len": 100}),
        "/detokenize": lambda body: reply({"prompt": "-".join(map(str, body["tokens"]))}),
        "/v1/completions": lambda _: reply(answer),
    }


def test_a_vllm_server_is_given_tokens(server: Server) -> None:
    logprobs = {
        "tokens": ["token_id:8", "token_id:9"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": [{"token_id:8": -1.0, "token_id:1": -0.5}, {"token_id:9": -2.0, "token_id:3": -1.0, "x": -0.5}],
        "text_offset": [0, 1],
    }
    choice = {"index": 0, "text": "ab", "finish_reason": "stop", "stop_reason": None, "logprobs": logprobs}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    vllm_routes(server, {**choice, "token_ids": [8, 9]}, usage)

    async def work() -> Completion:
        engine = OpenAIEngine(options(server))
        await engine.start()
        assert engine.capabilities == {"live", "temperature", "extends", "top_logprobs"}
        assert engine.context_tokens == 100
        prompt = engine.render(CHAT)
        assert prompt == Prompt(CHAT, (5, 6, 7))
        sampling = Sampling(temperature=0.5, stop_token_ids=(4,), top_logprobs=2)
        completion = (await engine.generate([ask(prompt.extend((1, 2)), sampling)]))[0]
        assert engine.decode((8, 1, 9)) == "8-1"  # 9 has ended a sample: an end token
        with pytest.raises(EngineError, match="100 tokens does not fit the context of 100"):
            await engine.generate([ask(Prompt(CHAT, (1,) * 100))])
        await engine.close()
        return completion

    completion = asyncio.run(work())
    assert (completion.tokens, completion.text, completion.finish) == ((8, 9), "ab", "stop")
    assert (completion.logprob, completion.token_confidences) == (-3.0, (0.75, 0.75))
    assert completion.usage == Usage(prompt=5, completion=2)
    body = server.bodies("/v1/completions")[-1]
    # All that a server would otherwise take from the model's generation_config.json.
    wanted = {"prompt": [5, 6, 7, 1, 2], "temperature": 0.5, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 77}
    wanted |= {"repetition_penalty": 1.0, "stop_token_ids": [4], "logprobs": 2, "max_tokens": 64}
    assert {name: body[name] for name in wanted} == wanted


def test_text_becomes_tokens_and_the_template_gets_its_flags(server: Server) -> None:
    choice = {"index": 0, "text": "a", "finish_reason": "stop", "stop_reason": None, "token_ids": [8], "logprobs": None}
    vllm_routes(server, choice, {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4})

    async def work() -> None:
        engine = OpenAIEngine(options(server))
        await engine.start()
        assert engine.encode("Wait") == engine.encode("Wait") == (5, 6, 7)
        engine.render(CHAT, {"enable_thinking": False})
        await engine.close()

    asyncio.run(work())
    *_, encoded, rendered = server.bodies("/tokenize")
    assert encoded == {"model": "m", "prompt": "Wait", "add_special_tokens": False}
    assert rendered["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_chat_only_server_has_neither_tokens_nor_flags(server: Server) -> None:
    async def work() -> None:
        engine = OpenAIEngine(options(server))
        await engine.start()
        with pytest.raises(EngineError, match="cannot turn text into tokens"):
            engine.encode("Wait")
        with pytest.raises(EngineError, match="takes no chat-template flags"):
            engine.render(CHAT, {"enable_thinking": False})
        await engine.close()

    asyncio.run(work())


def test_one_of_the_models_end_tokens_is_no_stop_reason(server: Server) -> None:
    choice = {"index": 0, "text": "a", "finish_reason": "stop", "stop_reason": 9, "token_ids": [8, 9], "logprobs": None}
    vllm_routes(server, choice, {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})
    assert run(options(server))[0].stop_reason is None
    assert run(options(server), Sampling(stop_token_ids=(9,)))[0].stop_reason == 9


def test_tokens_that_are_no_numbers_are_the_servers_fault(server: Server) -> None:
    choice = {"index": 0, "text": "a", "finish_reason": "stop", "token_ids": ["eight"], "logprobs": None}
    vllm_routes(server, choice, {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4})
    with pytest.raises(EngineError, match="token_ids that are not whole numbers"):
        run(options(server))


def test_a_refused_key_is_not_repeated(server: Server) -> None:
    server.routes["/v1/models"] = lambda _: refuse(401, f"Incorrect API key provided: {KEY}")
    error = fails(options(server), r"refuses the key \(401\)")
    assert "OPENAI_API_KEY" in error.hint
    assert not error.retryable
    assert server.seen[0][2] == f"Bearer {KEY}"


def test_the_key_is_cut_out_of_any_message(server: Server) -> None:
    server.routes["/v1/chat/completions"] = lambda _: refuse(400, f"bad request by {KEY}")
    assert "by ***" in fails(options(server), r"refused the request \(400\)").message


def test_an_unknown_model_names_those_there_are(server: Server) -> None:
    error = fails(options(server, model="llama-3-8B"), "no model 'llama-3-8B', but llama-3-8b, m")
    assert error.hint == "did you mean 'llama-3-8b'?"


def test_a_server_that_does_not_list_its_models_is_used(server: Server) -> None:
    server.routes["/v1/models"] = lambda _: refuse(404, "Not Found")
    server.routes["/v1/chat/completions"] = lambda _: reply(chat_answer())
    assert run(options(server))[0].text == "4"


def test_an_unreachable_server(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    error = fails(OpenAIOptions(url, "m", max_retries=0), f"cannot reach {url}")
    assert error.retryable


def test_a_rate_limit_is_waited_for_as_told(server: Server) -> None:
    times: list[float] = []

    def limited(_: dict[str, Any]) -> Answer:
        times.append(time.monotonic())
        return refuse(429, "slow down", Retry_After="1") if len(times) == 1 else reply(chat_answer())

    server.routes["/v1/chat/completions"] = limited
    assert run(options(server))[0].text == "4"
    assert 0.9 < times[1] - times[0] < 3


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (refuse(429, "slow down", Retry_After_Ms="1"), r"rate limit \(429\) after 1 retries: .*slow down"),
        (refuse(500, "oops\nsecond line", Retry_After_Ms="1"), r"failed \(500\): .*oops second line"),
        (reply({"unexpected": 1}), "something else than a completion"),
        ((200, {"Content-Type": "application/json"}, b"{broken"), "something else than JSON"),
        ((200, {"Content-Type": "text/html"}, b"<html>"), "something else than a completion"),
        (None, "cannot reach"),
    ],
    ids=["429", "500", "other json", "broken json", "html", "closed"],
)
def test_failures_that_may_pass(server: Server, answer: Answer | None, match: str) -> None:
    server.routes["/v1/chat/completions"] = lambda _: answer
    assert fails(options(server), match).retryable


@pytest.mark.parametrize(
    ("status", "charged"),
    [(408, None), (409, Usage()), (429, Usage()), (500, Usage()), (502, None), (503, Usage()), (504, None)],
)
def test_a_server_that_may_do_it_later(server: Server, status: int, charged: Usage | None) -> None:
    server.routes["/v1/chat/completions"] = lambda _: refuse(status, "not now", Retry_After="7")
    error = fails(options(server, max_retries=0), rf"\({status}\): .*not now")
    assert isinstance(error, NotNowError)
    assert (error.retryable, error.retry_after_s, error.usage) == (True, 7.0, charged)


@pytest.mark.parametrize("status", [409, 500])
def test_a_server_that_fails_at_the_first_look_is_none_that_only_chats(server: Server, status: int) -> None:
    choice = {"index": 0, "text": "a", "finish_reason": "stop", "stop_reason": None, "token_ids": [8], "logprobs": None}
    vllm_routes(server, choice, {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4})
    tokenized, failing = server.routes["/tokenize"], [1]
    server.routes["/tokenize"] = lambda body: refuse(status, "oops") if failing else tokenized(body)
    assert fails(options(server, max_retries=0), rf"failed \({status}\)").retryable
    server.routes["/tokenize"] = lambda body: refuse(status, "oops") if failing and failing.pop() else tokenized(body)

    async def work() -> frozenset[str]:
        engine = OpenAIEngine(options(server))
        await engine.start()
        await engine.close()
        return engine.capabilities

    assert "extends" in asyncio.run(work())


def test_a_server_that_says_what_it_cannot_do_only_chats(server: Server) -> None:
    server.routes["/tokenize"] = lambda _: refuse(501, "not implemented")
    server.routes["/v1/chat/completions"] = lambda _: reply(chat_answer())
    assert run(options(server))[0].text == "4"


def test_a_stalled_server(server: Server) -> None:
    released = threading.Event()

    def stall(_: dict[str, Any]) -> None:
        released.wait(10)

    server.routes["/v1/chat/completions"] = stall
    error = fails(options(server, timeout_s=0.3, max_retries=0), "gave no answer within 0.3 s")
    released.set()
    assert error.retryable


def test_a_page_that_is_no_api(server: Server) -> None:
    server.routes["/v1/models"] = lambda _: (200, {"Content-Type": "text/html"}, b"<html>Welcome</html>")
    assert "/v1" in fails(options(server), "does not speak the OpenAI protocol").hint


def test_a_password_in_the_address_is_not_shown() -> None:
    error = fails(OpenAIOptions("http://user:hunter2@127.0.0.1:9/v1", "m", max_retries=0), "cannot reach")
    assert "hunter2" not in error.message


def test_requests_share_the_connections_in_order(server: Server) -> None:
    busy: list[int] = []
    peak: list[int] = []

    def slow(_: dict[str, Any]) -> Answer:
        busy.append(1)
        peak.append(len(busy))
        time.sleep(0.02)
        busy.pop()
        return reply(chat_answer())

    server.routes["/v1/chat/completions"] = slow
    assert len(run(options(server, max_concurrency=4), n=24)) == 24
    assert 1 < max(peak) <= 4
