"""A server that speaks as much of vLLM's OpenAI protocol as `OpenAIEngine` asks for, and fails as it is told.

It answers as the fake engine does, so that what comes through servers can be compared with what comes without. Tokens
are code points. Prefixes cannot be continued: a prompt is read as a question. It can be one that only chats, as servers
of others do, and misbehave at chosen requests.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from ttc.core.types import Completion, GenRequest, Message, Prompt, Sampling
from ttc.engines.fake import FakeEngine

CONTEXT_TOKENS = 8192
EMPTY: Mapping[str, str] = {}
NOT_FOUND = (404, dict[str, str](), {"error": {"message": "Not Found"}})

Mood = Literal["well", "dead", "stalled"]
"""well: as `failures` says; dead: every connection is closed without a word; stalled: nothing is ever answered."""
Misbehaviour = Callable[["Handler", bytes], None]
"""Is given the right answer, and does with it what it likes."""


@dataclass(slots=True)
class Stub:
    """How a server behaves, and what it has seen; both may change while it runs."""

    name: str = "fake"
    delay_s: float = 0.0
    """Seconds a completion takes."""
    slots: int = 256
    """Completions made at once; others wait."""
    build: str = "stub-1"
    mood: Mood = "well"
    turns: tuple[int, Mood] | None = None
    """After so many completions the mood it is in, whatever else has been begun."""
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the next refusals of completions and scores, first to last."""
    prompts: list[str] = field(default_factory=list)
    """Of each completion that was begun, in order."""
    answered: int = 0
    address: str = ""
    chats: bool = False
    """It knows its models and chat completions, nothing else."""
    asked: int = 0
    """Completions so far, those among them at which it misbehaved."""
    faults: dict[int, Misbehaviour] = field(default_factory=dict)
    """What it does at which of them, by number from 0."""
    chatted: list[str] = field(default_factory=list)
    """Question and seed of every chat that was answered rightly."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, stub: Stub, port: int) -> None:
        self.stub, self.engine = stub, FakeEngine()
        self.slots = threading.Semaphore(stub.slots)
        self.counting = threading.Lock()
        self.released = threading.Event()
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone."""


