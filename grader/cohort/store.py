"""Results on disk: one file per learner, written once and whole, so that a run can be killed and go on.

A result is used again when the submission's hash and the version of the checks are the same; otherwise it is graded
anew, and the old result is kept beside the new one until it has been replaced.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

from grader.build import write_atomically
from grader.cohort.result import SubmissionResult

SEED_FILE = "seed"
SEED_BYTES = 8
MAKE_ROOM = "Make room and run the same command again"


class StoreError(RuntimeError):
    """A results folder that cannot be used; says why and what to do."""


class ResultStore:
    """The results of one lesson in one folder."""

    def __init__(self, folder: Path, lesson: str) -> None:
        self.root = folder
        self.folder = folder / lesson
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be made: {error}. Name another folder with --out.") from error

    def seed(self) -> int:
        """The secret seed of this folder, made at first use and readable by its owner alone."""
        path = self.root / SEED_FILE
        try:
            if not path.exists():
                _write_seed(path)
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
        except (OSError, ValueError, KeyError, TypeError):
            return None  # Absent, or of an older form: graded anew.

    def fresh(self, learner: str, sha256: str, version: str) -> SubmissionResult | None:
        """The kept result if it is of this very file and these very checks, and nothing on our side was broken."""
        kept = self.load(learner)
        if kept is None or (kept.sha256, kept.version) != (sha256, version):
            return None
        return None if any(result.status == "broken" for result in kept.results) else kept

    def save(self, result: SubmissionResult) -> None:
        """Write one result in one step; raises StoreError when the disk will not take it."""
        _write(self.path(result.learner), json.dumps(result.to_dict(), indent=1) + "\n")

    def write_table(self, results: Iterable[SubmissionResult]) -> Path:
        """One row per learner and exercise, as `scores.csv`; raises StoreError like `save`."""
        table = io.StringIO()
        rows = csv.writer(table)
        rows.writerow(
            ["learner", "lesson", "exercise", "status", "points", "max_points", "misconception", "seconds", "problem"]
        )
        for each in sorted(results, key=lambda result: result.learner):
            for result in each.results:
                row = [each.learner, each.lesson, result.exercise_id, result.status, result.points, result.max_points]
                rows.writerow([*row, result.misconception, result.seconds, each.problem])
        path = self.folder / "scores.csv"
        _write(path, table.getvalue())
        return path


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}. {MAKE_ROOM}: what has been graded is kept.") from error


def _write_seed(path: Path) -> None:
    """In one step: a killed run leaves no half of a seed, and of two runs at once the second takes the first's."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # readable by its owner alone
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(f"{int.from_bytes(secrets.token_bytes(SEED_BYTES))}\n")
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
