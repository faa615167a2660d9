"""The reward model behind a server that answers, or misbehaves, as told; and what opens as a reward model."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ttc.core.errors import ConfigError, EngineError
from ttc.core.specs import ModelSpec
from ttc.core.types import Problem, Prompt, Step
from ttc.engines.fake import FakeReward
from ttc.engines.opening import open_reward

PROBLEM = Problem("p", "q", Prompt((), (1, 2, 3)))
RESPONSE = (Step((4, 5), ""), Step((6,), ""))
SEPARATOR = 77
KEY = "sk-very-secret-0123456789"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        self.server.seen.append((self.path, body))
        status, answer = self.server.answer(self.path, body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_):
        pass


def pooling(rows):
    return 200, {"data": [{"index": 0, "data": rows}], "usage": {"prompt_tokens": 5}}


def classifier(path, body):
    if path == "/v1/models":
        return 200, {"data": [{"id": "prm", "max_model_len": 512}]}
    if path == "/pooling":
        return pooling([sum(body["input"][0]) / 100])
    return 404, {"error": {"message": "Not Found"}}


def separators(path, body):
    if path == "/tokenize":
        return 200, {"tokens": [SEPARATOR]}
    if path != "/pooling":
        return classifier(path, body)
    tokens = body["input"][0]
    return pooling([[0.5, sum(tokens[:i]) / 1000] for i, t in enumerate(tokens) if t == SEPARATOR])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    running.seen, running.answer = [], classifier
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def scored(server, **options):
    async def work():
        url = f"http://127.0.0.1:{server.server_address[1]}/v1#prm"
        reward = open_reward(ModelSpec(path=url, options={"timeout_s": 5.0, "max_retries": 1, **options}))
        await reward.start()
        try:
            return await reward.score(PROBLEM, [RESPONSE])
        finally:
            await reward.close()

    return asyncio.run(work())


def asked(server):
    return [body["input"][0] for path, body in server.seen if path == "/pooling" and "task" in body]


def test_a_server_that_scores_sequences_is_asked_for_each_prefix(server):
    assert scored(server) == ([(0.15, 0.21)], 5 + 6)
    assert sorted(asked(server)) == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]]


def test_an_outcome_is_asked_for_once(server):
    assert scored(server, kind="outcome", end_token=6) == ([(0.15, 0.15)], 5)
    assert asked(server) == [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize("options", [{}, {"separator": SEPARATOR}, {"kind": "token_classify"}])
def test_a_server_that_scores_tokens_is_given_separators(server, options):
    server.answer = separators
    assert scored(server, **options) == ([(0.015, (15 + SEPARATOR + 6) / 1000)], 8)
    assert asked(server) == [[1, 2, 3, 4, 5, SEPARATOR, 6, SEPARATOR]]


def test_an_overloaded_server_is_asked_again(server):
    calls = []

    def busy_once(path, body):
        if path == "/pooling" and "task" in body and body["input"][0] not in calls:
            calls.append(body["input"][0])
            return 503, {"error": {"message": "busy"}}
        return classifier(path, body)

    server.answer = busy_once
    assert scored(server)[0] == [(0.15, 0.21)]
    assert len(asked(server)) == 4


def failing(status, message):
    return lambda path, body: (status, {"error": {"message": message}}) if "task" in body else classifier(path, body)


@pytest.mark.parametrize(
    ("answer", "told", "retryable"),
    [
        (failing(500, "boom"), r"failed \(500\): .*boom", True),
        (failing(400, f"too long, said {KEY}"), r"refused the request \(400\): .*said \*\*\*", False),
        (lambda path, body: (200, {"data": []}) if path == "/pooling" else classifier(path, body), "else than scores", False),
        (lambda path, body: (200, ["?"]) if "task" in body else classifier(path, body), "else than scores", False),
        (lambda path, body: pooling([[None]]) if "task" in body else classifier(path, body), "else than scores", False),
        (lambda path, body: pooling([1.5]) if "task" in body else classifier(path, body), "the score 1.5", False),
        (lambda path, body: pooling([]) if path == "/pooling" else separators(path, body), "0 scores for 2 steps", False),
        (
            lambda path, body: (200, {"tokens": [1, 2]}) if path == "/tokenize" else separators(path, body),
            "no token '<extra_0>'",
            False,
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_told_in_one_line(server, answer, told, retryable):
    server.answer = answer
    with pytest.raises(EngineError, match=told) as error:
        scored(server)
    assert error.value.retryable == retryable
    assert "\n" not in error.value.message
    assert KEY not in error.value.message


def test_a_server_that_only_generates_is_told_how_to_start(server):
    server.answer = lambda path, body: classifier(path, body) if path == "/v1/models" else (404, {})
    with pytest.raises(EngineError, match="404") as error:
        scored(server)
    assert error.value.hint == "start the server with --runner pooling"


def test_a_server_that_is_gone_ends_the_run(server):
    def broken(path, body):
        raise ConnectionError

    server.answer = broken
    server.handle_error = lambda *_: None
    with pytest.raises(EngineError, match="cannot reach") as error:
        scored(server)
    assert error.value.retryable
    assert error.value.fatal


def test_the_fingerprint_names_server_model_and_how_it_is_asked():
    url = "http://127.0.0.1:1/v1#prm"
    specs = [
        ModelSpec(path=url),
        ModelSpec(path=url + "2"),
        ModelSpec(path=url, options={"kind": "outcome"}),
        ModelSpec(path=url, options={"separator": 3}),
    ]
    assert len({open_reward(spec).fingerprint for spec in specs}) == len(specs)
    assert open_reward(ModelSpec(path=url, label="mine")).label == "mine"


def test_nothing_and_the_fake_need_no_model():
    assert open_reward(None) is None
    assert isinstance(open_reward("fake"), FakeReward)


@pytest.mark.parametrize(
    ("spec", "told", "hint"),
    [
        ("nope", "unknown reward model 'nope'", "allowed: embedded, fake, a model folder"),
        ("http://127.0.0.1:1/v1", "is not a model of a server", "#NAME"),
        (ModelSpec(path="http://127.0.0.1:1/v1#m", options={"knd": "outcome"}), "no parameter 'knd'", "'kind'"),
        (ModelSpec(path="http://127.0.0.1:1/v1#m", options={"kind": "orm"}), "kind: Input should be", ""),
        ("./no-such-folder/", "no such model folder", ""),
    ],
)
def test_what_cannot_be_a_reward_model_is_told(spec, told, hint):
    with pytest.raises(ConfigError, match=told) as error:
        open_reward(spec)
    assert hint in error.value.hint
