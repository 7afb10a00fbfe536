"""Finds a lesson's submissions: LEARNER/07_lora.ipynb, LEARNER/07_lora/07_lora.ipynb or LEARNER.ipynb."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grader.cohort.submission import LARGEST_BYTES
from grader.syllabus import Lesson

SAFE_NAME = re.compile(r"[\w.@+-]{1,100}")


class CollectError(ValueError):
    """A folder whose submissions cannot be told; says what was looked for, or which two files are one learner's."""


@dataclass(frozen=True)
class Handed:
    """One learner's file. folder: the submissions that it lies below; none of the folders between may be a link."""

    learner: str
    path: Path
    folder: Path | None = None

    def read(self) -> bytes:
        """The file's bytes; links and anything but a plain file are refused, and no more than the cap is read."""
        between = self.path.relative_to(self.folder).parents if self.folder else ()
        for part in between:
            if self.folder and part.name and (self.folder / part).is_symlink():
                raise OSError(f"the folder {part} is a link, perhaps to another learner's; hand in the folder itself")
        return read_plain_file(self.path, LARGEST_BYTES)


def read_plain_file(path: Path, limit_bytes: int) -> bytes:
    """A file's bytes, at most one more than the limit. Raises OSError for a link and for anything but a plain file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is no plain file")
        return stream.read(limit_bytes + 1)


def find_submissions(folder: Path, lesson: Lesson) -> list[Handed]:
    """All learners' files of a lesson, by name. A learner's file may have any name if it is the only notebook there."""
    if not folder.is_dir():
        raise CollectError(f"{folder} is no folder; name the one that holds one folder or notebook per learner")
    found = sorted(_found(folder, lesson), key=lambda handed: (handed.learner, handed.path))
    for one, other in itertools.pairwise(found):
        if one.learner == other.learner:
            raise CollectError(
                f"{one.path} and {other.path} are both of learner {one.learner}; remove or rename the one that does "
                "not count"
            )
    if not found:
        raise CollectError(
            f"{folder} holds no submission of {lesson.id}: looked for LEARNER/{lesson.notebook_name}, "
            f"LEARNER/{lesson.id.removeprefix('l')}/{lesson.notebook_name} and LEARNER.ipynb"
        )
    return found


def _found(folder: Path, lesson: Lesson) -> Iterator[Handed]:
    for entry in folder.iterdir():
        if entry.name.startswith(".") or entry.is_symlink() or not SAFE_NAME.fullmatch(entry.name):
            continue
        if entry.is_dir():
            path = _in_folder(entry, lesson)
            if path is not None:
                yield Handed(entry.name, path, folder)
        elif entry.suffix == ".ipynb":
            yield Handed(entry.stem, entry, folder)


def _in_folder(folder: Path, lesson: Lesson) -> Path | None:
    exact = [folder / lesson.notebook_name, folder / lesson.id.removeprefix("l") / lesson.notebook_name]
    for path in exact:
        if path.is_file() and not path.is_symlink():
            return path
    others = [path for path in folder.glob("*.ipynb") if not path.is_symlink()]
    return others[0] if len(others) == 1 else None
