"""A ready nbgrader course folder from the lessons: configuration, source, release and gradebook.

nbgrader's own API does the releasing. Cells of an assignment that has submissions are for ever: nbgrader hangs every
score on them, so a change is refused here, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.apps.api import NbGraderAPI
from traitlets.config import PyFileConfigLoader

from grader.build import build_lesson, write_atomically
from grader.catalogue import Catalogue
from grader.nbgrader_gradebook import (
    LOCKED,
    CourseFolderError,
    GradedCell,
    commands_on_path,
    count_submissions,
    gradebook_cells,
    quiet,
)
from grader.syllabus import Lesson

CONFIG_FILE = "nbgrader_config.py"
PREPROCESSORS = "[LockCells, ClearOutput, CheckCellMetadata, ComputeChecksums, SaveCells]"
CONFIG = f'''"""nbgrader's settings for this course."""

from nbgrader.preprocessors import CheckCellMetadata, ClearOutput, ComputeChecksums, LockCells, SaveCells

c = get_config()
c.CourseDirectory.course_id = "{{course_id}}"
# The lessons hold stubs and no solutions: nbgrader's ClearSolutions would replace the stubs, so it is left out.
c.GenerateAssignment.preprocessors = {PREPROCESSORS}
# Seconds that one cell may take under `nbgrader autograde`: lessons train models.
c.Execute.timeout = 1800
'''


@dataclass(frozen=True)
class Made:
    """What became of one lesson. state: made, updated, unchanged or refused; reason: why it was refused."""

    assignment: str
    state: str
    reason: str = ""


def make_course(
    catalogue: Catalogue,
    folder: Path,
    lessons: Sequence[str] = (),
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[Made]:
    """Make the course folder, or bring it up to date; without `lessons`, for all of them."""
    chosen = [catalogue.lesson(name) for name in lessons] or list(catalogue.course.lessons)
    folder = folder.resolve()
    config = folder / CONFIG_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not config.exists():
            write_atomically(config, CONFIG.format(course_id=re.sub(r"[^\w-]+", "_", folder.name)))
    except OSError as error:
        raise CourseFolderError(f"{folder} cannot be written: {error}. Name another folder.") from error
    course = open_course(folder)
    _require_stubs_kept(course, config)
    made = []
    for lesson in chosen:
        on_progress(assignment_name(lesson))
        made.append(_make(course, catalogue, lesson))
    return made


def open_course(folder: Path) -> NbGraderAPI:
    """nbgrader's API for an existing course folder."""
    folder = folder.resolve()
    if not (folder / CONFIG_FILE).is_file():
        raise CourseFolderError(f"{folder} is no nbgrader course: it has no {CONFIG_FILE}. Make one: `grader nbgrader`")
    try:
        config = PyFileConfigLoader(CONFIG_FILE, path=str(folder)).load_config()
    except Exception as error:  # The file is Python and belongs to the instructor.
        raise CourseFolderError(f"{folder / CONFIG_FILE} cannot be read: {error!r}. Mend it.") from error
    config.CourseDirectory.root = str(folder)
    with quiet("traitlets"):  # It looks for an exchange folder, which grading does without.
        return NbGraderAPI(config=config)


def assignment_name(lesson: Lesson) -> str:
    """`l07_lora` -> `07_lora`: the assignment's name and its notebook's."""
    return lesson.notebook_name.removesuffix(".ipynb")


def graded_cells(notebook: NotebookNode) -> dict[str, GradedCell]:
    """grade_id -> cell, of a lesson's notebook."""
    found = {}
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            points = cell.metadata.nbgrader.get("points")
            found[cell.metadata.nbgrader.grade_id] = GradedCell(cell.source, points)
    return found


def differences(old: dict[str, GradedCell], new: dict[str, GradedCell], *, texts: bool) -> list[str]:
    """What became of cells between two versions, in words. texts: whether a cell's text counts."""
    found = [f"{name} is gone" for name in old if name not in new]
    found += [f"{name} is new" for name in new if name not in old]
    for name in (name for name in old if name in new):
        if old[name].points != new[name].points:
            found.append(f"{name} was worth {_points(old[name])} and is worth {_points(new[name])}")
        elif texts and old[name].source != new[name].source:
            found.append(f"the text of {name} has changed")
    return found


def _make(course: NbGraderAPI, catalogue: Catalogue, lesson: Lesson) -> Made:
    assignment = assignment_name(lesson)
    text = build_lesson(catalogue, lesson)
    source = Path(course.coursedir.format_path(course.coursedir.source_directory, ".", assignment))
    release = Path(course.coursedir.format_path(course.coursedir.release_directory, ".", assignment))
    file, released = source / lesson.notebook_name, release / lesson.notebook_name
    known, wanted = gradebook_cells(course, assignment), nbformat.reads(text, as_version=4)
    changes = differences(known or {}, graded_cells(wanted), texts=True)
    if known is not None and not changes and _text_of(file) == text and _same_cells(released, wanted):
        return Made(assignment, "unchanged")
    handed_in = count_submissions(course, assignment)
    if known is not None and handed_in and changes:
        reason = (
            f"{assignment} has {handed_in} submissions, and scores hang on its cells: {'; '.join(changes)}. Grade it "
            "with the version of the course that it was released from, and release the new one in a new folder."
        )
        return Made(assignment, "refused", reason)
    try:
        source.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text)
    except OSError as error:
        raise CourseFolderError(
            f"{file} cannot be written: {error}. Make room and run the same command again."
        ) from error
    with commands_on_path(), quiet("tornado.application"):
        outcome = course.generate_assignment(assignment)
    if not outcome["success"]:
        raise CourseFolderError(_why(assignment, outcome))
    return Made(assignment, "made" if known is None else "updated")


def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _same_cells(released: Path, wanted: NotebookNode) -> bool:
    """Whether a release holds these cells; a run that was stopped may have left an older one."""
    try:
        cells = nbformat.read(released, as_version=4).cells
    except (OSError, ValueError):
        return False
    return [(cell.id, cell.source) for cell in cells] == [(cell.id, cell.source) for cell in wanted.cells]


def _require_stubs_kept(course: NbGraderAPI, config: Path) -> None:
    preprocessors = course.config.GenerateAssignment.get("preprocessors")
    if not preprocessors or any("ClearSolutions" in str(each) for each in preprocessors):
        raise CourseFolderError(
            f"{config} lets nbgrader's ClearSolutions replace the stubs of the exercises. Put this line into it, "
            f"or remove the file: c.GenerateAssignment.preprocessors = {PREPROCESSORS}"
        )


def _why(assignment: str, outcome: dict[str, str]) -> str:
    told = f"{outcome.get('log', '')}\n{outcome['error']}"
    if LOCKED in told:
        return (
            f"the gradebook is locked by another program. Close formgrader and run the same command again: {assignment}"
        )
    return f"nbgrader could not make {assignment}:\n{told.strip()[-1500:]}"


def _points(cell: GradedCell) -> str:
    return "no points" if cell.points is None else f"{cell.points:g} points"
