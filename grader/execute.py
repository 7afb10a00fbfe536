"""Runs a lesson's notebook from top to bottom in a fresh kernel, with the reference answers filled in.

This is how the course proves that a lesson works as a whole: every cell runs, every check passes, in the stated time.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from grader.build import build_lesson
from grader.catalogue import Catalogue
from grader.progress import FOLDER, Progress
from grader.syllabus import Lesson


class LessonRunError(RuntimeError):
    """A lesson that does not run to its end; says which cell stopped and why."""


@dataclass(frozen=True)
class LessonRun:
    """One complete run. statuses: exercise id -> status of its check. notebook: the executed copy."""

    lesson: Lesson
    minutes: float
    statuses: dict[str, str]
    notebook: Path


def run_lesson(catalogue: Catalogue, lesson: Lesson, folder: Path, cell_limit_seconds: int = 3600) -> LessonRun:
    """Run the lesson in `folder` as its workspace and leave the executed notebook there."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    notebook = nbformat.reads(build_lesson(catalogue, lesson, answers=True), as_version=4)
    client = NotebookClient(notebook, timeout=cell_limit_seconds, resources={"metadata": {"path": str(folder)}})
    environment = {
        **os.environ,
        "COURSE_WORKSPACE": str(folder),
        "GRADER_PROGRESS": str(folder / FOLDER / "progress.sqlite"),
        # Pictures are drawn into the notebook whatever backend the caller's environment names.
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    executed = folder / lesson.notebook_name
    started = time.monotonic()
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise LessonRunError(f"{lesson.id}: a cell stopped with {error.ename}: {error.evalue}\n{error}") from error
    finally:
        nbformat.write(notebook, executed)
    minutes = (time.monotonic() - started) / 60
    standings = Progress(folder / FOLDER / "progress.sqlite").standings()
    statuses = {
        exercise.id: standings[exercise.id].status if exercise.id in standings else "todo"
        for _, exercise in catalogue.exercises(lesson)
    }
    return LessonRun(lesson, minutes, statuses, executed)
