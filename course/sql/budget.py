"""Which training rows a small budget is spent on: a balanced part of the training set.

The training set has three times the rows that two CPU cores get through in ten minutes, so such a run has to choose.
Measured with SmolLM2-135M: 2,688 rows as they come (25 minutes on two cores of 2017) brought 5 of 53 joins right, and
joins were a third of the answer tokens. What they cost buys more elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest

from course.sql.examples import SqlExample
from course.sql.generate import ROWS_PER_SCHEMA
from course.sql.schemas import load_schemas

SHARE_SHIPPED = 0.9


def rows_for_budget(rows: Sequence[SqlExample], count: int, seed: int) -> list[SqlExample]:
    """`count` of the training rows, none of them a join, rows on one database side by side.

    SHARE_SHIPPED of them are on the shipped databases, where the kinds of query take turns until the rarer ones run
    out. The others are whole runs on databases that are not shipped, in file order. Raises ValueError where `rows`
    has too few.
    """
    shipped = {schema.text for schema in load_schemas().values()}
    runs = [rows[start : start + ROWS_PER_SCHEMA] for start in range(0, len(rows), ROWS_PER_SCHEMA)]
    without_join = [run for run in runs if all(row.kind != "join" for row in run)]
    others = [row for run in without_join if run[0].schema_text not in shipped for row in run]
    others = others[: round(count * (1 - SHARE_SHIPPED) / ROWS_PER_SCHEMA) * ROWS_PER_SCHEMA]
    on_shipped = [row for row in rows if row.schema_text in shipped and row.kind != "join"]
    balanced = _kinds_take_turns(on_shipped, seed)[: count - len(others)]
    if len(balanced) + len(others) < count:
        raise ValueError(f"count={count}: only {len(balanced) + len(others)} rows fit; ask for fewer, or add rows.")
    return sorted(balanced, key=lambda row: row.schema) + others


def _kinds_take_turns(rows: Sequence[SqlExample], seed: int) -> list[SqlExample]:
    """All the rows: one of each kind, then the next of each, each kind in an order drawn by the seed."""
    draw = random.Random(seed)
    by_kind: dict[str, list[SqlExample]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    for found in by_kind.values():
        draw.shuffle(found)
    return [row for turn in zip_longest(*by_kind.values()) for row in turn if row is not None]
