"""What code behind the wall can and cannot do, asked by such code; and what is told where a layer is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from grader.sandbox import isolation
from grader.sandbox.isolation import NONE, Isolation

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

BEHIND = """
import os, sys
from grader.sandbox.isolation import Isolation, Limits, Wall, enter, find_isolation
import ctypes, numpy, socket, threading, tempfile, subprocess, multiprocessing
found = find_isolation()
isolation = Isolation(*{layers})
child = os.fork()
if child == 0:
    enter(Wall(isolation, {readable!r}, {scratch!r}, Limits(scratch_bytes=2**20)))
    os.chdir(os.environ["HOME"])
    try:
{code}
    except BaseException as error:
        print(type(error).__name__, error)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
"""
READABLE = sorted({sys.prefix, sys.base_prefix, "/usr/lib", "/lib", "/lib64", os.path.dirname(os.__file__)})


def behind(tmp_path: Path, code: str, layers: str = "(found.namespaces, found.landlock, found.seccomp)") -> str:
    """What the code prints behind the wall."""
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    script = BEHIND.format(
        code=textwrap.indent(textwrap.dedent(code), " " * 8), layers=layers, readable=READABLE, scratch=str(scratch)
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Each layer alone must hold what it is there for: the others are switched off.
LANDLOCK_ALONE = "(False, found.landlock, False)"
SECCOMP_ALONE = "(False, 0, True)"

DENIED = {
    "read a file": "open('/etc/passwd').read(); print('did it')",
    "list a folder": "os.listdir('/'); print('did it')",
    "read another process": "open(f'/proc/{os.getppid()}/environ').read(); print('did it')",
    "write outside": "open('/var/tmp/sandbox-was-here', 'w'); print('did it')",
    "write into its packages": "open(numpy.__file__, 'a'); print('did it')",
    "remove a file": "os.remove(numpy.__file__); print('did it')",
    "climb by a link": "os.symlink('/etc/passwd', 'link'); open('link').read(); print('did it')",
    "connect": "socket.create_connection(('127.0.0.1', 9)); print('did it')",
    "open a socket": "socket.socket(); print('did it')",
    "make a unix socket": "socket.socket(socket.AF_UNIX).bind('here'); print('did it')",
    "fork": "os.fork(); print('did it')",
    "start a program": "subprocess.run(['/bin/ls']); print('did it')",
    "start a process pool": "multiprocessing.Process(target=print).start(); print('did it')",
    "signal its parent": "os.kill(os.getppid(), 0); print('did it')",
    "signal init": "os.kill(1, 0); print('did it')",
    "become another session": "os.setsid(); print('did it')",
    "lower its niceness": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 5); print('did it')",
    "trace": "assert ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid(), 0, 0) == 0; print('did it')",
    "mount": "assert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0; print('did it')",
    "memfd": "os.memfd_create('x'); print('did it')",
    "raise its limits": "import resource; resource.setrlimit(resource.RLIMIT_CORE, (1, 1)); print('did it')",
    "limit its parent": "import resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU); print('did it')",
    "fill its folder": "open('big', 'wb').write(bytes(2**22)); print('did it')",
}


@pytest.mark.parametrize("what", DENIED)
def test_it_cannot(tmp_path: Path, what: str):
    said = behind(tmp_path, DENIED[what])
    assert "did it" not in said
    assert said, "something must have been raised"
    assert not os.path.exists("/var/tmp/sandbox-was-here")


# Those that do no harm to this machine when they succeed.
HARMLESS = ("read a file", "list a folder", "open a socket", "fork", "start a program", "signal its parent", "memfd")


@pytest.mark.parametrize("what", HARMLESS)
def test_without_the_wall_it_could(tmp_path: Path, what: str):
    """The checks above are real: without layers, the same code gets through (where a plain process may do it)."""
    assert "did it" in behind(tmp_path, DENIED[what], "(False, 0, False)")


@pytest.mark.parametrize(
    "what", ["read a file", "list a folder", "write outside", "write into its packages", "climb by a link"]
)
def test_landlock_alone_holds_the_files(tmp_path: Path, what: str):
    assert "did it" not in behind(tmp_path, DENIED[what], LANDLOCK_ALONE)


@pytest.mark.parametrize(
    "what", ["open a socket", "fork", "start a program", "signal its parent", "memfd", "trace", "mount"]
)
def test_seccomp_alone_holds_the_calls(tmp_path: Path, what: str):
    assert "did it" not in behind(tmp_path, DENIED[what], SECCOMP_ALONE)


ALLOWED = {
    "compute": "print(numpy.linalg.svd(numpy.eye(3))[1].sum())",
    "write into its folder": "open('here', 'w').write('x'); print(open('here').read())",
    "copy a file's mode": "import shutil; open('a', 'w'); shutil.copy('a', 'b'); print(os.listdir('.'))",
    "start threads": "t = threading.Thread(target=lambda: print('ran')); t.start(); t.join()",
    "use temporary files": "print(tempfile.NamedTemporaryFile().name)",
    "draw random bytes": "print(len(os.urandom(4)))",
    "import from the standard library": "import tomllib; print(tomllib.loads('a = 1'))",
    "signal itself": """
        import signal
        signal.signal(signal.SIGUSR1, lambda *_: print('got it'))
        os.kill(os.getpid(), signal.SIGUSR1)
    """,
    "use a timer": """
        import signal, time
        signal.signal(signal.SIGALRM, lambda *_: print('rang'))
        signal.alarm(1)
        time.sleep(2)
    """,
}


@pytest.mark.parametrize("what", ALLOWED)
def test_it_can(tmp_path: Path, what: str):
    said = behind(tmp_path, ALLOWED[what])
    assert said and "Error" not in said, said


def test_what_is_missing_is_told():
    assert NONE.missing and not NONE.holds and str(NONE) == "none"
    whole = Isolation(namespaces=True, landlock=7, seccomp=True)
    assert whole.holds and not whole.missing and str(whole) == "namespaces, Landlock 7, seccomp"
    assert not Isolation(namespaces=True, landlock=0, seccomp=True).holds
    assert Isolation(namespaces=False, landlock=1, seccomp=True).holds


def test_every_system_call_named_has_a_number():
    from grader.sandbox.kernel import SYSCALLS

    assert {*isolation.DENIED, *isolation.IGNORED} <= set(SYSCALLS)
    for column in (0, 1):
        numbers = [pair[column] for pair in SYSCALLS.values() if pair[column] is not None]
        assert len(set(numbers)) == len(numbers)
