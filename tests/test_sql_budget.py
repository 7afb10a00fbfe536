"""The rows that a small budget is spent on: as many as asked for, balanced by kind, side by side by database."""

from __future__ import annotations

from collections import Counter

import pytest

from course.sql import load_examples, load_schemas
from course.sql.budget import SHARE_SHIPPED, rows_for_budget
from course.sql.generate import ROWS_PER_SCHEMA

COUNT = 1000


@pytest.fixture(scope="module")
def train():
    return load_examples("train")


@pytest.fixture(scope="module")
def chosen(train):
    return rows_for_budget(train, COUNT, seed=0)


def test_as_many_training_rows_as_asked_for_each_once_and_no_join(train, chosen):
    assert len({row.id for row in chosen}) == len(chosen) == COUNT
    assert {row.id for row in chosen} <= {row.id for row in train}
    assert "join" not in {row.kind for row in chosen}


def test_the_share_on_shipped_databases_is_the_stated_one(chosen):
    shipped = {schema.text for schema in load_schemas().values()}
    share = sum(row.schema_text in shipped for row in chosen) / COUNT
    assert abs(share - SHARE_SHIPPED) < ROWS_PER_SCHEMA / COUNT


def test_kinds_take_turns(train, chosen):
    shipped = {schema.text for schema in load_schemas().values()}
    there = Counter(row.kind for row in train if row.schema_text in shipped)
    got = Counter(row.kind for row in chosen if row.schema_text in shipped)
    fullest = max(got.values())
    for kind, count in got.items():
        assert count in (fullest, fullest - 1) or count == there[kind], kind


def test_rows_on_one_database_stand_side_by_side(chosen):
    runs = [chosen[start : start + ROWS_PER_SCHEMA] for start in range(0, COUNT, ROWS_PER_SCHEMA)]
    assert sum(len({row.schema for row in run}) == 1 for run in runs) > 0.9 * len(runs)


def test_the_seed_decides_which(train, chosen):
    assert rows_for_budget(train, COUNT, seed=0) == chosen
    assert {row.id for row in rows_for_budget(train, COUNT, seed=1)} != {row.id for row in chosen}


def test_more_rows_than_there_are_is_refused(train):
    with pytest.raises(ValueError, match="count=3000: only 1691 rows fit"):
        rows_for_budget(train, 3000, seed=0)
