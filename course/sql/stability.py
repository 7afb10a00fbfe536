"""Is a gold query's answer worth comparing? Not empty, not NULL, and the same whatever order the rows lie in.

A query such as `ORDER BY price DESC LIMIT 1` over two rows with the highest price returns whichever SQLite meets
first: a model that answers rightly could be marked wrong. Running it again on shuffled rows shows that.
"""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace

from course.sql.results import is_ordered, same_result
from course.sql.schemas import Schema, connect

SHUFFLES = 4


def run_gold(schema: Schema, sql: str) -> list[tuple]:
    """All rows of a trusted query. Raises sqlite3.Error when it does not run."""
    connection = connect(schema)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def result_problem(schema: Schema, sql: str) -> str | None:
    """One sentence saying why the query makes a poor test question, or None when it makes a good one."""
    try:
        rows = run_gold(schema, sql)
    except sqlite3.Error as error:
        return f"the query does not run ({error}); correct it against the schema"
    if not rows:
        return "the query returns no rows; choose constants that match some"
    if all(value is None for row in rows for value in row):
        return "the query returns only NULL; choose constants that match some rows"
    rng = random.Random(0)
    for _ in range(SHUFFLES):
        tables = tuple(replace(t, rows=tuple(rng.sample(t.rows, len(t.rows)))) for t in schema.tables)
        again = run_gold(replace(schema, tables=tables), sql)
        if not same_result(rows, again, ordered=is_ordered(sql)):
            return "the answer depends on the order rows are stored in (a tie); ask so that one answer is right"
    return None
