"""What goes wrong while running: what is said about it, and the exit code."""

import contextlib
import http.server
import json
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from error_case import Case, file, sweep

KEPT = "what is finished is kept: mend the cause and run the command again, or raise --max-errors"


def torn(folder: Path) -> None:
    journal = folder / "run" / "journal" / "main.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if "problem_id" in line)
    journal.write_text("".join(lines[:last]) + lines[last][: len(lines[last]) // 2])
    unfinished(folder)


def unfinished(folder: Path) -> None:
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    (folder / "run" / "manifest.json").write_text(json.dumps({**manifest, "state": "running"}))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    from ttc.store.rundir import RunDir

    run = RunDir(folder / "run")
    run.open_for_writing({}, run.read_manifest()["spec_id"])
    yield
    run.close()


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """A file system of some kilobytes where this user may mount one, else a limit on the length of files."""
    (folder / "full").mkdir()
    with contextlib.ExitStack() as stack:
        if mounted("-t", "tmpfs", "-o", "size=40k", "none", str(folder / "full")):
            stack.callback(subprocess.run, ["umount", "-l", str(folder / "full")], check=True)
        else:
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
            resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, limits[1]))
        yield


def closed(folder: Path) -> None:
    (folder / "closed").symlink_to("/proc/sys")  # where nobody makes files, root included


def mounted(*arguments: str) -> bool:
    return os.geteuid() == 0 and subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


def endpoint(statuses: dict[str, int]) -> Callable[[Path], contextlib.AbstractContextManager]:
    """A server that answers each path with its status, 404 elsewhere; c.yaml names it, without retries."""

    @contextlib.contextmanager
    def serve(folder: Path) -> Iterator[None]:
        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                body = b'{"error": {"message": "not now"}}'
                self.send_response(statuses.get(self.path, 404))
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):  # the program may have left meanwhile
                    self.wfile.write(body)

            do_GET = do_POST = answer  # noqa: N815 - the names that http.server calls

            def log_message(self, *arguments):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            served_at(server.server_port)(folder)
            yield
            server.shutdown()

    return serve


def served_at(port: int) -> Callable[[Path], object]:
    model = {"path": f"http://127.0.0.1:{port}/v1#m", "options": {"max_retries": 0}}
    return file("c.yaml", json.dumps({"models": [model]}))


CODE_FILES = [
    Case(
        "Strategy file that does not exist",
        sweep(strategies="nope.py:Mine"),
        2,
        "no such file: nope.py",
        "give path/to/file.py:ClassName",
    ),
    Case(
        "Strategy file without that class",
        sweep(strategies="strategies.py:Rases"),
        2,
        "strategies.py has no class 'Rases'",
        "did you mean 'Raises'?",
    ),
    Case(
        "Strategy file that fails when loaded",
        sweep(strategies="boom.py:Mine"),
        2,
        "cannot import boom.py: ZeroDivisionError: division by zero",
        None,
        file("boom.py", "1 / 0\n"),
    ),
    Case(
        "Strategy that is not a dataclass",
        sweep(strategies="strategies.py:Plain"),
        2,
        "strategies.py:Plain is not a dataclass",
        "decorate it with @dataclass: its fields are its parameters",
    ),
    Case(
        "Strategy without solve",
        sweep(strategies="strategies.py:NoSolve"),
        2,
        "NoSolve is none of the strategies: it has no method solve",
    ),
    Case(
        "Strategy that raises",
        sweep("--out new", strategies="strategies.py:Raises"),
        4,
        "N problems failed, 1% are allowed; the last one: pN: Raises raised RuntimeError: out of ideas",
        KEPT,
    ),
    Case(
        "Strategy that returns something else",
        sweep("--out new", strategies="strategies.py:Text"),
        4,
        "N problems failed, 1% are allowed; the last one: pN: Text raised TypeError: solve must return an Answer, not str",
        KEPT,
    ),
    Case(
        "Strategy with a reason of its own",
        sweep("--out new", strategies="strategies.py:OddReason"),
        4,
        "N problems failed, 1% are allowed; the last one: pN: OddReason raised ValueError: stop_reason {'tired'} is none of finished, budget, confident, exhausted",
        KEPT,
    ),
    Case(
        "Strategy that waits for ever",
        sweep("c.yaml --out new", strategies="strategies.py:Sleeps"),
        0,
        make=file("c.yaml", "problem_timeout_s: 0.2\n"),
        says="[1/1] local fake Sleeps/uniform@256: accuracy 0.000, spent 0 of 768",
    ),
]

