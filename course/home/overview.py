"""Everything the home page and `course plan` say about a learner, put together from the course and the workspace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from course.home.declared import Declarations
from course.home.learner import Learner, read_learner
from course.home.path import CoursePath, LessonRow, Step, course_path, next_step
from course.home.portfolio import WrittenPortfolio, written_portfolio
from course.home.weeks import Week, plan_weeks
from course.placement.suggestion import Suggestion, suggest
from grader.syllabus import Course, Lesson


@dataclass(frozen=True)
class Overview:
    """suggestion: None before the placement was taken. step: None once every exercise has passed.

    to_take: the lessons the plan holds, which are not done and not among those the placement lets skip. portfolio: None
    before it is first written.
    """

    course: Course
    learner: Learner
    path: CoursePath
    suggestion: Suggestion | None
    step: Step | None
    to_take: tuple[LessonRow, ...]
    weeks: tuple[Week, ...]
    portfolio: WrittenPortfolio | None

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read, each with what to do."""
        return (*self.learner.problems, *self.path.problems)


def read_overview(declarations: Declarations, workspace: Path) -> Overview:
    """Where the learner of a workspace stands."""
    learner = read_learner(workspace)
    path = course_path(declarations, learner)
    lessons = tuple(row.lesson for row in path.lessons)
    placement = learner.choices.placement
    suggestion = suggest(placement, lessons) if placement else None
    order = (*suggestion.to_take, *(lesson for lesson, _ in suggestion.skip)) if suggestion else lessons
    step = next_step(path, learner.last.exercise if learner.last else None, order)
    to_take = _to_take(path, suggestion.to_take if suggestion else lessons, step)
    weeks = plan_weeks([(row.lesson, row.minutes_left) for row in to_take], learner.choices.hours_per_week)
    portfolio = written_portfolio(workspace)
    return Overview(declarations.catalogue.course, learner, path, suggestion, step, to_take, weeks, portfolio)


def _to_take(path: CoursePath, lessons: Iterable[Lesson], step: Step | None) -> tuple[LessonRow, ...]:
    """What is left of `lessons`, the one that comes next first."""
    left = [row for row in map(path.row, lessons) if row.status != "done"]
    return tuple(sorted(left, key=lambda row: not step or row.lesson.id != step.row.lesson.id))
