"""Lessons -> notebooks, the same to the byte on every build.

A lesson is a percent-format Python file. jupytext reads it; each `# %% exercise="stem"` marker becomes a heading, the
stub and its check cell, with nbgrader's metadata (schema 3). Cell ids are set here, because jupytext draws random ones:
the id of an exercise's answer cell is the exercise's id, for ever.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from grader.catalogue import Catalogue
from grader.exercise import Exercise
from grader.notebook_format import jupytext, nbformat
from grader.source import answer_source, stub
from grader.syllabus import Lesson

NBGRADER_SCHEMA = 3


class BuildError(ValueError):
    """A lesson that cannot be built; says which file and what to change."""


@dataclass(frozen=True)
class Staleness:
    """A committed notebook that differs from its rebuild."""

    path: Path
    missing: bool


def notebook_path(catalogue: Catalogue, lesson: Lesson) -> Path:
    """Where the learner's notebook of a lesson is committed."""
    return catalogue.course.root / "notebooks" / lesson.notebook_name


def build_lesson(catalogue: Catalogue, lesson: Lesson, *, answers: bool = False) -> str:
    """The notebook's text. answers: fill each stub with the reference (for running the lesson, never for learners)."""
    file = catalogue.lesson_file(lesson)
    if not file.exists():
        raise BuildError(f"{file}: the lesson has no source; write it or take {lesson.id} off the syllabus")
    parsed = jupytext.reads(file.read_text(encoding="utf-8"), fmt="py:percent")
    prefix = lesson.id.split("_")[0]
    cells: list[nbformat.NotebookNode] = []
    numbers = {"markdown": 0, "code": 0}
    for cell in parsed.cells:
        stem = cell.metadata.get("exercise")
        if stem is not None:
            if cell.source.strip():
                raise BuildError(f"{file}: the marker cell of {stem!r} holds code, which would be lost; leave it empty")
            cells += _exercise_cells(_load(catalogue, lesson, stem, file), answers)
            continue
        numbers[cell.cell_type] += 1
        identity = f"{prefix}-{'prose' if cell.cell_type == 'markdown' else 'demo'}-{numbers[cell.cell_type]:02d}"
        make = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
        cells.append(make(cell.source, id=identity))
    if not cells or cells[0].cell_type != "markdown":
        raise BuildError(f"{file}: start the lesson with a markdown cell that holds its title")
    source = file.relative_to(catalogue.course.root).as_posix()
    cells[
        0
    ].source = f"<!-- Built from {source} by `grader build`: edit that file, not this one. -->\n{cells[0].source}"
    identities = [cell.id for cell in cells]
    twice = sorted({identity for identity in identities if identities.count(identity) > 1})
    if twice:
        raise BuildError(f"{file}: two cells are called {twice[0]}; mark each exercise once")
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata = {
        "grader": {"lesson": lesson.id},
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(notebook)
    return nbformat.writes(notebook, sort_keys=True) + "\n"


def _load(catalogue: Catalogue, lesson: Lesson, stem: str, file: Path) -> Exercise:
    stems = catalogue.stems(lesson)
    if stem not in stems:
        raise BuildError(f"{file}: marker for {stem!r}, but the lesson's exercises are {', '.join(stems) or 'none'}")
    return catalogue.load(lesson, stem)


def _exercise_cells(exercise: Exercise, answers: bool) -> list[nbformat.NotebookNode]:
    extension = " · extension" if exercise.importance == "extension" else ""
    points = "1 point" if exercise.points == 1 else f"{exercise.points} points"
    heading = (
        f"### Exercise: {exercise.title}\n\n"
        f"*{exercise.difficulty}{extension} · about {exercise.minutes} minutes · {points}*"
    )
    return [
        nbformat.v4.new_markdown_cell(heading, id=f"{exercise.id}-task"),
        nbformat.v4.new_code_cell(
            answer_source(exercise) if answers else stub(exercise),
            id=exercise.id,
            metadata={"nbgrader": _nbgrader(exercise.id, solution=True)},
        ),
        nbformat.v4.new_code_cell(
            f"check({exercise.answer_name})",
            id=f"{exercise.id}-check",
            metadata={"nbgrader": _nbgrader(f"{exercise.id}-check", points=exercise.points)},
        ),
    ]


def _nbgrader(grade_id: str, *, solution: bool = False, points: int | None = None) -> dict[str, object]:
    metadata: dict[str, object] = {
        "grade": points is not None,
        "grade_id": grade_id,
        "locked": points is not None,
        "schema_version": NBGRADER_SCHEMA,
        "solution": solution,
        "task": False,
    }
    return metadata if points is None else metadata | {"points": points}


def build_all(catalogue: Catalogue) -> list[Path]:
    """Write every lesson's notebook; returns the paths that changed."""
    changed = []
    for lesson in catalogue.course.lessons:
        path, text = notebook_path(catalogue, lesson), build_lesson(catalogue, lesson)
        if not path.exists() or path.read_bytes() != text.encode():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
            changed.append(path)
    return changed


def stale_notebooks(catalogue: Catalogue) -> list[Staleness]:
    """Committed notebooks that differ from their rebuild, or belong to no lesson."""
    stale = []
    expected = set()
    for lesson in catalogue.course.lessons:
        path = notebook_path(catalogue, lesson)
        expected.add(path)
        if not path.exists() or path.read_bytes() != build_lesson(catalogue, lesson).encode():
            stale.append(Staleness(path, missing=not path.exists()))
    folder = catalogue.course.root / "notebooks"
    return stale + [Staleness(path, False) for path in sorted(folder.glob("*.ipynb")) if path not in expected]


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step: whoever reads it sees the old text or the new, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
