"""Hostile programs, run in the sandbox that grades model-written code: what each tries, and what stops it.

`python benchmarks/attacks.py [--level LEVEL] [--markdown]` prints a table and exits 1 where one got through. Each program
prints GOT where it reaches what it is after; besides, it is looked at from outside (`Scene`): files, connections and
processes that are not the program's to change. At a level only those programs run that it promises to stop, because
the others may do real harm.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ttc.core.protocols import Isolation
from ttc_evals.sandbox import LEVELS, SandboxLimits, SandboxResult, SandboxStatus, run_program, tried

QUICK = SandboxLimits(wall_s=60.0, cpu_s=5)
"""For programs that end by themselves; far more time than they need, on any machine."""
SHORT = SandboxLimits(wall_s=1.5, cpu_s=10)
"""For programs that only the clock ends."""
_CPU = SandboxLimits(wall_s=120.0, cpu_s=1)
"""For programs that the limit on CPU time ends, before the clock on any machine."""
_SETTLE_S = 20.0

PRELUDE = """
import os, sys
def attempt(what):
    try:
        got = what()
    except BaseException as error:  # whatever stops it, exits included, is what the table shows
        print("REFUSED", f"{type(error).__name__}: {error}"[:120], flush=True)
    else:
        print("GOT", repr(got)[:120], flush=True)
