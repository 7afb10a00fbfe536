"""The course's own linter: every rule that an exercise must keep to be worth trusting; `grader verify` runs them.

A rule is a function that yields refusals. A refusal says where, which rule, what is wrong, and what to do next.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jupytext
import nbformat

from grader import source, wire
from grader.build import BuildError, build_lesson, notebook_path, stale_notebooks
from grader.call import Outcome
from grader.catalogue import Catalogue, snake_case
from grader.compare import compare
from grader.exercise import Exercise
from grader.forbidden import violations
from grader.judge import BrokenExerciseError, Question, call_all, find_difference, judge, prepare
from grader.syllabus import Lesson

SEEDS = (0, 1, 2)
DEFAULT_RTOL, DEFAULT_ATOL, DEFAULT_SECONDS = 1e-5, 1e-6, 2.0
FEWEST_MISCONCEPTIONS = 3
HINT_LINE_CHARACTERS = 10


@dataclass(frozen=True)
class Refusal:
    """One broken rule. next: what the author should do."""

    where: str
    rule: str
    problem: str
    next: str

    def __str__(self) -> str:
        return f"{self.where}: [{self.rule}] {self.problem}. {self.next}"


@dataclass
class Evidence:
    """What one exercise's answers gave, computed once and shared by the rules."""

    exercise: Exercise
    lesson: Lesson
    questions: dict[int, list[Question]] = field(default_factory=dict)
    outcomes: dict[tuple[str, int], list[Outcome]] = field(default_factory=dict)

    def refuse(self, rule: str, problem: str, next_action: str) -> Refusal:
        """A refusal of this exercise."""
        return Refusal(self.exercise.id, rule, problem, next_action)

    def asked(self, seed: int) -> list[Question]:
        """The questions of a seed."""
        if seed not in self.questions:
            self.questions[seed] = prepare(self.exercise, seed)
        return self.questions[seed]

    def run(self, name: str, answer: Callable[..., Any], seed: int) -> list[Outcome]:
        """The outcomes of one answer on one seed."""
        if (name, seed) not in self.outcomes:
            limit_seconds = self.exercise.limit_seconds
            self.outcomes[name, seed] = call_all(self.exercise, answer, self.asked(seed), limit_seconds)
        return self.outcomes[name, seed]

    @property
    def right_answers(self) -> dict[str, Callable[..., Any]]:
        """The reference and the alternatives by name."""
        assert self.exercise.answer is not None
        return {self.exercise.answer_name: self.exercise.answer, **self.exercise.alternatives}


def verify(
    catalogue: Catalogue, lesson_name: str | None = None, on_exercise: Callable[[str], None] = lambda _: None
) -> list[Refusal]:
    """Every refusal in a course, or in one lesson of it."""
    catalogue.course.prepare()
    only = catalogue.lesson(lesson_name) if lesson_name else None
    refusals: list[Refusal] = []
    for lesson in (only,) if only else catalogue.course.lessons:
        for stem in catalogue.stems(lesson):
            on_exercise(f"{lesson.id}/{stem}")
            refusals += _verify_exercise(catalogue, lesson, stem)
        on_exercise(f"{lesson.id}/lesson.py")
        refusals += verify_lesson(catalogue, lesson)
    if only is None:
        refusals += verify_tree(catalogue)
    return refusals


def _verify_exercise(catalogue: Catalogue, lesson: Lesson, stem: str) -> list[Refusal]:
    try:
        exercise = catalogue.load(lesson, stem)
        early = [*declaration(exercise, lesson, stem, catalogue.course.skills), *_named_once(catalogue, lesson, stem)]
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        return [Refusal(f"{lesson.id}/{stem}.py", "declaration", problem, "Mend the file so that it imports")]
    evidence = Evidence(exercise, lesson)
    try:
        for seed in SEEDS:
            evidence.asked(seed)
    except BrokenExerciseError as error:
        return [
            *early,
            evidence.refuse("cases", str(error), "Make cases, oracle and reference run on every seed"),
        ]
    for rule in RULES:
        try:
            early += rule(evidence)
        except Exception as error:
            problem = f"its rule {rule.__name__} stopped on {type(error).__name__}: {error}"
            early.append(evidence.refuse("cases", problem, "Mend what it calls: cases, probe, accept or an answer"))
    return early


def _named_once(catalogue: Catalogue, lesson: Lesson, stem: str) -> Iterator[Refusal]:
    """check(fn) finds the exercise by the function's name, so no two lessons may share one."""
    others = [other.id for other in catalogue.course.lessons if other != lesson and stem in catalogue.stems(other)]
    if others:
        problem = f"{', '.join(others)} has an exercise called {stem} too"
        yield Refusal(f"{lesson.id}/{stem}.py", "declaration", problem, "Rename one: check() could not tell them apart")


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
    time_is_kept,
    hints_keep_the_secret,
)


