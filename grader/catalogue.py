"""Finds a course and its exercises. The grader knows no lesson by name: everything comes from the `Course` object.

The course is the one registered under the entry point group `grader.courses`, or the one named by GRADER_COURSE or
`--course` as `module:attribute`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from grader.exercise import Exercise
from grader.source import DECLARES
from grader.syllabus import Course, Lesson

MARKER = re.compile(r'^# %%.*\bexercise="(\w+)"', re.MULTILINE)


class CatalogueError(LookupError):
    """A course, lesson or exercise that cannot be found or loaded; says what was looked for and what exists."""


def find_course(spec: str | None = None) -> Catalogue:
    """The course named `module:attribute`, else by GRADER_COURSE, else the installed one."""
    spec = spec or os.environ.get("GRADER_COURSE")
    if spec is None:
        registered = {entry.name: entry.value for entry in entry_points(group="grader.courses")}
        if len(registered) != 1:
            found = ", ".join(registered) or "none"
            raise CatalogueError(
                f"expected one installed course, found {found}. "
                "Run `make lab` once, or set GRADER_COURSE=module:attribute."
            )
        (spec,) = registered.values()
    course = load_object(spec, "course", default="COURSE")
    if not isinstance(course, Course):
        raise CatalogueError(f"{spec!r} is a {type(course).__name__}, not a grader.syllabus.Course")
    return Catalogue(course)


def load_object(spec: str, kind: str, default: str = "") -> Any:
    """What `module:attribute` names. default: the attribute where only a module is named. Raises CatalogueError.

    kind: what it should be, for the error.
    """
    module_name, _, attribute = spec.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute or default)
    except (ImportError, AttributeError) as error:
        raise CatalogueError(f"no {kind} at {spec!r}: {error}") from error


@dataclass(frozen=True)
class Catalogue:
    """A course with its exercises, loaded one by one when asked for."""

    course: Course

    def lesson(self, name: str) -> Lesson:
        """The lesson called `l07_lora`, `07_lora` or `07_lora.ipynb`."""
        stem = Path(name).name.removesuffix(".ipynb")
        for lesson in self.course.lessons:
            if stem in (lesson.id, lesson.id.removeprefix("l")):
                return lesson
        known = ", ".join(lesson.id for lesson in self.course.lessons)
        raise CatalogueError(f"no lesson called {name!r}; there are {known}")

    @cached_property
    def lessons_folder(self) -> Path:
        """The folder with one sub-folder per lesson."""
        spec = importlib.util.find_spec(self.course.lessons_package)
        if spec is None or not spec.submodule_search_locations:
            raise CatalogueError(f"the lessons package {self.course.lessons_package!r} cannot be found")
        return Path(next(iter(spec.submodule_search_locations)))

    def lesson_file(self, lesson: Lesson) -> Path:
        """Where the prose and demos of a lesson are."""
        return self.lessons_folder / lesson.id / "lesson.py"

    def stems(self, lesson: Lesson) -> list[str]:
        """File stems of a lesson's exercises in the order it marks them, unmarked ones last; imports nothing."""
        files = sorted((self.lessons_folder / lesson.id).glob("*.py"))
        declared = [file.stem for file in files if DECLARES.search(file.read_text(encoding="utf-8"))]
        prose = self.lesson_file(lesson)
        marked = MARKER.findall(prose.read_text(encoding="utf-8")) if prose.exists() else []
        return sorted(declared, key=lambda stem: marked.index(stem) if stem in marked else len(marked))

    def module(self, lesson: Lesson, stem: str) -> ModuleType:
        """The module that declares an exercise."""
        return importlib.import_module(f"{self.course.lessons_package}.{lesson.id}.{stem}")

    def load(self, lesson: Lesson, stem: str) -> Exercise:
        """The exercise declared in a lesson's file `stem`.py."""
        exercise = getattr(self.module(lesson, stem), "exercise", None)
        if not isinstance(exercise, Exercise):
            raise CatalogueError(f"{lesson.id}/{stem}.py has no `exercise = Exercise(...)`")
        return exercise

    def find(self, name: str) -> tuple[Lesson, Exercise]:
        """The exercise whose answer, file or id is called `name`."""
        wanted = re.sub(r"^l\d\d-", "", name)
        for lesson in self.course.lessons:
            for stem in self.stems(lesson):
                if stem in (wanted, snake_case(wanted), wanted.replace("-", "_")):
                    return lesson, self.load(lesson, stem)
        known = ", ".join(stem for lesson in self.course.lessons for stem in self.stems(lesson))
        raise CatalogueError(f"no exercise called {name!r}. Did you rename the function? Exercises: {known}")

    def exercises(self, lesson: Lesson | None = None) -> Iterator[tuple[Lesson, Exercise]]:
        """All exercises, or those of one lesson."""
        for each in (lesson,) if lesson else self.course.lessons:
            for stem in self.stems(each):
                yield each, self.load(each, stem)


def snake_case(name: str) -> str:
    """`LoraLinear` -> `lora_linear`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
