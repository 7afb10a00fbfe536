"""The path through the course as it stands for one learner, and the next step on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from course.home.declared import Declaration, Declarations
from course.home.learner import Learner
from grader.progress import Standing
from grader.syllabus import Lesson


@dataclass(frozen=True)
class ExerciseRow:
    """One exercise with its learner's standing."""

    declared: Declaration
    standing: Standing

    @property
    def passed(self) -> bool:
        """Whether it has passed once."""
        return self.standing.status == "passed"


@dataclass(frozen=True)
class LessonRow:
    """One lesson with its learner's standing. needs: what it builds on. leads_to: the lessons that build on it."""

    lesson: Lesson
    exercises: tuple[ExerciseRow, ...]
    needs: tuple[Lesson, ...] = ()
    leads_to: tuple[Lesson, ...] = ()
    has_notebook: bool = True

    @property
    def passed(self) -> int:
        """How many of its exercises have passed."""
        return sum(row.passed for row in self.exercises)

    @property
    def status(self) -> str:
        """done, started, or todo."""
        if self.exercises and self.passed == len(self.exercises):
            return "done"
        return "started" if any(row.standing.status != "todo" for row in self.exercises) else "todo"

    @property
    def minutes_left(self) -> int:
        """The lesson's minutes times the share of its exercises' minutes that has not passed: 0 once all have."""
        total = sum(row.declared.minutes for row in self.exercises)
        left = sum(row.declared.minutes for row in self.exercises if not row.passed)
        return round(self.lesson.minutes * left / total) if total else self.lesson.minutes

    @property
    def next_exercise(self) -> ExerciseRow | None:
        """The first one that has not passed."""
        return next((row for row in self.exercises if not row.passed), None)


@dataclass(frozen=True)
class ModuleRow:
    """A module with its lessons."""

    title: str
    lessons: tuple[LessonRow, ...]


@dataclass(frozen=True)
class CoursePath:
    """The whole course for one learner. problems: sentences to show."""

    modules: tuple[ModuleRow, ...]
    problems: tuple[str, ...] = ()

    @property
    def lessons(self) -> tuple[LessonRow, ...]:
        """All lessons in order."""
        return tuple(row for module in self.modules for row in module.lessons)

    def row(self, lesson: Lesson) -> LessonRow:
        """The row of a lesson."""
        return next(row for row in self.lessons if row.lesson.id == lesson.id)

    @property
    def exercises(self) -> int:
        """How many there are."""
        return sum(len(row.exercises) for row in self.lessons)

    @property
    def passed(self) -> int:
        """How many of them have passed."""
        return sum(row.passed for row in self.lessons)

    @property
    def minutes_left(self) -> int:
        """Of all lessons."""
        return sum(row.minutes_left for row in self.lessons)


def course_path(declarations: Declarations, learner: Learner) -> CoursePath:
    """The path of a course for its learner. Trouble with one file is told in `problems`; the rest stands."""
    course = declarations.catalogue.course
    problems: list[str] = []
    missing: list[str] = []

    def row(lesson: Lesson) -> LessonRow:
        declared, unread = declarations.of(lesson)
        problems.extend(unread)
        has_notebook = (learner.workspace / lesson.notebook_name).is_file()
        if not has_notebook:
            missing.append(lesson.notebook_name)
        return LessonRow(
            lesson,
            tuple(ExerciseRow(each, learner.standings.get(each.id, Standing())) for each in declared),
            needs=tuple(other for other in course.lessons if other.id in lesson.needs),
            leads_to=tuple(other for other in course.lessons if lesson.id in other.needs),
            has_notebook=has_notebook,
        )

    modules = tuple(ModuleRow(module.title, tuple(map(row, module.lessons))) for module in course.modules)
    if missing and learner.workspace.is_dir():
        problems.append(
            f"Not in your workspace: {', '.join(missing)}. `course lab` copies what is missing when it starts: stop "
            "it with Ctrl-C in its terminal if it runs, and start it again."
        )
    return CoursePath(modules, tuple(problems))


@dataclass(frozen=True)
class Step:
    """Where to go on: a lesson, and in it an exercise unless there is none left."""

    row: LessonRow
    exercise: ExerciseRow | None


def next_step(path: CoursePath, last_exercise_id: str | None, order: Sequence[Lesson]) -> Step | None:
    """The exercise to go on with; None when all have passed.

    That is the one tried last until it has passed; then the next open one of its lesson, then the first open lesson of
    `order` after it, then the first open one at all.
    """
    ordered = [path.row(lesson) for lesson in order]
    of_last = next(
        (row for row in ordered if any(each.declared.id == last_exercise_id for each in row.exercises)), None
    )
    if of_last:
        place = [each.declared.id for each in of_last.exercises].index(str(last_exercise_id))
        for each in (*of_last.exercises[place:], *of_last.exercises[:place]):
            if not each.passed:
                return Step(of_last, each)
        start = ordered.index(of_last) + 1
        ordered = [*ordered[start:], *ordered[:start]]
    open_rows = [row for row in ordered if row.status != "done"]
    return Step(open_rows[0], open_rows[0].next_exercise) if open_rows else None
