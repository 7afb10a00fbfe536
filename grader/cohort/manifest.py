"""What a lesson's released notebook holds: which cells are ours, which are to be written, and what they are worth.

Test ids, points and order come from here, never from a submission.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import cached_property

from grader.build import build_lesson
from grader.catalogue import Catalogue
from grader.exercise import Exercise
from grader.notebook_format import nbformat
from grader.source import squeeze, stub
from grader.syllabus import Lesson
from grader.syntax_tree import syntax_tree

_DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class ReleasedCell:
    """One cell as released. definitions: its imports, functions and classes alone, which grading runs; may be empty."""

    id: str
    is_code: bool
    source: str
    definitions: str = ""


@dataclass(frozen=True)
class Manifest:
    """One lesson as released. digest: changes whenever the notebook or the points do."""

    lesson: Lesson
    cells: tuple[ReleasedCell, ...]
    exercises: tuple[Exercise, ...]
    stubs: dict[str, str]
    digest: str

    @cached_property
    def released_code(self) -> dict[str, ReleasedCell]:
        """The code cells by their source without white space."""
        return {squeeze(cell.source): cell for cell in reversed(self.cells) if cell.is_code}

    @cached_property
    def squeezed_stubs(self) -> dict[str, str]:
        """Exercise id -> its stub without white space."""
        return {exercise_id: squeeze(text) for exercise_id, text in self.stubs.items()}

    def exercise_of_cell(self, identity: str) -> Exercise | None:
        """The exercise whose answer belongs into the cell of that id."""
        return next((exercise for exercise in self.exercises if exercise.id == identity), None)

    def is_check(self, identity: str) -> bool:
        """Whether the cell of that id is a locked check cell."""
        return any(identity == f"{exercise.id}-check" for exercise in self.exercises)


def read_manifest(catalogue: Catalogue, lesson: Lesson) -> Manifest:
    """The manifest of a lesson, from its source."""
    text = build_lesson(catalogue, lesson)
    exercises = tuple(exercise for _, exercise in catalogue.exercises(lesson))
    cells = tuple(
        ReleasedCell(cell.id, cell.cell_type == "code", cell.source, _definitions(cell))
        for cell in nbformat.reads(text, as_version=4).cells
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Manifest(lesson, cells, exercises, {exercise.id: stub(exercise) for exercise in exercises}, digest)


def _definitions(cell: nbformat.NotebookNode) -> str:
    if cell.cell_type != "code" or "nbgrader" in cell.metadata:
        return ""
    tree = syntax_tree(cell.source)
    kept = [
        node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, *_DEFINING)) and not _is_ours(node)
    ]
    return "\n".join(ast.unparse(node) for node in kept)


def _is_ours(node: ast.stmt) -> bool:
    """`from grader import check ...`: what a child has in its place is put there by the sandbox."""
    return (
        isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "grader" and node.module != "grader"
    )


def same_text(left: str, right: str) -> bool:
    """Equal but for white space, as an editor or a line-ending conversion may leave it."""
    return squeeze(left) == squeeze(right)


def preload(manifest: Manifest) -> list[str]:
    """Import statements of the released notebook: what a warm parent should have loaded."""
    return [cell.definitions for cell in manifest.cells if cell.definitions]
