"""A key in the environment or in an address reaches no file and no line of output, however a server fails."""

import http.server
import json
import logging
import re
import threading

import pytest

from ttc.cli.main import run
from ttc.core.errors import ConfigError
from ttc.core.specs import parse_config

KEY = "sk-secret-7f3a9c51e0"
PASSWORD = "pw-secret-44d1b2"
TOKEN = "tok-secret-9e8d7c"
SECRETS = (KEY, PASSWORD, TOKEN)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's `mode` says, and repeats what it was sent, as debug pages do."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        echo = f"you sent {dict(self.headers)} to {self.path} with {sent}; the key is {KEY}, {PASSWORD}, {TOKEN}"
        self.server.keys.add(self.headers.get("Authorization", ""))
        mode = self.server.mode
        if mode == "close":
            self.close_connection = True
            return
        if mode == "garbage":
            self.raw(200, echo.encode())
        elif mode == "answers":
            # The model itself repeats nothing: an answer that holds the key would be the user's own prompt's doing.
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "4"}}
            self.reply(200, {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3}})
        elif mode == "null":
            self.reply(200, {"error": echo})
        else:
            self.reply(int(mode), {"error": {"message": echo, "type": "x", "code": None}})

    def reply(self, status, body):
        self.raw(status, json.dumps(body).encode())

    def raw(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.keys, running.mode = set(), "answers"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def sweep(tmp_path, monkeypatch, capfd, caplog):
    """Return what runs a sweep as the command line does, and tells its code and all its output."""
    rows = [{"id": f"p{i}", "question": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG, logger="ttc")

    def run_it(model, *more, out="run"):
        words = ["--debug", "sweep", "--task", "local", "--data", "rows.jsonl", "--model", model, "--strategies", "greedy",
                 "--budgets", "64", "--max-tokens", "32", "--out", out, "--display", "plain", *more]  # fmt: skip
        monkeypatch.setattr("sys.argv", ["ttc", *words])
        code = run(words)
        return code, "".join(capfd.readouterr()) + caplog.text

    return run_it


def leaks(folder, output):
    found = [f"output: {secret}" for secret in SECRETS if secret in output]
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [f"{path.name}: {secret}" for secret in SECRETS if secret.encode() in content]
    return found


@pytest.mark.parametrize("mode", ["answers", "401", "404", "400", "500", "429", "garbage", "null", "close"])
def test_no_key_is_told_whatever_the_server_does(mode, server, sweep, tmp_path):
    server.mode = mode
    url = f"http://user:{PASSWORD}@127.0.0.1:{server.server_address[1]}/v1?token={TOKEN}#m"
    # One retry: the SDK's own waits are no part of what is tested.
    code, output = sweep(f"{url};max_retries=1")
    assert (code == 0) == (mode == "answers"), output
    assert leaks(tmp_path, output) == []
    assert server.keys, "the server was asked"
    if mode == "answers":
        written = [p for p in tmp_path.rglob("*") if p.is_file()]
        assert {"manifest.json", "config.yaml", "index.html"} <= {p.name for p in written}


def test_no_key_is_told_that_stands_in_options_or_behind_a_reward_model(server, sweep, tmp_path):
    host = f"127.0.0.1:{server.server_address[1]}/v1"
    model = f"http://{host}#m;api_key={KEY};max_retries=0"
    private = f"http://user:{PASSWORD}@{host}?token={TOKEN}#m;api_key={KEY};max_retries=0"
    for out, prm in (("one", private), ("two", f"plan={private.partition(';')[0]},execution={private}")):
        code, output = sweep(model, "--prm", prm, out=out)
        assert code == 5, output
        assert leaks(tmp_path, output) == []
    written = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert {"manifest.json", "config.yaml"} <= written


@pytest.mark.parametrize(
    "values",
    [
        {"models": [{"path": "m", "options": [{"api_key": KEY}]}]},
        {"models": [{"path": "m", "options": f"api_key={KEY}"}]},
        {"models": [[{"path": "m", "api_key": KEY}]]},
        {"models": [{"path": "m", "options": {"api_key": {"x": KEY}}}]},
        {"prm": [{"path": "m", "api_key": KEY}]},
        {"tracker": {"api-key": KEY}},
    ],
)
def test_no_key_is_told_that_stands_in_a_wrong_place(values):
    with pytest.raises(ConfigError) as caught:
        parse_config({"tasks": ["gsm8k"], "strategies": ["greedy"], "budgets": [100], **values}, "c.yaml")
    assert KEY not in str(caught.value)


def test_no_key_is_told_where_nobody_listens(sweep, tmp_path):
    code, output = sweep(f"http://user:{PASSWORD}@127.0.0.1:9/v1?token={TOKEN}#m;max_retries=0")
    assert code == 5, output
    assert leaks(tmp_path, output) == []


def test_the_search_does_find_keys(tmp_path):
    (tmp_path / "log.txt").write_text(f"Authorization: Bearer {KEY}")
    assert leaks(tmp_path, PASSWORD) == [f"output: {PASSWORD}", f"log.txt: {KEY}"]
    assert re.fullmatch(r"sk-secret-\w+", KEY)
