"""The warm parent: imports once, then forks a child per submission in milliseconds. It runs no learner code itself.

One for all workers of a machine: the imports, which are nearly all of the cost, are paid once. It never holds a secret,
because whatever passed through it could be read by a later child: the submissions, the inputs and the answers go over
a socket of the child's own, which is handed on unread.

Run as `python -m grader.sandbox.zygote DESCRIPTOR CONFIG`. Control messages are JSON, one per packet:
to it {"warm": [module, ...]}, {"probes": [[module, name], ...]}, {"fork": id} with the child's
socket, {"kill": id}; from it {"ready": ...}, {"warmed": threads}, {"bound": [failure, ...]}, {"started": id},
{"ended": id, "signal": n, "code": n, "reason": ""|"memory"|"threads", "peak_bytes": n}.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from grader.sandbox.isolation import (
    NONE,
    Limits,
    Wall,
    enter,
    find_isolation,
    malloc_trim,
    scratch_without_namespaces,
    use_of,
)
from grader.sandbox.rehearsal import rehearse

WATCH_SECONDS = 0.02
LARGEST_CONTROL_MESSAGE = 64 * 1024
CHANNEL_DESCRIPTOR = 3


@dataclass
class Running:
    """One child that is alive."""

    id: str
    process: int
    pidfd: int
    peak_bytes: int = 0
    reason: str = ""


class Zygote:
    """The loop: fork, watch memory, reap, report."""

    def __init__(self, control: socket.socket, wall: Wall, rehearsed: set[str]) -> None:
        self.control = control
        self.wall = wall
        self.rehearsed = rehearsed
        self.children: dict[str, Running] = {}
        self.probes: dict[tuple[str, str], Callable[..., Any]] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ, None)
        self.base_bytes = use_of(os.getpid()).memory_bytes

    def serve(self) -> None:
        """Until the grader hangs up; then nothing of it is left running."""
        try:
            while self._step():
                pass
        finally:
            for child in self.children.values():
                _kill(child.process)

    def _step(self) -> bool:
        for key, _ in self.selector.select(WATCH_SECONDS if self.children else None):
            if key.data is not None:
                self._reap(key.data)
            elif not self._obey():
                return False
        for child in list(self.children.values()):
            self._watch(child)
        return True

    def _obey(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self.control, LARGEST_CONTROL_MESSAGE, 1)
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if "warm" in message:
            warm_up([(name, []) for name in message["warm"]])
            rehearse(self.rehearsed)
            gc.freeze()  # A child's collections pass over what was imported, so that its pages stay shared.
            malloc_trim()
            self.base_bytes = use_of(os.getpid()).memory_bytes
            self._tell({"warmed": thread_count()})
        elif "probes" in message:
            self._tell({"bound": self._bind(message["probes"])})
        elif "kill" in message:
            child = self.children.get(message["kill"])
            if child:
                _kill(child.process)
        else:
            self._fork(message["fork"], descriptors[0])
        return True

    def _bind(self, probes: Sequence[Sequence[str]]) -> list[str]:
        """Take the probes from their modules, for every child; returns what could not be."""
        found, failed = {}, []
        for module, name in probes:
            try:
                found[module, name] = getattr(importlib.import_module(module), name)
            except Exception as error:
                failed.append(f"{module}: {type(error).__name__}: {error}")
        clones = functions_apart({module.partition(".")[0] for module, _ in probes})
        self.probes = {key: clones.get(probe, probe) for key, probe in found.items()}
        return failed

    def _fork(self, identity: str, descriptor: int) -> None:
        process = os.fork()
        if process == 0:
            _become_child(descriptor, self.wall, self.probes)
        os.close(descriptor)
        child = Running(identity, process, os.pidfd_open(process))
        self.children[identity] = child
        self.selector.register(child.pidfd, selectors.EVENT_READ, child)
        self._tell({"started": identity})

    def _watch(self, child: Running) -> None:
        use = use_of(child.process)
        used = max(0, use.memory_bytes - self.base_bytes)
        child.peak_bytes = max(child.peak_bytes, used)
        if used > self.wall.limits.memory_bytes:
            child.reason = "memory"
        elif use.threads > self.wall.limits.threads:
            child.reason = "threads"
        if child.reason:
            _kill(child.process)

    def _reap(self, child: Running) -> None:
        _, status, usage = os.wait4(child.process, 0)
        self.selector.unregister(child.pidfd)
        os.close(child.pidfd)
        del self.children[child.id]
        if not self.wall.isolation.namespaces:
            shutil.rmtree(scratch_without_namespaces(self.wall, child.process), ignore_errors=True)
        code = os.waitstatus_to_exitcode(status)
        ended = {"ended": child.id, "signal": -min(code, 0), "code": max(code, 0), "reason": child.reason}
        self._tell({**ended, "peak_bytes": child.peak_bytes, "processor_seconds": usage.ru_utime + usage.ru_stime})

    def _tell(self, message: dict[str, Any]) -> None:
        self.control.send(json.dumps(message).encode())


def _kill(process: int) -> None:
    """The child's whole group, or the child alone when it has not yet made one."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(process, signal.SIGKILL)


