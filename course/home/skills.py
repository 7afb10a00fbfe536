"""The skills of an ML engineer who fine-tunes models, and what of them this course builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from course.home.path import ExerciseRow, LessonRow
from grader.syllabus import Lesson

# Area of the role -> skills of the syllabus. Skills that no area names are shown as the course's own.
AREAS: Mapping[str, tuple[str, ...]] = {
    "PyTorch": ("pytorch", "reproducibility", "environment"),
    "Language models": ("tokenisation", "context", "transformer"),
    "Training data": ("data",),
    "LoRA and QLoRA": ("lora", "qlora", "peft"),
    "Memory and quantisation": ("memory", "quantisation"),
    "Evaluation": ("metrics", "evaluation", "statistics"),
}
# What the role also asks for. An area stays listed as missing until a skill of the syllabus, named here, has exercises.
BEYOND: Mapping[str, tuple[str, ...]] = {
    "CUDA and Triton kernels": ("cuda", "kernels", "triton"),
    "Distributed training": ("distributed", "fsdp"),
    "Preference tuning": ("preference", "dpo"),
    "Serving": ("serving", "inference"),
}
# Names that are not written like words.
TITLES: Mapping[str, str] = {"pytorch": "PyTorch", "lora": "LoRA", "qlora": "QLoRA", "peft": "The peft library"}
OWN_AREA = "Working with this course"


@dataclass(frozen=True)
class SkillRow:
    """One skill. meaning: what somebody who has it can do. lessons: where it is built."""

    title: str
    meaning: str
    passed: int
    exercises: int
    lessons: tuple[Lesson, ...]


@dataclass(frozen=True)
class AreaRow:
    """One area of the role with the skills that shipped exercises build."""

    title: str
    skills: tuple[SkillRow, ...]

    @property
    def passed(self) -> int:
        """Passed exercises, each skill's counted."""
        return sum(skill.passed for skill in self.skills)

    @property
    def exercises(self) -> int:
        """Exercises, each skill's counted."""
        return sum(skill.exercises for skill in self.skills)


def skill_map(lessons: Sequence[LessonRow], meanings: Mapping[str, str]) -> tuple[tuple[AreaRow, ...], tuple[str, ...]]:
    """(areas with the skills that have exercises, areas of the role that no shipped lesson builds).

    meanings: the syllabus' skills.
    """
    rows = {name: _skill(name, meaning, lessons) for name, meaning in meanings.items()}
    built = {name: row for name, row in rows.items() if row.exercises}
    areas, missing = [], []
    named: set[str] = set()
    for title, names in {**AREAS, **BEYOND}.items():
        named |= set(names)
        found = tuple(built[name] for name in names if name in built)
        if found:
            areas.append(AreaRow(title, found))
        else:
            missing.append(title)
    own = tuple(row for name, row in built.items() if name not in named)
    return (*areas, *([AreaRow(OWN_AREA, own)] if own else [])), tuple(missing)


def _skill(name: str, meaning: str, lessons: Sequence[LessonRow]) -> SkillRow:
    found: list[tuple[Lesson, ExerciseRow]] = [
        (row.lesson, exercise) for row in lessons for exercise in row.exercises if name in exercise.declared.skills
    ]
    taught = {lesson.id: lesson for lesson, _ in found}
    passed = sum(exercise.passed for _, exercise in found)
    return SkillRow(TITLES.get(name, name.capitalize()), meaning, passed, len(found), tuple(taught.values()))
