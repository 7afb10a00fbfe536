"""The rows that a small budget is spent on: as many as asked for, weighted by kind, in the order to train on them."""

from __future__ import annotations

from collections import Counter

import pytest

from course.lessons.l09_qlora.run import ROWS_A_STEP, STEPS
from course.sql import load_examples, load_schemas
from course.sql.budget import KIND_WEIGHTS, SHARE_SHIPPED, SHARE_SHIPPED_FIRST, rows_for_budget
from course.sql.generate import ROWS_PER_SCHEMA

COUNT = STEPS * ROWS_A_STEP


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


@pytest.fixture(scope="module")
def shipped():
    return {schema.text for schema in load_schemas().values()}


def test_the_share_on_shipped_databases_is_the_stated_one(chosen, shipped):
    share = sum(row.schema_text in shipped for row in chosen) / COUNT
    assert abs(share - SHARE_SHIPPED) < ROWS_PER_SCHEMA / COUNT


def test_each_kind_has_the_share_of_its_weight(train, chosen, shipped):
    there = Counter(row.kind for row in train if row.schema_text in shipped)
    got = Counter(row.kind for row in chosen if row.schema_text in shipped)
    for kind, weight in KIND_WEIGHTS.items():
        wanted = weight / sum(KIND_WEIGHTS.values()) * got.total()
        assert abs(got[kind] - wanted) < 6, kind  # rounding, thirteen times at most 0.5, goes to one kind
    assert got["two conditions"] > 0.75 * there["two conditions"]  # rare and hard: most that there are


def test_training_ends_on_the_shipped_databases(chosen, shipped):
    places = [place for place, row in enumerate(chosen) if row.schema_text not in shipped]
    assert max(places) < COUNT * (1 - SHARE_SHIPPED + SHARE_SHIPPED_FIRST)
    before = chosen[: max(places)]
    assert 0.3 < sum(row.schema_text in shipped for row in before) / len(before) < 0.7  # mixed until then


def test_rows_on_one_database_stand_side_by_side(chosen):
    runs = [chosen[start : start + ROWS_PER_SCHEMA] for start in range(0, COUNT, ROWS_PER_SCHEMA)]
    assert sum(len({row.schema for row in run}) == 1 for run in runs) > 0.9 * len(runs)


def test_the_seed_decides_which(train, chosen):
    assert rows_for_budget(train, COUNT, seed=0) == chosen
    assert {row.id for row in rows_for_budget(train, COUNT, seed=1)} != {row.id for row in chosen}


def test_more_rows_than_there_are_is_refused(train):
    with pytest.raises(ValueError, match="count=3000: only 1815 rows fit"):
        rows_for_budget(train, 3000, seed=0)
