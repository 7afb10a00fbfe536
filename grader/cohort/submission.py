"""A handed-in notebook read as data: which cells to run, where each answer is, and what had to be mended.

Nothing here runs, and the file is never changed. Points, ids and order in its metadata count for nothing: a cell is
recognised by its id, then by its nbgrader name, then by the text or the function that it holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from grader.cohort.manifest import Manifest
from grader.exercise import Exercise
from grader.source import answer_source, squeeze

LARGEST_BYTES = 100 * 2**20
LARGEST_CELL_CHARACTERS = 200_000
LARGEST_CODE_CHARACTERS = 2_000_000  # All cells together are parsed here; outputs and pictures are not.
MOST_CELLS = 2_000
LONGEST_NAME = 64  # As nbformat allows for a cell's id.


class UnreadableError(ValueError):
    """A file that holds no notebook of this lesson; says what it is and what to hand in instead."""


@dataclass(frozen=True)
class RunCell:
    """One cell to run, of a name that no other cell of the submission has.

    answer_of: the exercise whose answer it holds, "" for helpers and the learner's own cells.
    """

    name: str
    source: str
    answer_of: str = ""
    released: bool = False


@dataclass(frozen=True)
class Submission:
    """What is to be run and judged.

    answers: exercise id -> name of the cell that holds its answer; an exercise that is absent was not started.
    repairs: what was damaged and how it was read all the same, in sentences.
    """

    sha256: str
    cells: tuple[RunCell, ...]
    answers: dict[str, str]
    repairs: tuple[str, ...] = ()


@dataclass
class _Raw:
    """One cell of the file, with only what is believed of it."""

    identity: str
    grade_id: str
    kind: str
    source: str

    @cached_property
    def squeezed(self) -> str:
        """Its source without white space, as an editor or a line-ending conversion may change it."""
        return squeeze(self.source)


@dataclass
class _Reading:
    cells: list[RunCell] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    repairs: list[str] = field(default_factory=list)


def read_submission(data: bytes, manifest: Manifest) -> Submission:
    """Read a notebook file; raises UnreadableError."""
    repairs: list[str] = []
    raw = _cells(data, manifest, repairs)
    _require_code_to_be_short(raw, manifest)
    reading = _Reading(repairs=repairs)
    claimed = _claim(raw, manifest, reading)
    for position, cell in enumerate(raw):
        _read_cell(position, cell, claimed.get(position, ""), manifest, reading)
    for exercise in manifest.exercises:
        if exercise.id not in reading.answers:
            _look_elsewhere(exercise.id, exercise.answer_name, reading)
    digest = hashlib.sha256(data).hexdigest()
    return Submission(digest, tuple(reading.cells), reading.answers, tuple(reading.repairs))


def _cells(data: bytes, manifest: Manifest, repairs: list[str]) -> list[_Raw]:
    if not data.strip():
        raise UnreadableError("the file is empty; hand in the notebook itself")
    if len(data) > LARGEST_BYTES:
        size = f"{len(data) / 2**20:.0f} MB"
        raise UnreadableError(f"the file has {size}, over {LARGEST_BYTES // 2**20} MB; clear its outputs and save it")
    notebook = _parse(data, repairs)
    found = notebook.get("cells")
    if found is None and isinstance(notebook.get("worksheets"), list):  # nbformat 3
        sheets = [_dict(sheet).get("cells") for sheet in notebook["worksheets"]]
        found = [cell for cells in sheets if isinstance(cells, list) for cell in cells]
    if not isinstance(found, list):
        raise UnreadableError("the file is JSON but no notebook: it has no list of cells")
    metadata = notebook.get("metadata")
    lesson = _name(_dict(_dict(metadata).get("grader")).get("lesson"))
    if len(found) > MOST_CELLS:
        repairs.append(f"the file has {len(found):,} cells; its first {MOST_CELLS:,} were read")
        found = found[:MOST_CELLS]
    raw = [_raw(cell) for cell in found if isinstance(cell, dict)]
    if len(raw) < len(found):
        repairs.append(f"{len(found) - len(raw)} entries of the file are no cells and were passed over")
    if lesson and lesson != manifest.lesson.id and not _mentions(raw, manifest):
        raise UnreadableError(
            f"this is the notebook of lesson {lesson}, and {manifest.lesson.id} is being graded; "
            f"hand in {manifest.lesson.notebook_name}"
        )
    return raw


def _require_code_to_be_short(raw: list[_Raw], manifest: Manifest) -> None:
    code = [cell for cell in raw if cell.kind == "code" or _mentions([cell], manifest)]
    # A cell that is too long by itself is passed over, and so does not count.
    sizes = [len(cell.source) for cell in code if len(cell.source) <= LARGEST_CELL_CHARACTERS]
    if sum(sizes) > LARGEST_CODE_CHARACTERS:
        raise UnreadableError(
            f"its code cells hold {sum(sizes):,} characters, over {LARGEST_CODE_CHARACTERS:,}; take out data that was "
            "pasted into code cells and hand it in again (outputs and pictures may stay)"
        )


def _mentions(raw: list[_Raw], manifest: Manifest) -> bool:
    known = {exercise.id for exercise in manifest.exercises}
    return any(cell.identity in known or cell.grade_id in known for cell in raw)


def _parse(data: bytes, repairs: list[str]) -> dict[str, Any]:
    try:
        text = data.decode(json.detect_encoding(data)).lstrip("\ufeff")
    except UnicodeDecodeError:
        if b"\x00" in data[:1024]:
            raise UnreadableError("the file is binary data, not a notebook") from None
        text = data.decode("latin-1")
        repairs.append("the file is not UTF-8; it was read as Latin-1")
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError, SystemError) as error:
        return {"cells": _salvage(text, error, repairs)}
    if not isinstance(notebook, dict):
        raise UnreadableError(f"the file is JSON but no notebook: it holds a {type(notebook).__name__}")
    return notebook


def _salvage(text: str, error: Exception, repairs: list[str]) -> list[Any]:
    """The whole cells at the start of a file that breaks off or turns to noise."""
    start = re.search(r'"cells"\s*:\s*\[', text)
    if start is None:
        raise UnreadableError(f"the file is no notebook: {str(error)[:200]}")
    decoder, position, cells = json.JSONDecoder(), start.end(), []
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        try:
            cell, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError, SystemError):
            break
        cells.append(cell)
    if not cells:
        raise UnreadableError(f"the file is a damaged notebook without one whole cell: {str(error)[:200]}")
    repairs.append(f"the file is damaged ({str(error)[:120]}); its first {len(cells)} cells were read")
    return cells


def _raw(cell: dict[str, Any]) -> _Raw:
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    grade_id = _name(_dict(_dict(cell.get("metadata")).get("nbgrader")).get("grade_id"))
    text = plain_text(_text(source)).replace("\r\n", "\n").replace("\r", "\n")
    return _Raw(_name(cell.get("id")), grade_id, _name(cell.get("cell_type")), text)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _name(value: Any) -> str:
    """A name as a person may see it: short, and without what moves a terminal's cursor or no file can hold."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in _text(value)[:LONGEST_NAME])


