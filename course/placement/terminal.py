"""The placement in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import typer

from course.placement.questions import QUESTIONS, Question
from course.placement.suggestion import BACKGROUNDS, Placement, PlacementError, Suggestion, is_right
from grader.syllabus import Lesson


def ask_placement(lessons: Sequence[Lesson]) -> Placement:
    """Ask everything; an answer that cannot be read is asked for again. Ctrl-C leaves with nothing kept."""
    by_id = {lesson.id: lesson for lesson in lessons}
    typer.echo("Ten questions, about 10 minutes. Press Enter alone where you do not know yet; Ctrl-C leaves.\n")
    typer.echo("Where do you come from?")
    keys = list(BACKGROUNDS)
    for number, key in enumerate(keys, 1):
        typer.echo(f"  {number}. {BACKGROUNDS[key].title}")
    while (chosen := typer.prompt("Number")) not in {str(number) for number in range(1, len(keys) + 1)}:
        typer.echo(f"Give a number from 1 to {len(keys)}.", err=True)
    right = []
    for number, question in enumerate(QUESTIONS, 1):
        typer.echo(f"\n{number} of {len(QUESTIONS)}. {question.text}")
        for line in question.code.splitlines():
            typer.echo(f"    {line}")
        for place, option in enumerate(question.options, 1):
            typer.echo(f"  {place}. {option}")
        if _asked_until_read(question):
            right.append(question.id)
        if lesson := by_id.get(question.lesson):
            typer.echo(f"Taught in {lesson.code} {lesson.title}.")
    return Placement(keys[int(chosen) - 1], tuple(right), datetime.now(UTC).isoformat(timespec="seconds"))


def _asked_until_read(question: Question) -> bool:
    while True:
        given = typer.prompt("Number", default="", show_default=False).strip()
        if question.options and given.isdecimal():
            given = str(int(given) - 1)  # options are shown counted from 1
        try:
            return is_right(question, given)
        except PlacementError as error:
            shown = f"Give a number from 1 to {len(question.options)}" if question.options else str(error)
            typer.echo(f"{shown}, or press Enter alone.", err=True)


def suggestion_text(suggestion: Suggestion, placement: Placement) -> str:
    """The suggestion with its reasons."""
    lines = [f"{len(placement.right)} of {len(QUESTIONS)} answered rightly. {suggestion.background.reason}"]
    if suggestion.start:
        lines.append(f"\nStart with {suggestion.start.code} {suggestion.start.title}.")
    else:
        lines.append("\nYou may skip any lesson: pick what interests you.")
    if suggestion.skip:
        lines.append("\nWhat you may skip:")
        lines += [f"  {lesson.code} {lesson.title}: {reason}." for lesson, reason in suggestion.skip]
        lines.append("One right answer is a sign, not a proof: go back where a later lesson feels steep.")
    return "\n".join(lines)
