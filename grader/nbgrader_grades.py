"""Grade an nbgrader course: submissions are judged as by `grader grade`, then one process writes the gradebook.

What an instructor gave by hand, scores and comments, is never touched. Writing again what stands there changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from nbgrader.api import Gradebook
from nbgrader.apps.api import NbGraderAPI
from nbgrader.utils import parse_utc

from grader.build import build_lesson, write_atomically
from grader.catalogue import Catalogue
from grader.cohort.collect import Handed, read_plain_file
from grader.cohort.grading import Grader
from grader.cohort.manifest import Manifest, read_manifest
from grader.cohort.receipt import write_receipts
from grader.cohort.regrade import Change, Regrading
from grader.cohort.result import SubmissionResult
from grader.cohort.run import Graded, grade_all, processors
from grader.cohort.store import ResultStore
from grader.nbgrader_copy import executed_copy, verbatim
from grader.nbgrader_course import assignment_name, differences, open_course
from grader.nbgrader_gradebook import (
    PATIENCE_SECONDS,
    CourseFolderError,
    GradedCell,
    gradebook_cells,
    open_gradebook,
    patiently,
)
from grader.result import Result
from grader.sandbox.isolation import Limits
from grader.syllabus import Lesson

RESULTS_FOLDER = "grader_results"
TIMESTAMP_FILE = "timestamp.txt"
TIMESTAMP_BYTES = 100
# The exchange names a learner's feedback after it. nbgrader takes it from beside the executed copy.
SECRET_FILE = "submission_secret.txt"
SECRET_BYTES = 1_000


@dataclass(frozen=True)
class CourseGrades:
    """What came of grading an assignment. notes: what an instructor should know of single submissions.

    unwritten: learners whose scores could not be written, and why. changes: whose score differs because the checks
    changed. proposed: that they are not written, in no place.
    """

    results: list[SubmissionResult]
    notes: list[str]
    changes: list[Change]
    proposed: bool
    unwritten: list[str] = field(default_factory=list)


def grade_course(
    catalogue: Catalogue,
    folder: Path,
    lesson_name: str,
    *,
    results_folder: Path | None = None,
    workers: int | None = None,
    seed: int | None = None,
    limits: Limits | None = None,
    allow_weak: bool = False,
    apply: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
    on_progress: Callable[[str], None] = lambda _: None,
    on_done: Callable[[Graded], None] = lambda _: None,
) -> CourseGrades:
    """Grade all that lies under `submitted` and write scores, comments and executed copies; safe to run again.

    results_folder: where results and the seed are kept (default: in the course). apply: write also what changes only
    because the checks did. patience_seconds: how long to wait
    for a gradebook that another program holds.
    """
    lesson = catalogue.lesson(lesson_name)
    course = open_course(folder)
    _require_same_cells(course, read_manifest(catalogue, lesson))
    handed = find_submitted(course, lesson)
    store = ResultStore(results_folder or folder / RESULTS_FOLDER, lesson.id)
    secret = store.seed() if seed is None else seed
    with Grader(
        lesson.id, seed=secret, catalogue=catalogue, limits=limits, allow_weak=allow_weak, on_progress=on_progress
    ) as grader:
        regrading = Regrading.plan(store, grader.version, apply=apply)
        results = grade_all(grader, handed, regrading.target, workers=workers or processors(), on_done=on_done)
        manifest = grader.manifest
    changes = regrading.finish(results)
    if regrading.proposed:
        return CourseGrades(results, [], changes, proposed=True)
    store.write_table(results)
    write_receipts(store.root, store.folder, results)
    on_progress("writing the gradebook")
    writer = _Writer(course, manifest, build_lesson(catalogue, lesson), patience_seconds)
    notes, unwritten = writer.write(handed, results)
    return CourseGrades(results, notes, changes, proposed=False, unwritten=unwritten)


def find_submitted(course: NbGraderAPI, lesson: Lesson) -> list[Handed]:
    """One file per student with a folder for this assignment, whatever is in it: no student goes unmentioned."""
    assignment = assignment_name(lesson)
    found = []
    for student in sorted(course.get_submitted_students(assignment)):
        folder = _folder(course, course.coursedir.submitted_directory, student, assignment)
        path = folder / lesson.notebook_name
        others = sorted(folder.glob("*.ipynb"))
        found.append(Handed(student, others[0] if not path.exists() and len(others) == 1 else path))
    if not found:
        raise CourseFolderError(
            f"{course.coursedir.root} holds no submission of {assignment}: looked for "
            f"{course.coursedir.submitted_directory}/STUDENT/{assignment}. Collect them with `nbgrader collect` first."
        )
    return found


class _Writer:
    """Writes results into one course."""

    def __init__(self, course: NbGraderAPI, manifest: Manifest, released: str, patience_seconds: float) -> None:
        self.course, self.manifest, self.released = course, manifest, released
        self.patience_seconds = patience_seconds
        self.assignment = assignment_name(manifest.lesson)

    def write(self, handed: list[Handed], results: list[SubmissionResult]) -> tuple[list[str], list[str]]:
        """Everything; returns (notes, who could not be written and why)."""
        notes: list[str] = []
        unwritten: list[str] = []
        gradebook = patiently(lambda: open_gradebook(self.course), self.patience_seconds)
        with gradebook:
            for file, result in zip(handed, results, strict=True):
                try:
                    notes += [f"{file.learner}: {note}" for note in self._write_one(gradebook, file, result)]
                except CourseFolderError:
                    raise  # A full disk or a locked gradebook: it would be the same for the others.
                except Exception as error:  # What one learner handed in must not cost the others their scores.
                    unwritten.append(f"{file.learner}: not in the gradebook: {type(error).__name__}: {error}")
        return notes, unwritten

    def _write_one(self, gradebook: Gradebook, file: Handed, result: SubmissionResult) -> list[str]:
        try:
            data = file.read()
        except OSError:
            data = b""
        if result.sha256 and hashlib.sha256(data).hexdigest() != result.sha256:
            return ["the file changed while it was being graded: run the same command again"]
        folder = _folder(self.course, self.course.coursedir.submitted_directory, file.learner, self.assignment)
        text, time, notes = _timestamp(folder / TIMESTAMP_FILE)
        copies = _folder(self.course, self.course.coursedir.autograded_directory, file.learner, self.assignment)
        try:
            copies.mkdir(parents=True, exist_ok=True)
            copy = executed_copy(data, self.released, self.manifest, result)
            _write_if_changed(copies / self.manifest.lesson.notebook_name, copy)
            secret, secret_notes = _secret(folder / SECRET_FILE)
            for name, kept in ((TIMESTAMP_FILE, text), (SECRET_FILE, secret)):
                if kept is None:
                    (copies / name).unlink(missing_ok=True)
                else:
                    _write_if_changed(copies / name, kept)
        except OSError as error:
            raise CourseFolderError(
                f"{copies} cannot be written: {error}. Make room and run the same command again: what has been graded "
                "is kept."
            ) from error
        patiently(lambda: self._write_scores(gradebook, result, time), self.patience_seconds)
        return [*([result.problem] if result.problem else []), *result.repairs, *notes, *secret_notes]

    def _write_scores(self, gradebook: Gradebook, result: SubmissionResult, time: datetime | None) -> None:
        student, assignment = result.learner, self.assignment
        gradebook.db.rollback()  # Of an earlier try that met a lock.
        gradebook.update_or_create_student(student)
        gradebook.update_or_create_submission(assignment, student, timestamp=time)
        for number, each in enumerate(result.results):
            grade = gradebook.find_grade(f"{each.exercise_id}-check", assignment, assignment, student)
            broken = each.status == "broken"
            grade.auto_score = None if broken else each.points
            grade.needs_manual_grade = broken and grade.manual_score is None
            comment = gradebook.find_comment(each.exercise_id, assignment, assignment, student)
            comment.auto_comment = _comment(each, result.problem, () if number else result.repairs)
        gradebook.db.commit()


def _require_same_cells(course: NbGraderAPI, manifest: Manifest) -> None:
    assignment = assignment_name(manifest.lesson)
    known = gradebook_cells(course, assignment)
    again = f"`grader nbgrader {course.coursedir.root} --lesson {assignment}`"
    if known is None:
        raise CourseFolderError(f"the gradebook does not know {assignment}. Make it first: {again}")
    wanted = {exercise.id: GradedCell("", None) for exercise in manifest.exercises}
    wanted |= {f"{exercise.id}-check": GradedCell("", exercise.points) for exercise in manifest.exercises}
    changes = differences(known, wanted, texts=False)
    if changes:
        raise CourseFolderError(
            f"{assignment} has changed since it was released: {'; '.join(changes)}. Grade it with the version of the "
            f"course that it was released from; if nobody has handed it in, release it anew: {again}"
        )


def _folder(course: NbGraderAPI, step: str, student: str, assignment: str) -> Path:
    return Path(course.coursedir.format_path(step, student, assignment))


def _timestamp(path: Path) -> tuple[str | None, datetime | None, list[str]]:
    """(the file's text, the time, what is wrong with it): nbgrader's own mark of when it was handed in."""
    advice = "Remove it, or formgrader stumbles over it."
    try:
        text = _small_text(path, TIMESTAMP_BYTES)
    except FileNotFoundError:
        return None, None, []
    except (OSError, ValueError) as error:
        return None, None, [f"{TIMESTAMP_FILE} cannot be read: {error}. {advice}"]
    try:
        return text, parse_utc(text.strip()), []
    except Exception:  # dateutil lets through whatever its arithmetic raises.
        return None, None, [f"{TIMESTAMP_FILE} holds no time: {text[:40]!r}. {advice}"]


def _secret(path: Path) -> tuple[str | None, list[str]]:
    """(the file's text, what is wrong with it); None for a notebook that did not come through the exchange."""
    try:
        return _small_text(path, SECRET_BYTES), []
    except FileNotFoundError:
        return None, []
    except (OSError, ValueError) as error:
        return None, [f"{SECRET_FILE} cannot be read: {error}. Feedback cannot be released to this learner."]


def _small_text(path: Path, most_bytes: int) -> str:
    """Raises OSError, or ValueError for a file that is larger or holds no text."""
    data = read_plain_file(path, most_bytes)
    if len(data) > most_bytes:
        raise ValueError(f"it has over {most_bytes} bytes")
    return data.decode("utf-8")


def _comment(result: Result, problem: str, repairs: tuple[str, ...]) -> str:
    """nbgrader shows comments as Markdown; a learner's words in it stay words."""
    parts = [problem or result.message, *([f"Hint: {result.hint}"] if result.hint else []), *repairs]
    return verbatim("\n\n".join(parts))


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_bytes() != text.encode():
        write_atomically(path, text)
