"""What the exercises say of themselves, read from their source: importing them would load torch, which takes seconds.

One file that cannot be read costs its own exercise only, and is named.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from grader.catalogue import Catalogue
from grader.exercise import DeclarationError
from grader.syllabus import Lesson


@dataclass(frozen=True)
class Declaration:
    """The facts in `exercise = Exercise(...)`. id: also the id of the answer's notebook cell."""

    id: str
    title: str
    points: float
    minutes: int
    importance: str
    skills: tuple[str, ...]


class Declarations:
    """Reads a course's declarations, each file again only when it has changed."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._read: dict[Path, tuple[int, Declaration]] = {}

    def of(self, lesson: Lesson) -> tuple[tuple[Declaration, ...], tuple[str, ...]]:
        """(its exercises in order, one sentence for each file that cannot be read)."""
        found, problems = [], []
        try:
            stems = self.catalogue.stems(lesson)
        except (OSError, UnicodeDecodeError) as error:
            return (), (
                f"The files of {lesson.id} cannot be read: {error}. Put back the course's own version of them.",
            )
        for stem in stems:
            file = self.catalogue.lessons_folder / lesson.id / f"{stem}.py"
            try:
                found.append(self._declaration(file))
            except (OSError, UnicodeDecodeError, DeclarationError) as error:
                problems.append(
                    f"{lesson.id}/{file.name} cannot be read: {error}. Its exercise is missing from this page; the "
                    "others are not affected. Put back the course's own version of that file."
                )
        return tuple(found), tuple(problems)

    def _declaration(self, file: Path) -> Declaration:
        changed = file.stat().st_mtime_ns
        if file not in self._read or self._read[file][0] != changed:
            self._read[file] = (changed, declaration_in(file.read_text(encoding="utf-8")))
        return self._read[file][1]


def declaration_in(source: str) -> Declaration:
    """The declaration in an exercise file's text. Raises DeclarationError where it is not there or not plain data."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise DeclarationError(f"{error.msg} (line {error.lineno})") from error
    calls = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "Exercise"
    ]
    if not calls:
        raise DeclarationError("it has no `exercise = Exercise(...)`")
    given = {keyword.arg: keyword.value for keyword in calls[0].keywords}
    facts = {}
    for field in ("id", "title", "points", "minutes", "importance", "skills"):
        try:
            facts[field] = ast.literal_eval(given[field])
        except (KeyError, ValueError) as error:
            raise DeclarationError(f"`{field}` of its Exercise is not written out as plain data") from error
    return Declaration(**facts)