class Handler(BaseHTTPRequestHandler):
    """Answers one connection; misbehaviours write through it."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer, or misbehave."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        fault = self._fault()
        answer = self._answer(body, fault is None)
        if self.server.stub.mood == "stalled":
            self.server.released.wait()
        if answer is None or self.server.stub.mood != "well":
            self.close_connection = True
            return
        status, headers, content = answer
        data = json.dumps(content).encode()
        with suppress(OSError):  # who asked may have left
            if fault is None:
                self.say(status, data, headers)
            else:
                fault(self, data)

    do_POST = do_GET  # noqa: N815 (the base class finds it by name)

    def say(self, status: int, data: bytes, headers: Mapping[str, str] = EMPTY) -> None:
        """Send a whole answer."""
        self.begin(status, len(data), headers)
        self.wfile.write(data)

    def begin(self, status: int, length: int, headers: Mapping[str, str] = EMPTY) -> None:
        """Send what stands before an answer of so many bytes."""
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _fault(self) -> Misbehaviour | None:
        if self.path != ("/v1/chat/completions" if self.server.stub.chats else "/v1/completions"):
            return None
        with self.server.counting:
            self.server.stub.asked += 1
            return self.server.stub.faults.get(self.server.stub.asked - 1)

    def _answer(self, body: dict[str, Any], rightly: bool) -> tuple[int, dict[str, str], Any] | None:
        stub = self.server.stub
        if stub.mood != "well":
            return None
        if self.path in ("/v1/completions", "/pooling") and stub.failures:
            status, headers = stub.failures.pop(0)
            return status, headers, {"error": {"message": "as told"}}
        if self.path == "/v1/models":
            length = {} if stub.chats else {"max_model_len": CONTEXT_TOKENS}
            return 200, {}, {"data": [{"id": stub.name, **length}]}
        if stub.chats:
            return (200, {}, self._chat(body, rightly)) if self.path == "/v1/chat/completions" else NOT_FOUND
        if self.path == "/version":
            return 200, {}, {"version": stub.build}
        if self.path == "/health":
            return 200, {}, {}
        if self.path == "/tokenize":
            text = body["prompt"] if "prompt" in body else "\n".join(m["content"] for m in body["messages"])
            return 200, {}, {"tokens": [ord(c) for c in text]}
        if self.path == "/detokenize":
            return 200, {}, {"prompt": "".join(map(chr, body["tokens"]))}
        if self.path == "/pooling":
            stub.prompts.append("".join(map(chr, body["input"][0])))
            stub.answered += 1
            return 200, {}, {"data": [{"index": 0, "data": [(sum(body["input"][0]) % 100) / 100]}]}
        if self.path == "/v1/completions":
            return 200, {}, self._complete(body)
        return NOT_FOUND

    def _chat(self, body: dict[str, Any], rightly: bool) -> dict[str, Any]:
        chat = tuple(Message(m["role"], m["content"]) for m in body["messages"])
        if rightly:
            self.server.stub.chatted.append(f"{chat[-1].content} {body['seed']}")
        said = self._say(self.server.engine.render(chat), body)
        choice = {"index": 0, "finish_reason": said.finish, "message": {"role": "assistant", "content": said.text}}
        return self._whole("chat.completion", choice, said.usage.prompt, said.usage.completion)

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        stub = self.server.stub
        text = "".join(map(chr, body["prompt"]))
        stub.prompts.append(text)
        with self.server.slots:
            if stub.delay_s:
                time.sleep(stub.delay_s)
            said = self._say(Prompt((Message("user", text),), tuple(body["prompt"])), body)
        with self.server.counting:
            if stub.turns is not None and stub.answered == stub.turns[0]:
                stub.mood = stub.turns[1]
            else:
                stub.answered += 1
        choice = {
            "index": 0,
            "text": said.text,
            "token_ids": list(said.tokens),
            "finish_reason": said.finish,
            "stop_reason": said.stop_reason,
            "logprobs": None,
        }
        return self._whole("text_completion", choice, len(text), said.usage.completion)

    def _say(self, prompt: Prompt, body: dict[str, Any]) -> Completion:
        sampling = Sampling(body.get("temperature", 0.0), stop=tuple(body.get("stop") or ()))
        request = GenRequest("", prompt, sampling, body["max_tokens"], body.get("seed") or 0, 0)
        (said,) = asyncio.run(self.server.engine.generate([request]))
        return said

    def _whole(self, kind: str, choice: dict[str, Any], prompt: int, completion: int) -> dict[str, Any]:
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return {"id": "1", "object": kind, "created": 1, "model": self.server.stub.name, "choices": [choice],
                "usage": usage}  # fmt: skip


def limited(handler: Handler, _: bytes) -> None:
    """Refuse for a second."""
    handler.say(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "1"})


def failing(handler: Handler, _: bytes) -> None:
    """Fail."""
    handler.say(500, b'{"error": {"message": "oops"}}')


def wrong_json(handler: Handler, answer: bytes) -> None:
    """Send half of the answer as if it were all."""
    handler.say(200, answer[: len(answer) // 2])


def closing(handler: Handler, answer: bytes) -> None:
    """Close the connection in the middle of the answer."""
    handler.begin(200, len(answer))
    handler.wfile.write(answer[: len(answer) // 2])
    handler.close_connection = True


def silent(handler: Handler, _: bytes) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def stalling(handler: Handler, answer: bytes) -> None:
    """Begin the answer and never end it."""
    handler.begin(200, len(answer))
    handler.wfile.write(answer[: len(answer) // 2])
    handler.server.released.wait()
    handler.close_connection = True


MISBEHAVIOURS: dict[str, Misbehaviour] = {
    "stalls in an answer": stalling,
    "429 with Retry-After": limited,
    "500": failing,
    "wrong JSON": wrong_json,
    "closes in an answer": closing,
    "closes without a word": silent,
}


@contextmanager
def serving_stub(stub: Stub, port: int = 0) -> Iterator[Stub]:
    """Serve until the context ends; `stub.address` then is its base URL, which ends in /v1."""
    server = _Server(stub, port)
    stub.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
