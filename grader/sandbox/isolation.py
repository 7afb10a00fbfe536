"""The wall around a child: which layers this host allows, and going behind all of them.

A child keeps: the interpreter and its packages to read, one private folder in memory to write, its own memory and time.
Layers, each tried out before it is relied on:

- namespaces (user, mount, network, IPC): no network, no other process's shared memory, a size-capped tmpfs to write in;
- Landlock: no file outside the two lists, and no signal to another process (kernel 6.12 or newer);
- seccomp: no new process, socket, signal, mount, trace or kernel key;
- limits: CPU time, file size, open files, core dumps. Memory and threads are watched by the parent, which also kills.

What it does not stop: a fault in the kernel itself; timing and cache side channels between children; reading the
source of installed packages; using up a core, or its share of memory, until its limit; on hosts that refuse a layer,
what that layer alone holds (`Isolation.missing` says which).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grader.sandbox import kernel

# Devices, processor facts and zones that numerical libraries look up; nothing here tells of the course or its learners.
HARMLESS = (
    "/dev/random", "/dev/urandom", "/dev/zero", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/loadavg",
    "/proc/sys/vm", "/sys/devices/system", "/etc/localtime", "/etc/ld.so.cache", "/usr/share/zoneinfo",
    "/usr/share/fonts",
)  # fmt: skip

DENIED = (
    "socket", "socketpair", "bind", "listen", "accept", "accept4", "connect", "sendto", "recvfrom", "sendmsg",
    "recvmsg", "sendmmsg", "recvmmsg", "fork", "vfork", "execve", "execveat", "ptrace", "process_vm_readv",
    "process_vm_writev", "kcmp", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "tkill", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "setpgid", "setsid", "setpriority", "sched_setaffinity", "sched_setscheduler",
    "sched_setattr", "ioprio_set", "process_madvise", "process_mrelease", "migrate_pages", "move_pages", "chown",
    "fchown", "lchown", "fchownat", "mknod", "mknodat", "setxattr", "lsetxattr", "fsetxattr", "memfd_create",
    "memfd_secret", "shmget", "shmat", "msgget", "semget", "mq_open", "unshare", "setns", "mount", "umount2",
    "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
    "name_to_handle_at", "open_by_handle_at", "quotactl", "acct", "bpf", "perf_event_open", "userfaultfd",
    "io_uring_setup", "io_uring_enter", "io_uring_register", "keyctl", "add_key", "request_key", "seccomp",
    "personality", "fanotify_init", "inotify_init", "inotify_init1", "inotify_add_watch", "io_setup", "syslog",
    "quotactl_fd", "shmctl", "msgctl", "semctl", "mq_unlink", "removexattr", "lremovexattr", "fremovexattr",
    "init_module", "finit_module", "kexec_load", "kexec_file_load", "swapon", "reboot",
    "sethostname", "settimeofday",
)  # fmt: skip
# Landlock does not cover a file's mode and times, so these must not reach the disk; but copying libraries expect them
# to work.
IGNORED = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat", "mlock", "mlock2",
    "mlockall",
)  # fmt: skip
# Asking about a terminal or a pipe and whether a descriptor blocks or is inherited; nothing that changes a file.
HARMLESS_CONTROLS = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)


@dataclass(frozen=True)
class Isolation:
    """The layers a host allows."""

    namespaces: bool
    landlock: int
    seccomp: bool

    @property
    def missing(self) -> tuple[str, ...]:
        """What is not held here, in words; empty when every layer works."""
        gaps = []
        if not self.namespaces:
            gaps.append("namespaces: learner code can write many small files into its folder on the disk")
        if not self.landlock:
            gaps.append("Landlock: learner code can read and write every file that you can")
        if not self.seccomp:
            gaps.append("seccomp: learner code can start processes, signal others and open sockets")
        return tuple(gaps)

    @property
    def holds(self) -> bool:
        """Whether a cohort may be graded: files, processes and the network are all out of reach."""
        return bool(self.landlock) and self.seccomp

    def __str__(self) -> str:
        """`namespaces, Landlock 7, seccomp`, or `none`."""
        layers = ["namespaces"] * self.namespaces + [f"Landlock {self.landlock}"] * bool(self.landlock)
        return ", ".join(layers + ["seccomp"] * self.seccomp) or "none"


NONE = Isolation(namespaces=False, landlock=0, seccomp=False)


@dataclass(frozen=True)
class Limits:
    """What one child may use. Sizes in bytes."""

    memory_bytes: int = 4 * 2**30
    scratch_bytes: int = 256 * 2**20
    open_files: int = 256
    processor_seconds: int = 3600
    threads: int = 64


@dataclass(frozen=True)
class Wall:
    """How to confine a child. readable: files and folders. scratch: an empty folder, its only place to write."""

    isolation: Isolation
    readable: Sequence[str]
    scratch: str
    limits: Limits = Limits()


def find_isolation() -> Isolation:
    """Which layers work here, each tried in a process of its own."""
    if sys.platform != "linux":
        return NONE
    return Isolation(
        namespaces=_works(_enter_namespaces),
        landlock=kernel.landlock_abi() if _works(lambda: _confine_files([], [])) else 0,
        seccomp=kernel.seccomp_supported() and _works(_confine_calls),
    )


def _works(layer: Callable[[], object]) -> bool:
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            layer()
            code = 0
        os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def enter(wall: Wall) -> None:
    """Go behind the wall, for good. Raises OSError when a layer that worked before is refused now."""
    os.setsid()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    limits, isolation = wall.limits, wall.isolation
    own_folder = wall.scratch
    if isolation.namespaces:
        _enter_namespaces()
        flags = kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("tmpfs", own_folder, "tmpfs", flags, f"size={limits.scratch_bytes},nr_inodes=20000,mode=0700")
    else:
        own_folder = scratch_without_namespaces(wall, os.getpid())
        os.mkdir(own_folder, 0o700)
    os.chdir(own_folder)
    for name in ("HOME", "TMPDIR", "MPLCONFIGDIR", "HF_HOME"):
        os.environ[name] = own_folder
    _set_limits(limits)
    if isolation.landlock:
        _confine_files(wall.readable, [own_folder])
    kernel.drop_capabilities()
    if isolation.seccomp:
        _confine_calls()


def scratch_without_namespaces(wall: Wall, process: int) -> str:
    """A child's own folder where no tmpfs can be mounted; the parent removes it when the child has ended."""
    return os.path.join(wall.scratch, str(process))


