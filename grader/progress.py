"""A learner's attempts, kept in one SQLite file; safe under two kernels, a kill, a corrupt file and a full disk.

An attempt is written before the learner's code runs and completed after it, so a kernel that dies in between leaves a
trace: the attempt then counts as crashed and its source is still there. After every attempt a complete copy of the file
is put beside it, and a corrupt file is set aside (never deleted) and replaced by that copy.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import platformdirs
import psutil

from grader.result import Result

FOLDER = ".grader"
BUSY_SECONDS = 30
CLOCK_ADJUSTMENT_SECONDS = 2.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, exercise TEXT NOT NULL, started TEXT NOT NULL, finished TEXT, process TEXT NOT NULL,
    source TEXT NOT NULL, status TEXT, points REAL, max_points REAL, misconception TEXT, result TEXT
);
CREATE INDEX IF NOT EXISTS attempts_by_exercise ON attempts (exercise);
CREATE TABLE IF NOT EXISTS help (id INTEGER PRIMARY KEY, exercise TEXT NOT NULL, kind TEXT NOT NULL, at TEXT NOT NULL);
"""


class ProgressError(RuntimeError):
    """Progress cannot be read or written; says where and what to do. The verdict of a check does not depend on it."""


@dataclass(frozen=True)
class Standing:
    """Where a learner stands with one exercise. status: the best so far; tries: attempts that failed or crashed."""

    status: str = "todo"
    tries: int = 0
    points: float = 0.0
    hints: int = 0
    solution_seen: bool = False


@dataclass(frozen=True)
class Attempt:
    """One finished attempt with the answer's source."""

    exercise: str
    started: str
    status: str
    misconception: str
    source: str


def progress_path(start: Path | None = None) -> Path:
    """GRADER_PROGRESS, else `.grader/` in `start` or the nearest folder above it, else the user's data folder.

    start: this folder by default.
    """
    if named := os.environ.get("GRADER_PROGRESS"):
        return Path(named)
    here = start or Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FOLDER).is_dir():
            return folder / FOLDER / "progress.sqlite"
    return Path(platformdirs.user_data_dir("grader")) / "progress.sqlite"


