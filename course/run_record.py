"""The record of a lesson's run: one `result.json` that other programs can read, written whole or not at all.

Each lesson's record has a JSON Schema, which says what must be in it; it may hold more. Units are in the names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from course.workspace import write_whole

NUMBER: Mapping[str, Any] = {"type": "number"}
COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 0}
PERCENT: Mapping[str, Any] = {"type": "number", "minimum": 0, "maximum": 100}
TEXT: Mapping[str, Any] = {"type": "string"}


def _object(**fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(fields), "properties": fields}


def _rows(**fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": _object(**fields)}


SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "l07_lora": _object(
        smoke={"type": "boolean"},
        model=TEXT,
        questions=COUNT,
        right_before=COUNT,
        right_after=COUNT,
        gain=_object(points=NUMBER, low=NUMBER, high=NUMBER),
        tokens=COUNT,
        training_seconds=NUMBER,
        tokens_per_second=NUMBER,
        trainable_parameters=COUNT,
        parameters=COUNT,
    ),
    "l08_quantisation": _object(
        smoke={"type": "boolean"},
        tokens=COUNT,
        loss_unquantised=NUMBER,
        formats=_rows(format=TEXT, bits=NUMBER, megabytes=NUMBER, loss=NUMBER, kl_nats=NUMBER, same_token=NUMBER),
    ),
    "l09_qlora": _object(
        smoke={"type": "boolean"},
        model=TEXT,
        training={"type": "object"},
        accuracy=_rows(way=TEXT, split=TEXT, questions=COUNT, correct=COUNT, percent=PERCENT, low=NUMBER, high=NUMBER),
        gains=_rows(before=TEXT, after=TEXT, split=TEXT, questions=COUNT, points=NUMBER, low=NUMBER, high=NUMBER),
        tokens=COUNT,
        training_seconds=NUMBER,
        tokens_per_second=NUMBER,
        peak_memory_bytes=COUNT,
    ),
    "l17_metrics": _object(
        smoke={"type": "boolean"},
        model=TEXT,
        adapter_trained_in_l09={"type": "boolean"},
        files=_object(before={"type": "array", "items": TEXT}, after={"type": "array", "items": TEXT}),
    ),
}


class RecordError(ValueError):
    """A record that is damaged or lacks something; says which file, what is wrong and how to make it again."""


def write_record(path: Path, lesson: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write the record of a run of `lesson` and return it with the lesson's id.

    Raises RecordError for one that does not follow the lesson's schema.
    """
    whole = {"lesson": lesson, **record}
    _check(whole, lesson, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(whole, indent=1) + "\n").encode())
    return whole


def parse_record(data: bytes, lesson: str, path: Path) -> dict[str, Any]:
    """The record in `data`, the content of `path`. Raises RecordError."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON ({error}). Run the last cells of its lesson again.") from error
    _check(record, lesson, path)
    return record


def _check(record: Any, lesson: str, path: Path) -> None:
    from jsonschema import Draft202012Validator

    problem = next(iter(Draft202012Validator(SCHEMAS[lesson]).iter_errors(record)), None)
    if problem is not None:
        where = "/".join(map(str, problem.absolute_path)) or "the record"
        raise RecordError(f"{path}: {where}: {problem.message[:200]}. Run the last cells of {lesson} again.")
