"""Results on disk: one file per learner, written once and whole, so that a run can be killed and go on.

A result is used again when the submission's hash and the version of the checks are the same; otherwise it is graded
anew, and the old result is kept beside the new one until it has been replaced.
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from grader.build import write_atomically
from grader.cohort.result import SubmissionResult

SEED_FILE = "seed"
SEED_BYTES = 8


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
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            text = path.read_text().strip()
            if not text.isdigit():
                raise StoreError(f"{path} holds {text[:40]!r}, which is no seed; restore it or remove it") from None
            return int(text)
        with os.fdopen(descriptor, "w") as stream:
            seed = int.from_bytes(secrets.token_bytes(SEED_BYTES))
            stream.write(f"{seed}\n")
        return seed

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
        """The kept result if it is of this very file and these very checks."""
        kept = self.load(learner)
        return kept if kept and (kept.sha256, kept.version) == (sha256, version) else None

    def save(self, result: Keepable) -> None:
        """Write one result in one step; raises StoreError when the disk will not take it."""
        try:
            write_atomically(self.path(result.learner), json.dumps(result.to_dict(), indent=1) + "\n")
        except OSError as error:
            raise StoreError(
                f"{self.path(result.learner)} cannot be written: {error}. Make room and run the same command again: "
                "what has been graded is kept."
            ) from error

    def write_table(self, results: Iterable[SubmissionResult]) -> Path:
        """One row per learner and exercise, as `scores.csv`."""
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
        write_atomically(path, table.getvalue())
        return path
