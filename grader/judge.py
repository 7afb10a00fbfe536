"""Exercise + outcomes -> result. On failure, finds which known misconception gives the same outputs and shows its hint.

Expected values come from the oracle (a production library, called live) where the exercise has one, else from the
reference. Everything here runs where learner code does not.
"""

from __future__ import annotations

import inspect
import textwrap
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from grader import wire
from grader.call import CallError, Outcome, call
from grader.compare import Difference, compare
from grader.exercise import Case, Exercise
from grader.outcome_digest import outcome_digest
from grader.result import LONGEST_SENTENCE_CHARACTERS, CaseResult, Result, message_text

# Errors that no Python code raises: what a sandbox reports when the process that ran the answer is gone.
ENDED_THE_RUN = ("Died", "OutOfMemory", "NotTried", "BadReply", "TooLarge")

SMALLEST_REPLY_CAP_BYTES = 256 * 1024
REPLY_CAP_FACTOR = 16
# Where `accept` judges, no right result is made beforehand: `grader verify` holds right answers to a sixteenth of this.
ACCEPTED_REPLY_CAP_BYTES = 128 * 1024


class BrokenExerciseError(RuntimeError):
    """The exercise itself failed (cases, oracle, reference, accept): our fault, never the learner's."""


@dataclass(frozen=True)
class Question:
    """One case made ready: its inputs as wire bytes and the wanted wire value, if one is known beforehand.

    largest_reply_bytes: a result above it is far larger than any right one and is not looked into: judging takes time
    and memory in proportion, and whoever wrote the answer chooses the size.
    """

    case: Case
    inputs: bytes
    want: Any = None
    largest_reply_bytes: int = ACCEPTED_REPLY_CAP_BYTES


def prepare(exercise: Exercise, seed: int, hidden_seed: int | None = None) -> list[Question]:
    """Cases of this seed with their expected values; raises BrokenExerciseError.

    hidden_seed: hidden cases come from this one, so that a visible case, whose inputs are shown, tells nothing of them.
    """
    try:
        cases = exercise.make_cases(seed)
        if hidden_seed is not None:
            pairs = zip(cases, exercise.make_cases(hidden_seed), strict=True)
            cases = [shown if shown.visible else hidden for shown, hidden in pairs]
        return [_question(exercise, case) for case in cases]
    except BrokenExerciseError:
        raise
    except Exception as error:
        raise BrokenExerciseError(f"{exercise.id}: making its cases failed: {_one_line(error)}") from error


def _question(exercise: Exercise, case: Case) -> Question:
    inputs = wire.dumps(wire.encode(dict(case.inputs)))
    if exercise.oracle_function is not None:
        wanted = call(lambda **given: exercise.oracle_function(**given), inputs)  # type: ignore[misc]
    elif exercise.accept_function is not None:
        return Question(case, inputs)
    else:
        assert exercise.answer is not None
        wanted = call(exercise.answer, inputs, probe=exercise.probe_function)
    if wanted.error:
        raise BrokenExerciseError(f"{exercise.id}, case {case.name!r}: no expected value: {wanted.error.sentence}")
    largest = SMALLEST_REPLY_CAP_BYTES + REPLY_CAP_FACTOR * len(wire.dumps(wanted.value))
    return Question(case, inputs, wanted.value, largest)


