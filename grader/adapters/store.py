"""Adapter results on disk: one file per learner, one for the base model, written once and whole; and a table of all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.adapters.evaluation import GroupAnswers
from grader.adapters.result import AdapterResult
from grader.build import write_atomically
from grader.cohort.store import ResultStore, spreadsheet_text

BASE = ".base"  # No learner's name begins with a dot.
GROUP_COLUMNS = ("correct", "questions", "share", "low", "high", "base_correct", "gain_low", "gain_high", "points")


@dataclass(frozen=True)
class BaseAnswers:
    """How the base model alone answered one hidden set."""

    version: str
    groups: tuple[GroupAnswers, ...]
    learner: str = BASE

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"version": self.version, "groups": [group.to_dict() for group in self.groups]}


class AdapterStore:
    """The adapter results of one lesson, in `FOLDER/LESSON-adapters`; the secret seed is that of `FOLDER`."""

    def __init__(self, folder: Path, lesson: str) -> None:
        self.files = ResultStore(folder, f"{lesson}-adapters")

    def save(self, result: AdapterResult | BaseAnswers) -> None:
        """Write one result in one step; raises StoreError when the disk will not take it."""
        self.files.save(result)

    def fresh(self, learner: str, sha256: str, version: str) -> AdapterResult | None:
        """The kept result if it is of these very files, this hidden set and these checks."""
        try:
            kept = AdapterResult.from_dict(self._read(learner))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # Absent, damaged, or of an older form: graded anew.
        return kept if (kept.sha256, kept.version) == (sha256, version) else None

    def base(self, version: str) -> BaseAnswers | None:
        """The base model's kept answers to this hidden set."""
        try:
            data = self._read(BASE)
            kept = BaseAnswers(data["version"], tuple(map(GroupAnswers.from_dict, data["groups"])))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return kept if kept.version == version else None

    def write_table(self, results: Iterable[AdapterResult]) -> Path:
        """One row per learner, the columns of each group after one another, as `adapters.csv`."""
        results = sorted(results, key=lambda result: result.learner)
        names = next(([group.group for group in each.groups] for each in results if each.groups), [])
        table = io.StringIO()
        rows = csv.writer(table)
        columns = [f"{name}_{column}" for name in names for column in GROUP_COLUMNS]
        rows.writerow(["learner", "lesson", "status", "points", "max_points", *columns, "problem", "sha256"])
        for each in results:
            figures = [getattr(group, column) for group in each.groups for column in GROUP_COLUMNS]
            figures += [""] * (len(columns) - len(figures))
            row = [spreadsheet_text(each.learner), each.lesson, each.status, each.points, each.max_points]
            rows.writerow([*row, *figures, spreadsheet_text(each.problem), each.sha256])
        path = self.files.folder / "adapters.csv"
        write_atomically(path, table.getvalue())
        return path

    def _read(self, learner: str) -> Any:
        return json.loads(self.files.path(learner).read_text(encoding="utf-8"))