def call(name, *arguments):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    answer = getattr(libc, name)(*arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
def number(x86, arm):
    import platform
    return x86 if platform.machine() == "x86_64" else arm
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """A program and what it is after. Words between @ are filled in from the scene."""

    group: str
    tries: str
    program: str
    held: Isolation
    """The weakest level that stops it."""
    limits: SandboxLimits = QUICK
    stopped_by: str = ""
    """Where nothing is refused: what stops it, as the scene shows."""
    ends: SandboxStatus | None = None
    """How it must end, where another end would say that another limit stopped it."""
    refusal: str = ""
    """What it must be told, where it would be told something else without the sandbox."""


def _attack(
    group: str, held: Isolation, tries: str, program: str, limits: SandboxLimits = QUICK, stopped_by: str = "",
    ends: SandboxStatus | None = None, refusal: str = "",
) -> Attack:  # fmt: skip
    return Attack(group, tries, PRELUDE + program, held, limits, stopped_by, ends, refusal)


_EPERM = "Operation not permitted"
_CLOCK = "import time\nwhile True: time.sleep(1)"
_EXEC_32 = """
import ctypes, mmap
if number(1, 0):
    code = bytes.fromhex("53b867010000bb02000000b90100000031d2cd805bc3")  # socket(AF_INET, SOCK_STREAM, 0), i386
    page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    def enter():
        found = run()
        if found < 0: raise OSError(-found, os.strerror(-found))
        return found
    attempt(enter)
"""
_FILL = """
import time
def fill():
    for n in range(64):
        open(f'part{n}', 'wb').write(bytes(8 << 20))
    time.sleep(5)
    return n
attempt(fill)
"""
ATTACKS = (
    # ---- files
    _attack("files", "landlock", "read a file beside its folder", "attempt(lambda: open('@SECRET@').read())"),
    _attack("files", "landlock", "read the machine's users", "attempt(lambda: open('/etc/passwd').read())"),
    _attack("files", "landlock", "list the folders of users", "attempt(lambda: os.listdir('/home') or os.listdir('@FOLDER@'))"),
    _attack("files", "landlock", "read through a symbolic link", "os.symlink('@SECRET@', 'link')\nattempt(lambda: open('link').read())"),
    _attack("files", "landlock", "read through a hard link", "attempt(lambda: (os.link('@SECRET@', 'hard'), open('hard').read()))"),
    _attack("files", "landlock", "climb out of its folder", "attempt(lambda: open('../' * 12 + '@SECRET@'[1:]).read())"),
    _attack("files", "landlock", "write into a folder that all may write", "attempt(lambda: open('@FOLDER@/mark', 'w').write('x'))"),
    _attack("files", "landlock", "empty a file that all may write", "attempt(lambda: os.truncate('@SECRET@', 0))"),
    _attack("files", "landlock", "replace a file", "open('new', 'w').write('x')\nattempt(lambda: os.replace('new', '@SECRET@'))"),
    _attack("files", "landlock", "delete a file", "attempt(lambda: os.unlink('@SECRET@'))"),
    _attack("files", "landlock", "change who may read a file", "attempt(lambda: os.chmod('@SECRET@', 0))"),
    _attack("files", "limits", "use descriptors of its parent", """
import stat
def search():
    found = []
    for fd in range(3, 256):
        try: kind = os.fstat(fd).st_mode
        except OSError: continue
        if not stat.S_ISFIFO(kind): found.append((fd, os.read(fd, 99)))
    if not found: raise OSError("no descriptor but the pipe of the sandbox")
    return found
attempt(search)"""),
    _attack("files", "limits", "change the interpreter's own files", "attempt(lambda: open(os.__file__, 'a').write('x'))"),
    _attack("files", "limits", "make a device of the disk", "import stat\nattempt(lambda: os.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0)))"),
    _attack("files", "filter", "change a file's flags by its path", """
attempt(lambda: call('syscall', 469, -100, b'@SECRET@', (__import__('ctypes').c_char * 24)(), 24, 0))"""),
    _attack("files", "filter", "change the flags of a file open for reading", """
import fcntl
attempt(lambda: fcntl.ioctl(os.open(os.__file__, os.O_RDONLY), 0x40086602, (64).to_bytes(8, 'little')))"""),
    _attack("files", "landlock", "watch a folder that it may not list", """
def watch():
    watcher = call('inotify_init')
    return call('inotify_add_watch', watcher, b'@FOLDER@', 0xfff)
attempt(watch)"""),
    _attack("files", "limits", "mount a file system", "attempt(lambda: call('mount', b'tmpfs', b'/tmp', b'tmpfs', 0, None))"),
    _attack("files", "limits", "change its root", "attempt(lambda: os.chroot('/'))"),
    # ---- privilege
    _attack("privilege", "limits", "become root", "attempt(lambda: os.setuid(0) or os.getuid() or open('/etc/shadow').read())"),
    _attack("privilege", "limits", "become root by a program that may", """
import subprocess
def ask():
    for word in ("su", "sudo", "pkexec", "mount"):
        for folder in ("/bin", "/usr/bin"):
            if os.path.exists(f"{folder}/{word}"):
                end = subprocess.run([f"{folder}/{word}", *{"mount": ["-t", "tmpfs", "x", "/tmp"], "sudo": ["-n", "id"],
                                     "su": ["-c", "id"], "pkexec": ["id"]}[word]], capture_output=True, timeout=20)
                if end.returncode == 0: return end.stdout
    raise OSError("no such program gives privileges")
attempt(ask)"""),
    _attack("privilege", "filter", "be root of a namespace of its own", "attempt(lambda: call('unshare', 0x10000000))"),
    _attack("privilege", "filter", "load a program into the kernel", """
attempt(lambda: call('syscall', number(321, 280), 0, None, 1 << 20))""", refusal=_EPERM),
    # ---- environment
    _attack("environment", "limits", "find a key in its environment", """
def look():
    found = {k: v for k, v in os.environ.items() if '@TOKEN@' in v or 'KEY' in k}
    if not found: raise OSError(f"only {', '.join(sorted(os.environ))}")
    return found
attempt(look)"""),
    _attack("environment", "landlock", "read another process's environment", "attempt(lambda: open('/proc/@VICTIM@/environ').read())"),
    _attack("environment", "filter", "read another process's memory", """
import ctypes
def peek():
    class Part(ctypes.Structure): _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t)]
    room = ctypes.create_string_buffer(8)
    here, there = Part(ctypes.addressof(room), 8), Part(@ADDRESS@, 8)
    return call('process_vm_readv', @VICTIM@, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
attempt(peek)""", refusal=_EPERM),
    _attack("environment", "filter", "trace another process", "attempt(lambda: call('ptrace', 16, @VICTIM@, None, None))"),
    # ---- network
    _attack("network", "filter", "connect to a server", "import socket\nattempt(lambda: socket.create_connection(('127.0.0.1', @PORT@), 5))"),
    _attack("network", "filter", "send a datagram", """
import socket
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'@TOKEN@', ('127.0.0.1', @PORT@)))"""),
    _attack("network", "filter", "send a datagram from a pair of sockets", """
import socket
def send():
    mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return mine.sendto(b'@TOKEN@', '@FOLDER@/datagrams')
attempt(send)""", refusal=_EPERM),
    _attack("network", "filter", "ask for a name", "import socket\nattempt(lambda: socket.getaddrinfo('example.com', 80))"),
    _attack("network", "filter", "listen on a port", "import socket\nattempt(lambda: socket.create_server(('127.0.0.1', 0)))"),
    _attack("network", "limits", "send raw packets", "import socket\nattempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))"),
    _attack("network", "filter", "reach a service by its socket file", """
import socket
attempt(lambda: socket.socket(socket.AF_UNIX).connect('@FOLDER@/service'))"""),
    _attack("network", "filter", "reach a service by its abstract socket", """
import socket
attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0@TOKEN@'))"""),
    _attack("network", "filter", "connect by another program", """
import subprocess
code = "import socket; socket.create_connection(('127.0.0.1', @PORT@), 5); print('in')"
def start():
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=40)
    if end.returncode: raise OSError(end.stderr.strip().splitlines()[-1])
    return end.stdout
attempt(start)"""),
    _attack("network", "filter", "go around the filter by io_uring", "attempt(lambda: call('syscall', 425, 8, bytes(120)))"),
    _attack("network", "filter", "go around the filter by 32-bit calls", _EXEC_32),
    _attack("network", "filter", "go around the filter by x32 calls", "attempt(lambda: call('syscall', number(0x40000029, 0), 2, 1, 0))"),
    # ---- time
    _attack("time", "limits", "run for ever", "while True: pass", _CPU, "the limit on CPU time", ends="timeout"),
    _attack("time", "limits", "run for ever, deaf to signals", """
import signal
for one in range(1, 65):
    try: signal.signal(one, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass""", _CPU, "the limit on CPU time", ends="crashed"),
    _attack("time", "limits", "wait for ever", _CLOCK, SHORT, ends="timeout"),
    _attack("time", "limits", "stop itself", "import signal\nos.kill(os.getpid(), signal.SIGSTOP)", SHORT, ends="timeout"),
    _attack("time", "limits", "write without end", "while True: print('x' * 65536)", SHORT, ends="timeout"),
    _attack("time", "limits", "leave a process behind", """
import subprocess
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", "@TOKEN@"])
    os._exit(0)
os.wait()""", stopped_by="killed with all the rest at the end of the program", ends="failed"),
    _attack("time", "limits", "keep the output open after its end", f"""
if os.fork() == 0:
    os.setsid()
    {_CLOCK.replace(chr(10), chr(10) + "    ")}
os._exit(0)""", stopped_by="nothing is waited for but the program; killed with all the rest", ends="failed"),
    # ---- processes
    _attack("processes", "limits", "fork bomb", """
while True:
    try: os.fork()
    except OSError: pass""", SHORT, "the limit on processes; then the wall clock", "timeout"),
    _attack("processes", "limits", "start a thousand processes", """
def many():
    for n in range(1000):
        if os.fork() == 0:
            import time
            time.sleep(600)
    return n
attempt(many)"""),
    _attack("processes", "limits", "start a thousand threads", """
import threading, time
def many():
    for n in range(1000): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return n
attempt(many)
os._exit(1)"""),
    # ---- memory
    _attack("memory", "limits", "take 16 GiB at once", "attempt(lambda: len(bytearray(16 << 30)))"),
    _attack("memory", "limits", "take memory in 12 processes", """
import time
for _ in range(12):
    if os.fork() == 0:
        held = bytearray(100 << 20)
        time.sleep(600)
time.sleep(600)""", SandboxLimits(wall_s=60, cpu_s=10, memory_bytes=400 << 20), ends="memory"),
    _attack("memory", "filter", "take memory that has a name only", "attempt(lambda: os.memfd_create('x'))"),
    _attack("memory", "filter", "take memory that is shared by key", "attempt(lambda: call('shmget', 0, 1 << 28, 0o1600))"),
    _attack("memory", "filter", "take memory that is shared and let its pages go", """
import mmap
attempt(lambda: mmap.mmap(-1, 1 << 16))"""),
    _attack("memory", "filter", "take memory of the device of zeros", """
import mmap
attempt(lambda: mmap.mmap(os.open('/dev/zero', os.O_RDWR), 1 << 16))"""),
    # ---- disk
    _attack("disk", "filter", "take room beyond the end of a file", """
attempt(lambda: call('fallocate', os.open('big', os.O_RDWR | os.O_CREAT), 1, 0, 64 << 20))"""),
    _attack("disk", "limits", "write a file of 64 MiB", "attempt(lambda: open('big', 'wb').write(bytes(64 << 20)))"),
    _attack("disk", "limits", "write 8 MiB again and again", _FILL),
    _attack("disk", "limits", "fill a folder that nobody may list", "os.mkdir('closed', 0o300)\nos.chdir('closed')" + _FILL),
    _attack("disk", "limits", "fill a folder whose path is too long to be named", """
for _ in range(25):
    os.mkdir('d' * 200)
    os.chdir('d' * 200)""" + _FILL),
    _attack("disk", "limits", "hold deleted files open", """
import time
held = []
def fill():
    for n in range(64):
        held.append(open('part', 'wb'))
        os.unlink('part')
        held[-1].write(bytes(8 << 20))
        held[-1].flush()
    time.sleep(5)
    return n
attempt(fill)"""),
    _attack("disk", "limits", "make files without end", """
def fill():
    for n in range(200_000): open(f'f{n}', 'w').close()
    return n
attempt(fill)"""),
    # ---- the parent
    _attack("parent", "filter", "kill the program that grades it", "import signal\nattempt(lambda: os.kill(@PARENT@, signal.SIGKILL))"),
    _attack("parent", "filter", "kill another process", "import signal\nattempt(lambda: os.kill(@VICTIM@, signal.SIGKILL))"),
    _attack("parent", "filter", "kill its supervisor", """
import signal, time
def kill():
    before = os.getppid()
    os.kill(before, signal.SIGKILL)
    time.sleep(0.2)
    if os.getppid() == before: raise OSError("a signal does nothing to the first process of a namespace")
attempt(kill)"""),
    _attack("parent", "filter", "kill everything in sight", """
import signal
attempt(lambda: os.kill(-1, signal.SIGKILL))"""),
    _attack("parent", "filter", "kill by a signal of a pipe", """
import fcntl, signal
def arm():
    r, w = os.pipe()
    fcntl.fcntl(r, fcntl.F_SETOWN, @VICTIM@)
    fcntl.fcntl(r, 10, signal.SIGKILL)
    fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)
    os.write(w, b'x')
attempt(arm)"""),
    _attack("parent", "filter", "lower another process's limits", """
import resource
attempt(lambda: resource.prlimit(@VICTIM@, resource.RLIMIT_CPU, (0, 0)))"""),
    _attack("parent", "filter", "slow another process down", "attempt(lambda: os.setpriority(os.PRIO_PROCESS, @VICTIM@, 19))"),
    _attack("parent", "filter", "type into the terminal", """
import fcntl
attempt(lambda: [fcntl.ioctl(fd, 0x5412, b'x') for fd in (0, 1, 2)])""", refusal=_EPERM),
    # ---- the verdict
    _attack("verdict", "limits", "end with code 0 before the tests", "os._exit(0)"),
    _attack("verdict", "limits", "replace what runs the tests", """
import builtins, traceback
builtins.exec = builtins.compile = traceback.print_exception = lambda *a, **k: None""",
            stopped_by="the tests run all the same"),
    _attack("verdict", "limits", "forget the tests", "sys._getframe(1).f_locals.get('sources', []).clear()",
            stopped_by="the tests run all the same"),
    _attack("verdict", "limits", "write success into every descriptor", """
for fd in range(3, 64):
    try: os.write(fd, b'0123456789abcdef0123456789abcdef ok\\nexit 0\\n')
    except OSError: pass
os._exit(0)"""),
)  # fmt: skip


@dataclass
class Scene:
    """What an attack could reach: a secret file, a process that knows the secret, listeners, a folder for all."""

    folder: Path
    token: str
    victim: subprocess.Popen[bytes]
    port: int
    since: float
    """When the victim was started, in seconds since 1970."""
    contacts: list[str] = field(default_factory=list)
    """Who was contacted from outside, one entry each time."""

    @property
    def secret(self) -> Path:
        """Return a file that every user may read and write."""
        return self.folder / "secret"

    def fill(self, program: str) -> str:
        """Put the scene's names into a program."""
        words = {"SECRET": self.secret, "FOLDER": self.folder, "TOKEN": self.token, "VICTIM": self.victim.pid,
                 "ADDRESS": _readable_address(self.victim.pid), "PARENT": os.getpid(), "PORT": self.port}  # fmt: skip
        for word, value in words.items():
            program = program.replace(f"@{word}@", str(value))
        return program

    def harm(self) -> list[str]:
        """Say what was changed, reached or left behind."""
        found = list(self.contacts)
        if {path.name for path in self.folder.iterdir()} != {"secret", "service", "datagrams"}:
            found.append("files were made or deleted")
        elif self.secret.read_text() != self.token or self.secret.stat().st_mode & 0o777 != 0o666:
            found.append("the secret was changed")
        if self.victim.poll() is not None:
            found.append("the other process died")
        elif psutil.Process(self.victim.pid).rlimit(psutil.RLIMIT_CPU)[0] == 0:
            found.append("the other process's limits were changed")
        deadline = time.monotonic() + _SETTLE_S
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found + (["processes were left behind"] if left else [])

    def _left(self) -> bool:
        for process in psutil.process_iter(["pid", "cmdline"]):
            words = process.info["cmdline"] or []
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.create_time() < self.since or process.pid == self.victim.pid:
                    continue
                ours = any("sandbox_launcher" in word for word in words) and process.ppid() in (1, os.getpid())
                if ours or self.token in words:
                    return True
        return False


def _readable_address(pid: int) -> int:
    """Return where a process has memory that it may read."""
    lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    return next(int(line.partition("-")[0], 16) for line in lines if line.split()[1].startswith("r"))


@contextlib.contextmanager
def scene() -> Iterator[Scene]:
    """Set the scene, and clear it away."""
    token = secrets.token_hex(12)
    with tempfile.TemporaryDirectory(prefix="ttc-attacks-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o777)
        with contextlib.ExitStack() as stack:
            tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            port = tcp.getsockname()[1]
            udp.bind(("127.0.0.1", port))
            by_file = stack.enter_context(socket.socket(socket.AF_UNIX))
            by_file.bind(str(folder / "service"))
            (folder / "service").chmod(0o777)
            datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            datagrams.bind(str(folder / "datagrams"))
            (folder / "datagrams").chmod(0o777)
            abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
            abstract.bind("\0" + token)
            for one in (by_file, abstract):
                one.listen()
            sleeper = [sys.executable, "-c", "import time; time.sleep(3600)"]
            victim = stack.enter_context(subprocess.Popen(sleeper, env={**os.environ, "SECRET_KEY": token}))
            stack.callback(victim.kill)
            found = Scene(folder, token, victim, port, psutil.Process(victim.pid).create_time())
            found.secret.write_text(token)
            found.secret.chmod(0o666)
            inherited = os.open(found.secret, os.O_RDONLY)
            stack.callback(os.close, inherited)
            os.set_inheritable(inherited, True)
            named = {"TCP": tcp, "UDP": udp, "a socket file": by_file, "a socket file of datagrams": datagrams,
                     "an abstract socket": abstract}  # fmt: skip
            stop = stack.enter_context(_listening(named, found.contacts))
            os.environ["TTC_ATTACK_API_KEY"] = token
            stack.callback(os.environ.pop, "TTC_ATTACK_API_KEY", None)
            yield found
            stop.set()


@contextlib.contextmanager
def _listening(sockets: dict[str, socket.socket], contacts: list[str]) -> Iterator[threading.Event]:
    """Note every contact until told to stop."""
    stop = threading.Event()

    def listen() -> None:
        with selectors.DefaultSelector() as selector:
            for name, one in sockets.items():
                selector.register(one, selectors.EVENT_READ, name)
            while not stop.is_set():
                for key, _ in selector.select(0.1):
                    contacts.append(f"{key.data} was reached")
                    one = sockets[key.data]
                    if one.type == socket.SOCK_DGRAM:
                        one.recv(100)
                    else:
                        one.accept()[0].close()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attack."""

    attack: Attack
    result: SandboxResult
    got: str
    """What it reached, empty where it was stopped."""

    @property
    def stopped_by(self) -> str:
        """Say in words what stopped it."""
        if self.got:
            return f"NOTHING: {self.got}"
        if self.attack.stopped_by:
            return self.attack.stopped_by
        lines = [line for line in self.result.output.splitlines() if line.startswith("REFUSED ")]
        if lines and self.result.status == "failed":
            return lines[-1].removeprefix("REFUSED ")
        return _ENDS.get(self.result.status, "its end before the tests' end counts as failure")


_ENDS = {
    "crashed": "killed by the kernel",
    "timeout": "the wall clock",
    "memory": "the limit on the memory of all its processes",
    "disk": "the limit on what it may write",
}


def run(attack: Attack, level: Isolation, around: Scene) -> Outcome:
    """Run one attack in one isolation and look at the scene afterwards."""
    before = list(around.contacts)
    started = time.monotonic()
    # The tests that an answer would have to pass.
    result = run_program([around.fill(attack.program), "assert False, 'the tests ran'"], attack.limits, level)
    took = time.monotonic() - started
    got = [line for line in result.output.splitlines() if line.startswith("GOT ")]
    harm = [one for one in around.harm() if one not in before]
    if result.status == "ok":
        harm.append("it was graded as right")
    if around.token in result.output and "@TOKEN@" not in attack.program:
        harm.append("it knows the secret")
    if took > attack.limits.wall_s + 60:
        harm.append(f"it ran for {took:.0f} s")
    if attack.ends not in (None, result.status) or (attack.limits is _CPU and took > _CPU.wall_s):
        harm.append(f"it ended otherwise than it should: {result.status} after {took:.0f} s")
    if attack.refusal not in result.output:
        harm.append(f"it was not told: {attack.refusal}")
    return Outcome(attack, result, "; ".join([*got, *harm]))


def unconfined(attack: Attack, around: Scene) -> str:
    """Return what a program writes without a sandbox; only for those that change nothing."""
    return subprocess.run(
        [sys.executable, "-c", around.fill(attack.program)], capture_output=True, text=True, check=False
    ).stdout


def offered() -> list[Isolation]:
    """Return the levels that work here, strongest first."""
    return [level for level in LEVELS if tried(level)[0]]


def promised(attack: Attack, level: Isolation) -> bool:
    """Say whether a level stops an attack."""
    return LEVELS.index(level) <= LEVELS.index(attack.held)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", choices=LEVELS, action="append", help="May be repeated; all that work here.")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    levels: list[Isolation] = options.level or offered()
    table: list[list[str]] = []
    through = 0
    with scene() as around:
        for attack in ATTACKS:
            told = []
            for level in levels:
                if not promised(attack, level):
                    told.append("not promised")
                    continue
                outcome = run(attack, level, around)
                through += bool(outcome.got)
                told.append(outcome.stopped_by.replace(around.token, "TOKEN").replace(str(around.folder), "FOLDER"))
            table.append([attack.group, attack.tries, *told])
            if not options.markdown:
                print(f"{attack.group:12} {attack.tries:42} " + " | ".join(told), flush=True)
    if options.markdown:
        for row in (["", "it tried to", *levels], ["---"] * (2 + len(levels)), *table):
            print("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    ran = sum(promised(attack, level) for attack in ATTACKS for level in levels)
    print(f"\n{len(ATTACKS)} programs, {ran} runs at {', '.join(levels)}: {through} got through", file=sys.stderr)
    return 1 if through else 0


if __name__ == "__main__":
    sys.exit(main())