RUNNING = [
    Case(
        "Budget smaller than one call",
        sweep("--out new", budgets="8"),
        0,
        says="[1/1] local fake self-consistency/uniform@8: accuracy 0.000, spent 0 of 24",
    ),
    Case(
        "Prompt longer than the model's context",
        sweep("--out new", model="fake:context_tokens=10"),
        4,
        "N problems failed, 1% are allowed; the last one: pN: problem pN: the prompt has N tokens, the model's context is 10",
        KEPT,
    ),
    Case(
        "Engine that fails every call",
        sweep("--out new", model="fake:fail=1"),
        4,
        "N problems failed, 1% are allowed; the last one: pN: the fake engine failed this call, as it was told to",
        KEPT,
    ),
    Case(
        "Engine that fails the one call",
        "solve 'What is 1 + 2?' --model fake:fail=1",
        5,
        "the fake engine failed this call, as it was told to",
    ),
    Case(
        "Endpoint that is not there",
        sweep("c.yaml --out new", model=None),
        5,
        "cannot reach http://127.0.0.1:PORT/v1: All connection attempts failed",
        "is the server running?",
        served_at(9),
    ),
    Case(
        "Endpoint that refuses the key",
        sweep("c.yaml --out new", model=None),
        5,
        "http://127.0.0.1:PORT/v1 refuses the key (401)",
        "set OPENAI_API_KEY to a valid key",
        endpoint({"/v1/models": 401}),
    ),
    Case(
        "Endpoint that fails",
        sweep("c.yaml --out new", model=None),
        5,
        "http://127.0.0.1:PORT/v1 failed (500): Error code: 500 - not now",
        "look at the server's log",
        endpoint({"/v1/models": 500}),
    ),
    Case(
        "Endpoint that refuses every question",
        sweep("c.yaml --out new", model=None),
        4,
        "N problems failed, 1% are allowed; the last one: pN: http://127.0.0.1:PORT/v1 is over its rate limit (429): Error code: 429 - not now",
        KEPT,
        endpoint({"/v1/chat/completions": 429}),
    ),
    Case(
        "File in the place of the run folder",
        sweep("--out problems.jsonl"),
        6,
        "cannot write problems.jsonl: Not a directory",
    ),
    Case(
        "Run folder in a place that takes no files",
        sweep("--out closed/new"),
        6,
        "cannot write closed/new: No such file or directory",
        make=closed,
    ),
    Case(
        "Disk full",
        sweep("--cache off --no-text --out full", budgets="20000"),
        6,
        "cannot write full/journal/main.jsonl: No space left on device",
        "free some space and run the same command again",
        full_disk,
    ),
    Case(
        "File in the place of the cache's folder",
        sweep("--cache problems.jsonl --out new"),
        6,
        "the generation cache problems.jsonl/cache.sqlite failed: [Errno 17] File exists: 'problems.jsonl'",
        "free some space, delete it, or give --cache off",
    ),
    Case(
        "Run folder in use",
        sweep("--out run"),
        6,
        "another process is running in run",
        "wait for it, or give another --out",
        locked,
    ),
    Case(
        "Run folder of another run",
        sweep("--out run", budgets="512"),
        2,
        "run holds another run (ID, not ID): it differs in budgets",
        "give another --out, or the settings of the first run",
    ),
    Case(
        "Damaged manifest",
        sweep("--out run"),
        6,
        "cannot read run/manifest.json: Expecting ',' delimiter: line 1 column 19 (char 18)",
        "restore it, or delete it and run the same command again: the journal keeps what is finished",
        file("run/manifest.json", '{"spec_id": "abc" "s'),
    ),
    Case(
        "Journal whose last line is torn",
        sweep("--out run"),
        0,
        make=torn,
        says="local fake self-consistency/uniform@256: 2 of 3 problems are done already",
    ),
    Case("Run that is finished", sweep("--out run"), 0, says="nothing is left to run: every cell in run is finished"),
]
