"""The items of the dataset: one question, four choices, one of them right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA_FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "quiz"
SPLITS = ("dev", "test")
TOPICS = ("python", "linux", "general")
DIFFICULTIES = ("easy", "medium", "hard")
CHOICE_COUNT = 4
TEXT_FIELDS = ("id", "topic", "subtopic", "difficulty", "question", "why", "split")
FIELDS = {*TEXT_FIELDS, "choices", "answer", "check"}


class QuizError(ValueError):
    """The dataset's files are not what they should be; the message says where and what to do."""


@dataclass(frozen=True)
class QuizItem:
    """One question. `answer` is the index of the right choice; `why` says in a sentence why it is right.

    `check` is Python code whose result is the right choice; empty where no code can tell.
    """

    id: str
    topic: str
    subtopic: str
    difficulty: str
    question: str
    choices: tuple[str, ...]
    answer: int
    why: str
    split: str
    check: str = ""

    @property
    def right(self) -> str:
        """The right choice's text."""
        return self.choices[self.answer]

    @property
    def wrong(self) -> tuple[str, ...]:
        """The other choices' texts, in order."""
        return self.choices[: self.answer] + self.choices[self.answer + 1 :]


def item_from_row(row: Any, where: str = "this row") -> QuizItem:
    """One item from its JSON form. Raises `QuizError` naming the field that is missing, unknown or malformed."""
    if not isinstance(row, dict):
        raise QuizError(f"{where} is not a JSON object; write one object a line")
    if isinstance(row.get("id"), str) and row["id"]:
        where = row["id"]
    missing = [key for key in TEXT_FIELDS if not (isinstance(row.get(key), str) and row[key])]
    missing += [key for key in ("choices", "answer") if key not in row]
    if missing:
        raise QuizError(
            f"{where} has no {', '.join(missing)}; every item needs {', '.join(sorted(FIELDS - {'check'}))}"
        )
    unknown = sorted(set(row) - FIELDS)
    if unknown:
        raise QuizError(f"{where} has the unknown field {', '.join(unknown)}; known are {', '.join(sorted(FIELDS))}")
    choices, answer, check = row["choices"], row["answer"], row.get("check", "")
    if not isinstance(choices, list) or len(choices) != CHOICE_COUNT or not all(isinstance(c, str) for c in choices):
        raise QuizError(f"{where}: choices must be a list of {CHOICE_COUNT} strings; it is {choices!r}")
    if type(answer) is not int or not 0 <= answer < CHOICE_COUNT:
        raise QuizError(f"{where}: answer must be the right choice's index, 0 to {CHOICE_COUNT - 1}; it is {answer!r}")
    if not isinstance(check, str):
        raise QuizError(f"{where}: check must be Python code in a string, or left out; it is {check!r}")
    return QuizItem(choices=tuple(choices), answer=answer, check=check, **{key: row[key] for key in TEXT_FIELDS})


def read_items(path: Path) -> list[QuizItem]:
    """The items of one JSONL file. Raises `QuizError` naming the line that is no item."""
    if not path.exists():
        raise QuizError(f"{path.name} is missing; restore it from git")
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise QuizError(f"{where} is not JSON ({error.msg}); correct that line") from error
        items.append(item_from_row(row, where))
    return items


def load_quiz(split: str = "test", topic: str | None = None, folder: Path = DATA_FOLDER) -> list[QuizItem]:
    """The items of `dev` or `test`, in file order; only those of `topic` (python, linux, general) if it is given.

    Raises `ValueError` for an unknown split or topic.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; use {' or '.join(SPLITS)}")
    if topic is not None and topic not in TOPICS:
        raise ValueError(f"no topic {topic!r}; use {', '.join(TOPICS)}, or None for all")
    return [item for item in read_items(folder / f"{split}.jsonl") if topic in (None, item.topic)]
