"""What the kernel refuses a process and its children for good: system calls (seccomp) and paths (Landlock).

Linux on x86-64 and AArch64, by plain system calls: nothing to install and no privilege needed. `no_new_privs` must be
set before. Elsewhere both raise OSError.

Limits: the filter is a list of what is refused. What it does not name is allowed, so a flaw of the kernel behind a common
call is not contained. Landlock guards what is in files and which there are, not their dates and sizes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# Numbers on x86-64 and on AArch64 (asm/unistd_64.h and asm-generic/unistd.h of Linux 6.12); None: there is no such call.
_Numbers = Mapping[str, tuple[int | None, int | None]]
_NEVER: _Numbers = {
    # The network, and any socket of the machine's services. A connected pair within the program stays possible.
    "socket": (41, 198),
    # Other processes' memory and descriptors.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "move_pages": (279, 239), "migrate_pages": (256, 238),
    # Mounts and namespaces.
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # Memory that belongs to no process, and so to no limit.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180),
    # Large parts of the kernel that no answer to a question needs.
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "fanotify_init": (300, 262), "personality": (135, 92), "modify_ldt": (154, None),
    "iopl": (172, None), "ioperm": (173, None),
    # The machine itself.
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "acct": (163, 89), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "vhangup": (153, 58),
    "syslog": (103, 116),
}  # fmt: skip
_OWNERSHIP: _Numbers = {
    # Changes to files that need no opening, so that Landlock does not see them.
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "removexattrat": (466, 466), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "truncate": (76, 45), "file_setattr": (469, 469),
    # Room on the disk beyond the limit on a file's length.
    "fallocate": (285, 47),
    # Names in folders that may not be listed.
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    # Changes to how other processes of the same user run.
    "setpriority": (141, 140), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "ioprio_set": (251, 30),
}  # fmt: skip
_SIGNALS: _Numbers = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "prlimit64": (302, 261),
}  # fmt: skip
"""Calls whose first argument is a process: only the caller itself may be named."""
_FCNTL, _IOCTL, _CLONE, _CLONE3, _SOCKETPAIR = (72, 25), (16, 29), (56, 220), 435, (53, 199)
_OWNER_COMMANDS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a descriptor could send any signal to any process
_TERMINAL_COMMANDS = (0x5412, 0x541C, 0x8901, 0x8902)  # TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP
_FILE_COMMANDS = (0x40086602, 0x40046602, 0x401C5820, 0x40806685)
"""FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR, FS_IOC_ENABLE_VERITY: they change files that are open for reading."""
_MMAP, _SHARED = (9, 222), 0x1  # MAP_SHARED and MAP_SHARED_VALIDATE have this bit, MAP_PRIVATE has not
_AF_UNIX, _DATAGRAMS = 1, 2  # the bit that SOCK_DGRAM and SOCK_RAW have, and SOCK_STREAM and SOCK_SEQPACKET have not
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_FOLDER, _EXECUTE, _WRITE = 1 << 2, 1 << 3, 1 << 0, 1 << 1
_RIGHTS_OF_FILES = _EXECUTE | _WRITE | _READ_FILE | 1 << 14 | 1 << 15
_VERSION_RIGHTS = ((3, 15), (5, 16))
"""From which version of Landlock on how many rights to files are known; more are an error."""
_LEAST_VERSION = 3  # Linux 6.2: before it a file that may be read can be emptied by opening it

_libc = ctypes.CDLL(None, use_errno=True)


def refuse_calls(*, outside: bool) -> None:
    """Refuse system calls that reach out of a sandbox, in this process and all that it starts.

    With `outside` other processes and files are in reach, so those calls are refused as well that could change them.

    Raises:
        OSError: not on this system.
    """
    column, architecture = _architecture()
    own = os.getpid()
    program = [
        _step(_LOAD, 4), _step(_EQUAL, architecture, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, 0),
    ]  # fmt: skip
    if column == 0:
        program += [_step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, _REFUSE | errno.ENOSYS)]
    named = {**_NEVER, **(_OWNERSHIP if outside else {})}
    for numbers in named.values():
        if (number := numbers[column]) is not None:
            program += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _REFUSE | errno.EPERM)]
    # Its flags lie in memory, where a filter cannot look: the C library then takes the older call.
    program += [_step(_EQUAL, _CLONE3, 0, 1), _step(_RETURN, _REFUSE | errno.ENOSYS)]
    program += _argument(_CLONE[column], 0, [_step(_ANY_BIT, _NEW_NAMESPACES, 0, 1)])
    # Shared pages stay after their unmapping, in no process's count.
    program += _argument(_MMAP[column], 3, [_step(_ANY_BIT, _SHARED, 0, 1)])
    program += _argument(_IOCTL[column], 1, [_equals(value) for value in (*_TERMINAL_COMMANDS, *_FILE_COMMANDS)])
    program += _pairs(_SOCKETPAIR[column])
    if outside:
        program += _argument(_FCNTL[column], 1, [_equals(value) for value in _OWNER_COMMANDS])
        for numbers in _SIGNALS.values():
            if (number := numbers[column]) is not None:
                program += _only(number, (0, own, (1 << 32) - own))
    program.append(_step(_RETURN, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HL", len(program), ctypes.addressof(code))  # struct sock_fprog, with its padding
    _checked("seccomp", _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(header), 0, 0))


def refuse_paths(readable: Iterable[str], writable: str) -> None:
    """Refuse every path but some that may be read and run, and one folder that may be written, too.

    Raises:
        OSError: not on this system.
    """
    if sys.platform != "linux":
        raise OSError("no Landlock on this system")
    version = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    _checked("Landlock", min(version, 0))
    if version < _LEAST_VERSION:
        raise OSError(f"Landlock of version {version}, which does not keep files from being emptied")
    every = (1 << max(rights for since, rights in _VERSION_RIGHTS if since <= version)) - 1
    # Networks from version 4 on, signals and abstract sockets from version 6 on: all that it knows is refused.
    wanted = struct.pack("QQQ", every, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    length = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _libc.syscall(_CREATE_RULESET, ctypes.c_char_p(wanted), ctypes.c_size_t(length), 0)
    _checked("Landlock", min(ruleset, 0))
    try:
        reading = _READ_FILE | _READ_FOLDER | _EXECUTE
        rules = [(path, reading) for path in readable] + [("/dev/null", reading | _WRITE), (writable, every)]
        for path, rights in rules:
            _allow(ruleset, path, rights & every)
        _checked("Landlock", _libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not Path(path).is_dir():
            rights &= _RIGHTS_OF_FILES
        rule = ctypes.c_char_p(struct.pack("=Qi", rights, descriptor))
        _checked(f"Landlock, {path}", _libc.syscall(_ADD_RULE, ruleset, 1, rule, 0))
    finally:
        os.close(descriptor)


def _architecture() -> tuple[int, int]:
    found = _ARCHITECTURES.get(platform.machine()) if sys.platform == "linux" else None
    if found is None or sys.maxsize < 1 << 32:
        raise OSError(f"no filter of system calls for {platform.system()} on {platform.machine()}")
    return found


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """Return one instruction: `yes` and `no` are how many of the next ones are left out."""
    return struct.pack("HBBI", code, yes, no, value)


def _equals(value: int) -> bytes:
    return _step(_EQUAL, value, 0, 1)


def _argument(number: int, position: int, tests: Sequence[bytes]) -> list[bytes]:
    """Refuse a call where a test of one of its arguments holds."""
    body = [_step(_LOAD, 16 + 8 * position)]
    for test in tests:
        body += [test, _step(_RETURN, _REFUSE | errno.EPERM)]
    body.append(_step(_RETURN, _ALLOW))
    return [_step(_EQUAL, number, 0, len(body)), *body]


def _pairs(number: int) -> list[bytes]:
    """Refuse pairs of sockets but connected ones: one of datagrams can send to any socket file."""
    refuse = _step(_RETURN, _REFUSE | errno.EPERM)
    domain = [_step(_LOAD, 16), _step(_EQUAL, _AF_UNIX, 1, 0), refuse]
    kind = [_step(_LOAD, 24), _step(_ANY_BIT, _DATAGRAMS, 0, 1), refuse]
    body = [*domain, *kind, _step(_RETURN, _ALLOW)]
    return [_step(_EQUAL, number, 0, len(body)), *body]


def _only(number: int, allowed: Sequence[int]) -> list[bytes]:
    """Refuse a call unless its first argument is one of a few."""
    body = [_step(_LOAD, 16)]
    for value in allowed:
        body += [_equals(value), _step(_RETURN, _ALLOW)]
    body.append(_step(_RETURN, _REFUSE | errno.EPERM))
    return [_step(_EQUAL, number, 0, len(body)), *body]


def _checked(what: str, answer: int) -> None:
    if answer != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
