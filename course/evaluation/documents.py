"""The course's datasets as lm-eval's documents; the YAML files in `tasks` name these functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from course.quiz import SPLITS, load_quiz
from course.sql import load_examples, load_schema, score

if TYPE_CHECKING:
    from datasets import DatasetDict  # type: ignore[attr-defined]


def quiz_documents(**_: Any) -> DatasetDict:
    """`quiz`: splits `test` and `dev`, one document an item."""
    return _documents({split: [asdict(item) for item in load_quiz(split)] for split in SPLITS})


def sql_documents(**_: Any) -> DatasetDict:
    """`sql`: split `test`, the hand-written questions, with the kind of query that the gold one is."""
    return _documents({"test": [asdict(example) | {"kind": example.kind} for example in load_examples("test")]})


def sql_result(document: Mapping[str, Any], responses: Sequence[str]) -> dict[str, float]:
    """`executed`: 1.0 where the generated query returns what the gold query returns."""
    return {"executed": float(score(responses[0], document["sql"], load_schema(document["schema"])).correct)}


def _documents(rows_by_split: Mapping[str, Sequence[Mapping[str, Any]]]) -> DatasetDict:
    from datasets import Dataset, DatasetDict  # type: ignore[attr-defined]

    return DatasetDict({split: Dataset.from_list([dict(row) for row in rows]) for split, rows in rows_by_split.items()})
