"""The course's own linter: every rule that an exercise must keep to be worth trusting; `grader verify` runs them.

A rule is a function that yields refusals. A refusal says where, which rule, what is wrong, and what to do next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from grader.catalogue import Catalogue
from grader.judge import BrokenExerciseError
from grader.syllabus import Lesson
from grader.verify.evidence import SEEDS, Evidence, Refusal
from grader.verify.exercise_rules import RULES, declaration
from grader.verify.lesson_rules import verify_lesson, verify_tree

PROSE = "lesson"


def verify(
    catalogue: Catalogue, lesson_name: str | None = None, on_file: Callable[[str], None] = lambda _: None
) -> list[Refusal]:
    """Every refusal in a course, or in one lesson of it."""
    catalogue.course.prepare()
    refusals: list[Refusal] = []
    for lesson, stem in files(catalogue, lesson_name):
        on_file(f"{lesson.id}/{stem}")
        refusals += verify_file(catalogue, lesson, stem)
    if lesson_name is None:
        refusals += verify_tree(catalogue)
    return refusals


def files(catalogue: Catalogue, lesson_name: str | None = None) -> list[tuple[Lesson, str]]:
    """What there is to verify in a course, or in one lesson: its exercises, and its prose under the stem `lesson`."""
    chosen = (catalogue.lesson(lesson_name),) if lesson_name else catalogue.course.lessons
    return [(lesson, stem) for lesson in chosen for stem in [*catalogue.stems(lesson), PROSE]]


def verify_file(catalogue: Catalogue, lesson: Lesson, stem: str) -> list[Refusal]:
    """The refusals of one exercise, or of a lesson's prose and the notebook built from it."""
    return list(verify_lesson(catalogue, lesson)) if stem == PROSE else _verify_exercise(catalogue, lesson, stem)


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


__all__ = ["Refusal", "files", "verify", "verify_file"]
