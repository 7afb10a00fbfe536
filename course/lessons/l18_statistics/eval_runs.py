"""The dataset `eval_runs`: which question each of the course's own short runs answered right."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from course.sql.examples import read_jsonl

DATA_FOLDER = Path(__file__).resolve().parents[3] / "datasets" / "eval_runs"
TASKS = ("sql", "quiz")


def load_run(name: str, task: str = "sql", folder: Path = DATA_FOLDER) -> list[dict[str, Any]]:
    """The rows of one run, one a question, in the order asked; `correct` says whether it was right.

    A row of sql has id, split, schema, kind, outcome and answer, too; one of quiz id, topic and chosen. Raises
    `ValueError` naming the runs there are.
    """
    path = folder / f"{name}.{task}.jsonl"
    if not path.exists():
        known = ", ".join(sorted(each.name.removesuffix(".jsonl") for each in folder.glob("*.jsonl")))
        raise ValueError(f"no run {name!r} of task {task!r}; there are {known}")
    return read_jsonl(path)


def right_by_id(name: str, task: str = "sql", **wanted: Any) -> dict[str, bool]:
    """Question id -> right or not, of the rows whose fields equal those wanted (`split="heldout"`)."""
    rows = load_run(name, task)
    return {row["id"]: row["correct"] for row in rows if all(row[key] == value for key, value in wanted.items())}


def as_table(*names: str) -> list[dict[str, Any]]:
    """The sql rows of several runs under one another, with the run's name as their `way`."""
    return [{**row, "way": name} for name in names for row in load_run(name)]


def problems_in(folder: Path = DATA_FOLDER) -> list[str]:
    """What is wrong with the files: a checksum, a question asked twice, runs of one task with other questions.

    A run may stop earlier than another; what it asks must be the other's first questions.
    """
    stated = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.jsonl")}
    problems = [
        f"{name} differs from its checksum, or one of the two is missing; restore both from git"
        for name in sorted(stated.keys() | found.keys())
        if stated.get(name) != found.get(name)
    ]
    for task in TASKS:
        asked = {path.name: [row["id"] for row in read_jsonl(path)] for path in folder.glob(f"*.{task}.jsonl")}
        problems += [f"{name} asks a question twice" for name, ids in asked.items() if len(set(ids)) < len(ids)]
        longest = max(asked.values(), key=len, default=[])
        problems += [
            f"{name} asks other questions than the longest run of {task}, or in another order"
            for name, ids in asked.items()
            if ids != longest[: len(ids)]
        ]
    return problems
