"""Run one learner function on fresh, seeded inputs; keep what came back, was raised and printed, and the time taken.

It only calls: it knows no expected value and judges nothing. Inputs arrive as wire bytes and are decoded for each call,
so an answer that changes its arguments spoils nobody else's.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import linecache
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from grader import wire

PRINTED_CHARACTERS = 4_000
MESSAGE_CHARACTERS = 2_000
REMIND_SECONDS = 0.2


@dataclass(frozen=True)
class CallError:
    """What the learner's code raised.

    line: counted from the first line of `function`, the learner's own; 0 when no code of theirs was running.
    own: raised by a line of theirs, rather than by something that the line called.
    """

    type: str
    message: str
    line: int = 0
    code: str = ""
    function: str = ""
    own: bool = False

    @property
    def sentence(self) -> str:
        """One line: what was raised, where."""
        at = f" at line {self.line} of `{self.function}`: `{self.code}`" if self.line else ""
        return f"{self.type}: {self.message}{at}" if self.message else f"{self.type}{at}"


@dataclass(frozen=True)
class Outcome:
    """What one call gave: `value` (wire) or `error`. changed: arguments that it changed in place."""

    value: Any = None
    error: CallError | None = None
    printed: str = ""
    seconds: float = 0.0
    changed: tuple[str, ...] = ()


class OutOfTime(BaseException):
    """Raised inside learner code at its time limit. Not an Exception, so `except Exception` cannot swallow it."""


def call(
    answer: Callable[..., Any],
    inputs: bytes,
    *,
    probe: Callable[..., Any] | None = None,
    limit_seconds: float | None = None,
) -> Outcome:
    """Call `answer(**inputs)`, or `probe(answer, **inputs)`; never raises what the answer raised, except Ctrl-C."""
    arguments = wire.decode(wire.loads(inputs))
    printed = Printed()  # Both streams: nbgrader scores 0 when a correct answer merely warns on stderr.
    started = time.perf_counter()
    value: Any = None
    error: CallError | None = None
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            seeded_randomness(),
            time_limit(limit_seconds),
        ):
            raw = probe(answer, **arguments) if probe else answer(**arguments)
            value = wire.encode(raw)
    except OutOfTime:
        error = CallError("OutOfTime", f"still running after {limit_seconds:.0f} s and stopped: an endless loop?")
    except KeyboardInterrupt:
        raise
    except BaseException as raised:
        error = describe_error(raised, source_file(answer))
    return Outcome(
        value,
        error,
        printed.getvalue(),
        time.perf_counter() - started,
        () if error else _changed(arguments, inputs),
    )


class Printed(io.StringIO):
    """A stream that keeps the first characters written and drops the rest, so that endless printing costs no memory."""

    def write(self, text: str) -> int:
        """Keep what there is room for, and report all of it as written."""
        room = PRINTED_CHARACTERS - self.tell()
        if room > 0:
            super().write(text[:room])
        return len(text)


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise OutOfTime in the body after `seconds`, and again and again in case a bare `except` swallows it.

    Needs the main thread and a POSIX timer; elsewhere no limit.
    """
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, REMIND_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def seeded_randomness(seed: int = 0) -> Iterator[None]:
    """Fix the global generators of random, numpy and torch inside the body, and put back their states after it."""
    import numpy as np

    torch = sys.modules.get("torch")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None
    cuda_states = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None
    random.seed(seed)
    np.random.seed(seed)
    if torch:
        # Not torch.manual_seed: where no GPU was used yet, it takes a stack trace for each kind of GPU, and keeps it.
        torch.default_generator.manual_seed(seed)
    if torch and cuda_states is not None:
        torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if torch and states[2] is not None:
            torch.set_rng_state(states[2])
        if torch and cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


def _changed(arguments: dict[str, Any], inputs: bytes) -> tuple[str, ...]:
    before = wire.loads(inputs)
    changed = []
    for name, value in arguments.items():
        try:
            same = wire.dumps(wire.encode(value)) == wire.dumps(before[name])
        except Exception:  # It now holds something that cannot cross, so it was changed.
            same = False
        if not same:
            changed.append(name)
    return tuple(changed)


def describe_error(raised: BaseException, file: str) -> CallError:
    """What was raised, and where in the learner's own `file` (a notebook cell's name)."""
    all_frames = list(_frames(raised.__traceback__))
    frames = [frame for frame in all_frames if frame.f_code.co_filename == file]
    try:
        message = str(raised)[:MESSAGE_CHARACTERS]
    except Exception:
        message = "(its message could not be read)"
    if not frames:
        return CallError(type(raised).__name__, message)
    summary = traceback.extract_tb(raised.__traceback__)
    line = next(entry.lineno for entry in reversed(summary) if entry.filename == file) or 0
    first = frames[-1].f_code.co_firstlineno
    return CallError(
        type(raised).__name__,
        message,
        line - first + 1,
        linecache.getline(file, line).strip(),
        frames[-1].f_code.co_qualname,
        own=frames[-1] is all_frames[-1],
    )


def _frames(trace: TracebackType | None) -> Iterator[Any]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def source_file(answer: Callable[..., Any]) -> str:
    """The file name in the answer's code object (a notebook cell's own), "" when it has none."""
    target = inspect.unwrap(answer)
    if inspect.isclass(target):
        methods = (member for member in vars(target).values() if inspect.isfunction(member))
        target = next(methods, target)
    code = getattr(target, "__code__", None)
    return code.co_filename if code else ""