def call_all(
    exercise: Exercise,
    answer: Callable[..., Any],
    questions: Iterable[Question],
    limit_seconds: float | None = None,
    on_case: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """One outcome per question, in order. After a time-out the remaining cases are not tried."""
    outcomes: list[Outcome] = []
    for question in questions:
        if outcomes and outcomes[-1].error and outcomes[-1].error.type == "OutOfTime":
            outcomes.append(Outcome(error=CallError("OutOfTime", "not tried: an earlier case ran out of time")))
        else:
            outcomes.append(call(answer, question.inputs, probe=exercise.probe_function, limit_seconds=limit_seconds))
        on_case()
    return outcomes


def find_difference(exercise: Exercise, question: Question, outcome: Outcome) -> Difference | None:
    """What is wrong with one outcome, or None when it is right."""
    if outcome.error:
        if outcome.error.type in ENDED_THE_RUN:
            return Difference("raised", "", f"your code did not come back: {outcome.error.message}")
        # Without a line of theirs on the stack, it was raised by what was done with their answer or its result.
        theirs = outcome.error.line or outcome.error.type == "OutOfTime"
        return Difference(
            "raised", "", f"{'your code' if theirs else 'using your answer'} raised {outcome.error.sentence}"
        )
    if outcome.changed and not exercise.mutates:
        names = ", ".join(f"`{name}`" for name in outcome.changed)
        return Difference("changed", "", f"your code changed its argument {names} in place; work on a copy")
    if exercise.accept_function is not None:
        return _ask_accept(exercise, question, outcome)
    found = compare(outcome.value, question.want, rtol=exercise.rtol, atol=exercise.atol)
    if found and exercise.diagnose_function is not None:
        return _with_diagnosis(exercise, question, outcome, found)
    return found


def _ask_accept(exercise: Exercise, question: Question, outcome: Outcome) -> Difference | None:
    assert exercise.accept_function is not None
    given = wire.decode(wire.loads(question.inputs))
    try:
        sentence = exercise.accept_function(wire.decode(outcome.value), **given)
    except Exception as error:
        # The value may have an unexpected type or keys: that is an answer's fault as long as the reference is accepted,
        # which `grader verify` proves.
        return Difference("type", "", f"the result cannot be judged: {_one_line(error)}")
    return Difference("value", "", sentence) if sentence else None


def _with_diagnosis(exercise: Exercise, question: Question, outcome: Outcome, found: Difference) -> Difference:
    assert exercise.diagnose_function is not None
    given = wire.decode(wire.loads(question.inputs))
    try:
        extra = exercise.diagnose_function(wire.decode(outcome.value), wire.decode(question.want), **given)
    except Exception:
        return found
    return Difference(found.kind, found.path, f"{found.sentence}. {extra}") if extra else found


def judge(
    exercise: Exercise,
    questions: Sequence[Question],
    outcomes: Sequence[Outcome],
    *,
    violations: Sequence[str] = (),
    outcomes_of: Callable[[Callable[..., Any]], list[Outcome]] | None = None,
    digest_key: str = "",
) -> Result:
    """The result of one answer.

    violations: forbidden names its source uses. outcomes_of: how to run a misconception (default: here and now).
    digest_key: a secret that keys the outcome's digest where there are hidden cases to protect.
    """
    seconds = sum(outcome.seconds for outcome in outcomes)
    if all(o.error and o.error.type == "NotImplementedError" and o.error.own for o in outcomes):
        return not_started(exercise, seconds=seconds)
    differences = [find_difference(exercise, q, o) for q, o in zip(questions, outcomes, strict=True)]
    cases = tuple(_case_result(q.case, d, o) for q, d, o in zip(questions, differences, outcomes, strict=True))
    groups = _group_points(exercise, cases, bool(violations))
    earned = sum(points for _, points, _ in groups)
    if not any(differences) and not violations:
        message = f"{exercise.answer_name}: all {len(cases)} cases passed."
        return _result(exercise, "passed", earned, message, cases, groups, seconds)
    right = [difference is None for difference in differences]
    digest = outcome_digest(outcomes, right, atol=exercise.atol, violations=violations, key=digest_key)
    if violations:
        names = ", ".join(f"`{name}`" for name in violations)
        message = f"your answer uses {names}, which is what this exercise asks you to build. Write it yourself."
        return _result(exercise, "failed", earned, message, cases, groups, seconds, outcome=digest)
    shown = _shown_failure(questions, differences)
    status = "crashed" if shown[1].kind == "raised" else "failed"
    run = outcomes_of or (lambda wrong: call_all(exercise, wrong, questions))
    name, certain = recognise(exercise, questions, outcomes, differences, run)
    hint = exercise.misconceptions[name].hint if name else ""
    message = _failure_message(exercise, *shown, right.count(False), len(questions))
    return _result(exercise, status, earned, message, cases, groups, seconds, hint, name, certain, digest)


def recognise(
    exercise: Exercise,
    questions: Sequence[Question],
    outcomes: Sequence[Outcome],
    differences: Sequence[Difference | None],
    outcomes_of: Callable[[Callable[..., Any]], list[Outcome]],
) -> tuple[str, bool]:
    """(name of the misconception with the same outputs, True when it agrees on every case).

    Full agreement, with the same error messages where both raise, wins. Otherwise the one that agrees on most failing
    cases, if it is alone in that: a likely part of the trouble. One that goes wrong on a case which this answer gets
    right is another mistake, and is never named. ("", False) when none fits.
    """
    agreements: dict[str, int] = {}
    failing = [i for i, difference in enumerate(differences) if difference]
    for name, misconception in exercise.misconceptions.items():
        theirs = outcomes_of(misconception.answer)
        agrees = [_same(exercise, q, mine, other) for q, mine, other in zip(questions, outcomes, theirs, strict=True)]
        if all(agrees) and all(_message(m) == _message(o) for m, o in zip(outcomes, theirs, strict=True)):
            return name, True
        if all(agrees[i] for i in range(len(agrees)) if i not in failing):
            agreements[name] = sum(agrees[i] for i in failing)
    most = max(agreements.values(), default=0)
    leaders = [name for name, count in agreements.items() if count == most]
    return (leaders[0], False) if most and len(leaders) == 1 else ("", False)


def _message(outcome: Outcome) -> str:
    return outcome.error.message if outcome.error else ""


def _same(exercise: Exercise, question: Question, mine: Outcome, other: Outcome) -> bool:
    if mine.error or other.error:
        return bool(mine.error and other.error and mine.error.type == other.error.type)
    if bool(mine.changed) != bool(other.changed):
        return False
    if exercise.accept_function is not None:
        left, right = (_ask_accept(exercise, question, outcome) for outcome in (mine, other))
        return left == right
    return compare(mine.value, other.value, rtol=exercise.rtol, atol=exercise.atol) is None


def _case_result(case: Case, difference: Difference | None, outcome: Outcome) -> CaseResult:
    return CaseResult(
        case.name,
        case.group,
        case.visible,
        case.about,
        difference is None,
        difference.kind if difference else "",
        difference.sentence if difference else "",
        outcome.printed,
        round(outcome.seconds, 4),
    )


def _group_points(
    exercise: Exercise, cases: Sequence[CaseResult], nothing: bool
) -> tuple[tuple[str, float, float], ...]:
    possible = exercise.group_points or {"all": exercise.points}
    earned = []
    for group, points in possible.items():
        mine = [case.passed for case in cases if exercise.group_points is None or case.group == group]
        earned.append((group, float(points) if all(mine) and not nothing else 0.0, float(points)))
    return tuple(earned)


def _shown_failure(
    questions: Sequence[Question], differences: Sequence[Difference | None]
) -> tuple[Question, Difference]:
    """The failure that the message tells of: the first visible one, else the first."""
    failed = [(q, d) for q, d in zip(questions, differences, strict=True) if d]
    return next(((q, d) for q, d in failed if q.case.visible), failed[0])


def _failure_message(exercise: Exercise, question: Question, difference: Difference, failed: int, asked: int) -> str:
    case = question.case
    count = f"{failed} of {asked} cases fail"
    about = f" ({case.about})" if case.about else ""
    if case.visible:
        sentence = _stopped(message_text(difference.sentence, LONGEST_SENTENCE_CHARACTERS))
        return f"`{describe_call(exercise, question)}`\n{sentence}\n{count}; this is {case.name!r}{about}."
    fails = case.about or "on an input you have not seen"
    return f"{exercise.answer_name} fails {fails}: {hidden_sentence(difference)}.\n{count}; this one is hidden."


def _stopped(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def hidden_sentence(difference: Difference) -> str:
    """What a learner may know of a hidden failure: its category, never its values."""
    tells = {
        "raised": "it raises an error",
        "changed": "it changes an argument in place",
        "none": "it returns None",
        "type": "the result has the wrong type",
        "keys": "the result has the wrong keys",
        "length": "the result has the wrong length",
        "shape": "the result has the wrong shape",
        "dtype": "the result has the wrong dtype",
        "non-finite": "the result holds values that are not finite",
        "value": "the values are wrong",
    }
    return tells[difference.kind]


def describe_call(exercise: Exercise, question: Question) -> str:
    """`lora_linear(x=tensor (2, 4) float32, rank=2)`: what was called, values shortened.

    With a probe the inputs are not the answer's own arguments, so they are named beside it.
    """
    parts = [f"{name}={_brief(value)}" for name, value in wire.loads(question.inputs).items()]
    if exercise.probe_function is None:
        return textwrap.shorten(f"{exercise.answer_name}({', '.join(parts)})", 400, placeholder=" ...)")
    return textwrap.shorten(f"{exercise.answer_name}, tried with {', '.join(parts)}", 400, placeholder=" ...")


def _brief(value: Any) -> str:
    if isinstance(value, wire.Array):
        if value.to_numpy().size <= 6:
            return f"{value.dtype} {value.to_numpy().tolist()}"
        return f"tensor {value.shape} {value.dtype}"
    if isinstance(value, list | tuple) and any(isinstance(item, wire.Array) for item in value):
        return "[" + ", ".join(_brief(item) for item in value[:4]) + (", ...]" if len(value) > 4 else "]")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_brief(item)}" for key, item in list(value.items())[:4]) + "}"
    return textwrap.shorten(repr(value), 80, placeholder="...")


