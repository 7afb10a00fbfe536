"""`grader grade`, run as an instructor runs it: over a folder of submissions, or in an nbgrader course."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from bench.grading.runs import Run, timed
from grader.cohort.result import SubmissionResult
from grader.syllabus import Lesson

SEED = 20261128


def grade_folder(submissions: Path, lesson: Lesson, results: Path, workers: int, course: str, path: str) -> Run:
    """One whole run of the command. course: `module:attribute`; path: PYTHONPATH for it."""
    return _grade([submissions, "--out", results], lesson, results, workers, course, path, f"ours, {workers} workers")


def grade_course(folder: Path, lesson: Lesson, results: Path, workers: int, course: str, path: str) -> Run:
    """The same in an nbgrader course: gradebook and executed copies are written too."""
    name = f"ours in nbgrader, {workers} workers"
    return _grade(["--nbgrader", folder, "--out", results], lesson, results, workers, course, path, name)


def _grade(
    what: list[str | Path], lesson: Lesson, results: Path, workers: int, course: str, path: str, name: str
) -> Run:
    command = [sys.executable, "-m", "grader.cli", "grade", *what, "--lesson", lesson.id, "--course", course]
    command += ["--workers", str(workers), "--seed", str(SEED)]
    seconds, processor_seconds = timed(command, results.parent, {"PYTHONPATH": path})
    found = read_results(results / lesson.id)
    each = statistics.mean(result.seconds for result in found) / workers
    points = {result.learner: {one.exercise_id: one.points for one in result.results} for result in found}
    return Run(name.replace("1 workers", "1 worker"), len(found), seconds, processor_seconds, points, each)


def read_results(folder: Path) -> list[SubmissionResult]:
    """Every learner's kept result."""
    return [SubmissionResult.from_dict(json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))]
