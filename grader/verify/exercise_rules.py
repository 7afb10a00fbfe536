"""The rules for one exercise: its declaration, answers, cases, stub, misconceptions, tolerance, time and hints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from grader import source, wire
from grader.call import Outcome
from grader.catalogue import snake_case
from grader.compare import compare
from grader.exercise import Exercise
from grader.forbidden import violations
from grader.judge import ACCEPTED_REPLY_CAP_BYTES, REPLY_CAP_FACTOR, call_all, find_difference, judge
from grader.syllabus import Lesson
from grader.verify.evidence import SEEDS, Evidence, Refusal

DEFAULT_RTOL, DEFAULT_ATOL, DEFAULT_SECONDS = 1e-5, 1e-6, 2.0
FEWEST_MISCONCEPTIONS = 3
HINT_LINE_CHARACTERS = 10


def declaration(exercise: Exercise, lesson: Lesson, stem: str, skills: Iterable[str]) -> Iterator[Refusal]:
    """Id, file, name, counts, and reasons for every departure from the defaults."""

    def refuse(problem: str, next_action: str) -> Refusal:
        return Refusal(exercise.id, "declaration", problem, next_action)

    if exercise.id.split("-")[0] != lesson.id.split("_")[0] or exercise.file_stem != stem:
        yield refuse(f"its file is {lesson.id}/{stem}.py", "Let the id be lesson number, dash, file name")
    if snake_case(exercise.answer_name) != stem:
        yield refuse(f"the reference is called {exercise.answer_name}", f"Name it {stem}, or the file after it")
    if not (exercise.answer and exercise.answer.__doc__):
        yield refuse("the reference has no docstring", "Write the task: arguments, shapes, result, source")
    if len(exercise.misconceptions) < FEWEST_MISCONCEPTIONS:
        count = len(exercise.misconceptions)
        yield refuse(f"{count} misconceptions", f"Write at least {FEWEST_MISCONCEPTIONS} wrong answers people give")
    if not exercise.alternatives:
        yield refuse("no alternative answer", "Add one written in a truly different way")
    if not exercise.hints:
        yield refuse("no general hints", "Add two or three, from gentle to direct")
    if (exercise.rtol > DEFAULT_RTOL or exercise.atol > DEFAULT_ATOL) and not exercise.tolerance_reason:
        yield refuse(f"rtol {exercise.rtol}, atol {exercise.atol} without a reason", "Give tolerance_reason")
    if exercise.seconds > DEFAULT_SECONDS and not exercise.seconds_reason:
        yield refuse(f"allows itself {exercise.seconds} s without a reason", "Give seconds_reason")
    unknown = sorted(set(exercise.skills) - set(skills))
    if unknown or not exercise.skills:
        yield Refusal(
            exercise.id,
            "skills",
            f"skills {', '.join(unknown) or 'none'} are not in the syllabus",
            "Add them to the syllabus, or use one of its skills",
        )


def right_answers_pass(evidence: Evidence) -> Iterator[Refusal]:
    """The reference and every alternative pass on several seeds, and change no argument."""
    for name, answer in evidence.right_answers.items():
        used = violations(answer, evidence.exercise.forbidden)
        if used:
            problem = f"{name} uses {', '.join(used)}, which the exercise forbids"
            yield evidence.refuse("right answers", problem, "Write it without, or allow the name")
        for seed in SEEDS:
            outcomes = evidence.run(name, answer, seed)
            for question, outcome in zip(evidence.asked(seed), outcomes, strict=True):
                found = find_difference(evidence.exercise, question, outcome)
                if found is None:
                    continue
                where = f"{name} fails case {question.case.name!r} of seed {seed}: {found.sentence}"
                if found.kind == "changed":
                    yield evidence.refuse("mutation", where, "Work on copies, or declare mutates=True")
                else:
                    yield evidence.refuse("right answers", where, "Mend the answer, the oracle or the tolerance")
                break
            else:
                continue
            break


def cases_repeat(evidence: Evidence) -> Iterator[Refusal]:
    """The same seed makes the same inputs, another seed others; and no case changes those of an earlier one."""
    exercise = evidence.exercise
    assert exercise.case_function is not None
    kept = [(case, wire.dumps(wire.encode(dict(case.inputs)))) for case in exercise.case_function(SEEDS[0])]
    changed = [case.name for case, inputs in kept if wire.dumps(wire.encode(dict(case.inputs))) != inputs]
    if changed:
        problem = f"making a later case changes the inputs of {changed[0]!r} in place"
        yield evidence.refuse("mutation", problem, "Give each case its own copy")
    first = [question.inputs for question in evidence.asked(SEEDS[0])]
    again = [wire.dumps(wire.encode(dict(case.inputs))) for case in exercise.make_cases(SEEDS[0])]
    if first != again:
        yield evidence.refuse("cases", "the same seed made other inputs", "Draw everything from the seed")
    if first == [question.inputs for question in evidence.asked(SEEDS[1])]:
        yield evidence.refuse("cases", "every seed makes the same inputs", "Let at least one case depend on the seed")
    if not any(question.case.visible for question in evidence.asked(SEEDS[0])):
        yield evidence.refuse("cases", "every case is hidden", "Make at least one visible")
    shapes = {tuple((q.case.name, q.case.visible, q.case.group) for q in evidence.asked(seed)) for seed in SEEDS}
    if len(shapes) > 1:
        # An official run takes visible and hidden cases from two seeds.
        problem = "the number, names, groups or visibility of its cases change with the seed"
        yield evidence.refuse("cases", problem, "Let the seed change inputs only")


def stub_is_todo(evidence: Evidence) -> Iterator[Refusal]:
    """The public view runs, holds no answer, and its stub reads "not started"."""
    exercise = evidence.exercise
    try:
        view = source.public_view(exercise)
    except ValueError as error:
        yield evidence.refuse("stub", str(error), "Move what the probe needs into a helper without answers")
        return
    leaked = sorted(source.answer_lines(exercise) & {source.squeeze(line) for line in view.splitlines()})
    if leaked:
        yield evidence.refuse("stub", f"the public view holds an answer line: {leaked[0]}", "Keep it out of the probe")
    # The name of a loaded module: a dataclass looks its own up in sys.modules.
    namespace: dict[str, Any] = {"__name__": getattr(exercise.answer, "__module__", "")}
    try:
        # The file name must differ from the exercise's own, so that the stub's frames are told from it.
        exec(compile(view, f"<public view of {exercise.id}>", "exec", dont_inherit=True), namespace)
    except Exception as error:
        yield evidence.refuse("stub", f"the public view does not run: {error!r}", "Import at the top what it uses")
        return
    probe_name = exercise.probe_function.__name__ if exercise.probe_function else None
    public = Exercise(**_fields(exercise))
    public.answer, public.misconceptions = exercise.answer, exercise.misconceptions
    public.probe_function = namespace[probe_name] if probe_name else None
    questions = evidence.asked(SEEDS[0])
    result = judge(public, questions, call_all(public, namespace[exercise.answer_name], questions))
    if result.status != "todo":
        yield evidence.refuse("stub", f"the stub reads {result.status!r}: {result.message}", "It must read 'todo'")


def _fields(exercise: Exercise) -> dict[str, Any]:
    return {name: getattr(exercise, name) for name, spec in Exercise.__dataclass_fields__.items() if spec.init}


def misconceptions_fail_with_their_hint(evidence: Evidence) -> Iterator[Refusal]:
    """Each known wrong answer fails on every seed, and is recognised as itself."""
    exercise = evidence.exercise
    for seed in SEEDS:
        questions = evidence.asked(seed)

        def outcomes_of(answer: Callable[..., Any], seed: int = seed) -> list[Outcome]:
            return evidence.run(_name_of(exercise, answer), answer, seed)

        for name, misconception in exercise.misconceptions.items():
            result = judge(exercise, questions, outcomes_of(misconception.answer), outcomes_of=outcomes_of)
            if result.status == "passed":
                yield evidence.refuse(
                    "misconceptions", f"{name} passes on seed {seed}", "Add a case that it gets wrong"
                )
            elif result.status == "todo":
                yield evidence.refuse("misconceptions", f"{name} reads as not started", "Let it give a wrong answer")
            elif result.misconception != name:
                yield evidence.refuse(
                    "misconceptions",
                    f"{name} draws the hint of {result.misconception or 'nobody'} on seed {seed}",
                    "Add a case that tells the two apart, or merge them",
                )


def _name_of(exercise: Exercise, answer: Callable[..., Any]) -> str:
    return next(name for name, wrong in exercise.misconceptions.items() if wrong.answer is answer)


def tolerance_refuses_zeros(evidence: Evidence) -> Iterator[Refusal]:
    """For each place in the answer that holds floats, some case tells the right value from zeros."""
    exercise = evidence.exercise
    if exercise.accept_function is not None:
        return
    told_apart: dict[str, bool] = {}
    for seed in SEEDS:
        for question in evidence.asked(seed):
            for path, zeroed in _zeroed(question.want, ""):
                found = compare(zeroed, question.want, rtol=exercise.rtol, atol=exercise.atol)
                told_apart[path] = told_apart.get(path, False) or found is not None
    for path, told in told_apart.items():
        if not told:
            place = f"zeros at `{path}`" if path else "an answer of zeros"
            yield evidence.refuse(
                "tolerance",
                f"{place} would pass (rtol {exercise.rtol}, atol {exercise.atol})",
                "Narrow the tolerance, or make the values larger than it",
            )


def accept_refuses_nonsense(evidence: Evidence) -> Iterator[Refusal]:
    """Where `accept` judges, it refuses the reference's own output with every float made zero, or NaN."""
    exercise = evidence.exercise
    if exercise.accept_function is None or exercise.answer is None:
        return
    outcomes = evidence.run(exercise.answer_name, exercise.answer, SEEDS[0])
    for name, number in (("zeros", 0.0), ("NaN", math.nan)):
        spoilt = [replace(outcome, value=_filled(outcome.value, number)) for outcome in outcomes]
        pairs = zip(evidence.asked(SEEDS[0]), spoilt, strict=True)
        if not any(find_difference(exercise, question, outcome) for question, outcome in pairs):
            yield evidence.refuse(
                "tolerance",
                f"accept() takes an output whose floats are all {name}",
                "Let it refuse what is not finite, and compare something that zeros cannot satisfy",
            )


