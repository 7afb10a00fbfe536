"""Honest learners' notebooks of one assignment, and the folders in which each grader wants them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from grader.build import build_lesson
from grader.catalogue import Catalogue
from grader.exercise import Exercise
from grader.source import answer_source, definition_source, stub
from grader.syllabus import Lesson

# What learners hand in, and how often of a hundred.
KINDS = {"reference": 45, "alternative": 15, "misconception": 25, "untouched": 10, "raises": 5}


def write_cohort(catalogue: Catalogue, lesson: Lesson, count: int, folder: Path) -> list[Path]:
    """`count` notebooks, each as FOLDER/LEARNER/NOTEBOOK; the same learner hands in the same whatever the count."""
    exercises = [exercise for _, exercise in catalogue.exercises(lesson)]
    released = build_lesson(catalogue, lesson)
    paths = []
    for number in range(count):
        path = folder / f"learner{number:04}" / lesson.notebook_name
        path.parent.mkdir(parents=True)
        path.write_text(_handed_in(released, exercises, number), encoding="utf-8")
        paths.append(path)
    return paths


def _handed_in(released: str, exercises: list[Exercise], number: int) -> str:
    chance = random.Random(number)
    notebook = json.loads(released)
    cells = {cell["id"]: cell for cell in notebook["cells"]}
    for exercise in exercises:
        kind = "reference" if number == 0 else chance.choices(list(KINDS), list(KINDS.values()))[0]
        cells[exercise.id]["source"] = f"{answer(exercise, kind, chance)}\n# learner {number}\n"
    return json.dumps(notebook)


def answer(exercise: Exercise, kind: str, chance: random.Random) -> str:
    """An answer's source under the name that the exercise wants. `chance` picks among several of a kind."""
    if kind == "untouched":
        return stub(exercise)
    if kind == "raises":
        return stub(exercise).replace("raise NotImplementedError", 'raise ValueError("no idea yet")')
    others = {"alternative": exercise.alternatives, "misconception": exercise.misconceptions}.get(kind)
    if not others:
        return answer_source(exercise)
    name = chance.choice(sorted(others))
    return re.sub(rf"^(def|class) {name}\b", rf"\1 {exercise.answer_name}", definition_source(exercise, name))
