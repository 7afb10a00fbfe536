"""Run a model's SQL safely: the text is untrusted, the database is a throw-away copy in memory.

SQLite itself is told what is allowed (an authorizer: reading and plain functions, nothing else), how long a
statement may run (a progress handler that watches the clock), how big a value may grow, and how many rows are
fetched. Nothing on disk can be reached: ATTACH, PRAGMA and load_extension are refused.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from course.sql.schemas import Schema, connect

STEPS_BETWEEN_CLOCK_CHECKS = 1000
# Together with the row limit these bound what one answer can make us hold: 1,000 rows x 20 x 10 kB = 200 MB.
SIZE_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 10_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 10_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 20,
}
REFUSED_FUNCTIONS = frozenset({"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"})
ALLOWED_ACTIONS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})


class QueryTimeoutError(RuntimeError):
    """The statement ran past its time."""


class TooManyRowsError(RuntimeError):
    """The statement returned more rows than are fetched."""


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action in ALLOWED_ACTIONS:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and second not in REFUSED_FUNCTIONS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def run_untrusted(
    schema: Schema, sql: str, timeout_seconds: float = 1.0, row_limit: int = 1000
) -> list[tuple[Any, ...]]:
    """The rows one statement returns on a fresh copy of the database.

    Raises sqlite3.Error when SQLite refuses it, `QueryTimeoutError` and `TooManyRowsError` past the limits.
    """
    connection = connect(schema)
    deadline = time.monotonic() + timeout_seconds
    try:
        for limit, value in SIZE_LIMITS.items():
            connection.setlimit(limit, value)
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_CLOCK_CHECKS)
        try:
            rows = connection.execute(sql).fetchmany(row_limit + 1)
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise QueryTimeoutError(f"stopped after {timeout_seconds:g} s") from error
            raise
    finally:
        connection.close()
    if len(rows) > row_limit:
        raise TooManyRowsError(f"more than {row_limit} rows")
    return rows
