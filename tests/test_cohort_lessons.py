"""Every lesson's reference notebook gets full marks from the sandboxed grader, and an untouched one gets none."""

from __future__ import annotations

import pytest

from grader.build import build_lesson
from grader.catalogue import find_course
from grader.cohort.grading import Grader

CATALOGUE = find_course()


@pytest.mark.slow
@pytest.mark.parametrize("lesson", [lesson.id for lesson in CATALOGUE.course.lessons])
def test_the_references_pass_in_the_sandbox(lesson: str):
    with Grader(lesson, seed=2026, catalogue=CATALOGUE) as grader:
        written = build_lesson(CATALOGUE, grader.lesson, answers=True).encode()
        result = grader.grade(written, "reference")
        assert [(each.exercise_id, each.message) for each in result.results if not each.passed] == []
        assert result.points == result.max_points > 0
        untouched = grader.grade(build_lesson(CATALOGUE, grader.lesson).encode(), "untouched")
        assert {each.status for each in untouched.results} == {"todo"}
        assert untouched.points == 0
