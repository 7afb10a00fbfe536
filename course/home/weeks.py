"""A plan in weeks: the lessons that are left, laid out over the hours a learner has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grader.syllabus import Lesson

# A lesson is not begun in the last minutes of a week: reading in takes that long.
SHORTEST_START_MINUTES = 20


@dataclass(frozen=True)
class Part:
    """What of a lesson falls into one week. continued: it began in an earlier week. ends: it ends in this one."""

    lesson: Lesson
    minutes: int
    continued: bool
    ends: bool


@dataclass(frozen=True)
class Week:
    """One week of the plan, counted from 1."""

    number: int
    parts: tuple[Part, ...]

    @property
    def minutes(self) -> int:
        """What the week takes."""
        return sum(part.minutes for part in self.parts)


def plan_weeks(left: Sequence[tuple[Lesson, int]], hours_per_week: float) -> tuple[Week, ...]:
    """Lay out lessons in their order. left: (lesson, minutes left of it); those with none left are passed over.

    A lesson that does not fit into a week goes on in the next one. hours_per_week: 0.5 or more.
    """
    week_minutes = round(60 * hours_per_week)
    weeks: list[list[Part]] = [[]]
    free = week_minutes
    for lesson, minutes in left:
        remaining = minutes
        while remaining > 0:
            begins = remaining == minutes
            too_short = begins and weeks[-1] and free < min(SHORTEST_START_MINUTES, remaining)
            if free == 0 or too_short:
                weeks.append([])
                free = week_minutes
            now = min(free, remaining)
            remaining -= now
            free -= now
            weeks[-1].append(Part(lesson, now, continued=not begins, ends=remaining == 0))
    return tuple(Week(number, tuple(parts)) for number, parts in enumerate(weeks, 1) if parts)


def hours_text(minutes: int) -> str:
    """`45 min`, `2 h`, `2 h 30 min`."""
    hours, rest = divmod(minutes, 60)
    return " ".join(filter(None, [f"{hours} h" if hours else "", f"{rest} min" if rest or not hours else ""]))


def show_plan(weeks: Sequence[Week]) -> None:
    """The plan as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("Week", "Lessons", "Hours")
    for week in weeks:
        lessons = "\n".join(
            f"{part.lesson.code} {part.lesson.title} ({'go on, ' if part.continued else ''}{hours_text(part.minutes)})"
            for part in week.parts
        )
        table.add_row(str(week.number), lessons, hours_text(week.minutes))
    Console().print(table)