def accepted_results_are_small(evidence: Evidence) -> Iterator[Refusal]:
    """Where `accept` judges, right results stay far below the size above which no result is looked into."""
    if evidence.exercise.accept_function is None:
        return
    most_bytes = ACCEPTED_REPLY_CAP_BYTES // REPLY_CAP_FACTOR
    for name, answer in evidence.right_answers.items():
        outcomes = evidence.run(name, answer, SEEDS[0])
        largest_bytes = max(len(wire.dumps(outcome.value)) for outcome in outcomes)
        if largest_bytes > most_bytes:
            yield evidence.refuse(
                "result size",
                f"accept() judges results of {largest_bytes:,} bytes from {name}, over {most_bytes:,}",
                "Let the answer, or a probe, return less",
            )


def _filled(value: Any, number: float) -> Any:
    """The same wire value with every float replaced; unchanged where it holds none."""
    if isinstance(value, wire.Array) and "float" in value.dtype:
        import torch

        dtype = getattr(torch, value.dtype)
        return replace(wire.encode(torch.full(value.shape, number, dtype=dtype)), kind=value.kind)
    if isinstance(value, float):
        return number
    if isinstance(value, dict):
        return {key: _filled(item, number) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_filled(item, number) for item in value)
    return value


def _zeroed(value: Any, path: str, rebuild: Callable[[Any], Any] = lambda x: x) -> Iterator[tuple[str, Any]]:
    """(path, whole value with zeros there) for each place with floats. Sequence positions share one path."""
    if isinstance(value, wire.Array) and "float" in value.dtype and value.data:
        zeros = wire.Array(value.kind, value.dtype, value.shape, bytes(len(value.data)))
        yield path, rebuild(zeros)
    elif isinstance(value, float):
        yield path, rebuild(0.0)
    elif isinstance(value, dict):
        for key, item in value.items():

            def put_key(new: Any, key: Any = key) -> Any:
                return rebuild({**value, key: new})

            yield from _zeroed(item, f"{path}.{key}".strip("."), put_key)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):

            def put(new: Any, i: int = i) -> Any:
                return rebuild([*value[:i], new, *value[i + 1 :]])

            yield from _zeroed(item, f"{path}[]", put)


