"""Failed attempts at the desk, where a learner handed in the progress file: LEARNER/.grader/progress.sqlite.

A learner can write anything into that file, so the numbers are told, not trusted, and the file is read as a database in
memory with a limit on its work: no view, trigger or virtual table of it is used, and nothing is written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from grader.cohort.collect import Handed
from grader.cohort.result import SubmissionResult
from grader.progress import FOLDER

PLACES = (f"{FOLDER}/progress.sqlite", "progress.sqlite")
STEPS = 5_000_000
MOST_TRIES = 10_000


def read_tries(folder: Path, results: Sequence[SubmissionResult]) -> tuple[dict[tuple[str, str], int], list[str]]:
    """((learner, exercise id) -> attempts that failed or crashed, notes on files that could not be read)."""
    tries: dict[tuple[str, str], int] = {}
    notes: list[str] = []
    for result in results:
        path = next((file for place in PLACES if (file := folder / result.learner / place).is_file()), None)
        if path is None:
            continue
        try:
            counts = _counts(Handed(result.learner, path, folder).read())
        except (OSError, ValueError, sqlite3.Error) as error:
            notes.append(f"{result.learner}: the tries in {path.name} cannot be read: {error}")
            continue
        known = {each.exercise_id for each in result.results}
        tries |= {(result.learner, exercise): count for exercise, count in counts.items() if exercise in known}
    return tries, notes


def _counts(data: bytes) -> dict[str, int]:
    if not data:
        raise ValueError("the file is empty")
    database = sqlite3.connect(":memory:")
    try:
        database.deserialize(data)
        database.execute("PRAGMA trusted_schema=OFF")
        database.set_progress_handler(lambda: True, STEPS)  # True stops it.
        declared = database.execute("SELECT type, sql FROM sqlite_schema WHERE name='attempts'").fetchall()
        if len(declared) != 1 or declared[0][0] != "table" or not str(declared[0][1]).startswith("CREATE TABLE"):
            raise ValueError("it holds no table of attempts")
        rows = database.execute(
            "SELECT exercise, COUNT(*) FROM attempts WHERE status IN ('failed', 'crashed') GROUP BY exercise"
        ).fetchmany(1000)
        passed = database.execute("SELECT DISTINCT exercise FROM attempts WHERE status='passed'").fetchmany(1000)
    finally:
        database.close()
    counts = {exercise: 0 for (exercise,) in passed} | dict(rows)
    return {exercise: min(count, MOST_TRIES) for exercise, count in counts.items() if isinstance(exercise, str)}
