"""Results on disk: one file per learner, written once and whole, so that a run can be killed and go on.

A result is used again when the submission's hash and the version of the checks are the same; otherwise it is graded
anew, and the one it replaces is kept under `superseded`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from grader.build import write_atomically
from grader.cohort.result import SubmissionResult

SEED_FILE = "seed"
SEED_BYTES = 8
PROPOSED = "proposed"
SUPERSEDED = "superseded"


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
        try:
            self._keep_superseded(result.learner, content)
            write_atomically(self.path(result.learner), json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise StoreError(
                f"{self.path(result.learner)} cannot be written: {error}. Make room and run the same command again: "
                "what has been graded is kept."
            ) from error

    def _keep_superseded(self, learner: str, new: dict[str, Any]) -> None:
        """What stands there moves to `superseded`, if it is of another file or of other checks."""
        try:
            text = self.path(learner).read_text(encoding="utf-8")
            sha256, version = (str(json.loads(text).get(name, "")) for name in ("sha256", "version"))
        except (FileNotFoundError, ValueError, AttributeError):
            return  # Nothing there, or nothing that can be read.
        if (sha256, version) != (new.get("sha256", ""), new.get("version", "")):
            folder = self.folder / SUPERSEDED
            folder.mkdir(exist_ok=True)
            write_atomically(folder / f"{learner}.{sha256[:8]}.{version[:16]}.json", text)

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
