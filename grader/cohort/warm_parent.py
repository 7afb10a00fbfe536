"""The grader's side of the warm parent: start it, ask it for children, hear how they ended."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grader.sandbox.channel import Channel, ChannelError
from grader.sandbox.isolation import Isolation, Limits
from grader.sandbox.zygote import LARGEST_CONTROL_MESSAGE

START_SECONDS = 300
END_SECONDS = 10
CONFINE_SECONDS = 30
MODULES_PER_MESSAGE = 300
# Passed on from the grader's environment; a child sees nothing else of it.
KEPT_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "LD_LIBRARY_PATH")


class WarmParentError(RuntimeError):
    """The warm parent did not start, or died."""


class ChildError(RuntimeError):
    """A child did not get behind the wall: trouble of this machine, never the learner's."""


@dataclass(frozen=True)
class Ending:
    """How a child ended. reason: "memory" or "threads" when it was stopped for too much; signal: 0 when none."""

    signal: int = 0
    code: int = 0
    reason: str = ""
    peak_bytes: int = 0
    processor_seconds: float = 0.0


@dataclass
class Child:
    """One sandboxed process and the channel to it."""

    id: str
    channel: Channel
    ended: threading.Event
    ending: Ending = Ending()


class WarmParent:
    """One warm parent process. `start_child` may be called from many threads."""

    def __init__(
        self,
        *,
        python_path: Sequence[str],
        modules: Iterable[tuple[str, list[str]]],
        readable: Sequence[str],
        scratch: Path,
        limits: Limits,
        isolate: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.limits = limits
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = {
            "modules": list(modules),
            "readable": [*interpreter_folders(), *python_path, *readable],
            "scratch": str(scratch),
            "limits": asdict(limits),
            "isolate": isolate,
        }
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        home = {name: str(scratch) for name in ("HOME", "TMPDIR", "MPLCONFIGDIR", "HF_HOME")}
        settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
        # pyarrow's allocator would start a thread of its own, and a parent with two threads cannot fork safely.
        settings |= {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
        settings |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "grader.sandbox.zygote", str(theirs.fileno()), json.dumps(config)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**kept, **home, **settings, **(environment or {}), "PYTHONPATH": os.pathsep.join(python_path)},
                cwd=scratch,
            )
        self.children: dict[str, Child] = {}
        self.numbers = itertools.count()
        self.lock = threading.Lock()
        self.isolation: Isolation | None = None
        self.failed_imports: list[str] = []

    def wait_until_ready(
        self,
        loaded: Iterable[str] = (),
        probes: Sequence[tuple[str, str]] = (),
    ) -> Isolation:
        """Returns the isolation it can give; raises WarmParentError.

        loaded: modules that the lesson's oracles needed here. A lazy package loads most of itself at its first use;
        what it loaded here is loaded there too, once, instead of in every child.
        probes: (module, function) that children call answers through; every child gets them as they are
        now, before learner code can put others in their place.
        """
        ready = self._next_message()["ready"]
        self.isolation, self.failed_imports = Isolation(**ready["isolation"]), ready["failed"]
        names, threads = list(loaded), 0
        for start in range(0, max(1, len(names)), MODULES_PER_MESSAGE):
            part = names[start : start + MODULES_PER_MESSAGE]
            self.control.send(json.dumps({"warm": part}).encode())
            threads = self._next_message()["warmed"]
        self.control.send(json.dumps({"probes": list(probes)}).encode())
        if failed := self._next_message()["bound"]:
            raise WarmParentError(f"the lesson's probes cannot be loaded behind the wall: {'; '.join(failed)}")
        if threads > 1:
            raise WarmParentError(
                f"the warm parent runs {threads} threads after its imports, so its children could hang; "
                "a preloaded module starts threads when imported"
            )
        self.control.settimeout(None)
        threading.Thread(target=self._listen, name="warm parent events", daemon=True).start()
        threading.Thread(target=self._drain_errors, name="warm parent errors", daemon=True).start()
        return self.isolation

    def _next_message(self) -> dict[str, Any]:
        self.control.settimeout(START_SECONDS)
        try:
            message = self.control.recv(LARGEST_CONTROL_MESSAGE)
        except OSError:
            message = b""
        if not message:
            raise WarmParentError(f"the warm parent did not start: {self._last_words()}")
        return json.loads(message)

    def start_child(self) -> Child:
        """Fork one child; its end is reported through `Child.ended`."""
        ours, theirs = socket.socketpair()
        child = Child(str(next(self.numbers)), Channel(ours.detach()), threading.Event())
        with self.lock:
            self.children[child.id] = child
            try:
                socket.send_fds(self.control, [json.dumps({"fork": child.id}).encode()], [theirs.fileno()])
            except OSError as error:
                raise WarmParentError(f"the warm parent is gone: {error}") from error
            finally:
                theirs.close()
        return child

    def wait_until_confined(self, child: Child) -> None:
        """Hear that it is behind the wall; until then it has run no learner code, so what it says is to be believed.

        Raises ChildError with the reason, WarmParentError when the warm parent is gone.
        """
        try:
            said, _ = child.channel.receive(time.monotonic() + CONFINE_SECONDS)
        except ChannelError as error:
            said = {"failed": str(error)}
        if said.get("behind_the_wall") is True:
            return
        self.end_child(child)
        if not self.alive:
            raise WarmParentError("the warm parent died before a child was ready")
        raise ChildError(f"a sandboxed process did not get ready: {said.get('failed')}")

    def end_child(self, child: Child) -> Ending:
        """Stop it at once, unless it has ended by itself, and wait until it is reaped."""
        child.channel.close()
        self._kill(child)
        child.ended.wait(END_SECONDS)
        self.children.pop(child.id, None)
        return child.ending

    @property
    def alive(self) -> bool:
        """Whether it can still start children."""
        return self.process.poll() is None

    def close(self) -> None:
        """Stop it and all its children."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)  # close() alone would wait for the listening thread's recv.
        self.control.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _kill(self, child: Child) -> None:
        with self.lock:
            try:
                self.control.send(json.dumps({"kill": child.id}).encode())
            except OSError:
                child.ended.set()

    def _listen(self) -> None:
        while True:
            try:
                data = self.control.recv(LARGEST_CONTROL_MESSAGE)
            except OSError:
                data = b""
            if not data:
                break
            self._note(json.loads(data))
        for child in list(self.children.values()):  # The parent is gone, and with it every child.
            child.ended.set()

    def _note(self, event: dict[str, Any]) -> None:
        child = self.children.get(event.pop("ended", ""))
        if child is not None:
            child.ending = Ending(**event)
            child.ended.set()

    def _drain_errors(self) -> None:
        assert self.process.stderr is not None
        for _ in self.process.stderr:
            pass

    def _last_words(self) -> str:
        self.process.kill()
        _, errors = self.process.communicate()
        return errors.decode(errors="replace")[-2000:] or f"it ended with code {self.process.returncode}"


def interpreter_folders() -> list[str]:
    """What Python and its packages need to be read: never the folder above a virtual environment."""
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {str(Path(sys.base_prefix, name)) for name in ("lib", "lib64", "bin")} | {str(Path(sys.prefix, "lib"))}
    return sorted(folders | {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"})
