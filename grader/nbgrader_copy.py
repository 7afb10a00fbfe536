"""The executed copy of a submission, for people to read in formgrader and in feedback.

The learner's cells in their order, each answer cell under its nbgrader name, and each check cell as released, exactly
once, with the result card as its output. Outputs that were handed in are left out: whatever stands below a cell comes
from the official run. Prose that is not the lesson's is shown as it was typed: formgrader and feedback would run its
HTML in the browser of whoever reads it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output, new_raw_cell

from grader.cohort.manifest import Manifest, same_text, squeeze
from grader.cohort.result import SubmissionResult
from grader.cohort.submission import (
    LARGEST_CELL_CHARACTERS,
    MOST_CELLS,
    Submission,
    UnreadableError,
    plain_text,
    read_submission,
)
from grader.exercise import Exercise
from grader.result import Result
from grader.show import result_card

_SAFE_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MAKE = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}


@dataclass(frozen=True)
class _Cell:
    identity: str
    grade_id: str
    kind: str
    source: str

    def is_called(self, name: str) -> bool:
        return name in (self.identity, self.grade_id)


def executed_copy(data: bytes, released: str, manifest: Manifest, result: SubmissionResult) -> str:
    """The copy's text. released: the lesson's notebook. What cannot be read shows the released cells instead."""
    notebook = nbformat.reads(released, as_version=4)
    try:
        submission = read_submission(data, manifest)
    except UnreadableError:
        submission = Submission("", (), {})
    cells = _whole_cells(data) or _pieced_together(submission, notebook)
    notebook.cells = _Copy(notebook.cells, manifest, submission).made_of(cells)
    results = {f"{each.exercise_id}-check": each for each in result.results}
    exercises = {exercise.id: exercise for exercise in manifest.exercises}
    for cell in notebook.cells:
        if cell.id in results:
            cell.outputs = [_card(results[cell.id], exercises[results[cell.id].exercise_id])]
    return nbformat.writes(notebook, sort_keys=True) + "\n"


def verbatim(text: str) -> str:
    """Markdown that shows a text as it is: a block of code, fenced by more backticks than the text has in a row."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


class _Copy:
    """One copy being put together."""

    def __init__(self, released: list[NotebookNode], manifest: Manifest, submission: Submission) -> None:
        self.released, self.manifest, self.submission = released, manifest, submission
        self.ours = {cell.id: cell for cell in released if "nbgrader" in cell.metadata}
        self.prose = {squeeze(cell.source): cell.source for cell in released if cell.cell_type == "markdown"}
        self.cells: list[NotebookNode] = []
        self.used: set[str] = set()

    def made_of(self, cells: list[_Cell]) -> list[NotebookNode]:
        answers = self._answer_positions(cells)
        for position, cell in enumerate(cells):
            if position in answers:
                self._add(self._ours(answers[position], cell.source))
                continue
            check = next((name for name in self.ours if cell.is_called(name) and self.manifest.is_check(name)), "")
            if not check or not same_text(cell.source, self.ours[check].source):
                self._add(self._own(cell, position))
            if check and check not in self.used:
                self._add(self._ours(check))
        for name in self.ours:
            if name not in self.used:
                self._add(self._ours(name), self._place_of(name))
        return self.cells

    def _answer_positions(self, cells: list[_Cell]) -> dict[int, str]:
        """Position -> exercise, of the cell that was judged, or else of the last one that is called so."""
        found: dict[int, str] = {}
        for exercise in self.manifest.exercises:
            name = self.submission.answers.get(exercise.id)
            called = [i for i, cell in enumerate(cells) if cell.is_called(exercise.id)]
            if name is not None and name != exercise.id:
                called = [i for i, cell in enumerate(cells) if name in (cell.identity, f"number {i + 1}")]
            elif name is not None:
                stub = self.manifest.stubs[exercise.id]
                called = [i for i in called if cells[i].source.strip() and not same_text(cells[i].source, stub)]
            if called and called[-1] not in found:
                found[called[-1]] = exercise.id
        return found

    def _add(self, cell: NotebookNode, position: int | None = None) -> None:
        self.cells.insert(len(self.cells) if position is None else position, cell)
        self.used.add(cell.id)

    def _ours(self, name: str, source: str | None = None) -> NotebookNode:
        metadata = self.ours[name].metadata
        return new_code_cell(self.ours[name].source if source is None else source, id=name, metadata=metadata)

    def _own(self, cell: _Cell, position: int) -> NotebookNode:
        taken = self.used | set(self.ours)
        free = _SAFE_ID.fullmatch(cell.identity) and cell.identity not in taken and not cell.identity.startswith("own-")
        make, source = _MAKE.get(cell.kind, new_code_cell), cell.source
        if make is new_markdown_cell:
            source = self.prose.get(squeeze(source)) or verbatim(source)
        return make(source, id=cell.identity if free else f"own-{position + 1}")

    def _place_of(self, name: str) -> int:
        """Behind the nearest cell that comes before it in the released notebook."""
        before = [cell.id for cell in self.released]
        for earlier in reversed(before[: before.index(name)]):
            for position, cell in enumerate(self.cells):
                if cell.id == earlier:
                    return position + 1
        return 0


def _whole_cells(data: bytes) -> list[_Cell]:
    """The cells of a file that is a notebook; none when it is damaged or of an older format."""
    try:
        found = json.loads(data)["cells"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return []
    return [_cell(cell) for cell in found[:MOST_CELLS] if isinstance(cell, dict)] if isinstance(found, list) else []


def _cell(cell: dict[str, Any]) -> _Cell:
    source = cell.get("source", "")
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    metadata = cell.get("metadata")
    own = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    names = [cell.get("id"), own.get("grade_id") if isinstance(own, dict) else "", cell.get("cell_type"), source]
    identity, grade_id, kind, text = (plain_text(each) if isinstance(each, str) else "" for each in names)
    if len(text) > LARGEST_CELL_CHARACTERS:
        text = f"# This cell has {len(text):,} characters; it was passed over."
    return _Cell(identity, grade_id, kind, text.replace("\r\n", "\n").replace("\r", "\n"))


def _pieced_together(submission: Submission, released: NotebookNode) -> list[_Cell]:
    """The released cells with the answers that could be read, and then the learner's other cells."""
    answers = {cell.answer_of: cell.source for cell in submission.cells if cell.answer_of}
    cells = [
        _Cell(cell.id, "", cell.cell_type, plain_text(answers.get(cell.id, cell.source))) for cell in released.cells
    ]
    others = [cell for cell in submission.cells if not cell.answer_of and not cell.released]
    return cells + [_Cell(cell.name, "", "code", plain_text(cell.source)) for cell in others]


def _card(result: Result, exercise: Exercise) -> NotebookNode:
    card = result_card(result, library_note=exercise.library_note, interview=exercise.interview)
    return new_output("display_data", {"text/html": card.html(), "text/plain": card.text()})
