"""One submission's run: its cells and calls in sandboxed children, and plain outcomes out. It judges nothing.

A child that is killed, dies or falls silent costs the exercise (or the cell) at hand alone: the next one gets a fresh
child, in which the cells run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from grader import wire
from grader.call import CallError, Outcome
from grader.cell_names import CellNames, NotPythonError, read_cell
from grader.cohort.submission import RunCell, Submission
from grader.cohort.warm_parent import Child, ChildError, Ending, WarmParent, WarmParentError
from grader.exercise import Exercise
from grader.judge import Question
from grader.plain_python import has_marks
from grader.result import LONGEST_MESSAGE_CHARACTERS
from grader.sandbox.channel import ChannelError, SilenceError

GRACE_SECONDS = 3.0
CELL_SECONDS = 20.0
SET_UP_SECONDS = 120.0
SUBMISSION_SECONDS = 900.0
EXERCISE_FACTOR = 3
CONFINE_TRIES = 3
LARGEST_LINE = 10**6
DIED = "Died"


@dataclass(frozen=True)
class Answered:
    """What one exercise's calls gave. absent: why nothing could be called."""

    outcomes: list[Outcome]
    absent: str = ""


@dataclass
class Session:
    """Runs one submission. `close` it.

    answer_names: exercise id -> the name that its answer must have. plain: cell -> it as plain Python, which is what is
    read for forbidden names and what is run; None for one that is no Python: it is not run.
    """

    parent: WarmParent
    submission: Submission
    module_of: Callable[[Exercise], str]
    answer_names: dict[str, str]
    child: Child | None = None
    poisonous: set[str] = field(default_factory=set)
    died_once: set[str] = field(default_factory=set)
    cell_errors: dict[str, CallError] = field(default_factory=dict)
    plain: dict[str, CellNames | None] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    peak_bytes: int = 0
    processor_seconds: float = 0.0

    def run(self, exercise: Exercise, questions: Sequence[Question], limit_seconds: float) -> Answered:
        """Call the answer on every question. After a time-out or a death the remaining cases are not tried.

        A death is tried once more: a process may have been killed from outside, which is not the learner's doing.
        """
        answered = self._run_once(exercise, questions, limit_seconds)
        if any(_died(outcome) for outcome in answered.outcomes):
            answered = self._run_once(exercise, questions, limit_seconds)
        return answered

    def _run_once(self, exercise: Exercise, questions: Sequence[Question], limit_seconds: float) -> Answered:
        cell = self.submission.answers[exercise.id]
        outcomes: list[Outcome] = []
        if time.monotonic() - self.began > SUBMISSION_SECONDS:
            late = f"not tried: the whole notebook took over {SUBMISSION_SECONDS / 60:.0f} minutes"
            return Answered([Outcome(error=CallError("NotTried", late))] * len(questions))
        if not self._ready():
            return Answered([Outcome(error=self.cell_errors[""])] * len(questions))
        if cell in self.cell_errors:
            return Answered([Outcome(error=self.cell_errors[cell])] * len(questions))
        request = {
            "kind": "call",
            "cell": cell,
            "answer": exercise.answer_name,
            "module": self.module_of(exercise),
            "probe": exercise.probe_function.__name__ if exercise.probe_function else "",
            "limit_seconds": limit_seconds,
        }
        first = time.monotonic()
        for question in questions:
            if self.child is None:
                outcomes.append(Outcome(error=CallError("NotTried", "not tried: an earlier case ended the run")))
                continue
            began = time.monotonic()
            if began - first > EXERCISE_FACTOR * limit_seconds:
                late = f"not tried: the cases before it took over {EXERCISE_FACTOR * limit_seconds:.0f} s"
                outcomes.append(Outcome(error=CallError("NotTried", late)))
                continue
            try:
                reply, data = self.child.channel.ask(request, question.inputs, limit_seconds + GRACE_SECONDS)
                if "absent" in reply:
                    return Answered([], _text(reply["absent"]))
                outcomes.append(_outcome(reply, data, time.monotonic() - began, question.largest_reply_bytes))
            except Exception as error:  # Whatever reading a reply raises: learner code may have written it.
                outcomes.append(Outcome(error=self._explain(error, limit_seconds)))
                continue
            if outcomes[-1].error and outcomes[-1].error.type == "OutOfTime":
                self._hang_up()
        return Answered(outcomes)

    def add_usage(self, other: Session) -> None:
        """Count another session's processes as this one's."""
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)
        self.processor_seconds += other.processor_seconds

    def close(self) -> None:
        """End the child, if one is alive."""
        if self.child is not None:
            self._hang_up()

    def _ready(self) -> bool:
        """A child in which every cell has run; False when the cells alone end every child."""
        if self.child is not None:
            return True
        began = time.monotonic()
        while time.monotonic() - began < SET_UP_SECONDS:
            self.child = self._confined_child()
            if self._run_cells():
                return True
        late = f"the notebook's own cells took over {SET_UP_SECONDS:.0f} s"
        self.cell_errors[""] = CallError("OutOfTime", late)
        return False

    def _confined_child(self) -> Child:
        """A child behind the wall. Raises ChildError when several in a row did not get there."""
        for attempt in range(CONFINE_TRIES):
            child = self.parent.start_child()
            try:
                self.parent.wait_until_confined(child)
                return child
            except ChildError:
                if attempt + 1 == CONFINE_TRIES:
                    raise
        raise AssertionError("unreachable: the last try raises")

    def _run_cells(self) -> bool:
        """Run the cells in order; those that missed a name get another turn, since a notebook may be out of order."""
        deadline = time.monotonic() + SET_UP_SECONDS
        late = CallError("OutOfTime", f"not run: the cells before it took over {SET_UP_SECONDS:.0f} s")
        for cell in self.submission.cells:  # All of them before one runs: nothing of the learner's has a hand in it.
            if cell.name in self.plain or cell.name in self.poisonous:
                continue
            if time.monotonic() > deadline:
                self.plain[cell.name], self.cell_errors[cell.name] = None, late
            elif not self._read_cell(cell):
                return False
        waiting = [cell for cell in self.submission.cells if cell.name not in self.poisonous and self.plain[cell.name]]
        while waiting:
            missed = []
            for cell in waiting:
                error = late if time.monotonic() > deadline else self._run_cell(cell)
                if self.child is None:
                    return False
                if error is None:
                    self.cell_errors.pop(cell.name, None)
                else:
                    self.cell_errors[cell.name] = error
                    missed += [cell] if error.type in ("NameError", "ImportError") and not cell.released else []
            if len(missed) == len(waiting):
                return True
            waiting = missed
        return True

    def _read_cell(self, cell: RunCell) -> bool:
        """Put a cell into plain Python and read it; False when the child was lost over it."""
        assert self.child is not None
        source = cell.source
        try:
            if has_marks(source):
                request = {"kind": "plain", "limit_seconds": CELL_SECONDS}
                reply, data = self.child.channel.ask(request, source.encode(), CELL_SECONDS + GRACE_SECONDS)
                # What IPython itself refuses is no Python either: the parser below says so.
                source = source if _error(reply["error"]) else data.decode()
        except Exception as error:  # As in `_run_once`.
            self._lose(cell, error)
            return False
        try:
            self.plain[cell.name] = read_cell(source, f"<cell {cell.name}>")
        except NotPythonError as error:
            self.plain[cell.name] = None
            self.cell_errors[cell.name] = CallError(error.kind, str(error)[:LONGEST_MESSAGE_CHARACTERS])
        return True

    def _run_cell(self, cell: RunCell) -> CallError | None:
        assert self.child is not None
        request = {
            "kind": "cell",
            "name": cell.name,
            "only": "definitions" if cell.released else "all",
            "binds": self.answer_names.get(cell.answer_of, ""),
            "limit_seconds": CELL_SECONDS,
        }
        plain = self.plain[cell.name]
        assert plain is not None
        try:
            reply, _ = self.child.channel.ask(request, plain.source.encode(), CELL_SECONDS + GRACE_SECONDS)
            return _error(reply["error"])
        except Exception as error:  # As in `_run_once`.
            return self._lose(cell, error)

    def _lose(self, cell: RunCell, error: Exception) -> CallError:
        """A cell that a child was lost over; one that ended itself, or was ended from outside, gets a second try."""
        found = self._explain(error, CELL_SECONDS)
        if found.type != DIED or cell.name in self.died_once:
            self.cell_errors[cell.name] = found
            self.poisonous.add(cell.name)
        self.died_once.add(cell.name)
        return found

    def _hang_up(self) -> Ending:
        assert self.child is not None
        ending = self.parent.end_child(self.child)
        self.child = None
        self.peak_bytes = max(self.peak_bytes, ending.peak_bytes)
        self.processor_seconds += ending.processor_seconds
        return ending

    def _explain(self, error: Exception, limit_seconds: float) -> CallError:
        """End the child after a failed request, and say what happened in the learner's terms."""
        ending = self._hang_up()
        if not self.parent.alive:
            raise WarmParentError("the warm parent died, and its children with it") from error
        if ending.reason == "memory":
            gib = self.parent.limits.memory_bytes / 2**30
            return CallError("OutOfMemory", f"stopped: it used more than {gib:g} GiB of memory")
        if ending.reason == "threads":
            return CallError("OutOfMemory", f"stopped: it ran more than {self.parent.limits.threads} threads")
        if isinstance(error, SilenceError):
            return CallError("OutOfTime", f"still running after {limit_seconds:.0f} s and stopped: an endless loop?")
        if not isinstance(error, ChannelError):
            return CallError("BadReply", "the process that ran your code sent no readable result")
        if ending.signal and ending.signal != 9:
            return CallError(DIED, f"the process that ran your code died of signal {ending.signal}")
        return CallError(DIED, "the process that ran your code ended itself: does it call exit?")


def _died(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error.type == DIED


def _outcome(reply: dict[str, Any], data: bytes, seconds: float, largest_bytes: int) -> Outcome:
    """A reply as an outcome; everything is checked, because learner code may have written it."""
    error = _error(reply["error"])
    if not error and len(data) > largest_bytes:
        error = CallError("TooLarge", f"its result takes {len(data):,} bytes, far more than a right one")
    changed = tuple(_text(name) for name in list(reply["changed"])[:50])
    value = None if error else wire.loads(data)
    return Outcome(value, error, _text(reply["printed"]), seconds, changed)


def _error(found: Any) -> CallError | None:
    if found is None:
        return None
    return CallError(
        _text(found["type"])[:200],
        _text(found["message"]),
        _line(found["line"]),
        _text(found["code"])[:500],
        _text(found["function"])[:200],
        own=found["own"] is True,
    )


def _line(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST_LINE:
        raise TypeError(f"a line number was expected, got {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text was expected, got {type(value).__name__}")
    return value[:LONGEST_MESSAGE_CHARACTERS]
