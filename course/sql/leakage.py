"""Nothing of the test set in the training set: no question, and no word of the held-out databases."""

from __future__ import annotations

import re
from collections.abc import Iterable

from course.sql.examples import SqlExample, normal_question
from course.sql.schemas import Schema

ORDINARY_COLUMNS = frozenset({"id"})  # every database has one; it says nothing about a domain


def heldout_names(schemas: Iterable[Schema]) -> frozenset[str]:
    """Table and column names of the held-out schemas, `id` aside."""
    names = set()
    for schema in schemas:
        if schema.split == "heldout":
            names |= {t.name for t in schema.tables} | {c.name for t in schema.tables for c in t.columns}
    return frozenset(names - ORDINARY_COLUMNS)


def names_in(schema_text: str) -> frozenset[str]:
    """Every table and column name of a schema as a prompt shows it."""
    return frozenset(re.findall(r"\w+", schema_text))


def leaks(train: Iterable[SqlExample], test: Iterable[SqlExample], schemas: Iterable[Schema]) -> list[str]:
    """One sentence for each leak of test into train."""
    asked = {normal_question(e.question): e.id for e in test}
    kept_out = heldout_names(schemas)
    found = []
    for example in train:
        same = asked.get(normal_question(example.question))
        if same:
            found.append(f"{example.id} asks the question of test row {same}; rebuild with: python -m course.sql.build")
        names = sorted(names_in(example.schema_text) & kept_out)
        if names:
            found.append(
                f"{example.id} shows {', '.join(names)}, kept for held-out schemas; take it out of lexicon.json"
            )
    return found
