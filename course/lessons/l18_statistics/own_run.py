"""The learner's own L09 run, read back from its artefacts: every stored answer is executed and scored again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from course.lessons.l09_qlora.comparison import shares
from course.lessons.l09_qlora.run import Recipe, answers, scored, test_questions
from course.training import TrainingConfig

WAYS = ("zero-shot", "few-shot", "tuned")
L09_FOLDER = Path("runs") / "l09"


class ArtefactError(RuntimeError):
    """The files of a run are incomplete, or contradict its record; says which and what to do."""


def has_own_run(folder: Path = L09_FOLDER) -> bool:
    """Whether L09 was run to its end here."""
    return (folder / "result.json").exists()


def own_rows(folder: Path = L09_FOLDER) -> list[dict[str, Any]]:
    """Rows {"id", "way", "split", "correct", ...} of the three ways, scored again from the answers' texts.

    Raises ArtefactError where answers are missing, or where result.json states another accuracy than they give.
    """
    import pandas

    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if record.get("smoke"):
        raise ArtefactError(
            f"{folder} is a shortened run (COURSE_SMOKE=1), whose numbers mean nothing. Run L09 in full."
        )
    training = TrainingConfig(**record["training"])
    recipe = Recipe(training, record["model"], dtype="")
    questions = test_questions(recipe)
    files = {"tuned": folder / f"training-{training.hash()}" / "answers.jsonl"}
    tables = []
    for way in WAYS:
        path = files.get(way, folder / f"{way}.jsonl")
        tables.append(scored(way, answers(way, _refuse(path), questions, recipe, path), questions))
    table = pandas.concat(tables, ignore_index=True)
    _check_record(record["accuracy"], shares(table).round(2).to_dict("records"), folder)
    return table.to_dict("records")


def _refuse(path: Path) -> Any:
    def load_model() -> NoReturn:
        raise ArtefactError(f"{path} does not hold an answer to every test question. Run the last cells of L09 again.")

    return load_model


def _check_record(stated: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], folder: Path) -> None:
    for said, real in zip(stated, found, strict=True):
        if said != real:
            raise ArtefactError(
                f"{folder / 'result.json'} says {said}, and the answers give {real}. Run the last cells of L09 again."
            )
