"""What a learner told the course about themselves: the placement's answers and the hours of a week.

Both lie in `.grader/learner.json` of the workspace, which is written in one step.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from course.placement.suggestion import Placement, PlacementError
from course.workspace import RECORDS_FOLDER, WorkspaceError, write_whole

FILE_NAME = "learner.json"
DEFAULT_HOURS = 6.0
MOST_HOURS = 80.0


class HoursError(ValueError):
    """Hours of a week that no plan can be made from."""


@dataclass(frozen=True)
class Choices:
    """placement: None before it was taken. hours_per_week: what the plan reckons with."""

    placement: Placement | None = None
    hours_per_week: float = DEFAULT_HOURS

    def to_dict(self) -> dict[str, Any]:
        """For the file."""
        placement = self.placement.to_dict() if self.placement else None
        return {"hours_per_week": self.hours_per_week, "placement": placement}


def checked_hours(text: str) -> float:
    """Hours per week as a number. Raises HoursError, which says what was given and what is possible."""
    try:
        hours = float(text.strip().replace(",", "."))
    except ValueError:
        hours = math.nan
    if not 0.5 <= hours <= MOST_HOURS:
        raise HoursError(f"{text.strip()[:20]!r} hours a week: give a number from 0.5 to {MOST_HOURS:g}")
    return hours


def read_choices(workspace: Path) -> tuple[Choices, str]:
    """(what the file says, a sentence about what is wrong with it or nothing); an absent file is the defaults."""
    file = workspace / RECORDS_FOLDER / FILE_NAME
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        placement = found.get("placement")
        hours = checked_hours(str(found.get("hours_per_week", DEFAULT_HOURS)))
        return Choices(Placement.from_dict(placement) if placement else None, hours), ""
    except FileNotFoundError:
        return Choices(), ""
    except (OSError, ValueError, AttributeError, PlacementError) as error:
        return Choices(), (
            f"Your placement and your hours cannot be read from {file}: {error}. Take the placement again, or give the "
            "hours again: either writes the file anew."
        )


def keep_placement(workspace: Path, placement: Placement) -> None:
    """Write the placement beside what else is kept. Raises WorkspaceError."""
    _write(workspace, replace(read_choices(workspace)[0], placement=placement))


def keep_hours(workspace: Path, hours_per_week: float) -> None:
    """Write the hours beside what else is kept. Raises WorkspaceError."""
    _write(workspace, replace(read_choices(workspace)[0], hours_per_week=hours_per_week))


def _write(workspace: Path, choices: Choices) -> None:
    file = workspace / RECORDS_FOLDER / FILE_NAME
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(choices.to_dict(), indent=1).encode())
    except OSError as error:
        raise WorkspaceError(
            f"Your choice cannot be kept in {file}: {error.strerror or error}. Free disk space or make the folder "
            "writable, then try again."
        ) from error
