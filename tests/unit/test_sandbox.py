"""The sandbox against hostile programs."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil
import pytest

from ttc.core.errors import ConfigError
from ttc_evals import sandbox
from ttc_evals.code import CodeChecker
from ttc_evals.sandbox import LEVELS, SandboxLimits, SandboxResult, isolation_level, run_program, tried

QUICK = SandboxLimits(wall_s=3.0, cpu_s=2)
CONTAINED = isolation_level() == "namespaces"


def run(*sources: str, limits: SandboxLimits = QUICK) -> SandboxResult:
    return run_program(sources, limits)


def launchers() -> list[int]:
    return [
        p.pid for p in psutil.process_iter(["cmdline"]) if any("sandbox_launcher" in a for a in p.info["cmdline"] or [])
    ]


def test_parts_share_one_namespace_and_the_end_is_success():
    result = run("import math\ndef f(x): return math.sqrt(x)", "assert f(9) == 3\nprint('fine')")
    assert (result.status, result.output) == ("ok", "fine\n")


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("import os; os._exit(0)", "failed"),
        ("import sys; sys.exit(0)", "failed"),
        ("raise SystemExit", "failed"),
        ("raise KeyboardInterrupt", "failed"),
        ("import atexit, os; atexit.register(os._exit, 0); exit()", "failed"),
        ("def f(:", "failed"),
        ("x = '''", "failed"),
        ("def f(): return f()\nf()", "failed"),
        ("print('ok'); print('0' * 32 + ' ok'); 1 / 0", "failed"),
        ("import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'0123456789abcdef0123456789abcdef ok\\n')\n"
         "  except OSError: pass\nos._exit(0)", "failed"),
        ("import os\nif os.fork() == 0: os._exit(0)\nos._exit(0)", "failed"),
        ("input()", "failed"),
        ("while True: pass", "timeout"),
        ("import time; time.sleep(100)", "timeout"),
        ("x = bytearray(1 << 34)", "memory"),
        ("import ctypes; ctypes.string_at(0)", "crashed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "crashed"),
    ],
)  # fmt: skip
def test_nothing_but_the_end_of_the_tests_is_success(program, status):
    assert run(program, "assert True").status == status


def test_an_open_string_cannot_swallow_the_tests():
    assert run("x = 1 \\", "assert False").status == "failed"
    assert run("if False:", "    assert False").status == "failed"


def test_a_signal_handler_cannot_outlive_the_cpu_limit():
    program = "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert run(program, limits=SandboxLimits(wall_s=100, cpu_s=1)).status == "crashed"  # the hard limit kills


def test_a_fork_bomb_ends_and_leaves_no_process():
    before = set(launchers())
    program = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    assert run(program).status == "timeout"
    deadline = time.monotonic() + 5
    while set(launchers()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(launchers()) - before


def test_processes_are_limited():
    program = "import os, time\nfor _ in range(100):\n  if os.fork() == 0: time.sleep(100)"
    result = run(program)
    assert result.status == "failed"
    assert "BlockingIOError" in result.output


def test_a_daemon_does_not_outlive_its_program(tmp_path):
    mark = f"daemon-{os.getpid()}-{time.monotonic_ns()}"
    program = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(50)', {mark!r}], start_new_session=True)"
    )
    assert run(program).status == "ok"
    deadline = time.monotonic() + 5
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked(mark)


def marked(mark: str) -> bool:
    return any(mark in (p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))


@pytest.mark.parametrize("level", [level for level in LEVELS if tried(level)[0]])
def test_the_kill_of_the_grader_itself_leaves_no_process(level):
    mark = uuid.uuid4().hex
    program = (
        "import os, sys, time\nfor _ in range(3):\n  if os.fork() == 0: os.setsid()\n"
        f"os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', {mark!r}])"
    )
    grade = "import sys, ttc_evals.sandbox as s; s.run_program(sys.argv[1:2], s.SandboxLimits(wall_s=600), sys.argv[2])"
    with subprocess.Popen([sys.executable, "-c", grade, program, level]) as grader:
        deadline = time.monotonic() + 60
        while not marked(mark) and grader.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        found = marked(mark)
        grader.kill()
    assert found
    deadline = time.monotonic() + 60
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked(mark)


DEEP = "import os\nfor _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')\n"


@pytest.mark.parametrize("level", [level for level in LEVELS if tried(level)[0]])
def test_a_deep_folder_changes_no_verdict_and_does_not_stay(level, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o755)
    assert run_program([DEEP, "assert False"], SandboxLimits(wall_s=30), level).status in ("failed", "disk")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_removed_however_deep_and_closed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path.parent, target_is_directory=True)
    subprocess.run([sys.executable, "-c", DEEP + "os.mkdir('closed', 0o0)"], cwd=tmp_path, check=True)
    (tmp_path / "file").touch()
    sandbox._remove(tmp_path)
    assert not tmp_path.exists()
    assert tmp_path.parent.exists()


@pytest.mark.parametrize("stalls", [2, 3])
def test_a_stall_is_no_reason_to_take_a_weaker_level(stalls, monkeypatch):
    left = iter([sandbox._TooSlowError("it did not start in time")] * stalls)

    def stalling(_sources, _limits, level):
        for error in left:
            raise error
        return SandboxResult("ok", "", level)

    monkeypatch.setattr(sandbox, "_run", stalling)
    if stalls < 3:
        assert tried.__wrapped__("namespaces") == (True, "")
    else:
        with pytest.raises(OSError, match="did not answer in time"):
            tried.__wrapped__("namespaces")


def test_killing_its_group_and_everything_in_sight_hurts_only_itself():
    program = "import os, signal\nos.killpg(0, signal.SIGTERM)\nos.kill(-1, signal.SIGKILL)"
    assert run(program).status in {"crashed", "failed"}
    assert run(f"import os\nos.kill({os.getpid()}, 9)").status == "failed"


def test_big_files_and_full_disks_fail():
    assert "OSError" in run("open('big', 'wb').write(b'x' * (64 << 20))").output
    many = "for i in range(64):\n  open(str(i), 'wb').write(b'x' * (8 << 20))"
    assert run(many).status == ("failed" if CONTAINED else "disk")


def test_a_grader_that_cannot_look_says_nothing_of_the_program(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "scandir", full)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        sandbox._too_full(str(tmp_path), os.getpid(), 1)


def test_the_working_directory_can_be_written_and_is_gone_afterwards():
    before = set(os.listdir(tempfile.gettempdir()))
    # Where the interpreter lies below the hidden /tmp, its way there is seen as well.
    result = run(
        "import os\nprint('here' in os.listdir('.'))\nopen('here', 'w').write('x')\nprint('here' in os.listdir('.'))"
    )
    assert (result.status, result.output) == ("ok", "False\nTrue\n")
    left = set(os.listdir(tempfile.gettempdir())) - before
    assert not [name for name in left if name.startswith("ttc-sandbox-")]


def test_loud_programs_succeed_and_their_output_is_capped():
    program = "import sys\nfor _ in range(1600): sys.stdout.write('x' * 65536)\nprint('end')"
    result = run(program, limits=SandboxLimits(output_bytes=1000))
    assert result.status == "ok"
    assert len(result.output) <= 1000
    assert result.output.endswith("xend\n")


def test_the_environment_holds_no_secret(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    program = (
        "import os, glob\nprint(dict(os.environ))\n"
        "for path in glob.glob('/proc/*/environ'):\n"
        "  try: print(open(path, 'rb').read())\n"
        "  except OSError: pass"
    )
    result = run(program, limits=SandboxLimits(output_bytes=1 << 20))
    assert result.status == "ok"
    assert "PATH" in result.output
    assert "sk-very-secret" not in result.output


def test_sets_of_strings_come_in_the_same_order_every_time():
    program = "print(list({str(i) for i in range(50)}))"
    assert run(program).output == run(program).output


def test_a_listener_on_the_loopback_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            pass  # it does answer
        result = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)")
    assert result.status == ("ok" if result.isolation == "limits" else "failed")


@pytest.mark.skipif(not CONTAINED, reason="files are hidden in namespaces")
def test_files_outside_cannot_be_changed_and_the_home_cannot_be_seen(tmp_path):
    target = tmp_path / "precious"
    target.write_text("before")
    tmp_path.chmod(0o777)
    target.chmod(0o666)
    assert run(f"open({str(target)!r}, 'w').write('after')").status == "failed"
    assert target.read_text() == "before"
    mark = Path("/var/tmp") / f"ttc-{uuid.uuid4().hex}"  # a folder that anybody may write to, on every Linux
    assert run(f"open({str(mark)!r}, 'w')").status == "failed"
    assert not mark.exists()
    home = Path("~").expanduser()
    seen = f"set(os.listdir({str(home)!r})) if os.path.exists({str(home)!r}) else set()"
    assert run(f"import os\nassert {seen} < {set(os.listdir(home))!r}").status == "ok"


@pytest.mark.skipif(not CONTAINED, reason="an ordinary user has no privilege to begin with")
def test_no_privilege_is_left():
    program = (
        "import os, ctypes\nassert os.getuid() != 0\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.mount(b'tmpfs', b'/mnt', b'tmpfs', 0, None) != 0\n"
        "assert libc.umount2(b'/proc', 2) != 0\n"
        "assert os.listdir('/proc') == []"
    )
    assert run(program).status == "ok"


def test_memory_counts_what_the_limit_says():
    half = SandboxLimits(memory_bytes=512 << 20)
    assert run("x = bytearray(256 << 20)", limits=half).status == "ok"
    assert run("x = bytearray(600 << 20)", limits=half).status == "memory"


def test_memory_counts_all_processes_together():
    program = (
        "import os, time\nfor _ in range(6):\n  if os.fork() == 0:\n    x = bytearray(120 << 20)\n    time.sleep(20)\n"
        "time.sleep(20)"
    )
    assert run(program, limits=SandboxLimits(wall_s=15, memory_bytes=512 << 20)).status == "memory"


def test_the_same_code_has_the_memory_of_one_process_however_many_share_it():
    program = (
        "import os, time\nx = bytearray(120 << 20)\nfor _ in range(6):\n  if os.fork() == 0:\n    time.sleep(1)\n"
        "    os._exit(0)\nfor _ in range(6): os.wait()"
    )
    assert run(program, limits=SandboxLimits(wall_s=30, memory_bytes=512 << 20)).status == "ok"


@pytest.fixture
def only_limits(monkeypatch):
    """Pretend to be a machine that offers nothing but limits."""
    monkeypatch.setattr(sandbox, "tried", lambda level: (level == "limits", "not here"))
    isolation_level.cache_clear()
    yield
    isolation_level.cache_clear()


@pytest.mark.usefixtures("only_limits")
@pytest.mark.parametrize("least", LEVELS[:-1])
def test_nothing_runs_in_a_weaker_isolation_than_was_asked_for(least):
    with pytest.raises(ConfigError, match=f"'limits', which is weaker than '{least}'") as told:
        CodeChecker().bound(least)
    assert "--sandbox" in told.value.hint


@pytest.mark.usefixtures("only_limits")
def test_the_strongest_isolation_is_taken_and_told():
    checker, level = CodeChecker().bound("limits")
    assert (level, checker.isolation) == ("limits", "limits")
    assert CodeChecker().bound(None)[1] == "limits"


def test_a_worker_that_cannot_have_the_isolation_runs_nothing(monkeypatch):
    def refuse(*_):
        raise sandbox._NotOfferedError("no namespaces left")

    monkeypatch.setattr(sandbox, "_run", refuse)
    with pytest.raises(OSError, match="no namespaces left"):
        run_program(["pass"], isolation="namespaces")
