"""Run one program under limits. Started by `ttc_evals.sandbox` as a script, never imported.

Reads a JSON job on standard input and reports on the file descriptor given as the only argument, one line
each: `ready`, `<nonce> <outcome>` once the program's last part has ended, and `exit <code>`.

It is started as root or as an ordinary user, sets up namespaces while it still may, gives up every
privilege, and only then forks the process that reads the program's source.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from ttc_evals.sandbox_rules import refuse_calls, refuse_paths

NOBODY = 65534
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 0x1000, 0x4000, 1 << 18, 2
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
SYS_MOUNT_SETATTR = 442  # the same number on every Linux architecture; since Linux 5.12
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = -100, 0x8000, 1
CAPABILITY_VERSION_3 = 0x20080522
SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store", "/etc/ld.so.cache",
    "/etc/alternatives",
)  # fmt: skip
"""Programs and libraries; nothing of a user's."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: Any) -> None:
    """Call a C function that answers 0 for success. Raises OSError, also where the system lacks it."""
    try:
        function = getattr(libc, name)
    except AttributeError as error:
        raise OSError(f"no {name} on this system") from error
    if function(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = (None if kind is None else kind.encode(), ctypes.c_ulong(flags), None if data is None else data.encode())
    _call("mount", source.encode(), target.encode(), *encoded)


def _set_read_only(path: str, *, on: bool, recursive: bool) -> None:
    fields = (MOUNT_ATTR_RDONLY, 0) if on else (0, MOUNT_ATTR_RDONLY)
    attributes = (ctypes.c_uint64 * 4)(*fields, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), size)


