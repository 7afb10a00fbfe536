"""nbgrader's own `nbgrader autograde`, in a course whose test cells are asserts."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bench.grading.peer_tests import peer_tests
from bench.grading.runs import BenchError, Run, Scores, timed
from grader.build import build_lesson
from grader.catalogue import Catalogue
from grader.nbgrader_course import CONFIG, CONFIG_FILE, assignment_name, open_course
from grader.nbgrader_gradebook import commands_on_path, quiet
from grader.syllabus import Lesson


def make_asserting_course(catalogue: Catalogue, lesson: Lesson, folder: Path) -> None:
    """A course as instructors write it by hand: the assignment with tests in its locked cells.

    Grading puts these cells into the submissions, so learners' files are the same for every grader.
    """
    notebook = json.loads(build_lesson(catalogue, lesson))
    tests = peer_tests(catalogue, lesson)
    for cell in notebook["cells"]:
        if cell["id"].removesuffix("-check") in tests and cell["id"].endswith("-check"):
            cell["source"] = tests[cell["id"].removesuffix("-check")]
    assignment = assignment_name(lesson)
    source = folder / "source" / assignment / lesson.notebook_name
    source.parent.mkdir(parents=True)
    source.write_text(json.dumps(notebook), encoding="utf-8")
    (folder / CONFIG_FILE).write_text(CONFIG.format(course_id="bench"), encoding="utf-8")
    with commands_on_path(), quiet("tornado.application"):
        outcome = open_course(folder).generate_assignment(assignment)
    if not outcome["success"]:
        raise BenchError(f"nbgrader could not release {assignment}:\n{outcome['log'][-2000:]}")


def submit(folder: Path, lesson: Lesson, notebooks: Sequence[Path]) -> None:
    """Put learners' notebooks where nbgrader collects them."""
    for notebook in notebooks:
        target = folder / "submitted" / notebook.parent.name / assignment_name(lesson) / notebook.name
        target.parent.mkdir(parents=True)
        shutil.copy(notebook, target)


def autograde(folder: Path, lesson: Lesson, exercises: Sequence[str]) -> Run:
    """One whole run of `nbgrader autograde`."""
    assignment = assignment_name(lesson)
    command = [sys.executable, "-m", "nbgrader", "autograde", assignment]
    seconds, processor_seconds = timed(command, folder, {})
    copies = folder.glob(f"autograded/*/{assignment}/{lesson.notebook_name}")
    ends = sorted(copy.stat().st_mtime for copy in copies)
    each = statistics.mean(later - one for one, later in pairwise(ends)) if len(ends) > 1 else seconds
    points = scores(folder, lesson, exercises)
    return Run("nbgrader autograde", len(ends), seconds, processor_seconds, points, each)


def scores(folder: Path, lesson: Lesson, exercises: Sequence[str]) -> Scores:
    """What the gradebook holds."""
    assignment = assignment_name(lesson)
    found: dict[str, dict[str, float]] = {}
    with open_course(folder).gradebook as gradebook:
        for submission in gradebook.assignment_submissions(assignment):
            learner = submission.student_id
            grades = {
                each: gradebook.find_grade(f"{each}-check", assignment, assignment, learner) for each in exercises
            }
            found[learner] = {each: grade.auto_score for each, grade in grades.items()}
    return found
