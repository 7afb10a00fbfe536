"""From the placement's answers to a lesson to start with, and the reason for each lesson that may be skipped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from course.placement.questions import QUESTIONS, Question
from grader.syllabus import Lesson

NUMBER_TOLERANCE = 0.005
LONGEST_NUMBER = 30


class PlacementError(ValueError):
    """An answer or a kept placement that cannot be read; says what it was and what is possible."""


@dataclass(frozen=True)
class Background:
    """Where a learner comes from. first: lessons that lie close to it, in order. reason: why these come first."""

    title: str
    first: tuple[str, ...]
    reason: str


BACKGROUNDS: Mapping[str, Background] = {
    "backend": Background(
        "Backend engineer",
        ("l07_lora", "l08_quantisation", "l09_qlora", "l01_tokens", "l05_data"),
        "You build services: LoRA, quantisation and a real fine-tune come first, since they give you something that "
        "runs. Text and data follow; the model's inside comes last.",
    ),
    "data": Background(
        "Data engineer",
        ("l01_tokens", "l05_data", "l07_lora", "l09_qlora", "l17_metrics", "l18_statistics"),
        "You build pipelines: text and training data come first, since cleaning, deduplication and honest splits are "
        "close to what you do. Training and measuring follow.",
    ),
    "devops": Background(
        "DevOps engineer",
        ("l08_quantisation", "l07_lora", "l09_qlora", "l17_metrics", "l18_statistics"),
        "You run machines: bits, memory and what fits come first. Then the fine-tune that uses them, and how to tell "
        "whether a change made a model better; text and data follow.",
    ),
    "other": Background("Something else", (), "The lessons come in the order of the syllabus."),
}


@dataclass(frozen=True)
class Placement:
    """What was answered. right: ids of the questions answered rightly. taken: when, in ISO 8601."""

    background: str
    right: tuple[str, ...]
    taken: str

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"background": self.background, "right": list(self.right), "taken": self.taken}

    @classmethod
    def from_dict(cls, kept: Any) -> Placement:
        """From plain data; raises PlacementError where that is not a placement."""
        try:
            placement = cls(kept["background"], tuple(kept["right"]), kept["taken"])
        except (KeyError, TypeError) as error:
            raise PlacementError(f"{kept!r} is no placement") from error
        is_text = all(isinstance(each, str) for each in (*placement.right, placement.background, placement.taken))
        if not is_text or placement.background not in BACKGROUNDS:
            raise PlacementError(f"{kept!r} is no placement")
        return placement


@dataclass(frozen=True)
class Suggestion:
    """order: all lessons, as this background takes them. start: None when every lesson may be skipped.

    skip: (lesson, reason), in order. reason: why the order is as it is.
    """

    background: Background
    order: tuple[Lesson, ...]
    start: Lesson | None
    skip: tuple[tuple[Lesson, str], ...]

    @property
    def to_take(self) -> tuple[Lesson, ...]:
        """The lessons that stay, in order."""
        skipped = {lesson.id for lesson, _ in self.skip}
        return tuple(lesson for lesson in self.order if lesson.id not in skipped)


def is_right(question: Question, given: str) -> bool:
    """Whether an answer is right. given: an option's place counted from 0, or a number; "" is "I do not know yet".

    Raises PlacementError for an answer that cannot be read, which is not the same as a wrong one.
    """
    given = given.strip()
    if not given:
        return False
    if question.options:
        if given not in {str(place) for place in range(len(question.options))}:
            raise PlacementError(f"{given[:LONGEST_NUMBER]!r} is none of the {len(question.options)} answers")
        return int(given) == question.answer
    return abs(parse_number(given) - question.answer) <= NUMBER_TOLERANCE


def parse_number(text: str) -> float:
    """`40960`, `40,960`, `40 960`, `0.7`, `0,7`, `70 %` and `7/10` as a number. Raises PlacementError."""
    compact = re.sub(r"[\s_'\u2019]", "", text)
    if re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+", compact):
        compact = compact.replace(",", "")
    share = compact.endswith("%")
    compact = compact.removesuffix("%").replace(",", ".")
    if len(text) > LONGEST_NUMBER or not re.fullmatch(r"-?\d*\.?\d+(/[1-9]\d*)?", compact) or "./" in compact:
        raise PlacementError(f"{text[:LONGEST_NUMBER]!r} is not a number. Write it like 1536, 0.25 or 1/4")
    top, _, bottom = compact.partition("/")
    return float(Fraction(top) / Fraction(bottom or 1)) / (100 if share else 1)


def route(lessons: Sequence[Lesson], first: Sequence[str]) -> tuple[Lesson, ...]:
    """All lessons, those called `first` as early as what they need allows, the rest in the syllabus' order."""
    by_id = {lesson.id: lesson for lesson in lessons}
    taken: dict[str, Lesson] = {}

    def take(lesson: Lesson) -> None:
        for needed in lesson.needs:
            if needed in by_id and needed not in taken:
                take(by_id[needed])
        taken.setdefault(lesson.id, lesson)

    opening = [lesson for lesson in lessons[:1]]
    for lesson in [*opening, *(by_id[name] for name in first if name in by_id), *lessons]:
        take(lesson)
    return tuple(taken.values())


def suggest(placement: Placement, lessons: Sequence[Lesson], questions: Sequence[Question] = QUESTIONS) -> Suggestion:
    """The suggestion for these lessons: a lesson may be skipped when all of its questions were answered rightly."""
    background = BACKGROUNDS[placement.background]
    order = route(lessons, background.first)
    skip = []
    for lesson in order:
        asked = [question for question in questions if question.lesson == lesson.id]
        if asked and all(question.id in placement.right for question in asked):
            skip.append((lesson, f"you showed that you {' and '.join(question.shows for question in asked)}"))
    skipped = {lesson.id for lesson, _ in skip}
    start = next((lesson for lesson in order if lesson.id not in skipped), None)
    return Suggestion(background, order, start, tuple(skip))
