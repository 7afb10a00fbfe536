"""Check the whole dataset: `python -m course.sql.validate`. Each problem is one sentence that says what to do.

Checked: row counts, checksums, ids and fields, every gold query run against its database (training rows' databases
are made again from the seed), test answers worth comparing, no leak from test into train.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from course.sql.build import CHECKED_FILES, TRAIN_ROWS, TRAIN_SEED, sha256
from course.sql.examples import SqlExample, load_examples
from course.sql.generate import Generator, as_lines
from course.sql.leakage import leaks
from course.sql.schemas import DATA_FOLDER, DataError, load_schemas
from course.sql.stability import result_problem

LEAST_TRAIN, LEAST_TEST, LEAST_HELDOUT, LEAST_SCHEMAS = 3000, 300, 100, 18


def count_problems(train: list[SqlExample], test: list[SqlExample], schema_count: int) -> list[str]:
    """Too few rows or schemas."""
    heldout = sum(e.split == "heldout" for e in test)
    counts = (
        ("training rows", len(train), LEAST_TRAIN),
        ("test rows", len(test), LEAST_TEST),
        ("held-out test rows", heldout, LEAST_HELDOUT),
        ("schemas", schema_count, LEAST_SCHEMAS),
    )
    return [f"there are {n} {what}; at least {least} are wanted" for what, n, least in counts if n < least]


def id_problems(examples: Iterable[SqlExample]) -> list[str]:
    """An id that two rows bear."""
    times = Counter(e.id for e in examples)
    return [f"id {name} is borne by {n} rows; every row needs its own" for name, n in times.items() if n > 1]


def checksum_problems(folder: Path = DATA_FOLDER) -> list[str]:
    """A file whose SHA-256 differs from checksums.json."""
    path = folder / "checksums.json"
    if not path.exists():
        return [f"{path.name} is missing; write it with: python -m course.sql.build"]
    stated = json.loads(path.read_text(encoding="utf-8"))
    problems = []
    for name in CHECKED_FILES:
        if not (folder / name).exists():
            problems.append(f"{name} is missing; restore it from git")
        elif stated.get(name) != sha256(folder / name):
            problems.append(
                f"{name} differs from its checksum; if you meant to change it run python -m course.sql.build, "
                "else restore it from git"
            )
    return problems


def gold_problems(test: Iterable[SqlExample]) -> list[str]:
    """A test query that does not run, returns nothing, or has no single right answer."""
    schemas = load_schemas()
    problems = []
    for example in test:
        if example.schema not in schemas:
            problems.append(f"{example.id}: no schema is called {example.schema!r}; see schemas.json")
            continue
        found = result_problem(schemas[example.schema], example.sql)
        if found:
            problems.append(f"{example.id}: {found}: {example.sql}")
    return problems


def rebuild_problems(folder: Path = DATA_FOLDER) -> list[str]:
    """Training rows that differ from a rebuild; the rebuild runs every query on its own database."""
    rebuilt = as_lines(row for row, _ in Generator(TRAIN_SEED, "train").rows(TRAIN_ROWS))
    path = folder / "train.jsonl"
    if hashlib.sha256(rebuilt).hexdigest() == sha256(path):
        return []
    pairs = zip(rebuilt.splitlines(), path.read_bytes().splitlines(), strict=False)
    line = next((n for n, (a, b) in enumerate(pairs, start=1) if a != b), "last")
    return [
        f"train.jsonl is not what seed {TRAIN_SEED} makes (first difference: line {line}); "
        "rebuild it with: python -m course.sql.build"
    ]


def problems_in(folder: Path = DATA_FOLDER) -> list[str]:
    """Every problem of the dataset in `folder`; an empty list when it is sound."""
    try:
        schemas = load_schemas(folder)
        train, test = load_examples("train", folder=folder), load_examples("test", folder=folder)
    except DataError as error:
        return [str(error)]
    return [
        *count_problems(train, test, len(schemas)),
        *id_problems([*train, *test]),
        *checksum_problems(folder),
        *gold_problems(test),
        *leaks(train, test, schemas.values()),
        *rebuild_problems(folder),
    ]


def main() -> int:
    """Print what was found; 1 when there is a problem."""
    problems = problems_in()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{len(problems)} problem(s) in {DATA_FOLDER}", file=sys.stderr)
        return 1
    train, test = load_examples("train"), load_examples("test")
    print(f"sound: {len(train)} training rows, {len(test)} test rows, {len(load_schemas())} schemas")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