def _unshare() -> None:
    """Enter new network, process, mount and IPC namespaces, by privilege or by a user namespace."""
    flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        try:
            _call("unshare", flags)
            return
        except OSError:
            pass  # root without the capability, as in a container: the other way may still be open
    _call("unshare", flags | CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _visible() -> list[str]:
    """Return the folders and files that a program needs to run: the system's libraries and this interpreter."""
    interpreter = [
        str(Path(prefix) / part)
        for prefix in dict.fromkeys((sys.prefix, sys.base_prefix))
        for part in ("bin", "lib", "lib64", "pyvenv.cfg")
    ]
    found = [path for path in (*SYSTEM, *interpreter) if Path(path).exists()]
    return [path for path in found if not any(path.startswith(other + "/") for other in found)]


def _own_root(size: int) -> None:
    """Change to a root of its own in the working directory: what `_visible` names, read-only, and a small /tmp."""
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    root = Path.cwd()
    _mount("tmpfs", str(root), "tmpfs", 0, f"size={size},nr_inodes=4096,mode=755")
    for name in ("proc", "tmp"):
        (root / name).mkdir()
    # Before the rest: an environment below /tmp would lie hidden under it.
    _mount("tmpfs", str(root / "tmp"), "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},nr_inodes=4096,mode=1777")
    for path in (*_visible(), *DEVICES):
        place = root / path[1:]
        if Path(path).is_symlink() and Path(path).is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(os.path.realpath(path))  # /lib and its like, where they are parts of /usr
            path = os.path.realpath(path)  # noqa: PLW2901
            place = root / path[1:]
            if place.exists():
                continue
        if Path(path).is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        _mount(path, str(place), None, MS_BIND | MS_REC)
    os.chdir(root)
    _set_read_only(".", on=True, recursive=True)
    _set_read_only("tmp", on=False, recursive=False)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/tmp")  # noqa: S108


def _readable_to_all(path: Path) -> bool:
    return all(p.stat().st_mode & 0o001 for p in path.parents)


def _give_up_root(isolation: str) -> None:
    """Become nobody. Raises PermissionError where root would have to stay root with every file in reach."""
    if os.geteuid() != 0:
        return
    if isolation != "namespaces" and not _readable_to_all(Path(os.__file__)):
        raise PermissionError("root cannot become another user that may read this interpreter: run as an ordinary user")
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:
        if isolation != "namespaces":
            raise
        return  # root of a user namespace that holds no other user: it sees no file but those it needs
    try:
        _call("unshare", CLONE_NEWUSER)  # the process limit then counts this sandbox alone
    except OSError:
        return


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _call("capset", ctypes.byref(header), ctypes.byref(none))


def _prctl(option: int, value: int) -> None:
    try:
        _call("prctl", option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3)
    except OSError:
        if sys.platform == "linux":
            raise


def _tasks_of_user() -> int:
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.geteuid():
                count += sum(1 for _ in (process / "task").iterdir())
        except OSError:
            continue  # it ended meanwhile
    return count


def _isolate(job: dict[str, Any]) -> None:
    """Reach the isolation asked for. Raises OSError where this machine does not offer it."""
    isolation = job["isolation"]
    if isolation == "namespaces":
        _unshare()
        _own_root(job["file_bytes"])
    _give_up_root(isolation)
    os.environ["HOME"] = os.environ["TMPDIR"] = str(Path.cwd())


def _set_limits(job: dict[str, Any], others: int) -> None:
    processes = job["processes"] + others
    wanted = {
        resource.RLIMIT_AS: (job["memory_bytes"],) * 2,
        resource.RLIMIT_CPU: (job["cpu_s"], job["cpu_s"] + 1),
        resource.RLIMIT_FSIZE: (job["file_bytes"],) * 2,
        resource.RLIMIT_NPROC: (processes, processes),
        resource.RLIMIT_NOFILE: (128, 128),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, (soft, hard) in wanted.items():
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)  # noqa: PLW2901
        try:
            resource.setrlimit(kind, (soft, hard))
        except (OSError, ValueError):
            continue  # a limit this system does not know


def _run(sources: list[str], nonce: str, report: int) -> None:
    """Execute the parts one after another in one module's namespace and report the outcome."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    outcome = "ok"
    # All that comes after the program's first line is taken before it: it may replace what these names stand for.
    run, write, show = exec, os.write, traceback.print_exception
    try:
        parts = tuple(compile(s, f"<part {n}>", "exec", dont_inherit=True) for n, s in enumerate(sources))
        for part in parts:
            run(part, module.__dict__)
    except MemoryError:
        outcome = "memory"
    except BaseException as error:  # noqa: BLE001 - whatever the program raises, exits included, is its failure
        outcome = "failed"
        show(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
    write(report, f"{nonce} {outcome}\n".encode())


def _fork_runner(job: dict[str, Any], report: int, others: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            _prctl(PR_SET_NO_NEW_PRIVS, 1)
            _set_limits(job, others)
            if job["isolation"] == "landlock":
                refuse_paths((*_visible(), *DEVICES), str(Path.cwd()))
            if job["isolation"] != "limits":
                refuse_calls(outside=job["isolation"] != "namespaces")
            os.write(report, b"ready\n")
            _run(job["sources"], job["nonce"], report)
            sys.stdout.flush()
        except OSError as error:  # before "ready" it says why this level cannot be had
            print(error)  # noqa: T201 - to the caller, which reads it from this pipe
            sys.stdout.flush()
        finally:
            os._exit(1)
    return pid


def _wait(pid: int) -> int:
    """Reap children until `pid` has ended; return its code, 128 + N where signal N ended it."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _end_all(*_: object) -> None:
    """Kill what the program started, and end: nobody is left who would.

    What loses its parent becomes a child of this process, so the last one is found, too.
    """
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            os._exit(1)


def _children() -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parent = process.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            found += [int(process.parent.name)] if int(parent) == os.getpid() else []
    return found


def _supervise(job: dict[str, Any], report: int) -> int:
    """Run the program and wait; in a namespace below a first process whose end kills everything there."""
    if job["isolation"] != "namespaces":
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        return _wait(_fork_runner(job, report, _tasks_of_user()))
    pid = os.fork()
    if pid:
        return _wait(pid)
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        _drop_capabilities()
        os._exit(_wait(_fork_runner(job, report, 0)))
    finally:
        os._exit(1)


def main() -> None:
    """Read the job, isolate, run, report."""
    report = int(sys.argv[1])
    os.umask(0o022)
    os.set_inheritable(report, False)
    job = json.load(sys.stdin)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _isolate(job)
    if job["isolation"] == "namespaces":
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        signal.signal(signal.SIGTERM, _end_all)
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    code = _supervise(job, report)
    os.write(report, f"exit {code}\n".encode())
    signal.pause()  # stay the parent of what the program left behind, until the whole tree is killed


if __name__ == "__main__":
    main()
