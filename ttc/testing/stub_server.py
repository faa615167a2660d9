"""A server that speaks as much of vLLM's OpenAI protocol as `OpenAIEngine` asks for, and fails as it is told.

It answers as the fake engine does, so that what comes through servers can be compared with what comes without. Tokens
are code points. Prefixes cannot be continued: a prompt is read as a question.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from ttc.core.types import GenRequest, Message, Prompt, Sampling
from ttc.engines.fake import FakeEngine

CONTEXT_TOKENS = 8192

Mood = Literal["well", "dead", "stalled"]
"""well: as `failures` says; dead: every connection is closed without a word; stalled: nothing is ever answered."""


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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, stub: Stub, port: int) -> None:
        self.stub, self.engine = stub, FakeEngine()
        self.slots = threading.Semaphore(stub.slots)
        self.counting = threading.Lock()
        self.released = threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        answer = self._answer(body)
        if self.server.stub.mood == "stalled":
            self.server.released.wait()
        if answer is None or self.server.stub.mood != "well":
            self.close_connection = True
            return
        status, headers, content = answer
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815 (the base class finds it by name)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, body: dict[str, Any]) -> tuple[int, dict[str, str], Any] | None:
        stub = self.server.stub
        if stub.mood != "well":
            return None
        if self.path in ("/v1/completions", "/pooling") and stub.failures:
            status, headers = stub.failures.pop(0)
            return status, headers, {"error": {"message": "as told"}}
        if self.path == "/v1/models":
            return 200, {}, {"data": [{"id": stub.name, "max_model_len": CONTEXT_TOKENS}]}
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
        return 404, {}, {"error": {"message": "Not Found"}}

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        stub = self.server.stub
        text = "".join(map(chr, body["prompt"]))
        stub.prompts.append(text)
        with self.server.slots:
            if stub.delay_s:
                time.sleep(stub.delay_s)
            sampling = Sampling(body.get("temperature", 0.0), stop=tuple(body.get("stop") or ()))
            prompt = Prompt((Message("user", text),), tuple(body["prompt"]))
            request = GenRequest("", prompt, sampling, body["max_tokens"], body.get("seed") or 0, 0)
            (said,) = asyncio.run(self.server.engine.generate([request]))
        with self.server.counting:
            if stub.turns is not None and stub.answered == stub.turns[0]:
                stub.mood = stub.turns[1]
            else:
                stub.answered += 1
        usage = {"prompt_tokens": len(text), "completion_tokens": said.usage.completion}
        choice = {
            "index": 0,
            "text": said.text,
            "token_ids": list(said.tokens),
            "finish_reason": said.finish,
            "stop_reason": said.stop_reason,
            "logprobs": None,
        }
        whole = {"total_tokens": len(text) + said.usage.completion, **usage}
        return {"id": "1", "object": "text_completion", "created": 1, "model": stub.name, "choices": [choice],
                "usage": whole}  # fmt: skip


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
