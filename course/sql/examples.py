"""The rows of the dataset: one question, its gold query and the schema it is asked of."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course.sql.kinds import kind_of
from course.sql.schemas import DATA_FOLDER, DataError, load_schema

SPLIT_NAMES = ("train", "seen", "heldout")


@dataclass(frozen=True)
class SqlExample:
    """One row. `schema_text` is what the prompt shows; a training row's schema may exist nowhere else."""

    id: str
    schema: str
    question: str
    sql: str
    split: str
    schema_text: str

    @property
    def kind(self) -> str:
        """The kind of query (join, group, superlative, ...), read from the gold query."""
        return kind_of(self.sql)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file. Raises `DataError` naming the file and line that is not JSON."""
    if not path.exists():
        raise DataError(f"{path} is missing; rebuild it with: python -m course.sql.build")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{path.name}, line {number} is not JSON ({error.msg}); correct that line") from error
    return rows


def example_from_row(row: dict[str, Any], where: str = "this row") -> SqlExample:
    """One example from its JSON form; test rows take their schema's text from schemas.json."""
    missing = [key for key in ("id", "schema", "question", "sql", "split") if not row.get(key)]
    if missing:
        raise DataError(f"{where} has no {', '.join(missing)}; every row needs id, schema, question, sql and split")
    text = row.get("schema_text") or load_schema(row["schema"]).text
    return SqlExample(row["id"], row["schema"], row["question"], row["sql"], row["split"], text)


def load_examples(split: str, schemas: Collection[str] | None = None, folder: Path = DATA_FOLDER) -> list[SqlExample]:
    """Examples of one split, in file order: `train`, `test` (both), `seen` or `heldout`; or a path to a JSONL file.

    `schemas` keeps only rows of those schemas. Raises `ValueError` for an unknown split.
    """
    if split.endswith(".jsonl"):
        path, wanted = Path(split), set(SPLIT_NAMES)
    elif split in ("train", "test", *SPLIT_NAMES):
        path = folder / ("train.jsonl" if split == "train" else "test.jsonl")
        wanted = {"seen", "heldout"} if split == "test" else {split}
    else:
        raise ValueError(f"no split {split!r}; use train, test, seen, heldout or the path of a .jsonl file")
    examples = [example_from_row(r, f"{path.name}, line {n}") for n, r in enumerate(read_jsonl(path), start=1)]
    return [e for e in examples if e.split in wanted and (schemas is None or e.schema in schemas)]


def handwritten_rows(folder: Path = DATA_FOLDER) -> list[dict[str, Any]]:
    """The hand-written test questions: one file for each schema, sorted by file name."""
    rows = []
    for path in sorted((folder / "test_handwritten").glob("*.jsonl")):
        rows.extend(read_jsonl(path))
    return rows


def normal_question(question: str) -> str:
    """A question without case, marks and repeated spaces, to tell whether two are the same question."""
    return " ".join(re.sub(r"[^\w%.<>=-]+", " ", question.lower()).strip(" .").split())