def _plain(exercise: Exercise, status: str, message: str, seconds: float = 0.0) -> Result:
    groups = tuple((name, 0.0, float(points)) for name, points in (exercise.group_points or {}).items())
    return _result(exercise, status, 0.0, message, (), groups, seconds)


def not_started(
    exercise: Exercise, message: str = "Not started: the stub still raises NotImplementedError.", seconds: float = 0.0
) -> Result:
    """The result of a stub, or of an answer that is not there."""
    return _plain(exercise, "todo", message, seconds)


def broken(exercise: Exercise, error: Exception) -> Result:
    """The result when the exercise itself failed."""
    message = f"This is our fault, not yours, and costs you nothing: {_one_line(error)}"
    return _plain(exercise, "broken", message)


def _result(
    exercise: Exercise,
    status: str,
    earned: float,
    message: str,
    cases: tuple[CaseResult, ...],
    groups: tuple[tuple[str, float, float], ...],
    seconds: float,
    hint: str = "",
    misconception: str = "",
    certain: bool = False,
    outcome: str = "",
) -> Result:
    return Result(
        exercise_id=exercise.id,
        title=exercise.title,
        status=status,
        points=earned,
        max_points=float(exercise.points),
        message=inspect.cleandoc(message),
        hint=hint,
        misconception=misconception,
        certain=certain,
        cases=cases,
        groups=groups,
        seconds=round(seconds, 4),
        outcome=outcome,
    )


def _one_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()