def verify_lesson(catalogue: Catalogue, lesson: Lesson) -> Iterator[Refusal]:
    """Each exercise is marked exactly once, its stub runs where it stands, and no notebook shows an answer."""
    file = catalogue.lesson_file(lesson)
    if not file.exists():
        yield Refusal(lesson.id, "lesson", f"{file.name} is missing", "Write it, or take the lesson off the syllabus")
        return
    cells = jupytext.reads(file.read_text(encoding="utf-8"), fmt="py:percent").cells
    stems = catalogue.stems(lesson)
    marked = [cell.metadata["exercise"] for cell in cells if "exercise" in cell.metadata]
    for stem in sorted(set(stems) | set(marked)):
        if marked.count(stem) != 1 or stem not in stems:
            problem = f"exercise {stem!r} is marked {marked.count(stem)} times and declared {stems.count(stem)} times"
            yield Refusal(lesson.id, "markers", problem, f'Write `# %% exercise="{stem}"` exactly once')
    try:
        text = build_lesson(catalogue, lesson)
    except Exception as error:  # Building imports the exercises: anything may come.
        problem = str(error) if isinstance(error, BuildError) else f"{type(error).__name__}: {error}"
        yield Refusal(lesson.id, "build", problem, "Mend the lesson, or the exercise it names")
        return
    yield from _stubs_run_in_place(lesson, nbformat.reads(text, as_version=4))
    shown = _lines_shown(text)
    path = notebook_path(catalogue, lesson)
    if path.exists():
        try:
            shown |= _lines_shown(path.read_text(encoding="utf-8"))
        except Exception as error:
            problem = f"cannot be read as a notebook: {type(error).__name__}"
            yield Refusal(f"notebooks/{path.name}", "stale", problem, "Run `grader build` and commit the result")
    yield from _no_answer_shown(catalogue, lesson, shown)


def _lines_shown(notebook_text: str) -> set[str]:
    cells = nbformat.reads(notebook_text, as_version=4).cells
    return {source.squeeze(line) for cell in cells for line in cell.source.splitlines()}


def _stubs_run_in_place(lesson: Lesson, notebook: Any) -> Iterator[Refusal]:
    """A stub's signature may only use names that an import in an earlier cell binds."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        try:
            tree = ast.parse(
                "\n".join("" if line.startswith(("%", "!")) else line for line in cell.source.splitlines())
            )
        except SyntaxError as error:
            yield Refusal(f"{lesson.id}/{cell.id}", "lesson", f"does not parse: {error}", "Mend the cell")
            continue
        is_stub = cell.metadata.get("nbgrader", {}).get("solution", False)
        body: list[ast.stmt] = [n for n in tree.body if is_stub or isinstance(n, ast.Import | ast.ImportFrom)]
        try:
            # Without dont_inherit this file's own `annotations` import would keep a stub's annotations unread.
            exec(compile(ast.Module(body, []), cell.id, "exec", dont_inherit=True), namespace)
        except Exception as error:
            problem = f"the cell {cell.id} fails on {type(error).__name__}: {error}"
            yield Refusal(lesson.id, "stub", problem, "Import what it uses in a cell above it")


def _no_answer_shown(catalogue: Catalogue, lesson: Lesson, shown: set[str]) -> Iterator[Refusal]:
    for stem in catalogue.stems(lesson):
        try:
            exercise = catalogue.load(lesson, stem)
        except Exception:
            continue  # Refused by _verify_exercise already.
        leaked = sorted(source.answer_lines(exercise) & shown)
        if leaked:
            yield Refusal(
                exercise.id,
                "answers",
                f"the notebook shows the answer line {leaked[0]}",
                "Write that demo another way",
            )


def verify_tree(catalogue: Catalogue) -> Iterator[Refusal]:
    """Notebooks equal their rebuild; no Python file stands under datasets/."""
    try:
        for stale in stale_notebooks(catalogue):
            problem = "is missing" if stale.missing else "differs from its rebuild"
            yield Refusal(f"notebooks/{stale.path.name}", "stale", problem, "Run `grader build` and commit the result")
    except Exception:
        pass  # A lesson that cannot be built: reported by verify_lesson already.
    for file in sorted((catalogue.course.root / "datasets").rglob("*.py")):
        yield Refusal(
            file.relative_to(catalogue.course.root).as_posix(),
            "datasets",
            "a Python file here would shadow the `datasets` package",
            "Move it under course/",
        )