def plain_text(text: str) -> str:
    """Without the halves of characters that neither a file nor a database takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _claim(raw: list[_Raw], manifest: Manifest, reading: _Reading) -> dict[int, str]:
    """Position of each answer cell -> its exercise. Of several claimants: changed before blank, then the last."""
    claimed: dict[int, str] = {}
    for exercise in manifest.exercises:
        own = [i for i, cell in enumerate(raw) if exercise.id in (cell.identity, cell.grade_id)]
        blank = ("", manifest.squeezed_stubs[exercise.id])
        changed = [i for i in own if raw[i].squeezed not in blank]
        if len(own) > 1:
            reading.repairs.append(f"{len(own)} cells are called {exercise.id}; the last one with an answer was taken")
        if changed:
            claimed[changed[-1]] = exercise.id
    return claimed


def _read_cell(position: int, cell: _Raw, answer_of: str, manifest: Manifest, reading: _Reading) -> None:
    name = answer_of or _free_name(position, cell, manifest, reading)
    if len(cell.source) > LARGEST_CELL_CHARACTERS:
        reading.repairs.append(f"cell {name} has {len(cell.source):,} characters and was passed over")
        return
    if answer_of:
        if cell.kind != "code":
            reading.repairs.append(f"the answer cell {name} is a {cell.kind or 'nameless'} cell; it was read as code")
        reading.answers[answer_of] = name
        reading.cells.append(RunCell(name, cell.source, answer_of))
        return
    if cell.kind != "code" or cell.squeezed in ("", *manifest.squeezed_stubs.values()):
        return
    released = manifest.released_code.get(cell.squeezed)
    if released is not None:
        if released.definitions:
            reading.cells.append(RunCell(name, released.definitions, released=True))
        return
    if manifest.is_check(cell.identity) or manifest.is_check(cell.grade_id):
        reading.repairs.append(f"the check cell {name} was changed; it decides nothing")
    reading.cells.append(RunCell(name, cell.source))


def _free_name(position: int, cell: _Raw, manifest: Manifest, reading: _Reading) -> str:
    """Its id, unless another cell is called so: the cell that is judged must be the one that is run.

    A name with a space is one of ours, `number 3` or `our scaled_sum`; no id has one.
    """
    taken = {"", *manifest.stubs, *(each.name for each in reading.cells)}
    return f"number {position + 1}" if cell.identity in taken or " " in cell.identity else cell.identity


def _look_elsewhere(exercise_id: str, answer_name: str, reading: _Reading) -> None:
    """An answer whose own cell is gone or blank may stand in another cell of the learner's."""
    defines = re.compile(rf"^(async def|def|class)\s+{answer_name}\b|^{answer_name}\s*=", re.MULTILINE)
    found = [cell for cell in reading.cells if not cell.released and defines.search(cell.source)]
    if found:
        reading.answers[exercise_id] = found[-1].name
        reading.repairs.append(f"the answer to {exercise_id} was found in cell {found[-1].name}")


def with_parts(submission: Submission, exercise: Exercise, unsolved: Sequence[Exercise]) -> Submission:
    """The submission with our answer in the place of each unsolved part that the answer to `exercise` builds upon.

    At the desk `use("...")` hands out our part where the learner's own has not passed, so that one mistake is paid for
    once. The same submission comes back when its answer names no such part.
    """
    own = {cell.name: cell.source for cell in submission.cells if not cell.released}
    source = own.get(submission.answers.get(exercise.id, ""), "")
    parts = [part for part in unsolved if re.search(rf"\b{part.answer_name}\b", source)]
    if not parts:
        return submission
    replaced = {submission.answers.get(part.id) for part in parts} - {submission.answers[exercise.id]}
    given = [RunCell(f"our {part.answer_name}", answer_source(part)) for part in parts]
    cells = [cell for cell in submission.cells if cell.name not in replaced]
    return replace(submission, cells=(*given, *cells))
