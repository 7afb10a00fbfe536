"""The kernel's interfaces for isolation, through ctypes: namespaces, mounts, Landlock, seccomp, capabilities.

Why no library: the child is forked from a warm parent (that is where the speed comes from), so tools that start a new
process (bubblewrap, nsjail) cannot serve, and the Python bindings for seccomp need a system package that an ordinary
user may not be able to install. What is needed is a handful of system calls, all documented in section 2 of the manual
and in the kernel's Documentation/userspace-api (landlock.rst, seccomp_filter.rst).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWNET, CLONE_THREAD = 0x10000000, 0x40000000, 0x00010000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NAME, PR_GET_NAME, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 15, 16, 4, 38
PR_SET_CHILD_SUBREAPER, PR_SET_VMA, PR_CAPBSET_DROP = 36, 0x53564D41, 24
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class KernelRefusedError(OSError):
    """A system call that the kernel did not allow; says which."""


def _checked(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise KernelRefusedError(number, f"{name}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leave namespaces, unshare(2)."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    encoded = [None if text is None else text.encode() for text in (source, target, kind, data)]
    _checked(_libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]), f"mount {target}")


def prctl(option: int, value: int = 0) -> None:
    """prctl(2) with one argument."""
    zero = ctypes.c_ulong(0)
    _checked(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def drop_capabilities() -> None:
    """Give up every capability for good, also in the bounding set where that is allowed."""
    for capability in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break  # The first number past the kernel's last capability, or no right to drop: capset below still holds.
    version_3 = 0x20080522
    header = struct.pack("=Ii", version_3, 0)
    _checked(_libc.capset(header, bytes(24)), "capset")


# --- Landlock: which files may be touched -----------------------------------------------------------------------------

READ = 0b1101  # execute, read file, read folder
_EVERYTHING_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_FILE_ONLY = 1 | 2 | 4 | 1 << 14 | 1 << 15  # execute, write, read, truncate, ioctl: what a rule on a file may name
_SCOPE_ABI, _NETWORK_ABI = 6, 4


def landlock_abi() -> int:
    """The Landlock version this kernel offers, 0 when there is none."""
    return max(0, int(_libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def landlock(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Forbid every file but these (folders with all below them), every TCP port, and signals to outside processes.

    Paths that do not exist are passed over. Needs PR_SET_NO_NEW_PRIVS.
    """
    abi = landlock_abi()
    everything = _EVERYTHING_BY_ABI[min(abi, 5)]
    network = 0b11 if abi >= _NETWORK_ABI else 0
    scope = 0b11 if abi >= _SCOPE_ABI else 0
    attributes = struct.pack("=QQQ", everything, network, scope)[: 24 if scope else 16 if network else 8]
    call = _libc.syscall
    ruleset = _checked(
        call(LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock_create_ruleset"
    )
    try:
        for access, paths in ((READ, readable), (everything, writable)):
            for path in paths:
                _allow_beneath(ruleset, path, access & everything)
        _checked(call(LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), 0), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow_beneath(ruleset: int, path: str, access: int) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        allowed = access if os.path.isdir(path) else access & _FILE_ONLY
        rule = struct.pack("=Qi", allowed, folder)
        beneath = 1
        _checked(_libc.syscall(LANDLOCK_ADD_RULE, ctypes.c_int(ruleset), beneath, rule, 0), f"landlock_add_rule {path}")
    finally:
        os.close(folder)


# --- seccomp: which system calls may be made --------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """What the filter refuses.

    denied: names that fail with "not permitted". ignored: names that do nothing and report success (a library that
    copies a file's mode would stop otherwise). first_argument: name -> the only first arguments that are let through;
    second_argument: the same of the second. Refused besides: processes (threads are let through), shared memory without
    a file, and every system call that was added to Linux after this list was written.
    """

    denied: Sequence[str]
    ignored: Sequence[str]
    first_argument: Mapping[str, Sequence[int]]
    second_argument: Mapping[str, Sequence[int]]


# name -> number on (x86_64, aarch64); None where an architecture has no such call.
SYSCALLS: dict[str, tuple[int, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "connect": (42, 203), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "sendmmsg": (307, 269), "recvmmsg": (299, 243),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "setpgid": (109, 154), "setsid": (112, 157),
    "setpriority": (141, 140), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "mknod": (133, None), "mknodat": (259, 33),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "mlock": (149, 228), "mlock2": (325, 284), "mlockall": (151, 230),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "quotactl": (179, 60), "acct": (163, 89),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "seccomp": (317, 277), "personality": (135, 92), "fanotify_init": (300, 262),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "swapon": (167, 224), "reboot": (169, 142), "sethostname": (170, 161), "settimeofday": (164, 170),
    "kill": (62, 129), "tgkill": (234, 131), "prctl": (157, 167), "prlimit64": (302, 261),
    "clone": (56, 220), "clone3": (435, 435), "mmap": (9, 222), "ioctl": (16, 29),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27), "io_setup": (206, 0),
    "syslog": (103, 116), "quotactl_fd": (443, 443), "shmctl": (31, 195), "msgctl": (71, 187), "semctl": (66, 191),
    "mq_unlink": (241, 181), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
}  # fmt: skip
_FIRST_UNKNOWN_CALL = 463  # setxattrat, Linux 6.13. C libraries fall back when a call is absent.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32_BIT = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _AND_SET, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOMEM, _ENOTTY, _ENOSYS = 1, 12, 25, 38
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT, _FOURTH_ARGUMENT = 0, 4, 16, 24, 40
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20


def seccomp_supported() -> bool:
    """Whether the system call numbers of this processor are known here."""
    return platform.machine() in _ARCHITECTURES and platform.system() == "Linux"


def seccomp(wanted: Filter) -> None:
    """Refuse system calls from now on, in this process and all its threads. Needs PR_SET_NO_NEW_PRIVS."""
    program = _program(wanted)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    set_seccomp, filter_mode = 22, 2
    _checked(_libc.prctl(set_seccomp, ctypes.c_ulong(filter_mode), header, 0, 0), "prctl PR_SET_SECCOMP")


def _program(wanted: Filter) -> bytes:
    """Classic BPF. Threads are allowed and processes are not: clone needs CLONE_THREAD, clone3 reads as absent."""
    architecture, column = _ARCHITECTURES[platform.machine()]

    def number(name: str) -> int | None:
        return SYSCALLS[name][column]

    lines = [
        _line(_LOAD, _ARCHITECTURE),
        _line(_EQUAL, architecture, 1, 0),
        _line(_RETURN, _KILL_PROCESS),
        _line(_LOAD, _NUMBER),
        _line(_AT_LEAST, _X32_BIT, 0, 1),
        _line(_RETURN, _KILL_PROCESS),
        _line(_AT_LEAST, _FIRST_UNKNOWN_CALL, 0, 1),
        _line(_RETURN, _ERRNO | _ENOSYS),
    ]
    for names, error in ((wanted.denied, _EPERM), (wanted.ignored, 0)):
        for call in (number(name) for name in names):
            if call is not None:
                lines += [_line(_EQUAL, call, 0, 1), _line(_RETURN, _ERRNO | error)]
    lines += [_line(_EQUAL, number("clone3") or 0, 0, 1), _line(_RETURN, _ERRNO | _ENOSYS)]
    lines += [
        _line(_EQUAL, number("clone") or 0, 0, 4),
        _line(_LOAD, _FIRST_ARGUMENT),
        _line(_AND_SET, CLONE_THREAD, 0, 1),
        _line(_RETURN, _ALLOW),
        _line(_RETURN, _ERRNO | _EPERM),
    ]
    # Such memory is still held, and counts as nobody's, once its pages are dropped from the process.
    without_file = _MAP_SHARED | _MAP_ANONYMOUS
    lines += [
        _line(_EQUAL, number("mmap") or 0, 0, 5),
        _line(_LOAD, _FOURTH_ARGUMENT),
        _line(_AND, without_file),
        _line(_EQUAL, without_file, 0, 1),
        _line(_RETURN, _ERRNO | _ENOMEM),
        _line(_RETURN, _ALLOW),
    ]
    for argument, error, names_allowed in (
        (_FIRST_ARGUMENT, _EPERM, wanted.first_argument),
        (_SECOND_ARGUMENT, _ENOTTY, wanted.second_argument),
    ):
        for name, allowed in names_allowed.items():
            tests = [_line(_EQUAL, value & 0xFFFFFFFF, len(allowed) - i, 0) for i, value in enumerate(allowed)]
            body = [_line(_LOAD, argument), *tests, _line(_RETURN, _ERRNO | error), _line(_RETURN, _ALLOW)]
            lines += [_line(_EQUAL, number(name) or 0, 0, len(body)), *body]
    return b"".join([*lines, _line(_RETURN, _ALLOW)])


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
