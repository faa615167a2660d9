"""An OpenAI-compatible endpoint that only chats, answers as the fake engine does, and misbehaves at chosen requests."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ttc.core.types import GenRequest, Message, Sampling
from ttc.engines.fake import FakeEngine, FakeOptions

Misbehaviour = Callable[["Handler", bytes], None]
"""Is given the right answer, and does with it what it likes."""


@dataclass(slots=True)
class BadEndpoint:
    """Where the endpoint is, what it was asked, and what it does at which request; all may change while it runs."""

    address: str = ""
    """As `--model` takes it."""
    asked: int = 0
    """Requests for a completion so far."""
    answered: list[str] = field(default_factory=list)
    """Question and seed of every request that was answered rightly."""
    faults: dict[int, Misbehaviour] = field(default_factory=dict)
    """By the number of the request, from 0."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, endpoint: BadEndpoint) -> None:
        self.endpoint, self.engine = endpoint, FakeEngine(FakeOptions(p=0.5))
        self.lock, self.released = threading.Lock(), threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection; misbehaviours write through it."""

    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Say which model there is."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/v1/models":
            self.say(200, b'{"data": [{"id": "m"}]}')
        else:
            self.say(404, b'{"error": {"message": "Not Found"}}')

    def do_POST(self) -> None:
        """Complete a chat, or misbehave."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        if self.path != "/v1/chat/completions":
            self.say(404, b'{"error": {"message": "Not Found"}}')
            return
        endpoint = self.server.endpoint
        with self.server.lock:
            fault = endpoint.faults.get(endpoint.asked)
            endpoint.asked += 1
            if fault is None:
                endpoint.answered.append(f"{body['messages'][-1]['content']} {body['seed']}")
        with suppress(OSError):  # who asked may have left
            if fault is None:
                self.say(200, self._answer(body))
            else:
                fault(self, self._answer(body))

    def say(self, status: int, data: bytes, **headers: str) -> None:
        """Send a whole answer."""
        self.begin(status, len(data), **headers)
        self.wfile.write(data)

    def begin(self, status: int, length: int, **headers: str) -> None:
        """Send what stands before an answer of this many bytes."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(length), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, body: dict[str, Any]) -> bytes:
        chat = tuple(Message(m["role"], m["content"]) for m in body["messages"])
        prompt = self.server.engine.render(chat)
        request = GenRequest("", prompt, Sampling(body["temperature"]), body["max_tokens"], body["seed"], 0)
        (said,) = asyncio.run(self.server.engine.generate([request]))
        usage = {"prompt_tokens": said.usage.prompt, "completion_tokens": said.usage.completion}
        choice = {"index": 0, "finish_reason": said.finish, "message": {"role": "assistant", "content": said.text}}
        whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return json.dumps({**whole, "usage": {"total_tokens": sum(usage.values()), **usage}}).encode()


def limited(handler: Handler, _: bytes) -> None:
    """Refuse for a second."""
    handler.say(429, b'{"error": {"message": "slow down"}}', Retry_After="1")


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
def serving() -> Iterator[BadEndpoint]:
    """Serve until the context ends."""
    endpoint = BadEndpoint()
    server = _Server(endpoint)
    endpoint.address = f"http://127.0.0.1:{server.server_address[1]}/v1#m"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
