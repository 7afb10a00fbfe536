"""The process that answers the hidden questions, and the grader's side of it.

It runs only our code, on bytes that were read as data; it is a process of its own so that a crash, a lack of memory or
a hang costs the adapter at hand and nothing else. The secret seed reaches it over a socket: an argument could be read
by every user of the machine.

Run as `python -m grader.adapters.worker DESCRIPTOR MODULE:ATTRIBUTE`. To it: {"seed": n}, then {"config_bytes": n} with
both files, or {"base": true}. From it: {"ready": questions}, any number of {"answered": n}, then {"groups": [...]},
{"refused": why} or {"failed": error}.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from grader.adapters.evaluation import Evaluation, GroupAnswers, HiddenSet, read_adapter
from grader.adapters.folder import AdapterFiles, AdapterRefusedError
from grader.catalogue import load_object
from grader.sandbox.channel import Channel, ChannelError, SilenceError
from grader.sandbox.isolation import use_of

START_SECONDS, END_SECONDS = 600, 10
WATCH_SECONDS = 0.2
# One thread: sums are then added in one order, so answers do not depend on the machine's number of cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class WorkerDiedError(RuntimeError):
    """The process ended, hung or failed; says how."""


class Worker:
    """One process, which holds the base model and the hidden questions. Used by one thread at a time."""

    def __init__(self, spec: str, seed: int, memory_bytes: int) -> None:
        ours, theirs = socket.socketpair()
        self.channel, self.seed = Channel(ours.detach()), seed
        self.memory_bytes, self.killed_for, self.questions = memory_bytes, "", 0
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the worker
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "grader.adapters.worker", str(theirs.fileno()), spec],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.errors,
                env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        threading.Thread(target=self._watch_memory, name="worker memory", daemon=True).start()

    def prepare(self) -> None:
        """Wait until it has loaded everything; at once when it has before. Raises WorkerDiedError."""
        if not self.questions:
            self.questions = self._ask({"seed": self.seed}, b"", START_SECONDS, lambda _: None)["ready"]

    def answer(
        self, files: AdapterFiles | None, seconds: float, on_answered: Callable[[int], object]
    ) -> list[GroupAnswers]:
        """The base model's answers, or those with an adapter on it.

        Raises AdapterRefusedError, or WorkerDiedError; after the latter this worker is of no more use.
        """
        request = {"base": True} if files is None else {"config_bytes": len(files.config)}
        payload = b"" if files is None else files.config + files.tensors
        reply = self._ask(request, payload, seconds, on_answered)
        if "refused" in reply:
            raise AdapterRefusedError(reply["refused"])
        return [GroupAnswers.from_dict(group) for group in reply["groups"]]

    def kill(self) -> None:
        """End the process. May be called from any thread; one that waits for an answer gets WorkerDiedError."""
        self.process.kill()

    def close(self) -> None:
        """End the process and let go of what belongs to it."""
        self.kill()
        self.process.wait()
        self.channel.close()
        self.errors.close()

    def _ask(
        self, request: dict[str, Any], payload: bytes, seconds: float, on_answered: Callable[[int], object]
    ) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        try:
            self.channel.send(request, payload, deadline)
            while "answered" in (reply := self.channel.receive(deadline)[0]):
                on_answered(reply["answered"])
        except SilenceError:
            self.kill()
            raise WorkerDiedError(f"the evaluation was stopped after {seconds:g} s") from None
        except ChannelError:
            raise WorkerDiedError(self._how_it_ended()) from None
        if "failed" in reply:
            self.kill()
            raise WorkerDiedError(reply["failed"])
        return reply

    def _how_it_ended(self) -> str:
        try:
            code = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.wait()
        if self.killed_for:
            return self.killed_for
        if code < 0:
            return f"the evaluation's process was ended by {signal.Signals(-code).name}"
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        return f"the evaluation's process ended with status {code}: {last[:500]}"

    def _watch_memory(self) -> None:
        while self.process.poll() is None:
            used = use_of(self.process.pid).memory_bytes
            if used > self.memory_bytes:
                self.killed_for = (
                    f"the evaluation was stopped at {used / 2**30:.1f} GiB of memory; {self.memory_bytes / 2**30:g} "
                    "are allowed"
                )
                self.kill()
            time.sleep(WATCH_SECONDS)


def serve(channel: Channel, evaluation: Evaluation) -> None:
    """Prepare, then answer requests until the grader hangs up."""
    request, _ = channel.receive()
    hidden = evaluation.prepare(request["seed"])
    channel.send({"ready": hidden.questions})
    while True:
        request, payload = channel.receive()
        channel.send(answer_to(channel, hidden, request, payload))


def answer_to(channel: Channel, hidden: HiddenSet, request: dict[str, Any], payload: bytes) -> dict[str, Any]:
    """The reply to one request; how many questions are done is told on the channel meanwhile."""
    try:
        adapter = None
        if "config_bytes" in request:
            cut = request["config_bytes"]
            adapter = read_adapter(AdapterFiles(payload[:cut], payload[cut:]), hidden.layers)
        groups = hidden.answer(adapter, lambda count: channel.send({"answered": count}))
        return {"groups": [group.to_dict() for group in groups]}
    except AdapterRefusedError as error:
        return {"refused": str(error)}
    except (ChannelError, MemoryError):
        raise
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:2000]}


def main() -> None:
    """Entrance of the process."""
    channel = Channel(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the grader's to handle; it then ends this process.
    with contextlib.suppress(ChannelError):  # The grader has hung up.
        serve(channel, load_object(sys.argv[2], "evaluation"))


if __name__ == "__main__":
    main()
