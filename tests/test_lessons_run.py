"""Every lesson's notebook, with the reference answers filled in, runs from top to bottom and every check in it passes.

COURSE_SMOKE=1 makes training lessons take the same path with fewer steps and questions; `make gain` is the full run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from grader.catalogue import find_course
from grader.execute import run_lesson
from grader.syllabus import Lesson

CATALOGUE = find_course()


@pytest.mark.slow
@pytest.mark.parametrize("lesson", CATALOGUE.course.lessons, ids=lambda lesson: lesson.id)
def test_reference_notebook_runs_and_every_check_passes(
    lesson: Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COURSE_SMOKE", "1")
    run = run_lesson(CATALOGUE, lesson, tmp_path, cell_limit_seconds=600)
    print(f"{lesson.id}: {run.minutes:.1f} minutes")
    assert run.statuses == dict.fromkeys(run.statuses, "passed")
