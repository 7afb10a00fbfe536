"""Rebuild the dataset's generated files: train.jsonl, test.jsonl and checksums.json.

    python -m course.sql.build

train.jsonl comes from the grammar and a stated seed; test.jsonl from the hand-written questions. The result is the
same to the byte each time.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from course.sql.examples import handwritten_rows
from course.sql.generate import generate, write_rows
from course.sql.schemas import DATA_FOLDER, load_schema

TRAIN_SEED = 7
TRAIN_ROWS = 3600
CHECKED_FILES = ("schemas.json", "lexicon.json", "phrasings.json", "train.jsonl", "test.jsonl")


def rows_of_test_split(folder: Path = DATA_FOLDER) -> list[dict[str, Any]]:
    """The test split from the hand-written files: ids `sql-<schema>-NNN`, and the schema's own split."""
    numbers: dict[str, int] = {}
    rows = []
    for row in handwritten_rows(folder):
        schema = load_schema(row["schema"])
        numbers[schema.name] = numbers.get(schema.name, 0) + 1
        rows.append(
            {
                "id": f"sql-{schema.name}-{numbers[schema.name]:03d}",
                "schema": schema.name,
                "question": row["question"],
                "sql": row["sql"],
                "split": schema.split,
            }
        )
    return rows


def sha256(path: Path) -> str:
    """The file's SHA-256, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(folder: Path = DATA_FOLDER) -> None:
    """Write the three generated files into the folder."""
    write_rows(rows_of_test_split(folder), folder / "test.jsonl")
    write_rows(generate(TRAIN_SEED, TRAIN_ROWS), folder / "train.jsonl")
    sums = {name: sha256(folder / name) for name in CHECKED_FILES}
    (folder / "checksums.json").write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    build()
    print(f"rebuilt train.jsonl (seed {TRAIN_SEED}, {TRAIN_ROWS} rows), test.jsonl and checksums.json in {DATA_FOLDER}")
