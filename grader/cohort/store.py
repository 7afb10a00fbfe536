"""Results on disk: one file per learner, written once and whole, so that a run can be killed and go on.

A result is used again when the submission's hash and the version of the checks are the same; otherwise it is graded
anew, and the one it replaces is kept under `superseded`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from grader.build import write_atomically
from grader.cohort.result import SubmissionResult

SEED_FILE = "seed"
SEED_BYTES = 8
PROPOSED = "proposed"
SUPERSEDED = "superseded"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
MAKE_ROOM = "Make room and run the same command again"


class StoreError(RuntimeError):
    """A results folder that cannot be used; says why and what to do."""


class Keepable(Protocol):
    """What one file holds: a learner's result."""

    @property
    def learner(self) -> str:
        """Names the file."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        ...


class ResultStore:
    """The results of one lesson in one folder."""

    def __init__(self, folder: Path, lesson: str, behind: ResultStore | None = None) -> None:
        self.root = folder
        self.folder = folder / lesson
        self.behind = behind
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)  # Grades, and what hidden cases hold.
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be made: {error}. Name another folder with --out.") from error

    def seed(self) -> int:
        """The secret seed of this folder, made at first use and readable by its owner alone."""
        path = self.root / SEED_FILE
        try:
            if not path.exists():
                write_secret(path, str(int.from_bytes(secrets.token_bytes(SEED_BYTES))))
            text = path.read_text(errors="replace").strip()
        except OSError as error:
            raise StoreError(f"the seed cannot be kept in {path}: {error}. {MAKE_ROOM}") from error
        if not text.isdigit():
            raise StoreError(f"{path} holds {text[:40]!r}, which is no seed; restore it or remove it")
        return int(text)

    def path(self, learner: str) -> Path:
        """Where a learner's result is kept."""
        return self.folder / f"{learner}.json"

    def load(self, learner: str) -> SubmissionResult | None:
        """The kept result, or None when there is none that can be read."""
        try:
            return SubmissionResult.from_dict(json.loads(self.path(learner).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # Absent, or of an older form: graded anew.

    def fresh(self, learner: str, sha256: str, version: str) -> SubmissionResult | None:
        """The kept result if it is of this very file and these very checks, and nothing on our side was broken."""
        kept = self.load(learner)
        if kept is None or (kept.sha256, kept.version) != (sha256, version):
            return self.behind.fresh(learner, sha256, version) if self.behind else None
        return None if any(result.status == "broken" for result in kept.results) else kept

    def has_other_checks(self, version: str) -> bool:
        """Whether a kept result is of other checks than these: another seed, or a changed lesson."""
        kept = (self.load(path.stem) for path in self.folder.glob("*.json"))
        return any(result is not None and result.version != version for result in kept)

    def beside(self) -> ResultStore:
        """A store in here whose results do not count yet; what is fresh in this one need not be graded again for it."""
        return ResultStore(self.folder, PROPOSED, behind=self)

    def remove(self) -> None:
        """Remove this store's folder and all in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, result: Keepable) -> None:
        """Write one result in one step, after keeping the one it replaces; raises StoreError on a disk that is full."""
        content = result.to_dict()
        self._keep_superseded(result.learner, content)
        _write(self.path(result.learner), json.dumps(content, indent=1) + "\n")

    def _keep_superseded(self, learner: str, new: dict[str, Any]) -> None:
        """What stands there moves to `superseded`, if it is of another file or of other checks."""
        try:
            text = self.path(learner).read_text(encoding="utf-8")
            sha256, version = (str(json.loads(text).get(name, "")) for name in ("sha256", "version"))
        except (OSError, ValueError, AttributeError):
            return  # Nothing there, or nothing that can be read.
        if (sha256, version) != (new.get("sha256", ""), new.get("version", "")):
            _write(self.folder / SUPERSEDED / f"{learner}.{sha256[:8]}.{version[:16]}.json", text)

    def write_table(self, results: Iterable[SubmissionResult]) -> Path:
        """One row per learner and exercise, as `scores.csv`; raises StoreError like `save`."""
        table = io.StringIO()
        rows = csv.writer(table)
        rows.writerow(
            ["learner", "lesson", "exercise", "status", "points", "max_points", "misconception", "seconds", "problem"]
        )
        for each in sorted(results, key=lambda result: result.learner):
            for result in each.results:
                learner, problem = spreadsheet_text(each.learner), spreadsheet_text(each.problem)
                row = [learner, each.lesson, result.exercise_id, result.status, result.points, result.max_points]
                rows.writerow([*row, result.misconception, result.seconds, problem])
        path = self.folder / "scores.csv"
        _write(path, table.getvalue())
        return path


def spreadsheet_text(text: str) -> str:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front, which makes it text there."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}. {MAKE_ROOM}: what has been graded is kept.") from error


def write_secret(path: Path, text: str) -> None:
    """In one step: a killed run leaves no half of it, and of two runs at once the second takes the first's."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # readable by its owner alone
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(f"{text}\n")
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