class Progress:
    """The progress file at `path`. `notice` says what was repaired on opening, or is empty."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or progress_path()
        self.notice = ""
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open_or_recover()

    def begin(self, exercise_id: str, source: str) -> int:
        """Note that a check starts; returns the attempt's number."""
        with self._transaction() as database:
            row = database.execute(
                "INSERT INTO attempts (exercise, started, process, source) VALUES (?, ?, ?, ?)",
                (exercise_id, _now(), _this_process(), source),
            )
            return int(row.lastrowid or 0)

    def finish(self, attempt: int, result: Result) -> None:
        """Complete an attempt. A stub that was not started is only remembered as the exercise checked last."""
        with self._transaction() as database:
            database.execute(
                "UPDATE attempts SET finished=?, status=?, points=?, max_points=?, misconception=?, result=? "
                "WHERE id=?",
                (
                    _now(),
                    result.status,
                    result.points,
                    result.max_points,
                    result.misconception,
                    json.dumps(result.to_dict()),
                    attempt,
                ),
            )
        self._back_up()

    def take_back(self, attempt: int) -> None:
        """Forget an attempt that its learner interrupted."""
        with self._transaction() as database:
            database.execute("DELETE FROM attempts WHERE id=?", (attempt,))

    def last_checked(self) -> str | None:
        """The id of the exercise checked last, started or not."""
        with self._transaction() as database:
            row = database.execute("SELECT exercise FROM attempts ORDER BY id DESC LIMIT 1").fetchone()
        return row[0] if row else None

    def note_help(self, exercise_id: str, kind: str) -> None:
        """Note that a hint or the solution was shown. kind: "hint" or "solution"."""
        with self._transaction() as database:
            database.execute("INSERT INTO help (exercise, kind, at) VALUES (?, ?, ?)", (exercise_id, kind, _now()))

    def close_dead_attempts(self) -> list[str]:
        """Mark attempts whose process died during the check as crashed; returns their exercise ids."""
        with self._transaction() as database:
            open_rows = database.execute("SELECT id, exercise, process FROM attempts WHERE status IS NULL").fetchall()
            dead = [(number, exercise) for number, exercise, process in open_rows if not _is_alive(process)]
            for number, _ in dead:
                database.execute("UPDATE attempts SET status='crashed', finished=? WHERE id=?", (_now(), number))
        return [exercise for _, exercise in dead]

    def standings(self) -> dict[str, Standing]:
        """Exercise id -> standing, for every exercise that was tried or asked help for."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT exercise, MAX(status='passed'), SUM(status IN ('failed','crashed')), MAX(points), "
                "(SELECT status FROM attempts l WHERE l.exercise=a.exercise AND status <> 'todo' "
                "ORDER BY id DESC LIMIT 1) FROM attempts a WHERE status <> 'todo' GROUP BY exercise"
            ).fetchall()
            help_rows = database.execute("SELECT exercise, kind, COUNT(*) FROM help GROUP BY exercise, kind").fetchall()
        helps = {(exercise, kind): count for exercise, kind, count in help_rows}
        attempted = {exercise: (passed, tries, points, last) for exercise, passed, tries, points, last in rows}
        standings = {}
        for exercise in {*attempted, *(exercise for exercise, _ in helps)}:
            passed, tries, points, last = attempted.get(exercise, (0, 0, 0.0, "todo"))
            standings[exercise] = Standing(
                status="passed" if passed else last,
                tries=tries or 0,
                points=points or 0.0,
                hints=helps.get((exercise, "hint"), 0),
                solution_seen=(exercise, "solution") in helps,
            )
        return standings

    def attempts(self, exercise_id: str | None = None) -> list[Attempt]:
        """All attempts, oldest first; a running or killed one has status ""."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT exercise, started, COALESCE(status,''), COALESCE(misconception,''), source FROM attempts "
                "WHERE (? IS NULL OR exercise=?) AND COALESCE(status,'') <> 'todo' ORDER BY id",
                (exercise_id, exercise_id),
            ).fetchall()
        return [Attempt(*row) for row in rows]

    def last_attempt(self) -> Attempt | None:
        """The latest attempt, as `attempts` gives it; None before the first."""
        attempts = self.attempts()
        return attempts[-1] if attempts else None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level="IMMEDIATE")
            try:
                with database:
                    yield database
            finally:
                database.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ProgressError(
                f"progress cannot be kept in {self.path}: {error}. Free disk space, make the folder writable, or set "
                "GRADER_PROGRESS to another file."
            ) from error

    def _open_or_recover(self) -> None:
        try:
            self._create()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise  # Locked, full or not writable: the file itself is sound.
            with self._alone():
                self._recover()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two kernels that find the damage at once must not set aside what the other has just restored."""
        gate = sqlite3.connect(self.path.with_suffix(".gate.sqlite"), timeout=BUSY_SECONDS, isolation_level=None)
        try:
            gate.execute("BEGIN EXCLUSIVE")
            yield
        finally:
            gate.close()

    def _recover(self) -> None:
        try:
            self._create()  # Another kernel may have restored it meanwhile.
        except sqlite3.DatabaseError as error:
            self._set_aside(str(error))
            self._create()

    def _create(self) -> None:
        is_empty = not self.path.exists() or self.path.stat().st_size == 0
        if is_empty and _is_sound(self._backup):
            raise sqlite3.DatabaseError("it is empty or gone, though a copy exists")
        database = sqlite3.connect(self.path, timeout=BUSY_SECONDS)
        try:
            verdict = database.execute("PRAGMA quick_check").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            with database:
                database.executescript(SCHEMA)
        finally:
            database.close()

    @property
    def _backup(self) -> Path:
        return self.path.with_suffix(".backup.sqlite")

    def _set_aside(self, reason: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        corrupt = self.path.with_suffix(f".corrupt-{stamp}.sqlite")
        self.notice = f"Your progress file was damaged ({reason}). "
        if self.path.exists():
            os.replace(self.path, corrupt)
            self.notice += f"It is kept as {corrupt.name}; "
        journal = Path(f"{self.path}-journal")
        journal.unlink(missing_ok=True)  # It belongs to the corrupt file and must not be replayed into its successor.
        if _is_sound(self._backup):
            with tempfile.NamedTemporaryFile(dir=self.path.parent, delete=False) as copy:
                copy.write(self._backup.read_bytes())
                copy.flush()
                os.fsync(copy.fileno())
            os.replace(copy.name, self.path)
            self.notice += "your progress was restored from the copy made after your last check."
        else:
            if self._backup.exists():
                os.replace(self._backup, self._backup.with_suffix(f".corrupt-{stamp}.sqlite"))
            self.notice += (
                "no sound copy was found, so a new one was started. Your notebooks are untouched: check them again."
            )

    def _back_up(self) -> None:
        """A complete, consistent copy beside the file, replaced in one step."""
        temporary = self.path.with_suffix(f".copy-{os.getpid()}.sqlite")
        with self._explained():
            temporary.unlink(missing_ok=True)
            database = sqlite3.connect(self.path, timeout=BUSY_SECONDS)
            try:
                database.execute("VACUUM INTO ?", (str(temporary),))
                os.replace(temporary, self._backup)
            finally:
                database.close()
                temporary.unlink(missing_ok=True)


def _is_sound(path: Path) -> bool:
    if not path.exists():
        return False
    database = sqlite3.connect(path)
    try:
        if database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            return False
        return database.execute("SELECT COUNT(*) FROM attempts").fetchone() is not None
    except sqlite3.Error:
        return False
    finally:
        database.close()


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """A file cut short can read as an input error, or lack its tables' columns, rather than as malformed."""
    return getattr(error, "sqlite_errorname", "") in ("SQLITE_IOERR_SHORT_READ", "SQLITE_ERROR")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _this_process() -> str:
    """Process id and start time: ids alone are used again by the system."""
    return f"{os.getpid()}:{psutil.Process().create_time():.2f}"


def _is_alive(process: str) -> bool:
    number, _, started = process.partition(":")
    try:
        found = psutil.Process(int(number))
        # The start time is told relative to the boot time, which the clock's adjustments move a little.
        is_same = abs(found.create_time() - float(started)) < CLOCK_ADJUSTMENT_SECONDS
        return is_same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
