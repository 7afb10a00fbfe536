"""Which training rows a small budget is spent on, and in what order: a chosen part of the training set.

The training set has three times the rows that two CPU cores get through in ten minutes, so such a run has to choose.
Measured with SmolLM2-135M: 2,688 rows as they come (25 minutes on two cores of 2017) brought 5 of 53 joins right, and
joins were a third of the answer tokens. What they cost buys more elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from course.sql.examples import SqlExample
from course.sql.generate import ROWS_PER_SCHEMA
from course.sql.schemas import load_schemas

SHARE_SHIPPED = 0.85  # of all rows
SHARE_SHIPPED_FIRST = 0.2  # of the rows on shipped databases
# Kinds that were often wrong after a run with as many rows of each weigh more; easy or rarely asked ones weigh less.
KIND_WEIGHTS = {
    "aggregate": 150,
    "group": 150,
    "filter": 150,
    "superlative": 110,
    "distinct": 110,
    "count": 85,
    "having": 65,
    "two conditions": 57,
    "null": 30,
    "between": 25,
    "like": 15,
    "list": 8,
    "sort": 5,
}


def rows_for_budget(rows: Sequence[SqlExample], count: int, seed: int) -> list[SqlExample]:
    """`count` of the training rows in the order to train on them, none of them a join; rows on one database together.

    SHARE_SHIPPED of them are on the shipped databases, their kinds by KIND_WEIGHTS. The others are whole runs on
    databases that are not shipped; they come first, mixed with SHARE_SHIPPED_FIRST of those on the shipped ones, so
    that the training ends on the databases that most questions will be about. Raises ValueError where `rows` has too
    few.
    """
    draw = random.Random(seed)
    shipped = {schema.text for schema in load_schemas().values()}
    others = [
        run for run in _in_runs(rows) if run[0].schema_text not in shipped and all(row.kind != "join" for row in run)
    ][: round(count * (1 - SHARE_SHIPPED) / ROWS_PER_SCHEMA)]
    left = count - sum(map(len, others))
    weighted = _kinds_by_weight([row for row in rows if row.schema_text in shipped], left, draw)
    if len(weighted) < left:
        raise ValueError(f"count={count}: only {count - left + len(weighted)} rows fit; ask for fewer, or add rows.")
    runs = _runs_by_database(weighted)
    draw.shuffle(runs)
    early = round(len(runs) * SHARE_SHIPPED_FIRST)
    first = others + runs[:early]
    draw.shuffle(first)
    return [row for run in first + runs[early:] for row in run]


def _in_runs(rows: Sequence[SqlExample]) -> list[Sequence[SqlExample]]:
    return [rows[start : start + ROWS_PER_SCHEMA] for start in range(0, len(rows), ROWS_PER_SCHEMA)]


def _kinds_by_weight(rows: Sequence[SqlExample], count: int, draw: random.Random) -> list[SqlExample]:
    """At most `count` rows in random order, each kind's share by its weight; groups make up for what is short."""
    pools: dict[str, list[SqlExample]] = {}
    for row in rows:
        if row.kind in KIND_WEIGHTS:
            pools.setdefault(row.kind, []).append(row)
    for pool in pools.values():
        draw.shuffle(pool)
    share = count / sum(KIND_WEIGHTS.values())
    wanted = {kind: round(weight * share) for kind, weight in KIND_WEIGHTS.items()}
    chosen = [row for kind, number in wanted.items() for row in pools.get(kind, [])[:number]]
    spare = pools.get("group", [])[wanted["group"] :]  # from the end, as measured in L09
    chosen += spare[::-1][: max(0, count - len(chosen))]
    draw.shuffle(chosen)
    return chosen[:count]


def _runs_by_database(rows: Sequence[SqlExample]) -> list[Sequence[SqlExample]]:
    """Runs of ROWS_PER_SCHEMA rows on one database each; the last runs share what is left over of several."""
    by_database: dict[str, list[SqlExample]] = {}
    for row in rows:
        by_database.setdefault(row.schema, []).append(row)
    full: list[SqlExample] = []
    left_over: list[SqlExample] = []
    for _, found in sorted(by_database.items()):
        end = len(found) // ROWS_PER_SCHEMA * ROWS_PER_SCHEMA
        full += found[:end]
        left_over += found[end:]
    return _in_runs(full + left_over)