def time_is_kept(evidence: Evidence) -> Iterator[Refusal]:
    """The reference runs all its cases in the time it declares."""
    exercise = evidence.exercise
    assert exercise.answer is not None
    taken = min(
        sum(outcome.seconds for outcome in evidence.run(exercise.answer_name, exercise.answer, seed)) for seed in SEEDS
    )
    if taken > exercise.seconds:
        yield evidence.refuse(
            "time",
            f"the reference takes {taken:.1f} s, {exercise.seconds:g} s are declared",
            "Make the cases smaller, or declare seconds with seconds_reason",
        )


def hints_keep_the_secret(evidence: Evidence) -> Iterator[Refusal]:
    """No hint contains a line of an answer."""
    exercise = evidence.exercise
    lines = source.answer_lines(exercise, shortest=HINT_LINE_CHARACTERS)
    hints = [("hints", hint) for hint in exercise.hints]
    hints += [(name, misconception.hint) for name, misconception in exercise.misconceptions.items()]
    for name, hint in hints:
        squeezed = source.squeeze(hint)
        shown = [line for line in sorted(lines) if any(form in squeezed for form in _telling_forms(line))]
        if shown:
            yield evidence.refuse("hints", f"the hint of {name} contains the answer line {shown[0]}", "Say it in words")


def _telling_forms(line: str) -> set[str]:
    """A line, and what it returns; but the mere name of a result gives nothing away."""
    returned = line.removeprefix("return")
    long_enough = len(returned) >= HINT_LINE_CHARACTERS and not returned.isidentifier()
    return {line, returned} if long_enough else {line}


RULES = (
    right_answers_pass,
    cases_repeat,
    stub_is_todo,
    misconceptions_fail_with_their_hint,
    tolerance_refuses_zeros,
    accept_refuses_nonsense,
    accepted_results_are_small,
    time_is_kept,
    hints_keep_the_secret,
)