def _enter_namespaces() -> None:
    user, group = os.getuid(), os.getgid()
    spaces = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    kernel.unshare(spaces)
    for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path(f"/proc/self/{file}").write_text(text)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def _set_limits(limits: Limits) -> None:
    for which, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits.scratch_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CPU, limits.processor_seconds),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, hard = resource.getrlimit(which)
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (lowered, lowered))


def _confine_files(readable: Sequence[str], writable: Sequence[str]) -> None:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.landlock([*readable, *HARMLESS, f"/proc/{os.getpid()}"], [*writable, "/dev/null"])


def _confine_calls() -> None:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    itself = os.getpid()
    names = (kernel.PR_SET_NAME, kernel.PR_GET_NAME, kernel.PR_SET_VMA)
    only = {"kill": (itself,), "tgkill": (itself,), "prctl": names, "prlimit64": (0,)}
    kernel.seccomp(kernel.Filter(DENIED, IGNORED, only, {"ioctl": HARMLESS_CONTROLS}))


@dataclass(frozen=True)
class Use:
    """What a process holds. memory_bytes: anonymous memory, tmpfs pages and page tables that are resident."""

    memory_bytes: int = 0
    threads: int = 0


def use_of(process: int) -> Use:
    """What a process holds now; nothing once it is gone."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    except OSError:
        return Use()
    held = sum(int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "RssShmem", "VmPTE"))
    return Use(held, int(fields.get("Threads", "0")))


def malloc_trim() -> None:
    """Give freed memory back to the system before forking, so that children share less of it."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
