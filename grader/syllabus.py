"""The shape of a course: modules of lessons, and the skills they build. The grader reads it; a course fills it in.

A course registers itself through the entry point group `grader.courses`, whose value is a `Course` object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Threshold:
    """Points for an adapter that gets at least `share` (a fraction of 1) of a group of hidden questions right."""

    group: str
    share: float
    points: float


@dataclass(frozen=True)
class AdapterTask:
    """An adapter that learners hand in beside a lesson's notebook.

    evaluation: `module:attribute` of a `grader.adapters.evaluation.Evaluation`. It is named, not imported: what it
    needs is loaded in the process that answers the hidden questions.
    """

    evaluation: str
    thresholds: tuple[Threshold, ...]


@dataclass(frozen=True)
class Lesson:
    """One unit. `id` is its folder name (`l07_lora`); `needs` are the ids of lessons it builds on.

    minutes: a learner's time. run_minutes: what the reference notebook takes on two CPU cores.
    adapter: what is to be handed in beside the notebook, if anything is.
    """

    id: str
    title: str
    minutes: int
    run_minutes: float
    needs: tuple[str, ...] = ()
    adapter: AdapterTask | None = None

    @property
    def code(self) -> str:
        """`l07_lora` -> `L07`."""
        return self.id.split("_")[0].upper()

    @property
    def notebook_name(self) -> str:
        """`l07_lora` -> `07_lora.ipynb`."""
        return f"{self.id.removeprefix('l')}.ipynb"


@dataclass(frozen=True)
class Module:
    """A group of lessons with one purpose, in the order they are taught."""

    title: str
    lessons: tuple[Lesson, ...]


@dataclass(frozen=True)
class Sandbox:
    """What a course needs where learner code is confined. readable: files and folders; environment: variables."""

    readable: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Course:
    """Everything the grader needs to know about a course.

    lessons_package: the package that holds one sub-package per lesson.
    skills: skill id -> what somebody who has it can do.
    root: the folder that holds notebooks/ and datasets/.
    prepare: run once in each process before its first exercise, for what a machine needs before it can compute safely.
    sandbox: asked once when an official run begins: what learner code finds there beside Python's packages.
    """

    title: str
    lessons_package: str
    modules: tuple[Module, ...]
    skills: Mapping[str, str]
    root: Path
    prepare: Callable[[], object] = lambda: None
    sandbox: Callable[[], Sandbox] = lambda: Sandbox()

    @property
    def lessons(self) -> tuple[Lesson, ...]:
        """All lessons in order."""
        return tuple(lesson for module in self.modules for lesson in module.lessons)
