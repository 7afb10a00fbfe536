"""Which shipped version a learner's notebook came from.

The workspace keeps every version it was given (`.course/shipped`), and `.grader/copied.json` which one each path was
copied from. An updated notebook says it itself, in its metadata: written in one step with the cells, so that a process
killed between file and record leaves no doubt.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from course.update.cells import Cell, text_of
from course.update.notebooks import Notebook, UnreadableNotebookError, read_notebook
from course.workspace import SHIPPED_FOLDER, SUM_CHARACTERS

METADATA = "course"  # in the notebook's metadata: {"course": {"shipped": SHA-256 of the version that is merged in}}
GIT_SECONDS = 30


@dataclass(frozen=True)
class Version:
    """A shipped notebook and its SHA-256."""

    sha256: str
    notebook: Notebook

    @property
    def cells(self) -> list[Cell]:
        """Its cells."""
        return list(self.notebook.cells)


def shipped_version(path: Path) -> Version:
    """The version in a file. Raises UnreadableNotebookError."""
    data = path.read_bytes()
    return Version(hashlib.sha256(data).hexdigest(), read_notebook(data))


def lesson_of(notebook: Notebook) -> str:
    """The id of the lesson that a notebook is of, "" if its metadata names none."""
    named = notebook.metadata.get("grader")
    return str(named.get("lesson", "")) if isinstance(named, dict) else ""


def merged_in(notebook: Notebook) -> str:
    """The SHA-256 of the version that an earlier update brought in, else ""."""
    told = notebook.metadata.get(METADATA)
    return str(told.get("shipped", "")) if isinstance(told, dict) else ""


def origin(folder: Path, own: Notebook, copied_sum: str, shipped: Path, today: Version) -> Version | None:
    """The version that the learner's notebook came from; None where nothing tells.

    What the notebook says itself; else the record of copies; else, for a notebook without a record (renamed, or moved
    here), the kept version that shares most cells with it, of two equal ones the older.
    """
    for sha256 in filter(None, (merged_in(own), copied_sum)):
        if sha256 == today.sha256:
            return today
        for version in (*_kept(folder, sha256), *_committed(shipped, sha256)):
            if lesson_of(version.notebook) == lesson_of(today.notebook):
                return version
    if copied_sum:
        return None
    known = [each for each in _kept(folder) if lesson_of(each.notebook) == lesson_of(today.notebook)]
    return max(known, key=lambda each: _shared(each, own), default=None)


def _shared(version: Version, own: Notebook) -> int:
    texts = {text_of(cell) for cell in own.cells}
    return sum(text_of(cell) in texts for cell in version.cells)


def _kept(folder: Path, sha256: str = "") -> Iterator[Version]:
    """Kept versions, the oldest first; a damaged one is passed over."""
    files = (folder / SHIPPED_FOLDER).glob(f"*-{sha256[:SUM_CHARACTERS] or '*'}.ipynb")
    for path in sorted(files, key=lambda each: each.stat().st_mtime):
        try:
            version = shipped_version(path)
        except UnreadableNotebookError:
            continue
        if version.sha256.startswith(path.stem.rpartition("-")[2]):
            yield version


def _committed(shipped: Path, sha256: str) -> Iterator[Version]:
    """The version with this sum in the course's own git history: for workspaces made before versions were kept."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(
            ["git", "-C", str(shipped.parent), *arguments], capture_output=True, check=True, timeout=GIT_SECONDS
        ).stdout

    try:
        for commit in git("log", "--format=%H", "--", shipped.name).decode().split():
            data = git("show", f"{commit}:./{shipped.name}")
            if hashlib.sha256(data).hexdigest() == sha256:
                yield Version(sha256, read_notebook(data))
                return
    except (OSError, subprocess.SubprocessError, UnreadableNotebookError):
        return  # No git, no history, or one that lacks the file at some commit: then nothing is known.