def _become_child(descriptor: int, wall: Wall, probes: Mapping[tuple[str, str], Callable[..., Any]]) -> None:
    """Never returns. What keeps it from getting behind the wall is told on the channel, as the first message."""
    from grader.sandbox import child

    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nowhere, standard)
        os.dup2(descriptor, CHANNEL_DESCRIPTOR)
        os.closerange(CHANNEL_DESCRIPTOR + 1, 4096)
        gc.enable()
        enter(wall)
        child.main(CHANNEL_DESCRIPTOR, probes)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            child.Channel(CHANNEL_DESCRIPTOR).send({"failed": f"{type(error).__name__}: {error}"[:2000]})
    finally:
        os._exit(0)


def functions_apart(packages: Collection[str]) -> dict[FunctionType, FunctionType]:
    """Each function of these packages' loaded modules -> a clone that looks names up in a copy of its module.

    A clone calls clones: what learner code puts in their place in the modules, or into the functions themselves, is not
    what runs. Classes are shared, since an answer may ask whether what it was given is of one of them.
    """
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in packages]
    copies = {id(vars(module)): dict(vars(module)) for module in modules}
    clones: dict[FunctionType, FunctionType] = {}
    for names in copies.values():
        for name, value in names.items():
            if isinstance(value, FunctionType) and id(value.__globals__) in copies:
                names[name] = clones.setdefault(value, _clone(value, copies[id(value.__globals__)]))
    return clones


def _clone(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__ and dict(function.__kwdefaults__)
    return made


def warm_up(modules: Sequence[Sequence[Any]]) -> list[str]:
    """Import modules, and names from them (a lazy package loads nothing until asked); returns what could not be."""
    failed = []
    for name, attributes in modules:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
            continue
        for attribute in attributes:
            with contextlib.suppress(Exception):
                getattr(module, attribute)
    return failed


def thread_count() -> int:
    """Threads of this process; more than one makes a fork unsafe."""
    return len(os.listdir("/proc/self/task")) if Path("/proc/self/task").exists() else 1


def main() -> None:
    """Warm up, report, serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    config = json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the grader's to handle; it then hangs up.
    isolation = find_isolation() if config["isolate"] else NONE
    with contextlib.suppress(ImportError):
        import tqdm

        tqdm.tqdm.monitor_interval = 0  # Its monitor thread would make forking unsafe.
    gc.disable()  # While importing it frees next to nothing, and takes a tenth of the time.
    failed = warm_up(config["modules"])
    rehearsed: set[str] = set()
    rehearse(rehearsed)  # While the grader still reads the lesson and computes expected values.
    control.send(json.dumps({"ready": {"isolation": asdict(isolation), "failed": failed}}).encode())
    wall = Wall(isolation, config["readable"], config["scratch"], Limits(**config["limits"]))
    Zygote(control, wall, rehearsed).serve()


if __name__ == "__main__":
    main()
