"""Every scored question of an evaluation as one row, read from lm-eval's sample files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course.quiz import DIFFICULTIES
from course.sql import load_schema, score

if TYPE_CHECKING:
    import pandas

NARROW_NATS = 0.5


@dataclass(frozen=True)
class TaskView:
    """How a task's samples are read.

    slices: field of a document -> its values in the order to show them; none where the largest comes first.
    judged(sample) -> (answered, kind of error, detail).
    """

    metric: str
    slices: Mapping[str, Sequence[str]]
    expected: Callable[[Mapping[str, Any]], str]
    judged: Callable[[Mapping[str, Any]], tuple[str, str, str]]


def _quiz_judged(sample: Mapping[str, Any]) -> tuple[str, str, str]:
    choices, gold = sample["doc"]["choices"], sample["doc"]["answer"]
    values = [float(response[0]) for response in sample["filtered_resps"]]
    best = max(range(len(values)), key=values.__getitem__)
    gap = values[best] - values[gold]
    detail = ", ".join(f"{choice}: {value:.1f}" for choice, value in zip(choices, values, strict=True))
    if gap < NARROW_NATS:
        kind = f"narrow: less than {NARROW_NATS} nats behind"
    elif len(choices[best]) < len(choices[gold]):
        kind = "a shorter choice preferred"
    else:
        kind = "a choice as long or longer preferred"
    return choices[best], kind, detail


def _sql_judged(sample: Mapping[str, Any]) -> tuple[str, str, str]:
    document = sample["doc"]
    judged = score(sample["filtered_resps"][0], document["sql"], load_schema(document["schema"]))
    return judged.predicted, judged.outcome, judged.message


VIEWS: Mapping[str, TaskView] = {
    "quiz": TaskView(
        "acc", {"topic": (), "difficulty": DIFFICULTIES}, lambda doc: doc["choices"][doc["answer"]], _quiz_judged
    ),
    "sql": TaskView("executed", {"split": ("seen", "heldout"), "kind": ()}, lambda doc: doc["sql"], _sql_judged),
}


def scored_items(task: str, sample_file: Path) -> pandas.DataFrame:
    """One row a question: id, question, expected, answered, correct (bool), error (its kind, "" when right), detail,
    and the task's slices.

    Raises ValueError for a task without a view, and for a file that is cut short.
    """
    import pandas

    if task not in VIEWS:
        raise ValueError(f"no view of the task {task!r}; there are {', '.join(VIEWS)}: add one to {__name__}")
    view, rows = VIEWS[task], []
    for number, line in enumerate(sample_file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            sample = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{sample_file.name}, line {number} is not JSON ({error.msg}); evaluate again") from error
        document, right = sample["doc"], bool(sample[view.metric])
        answered, kind, detail = view.judged(sample)
        rows.append(
            {
                "id": document["id"],
                "question": document["question"],
                "expected": view.expected(document),
                "answered": answered,
                "correct": right,
                "error": "" if right else kind,
                "detail": detail,
                **{name: document[name] for name in view.slices},
            }
        )
    return pandas.DataFrame(rows)
