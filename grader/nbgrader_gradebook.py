"""nbgrader's gradebook: what it knows of an assignment's cells, and patience while another program holds it."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nbgrader.api import Gradebook, InvalidEntry, MissingEntry
from nbgrader.apps.api import NbGraderAPI
from sqlalchemy.exc import SAWarning, SQLAlchemyError

LOCKED = "database is locked"
FULL = "database or disk is full"
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.2

T = TypeVar("T")


class CourseFolderError(RuntimeError):
    """An nbgrader course folder that cannot be made or used; says why and what to do."""


@dataclass(frozen=True)
class GradedCell:
    """One cell that scores or comments hang on. points: None for an answer cell."""

    source: str
    points: float | None


def gradebook_cells(course: NbGraderAPI, assignment: str) -> dict[str, GradedCell] | None:
    """grade_id -> cell, as the gradebook has it; None when it does not know the assignment."""

    def read() -> dict[str, GradedCell] | None:
        with open_gradebook(course) as gradebook:
            try:
                notebook = gradebook.find_notebook(assignment, assignment)
            except MissingEntry:
                return None
            points = {cell.name: cell.max_score for cell in notebook.grade_cells}
            return {cell.name: GradedCell(cell.source, points.get(cell.name)) for cell in notebook.source_cells}

    return patiently(read)


def count_submissions(course: NbGraderAPI, assignment: str) -> int:
    """Students whose submission lies in the folder or stands in the gradebook."""

    def read() -> set[str]:
        with open_gradebook(course) as gradebook:
            return {submission.student_id for submission in gradebook.assignment_submissions(assignment)}

    return len(course.get_submitted_students(assignment) | patiently(read))


def open_gradebook(course: NbGraderAPI) -> Gradebook:
    """The gradebook, made if there is none; use as a context manager."""
    with commands_on_path():
        return course.gradebook


def patiently(action: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """Do it, again and again while another program holds the gradebook; SQLite has one writer.

    sqlite3 waits five seconds of its own each time. Raises CourseFolderError.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            # nbgrader logs a traceback for each try that fails, and SQLAlchemy has advice for nbgrader's authors.
            with quiet("tornado.application"), warnings.catch_warnings():
                warnings.simplefilter("ignore", SAWarning)
                return action()
        except (SQLAlchemyError, InvalidEntry) as error:
            if FULL in str(error):
                raise CourseFolderError(
                    "the disk of the gradebook is full. Make room and run the same command again: "
                    "what was graded is kept."
                ) from error
            if LOCKED not in str(error):
                raise CourseFolderError(f"the gradebook cannot be used: {error}") from error
            if time.monotonic() >= end:
                raise CourseFolderError(
                    "the gradebook is locked by another program, formgrader perhaps. Nothing is lost: close that "
                    "program and run the same command again."
                ) from error
        time.sleep(PAUSE_SECONDS)


@contextmanager
def commands_on_path() -> Iterator[None]:
    """nbgrader makes a database with the command `alembic`, which stands beside the interpreter."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Nothing is logged under this name: what matters is raised, and told once."""
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
