"""What an update did, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from course.update.run import Outcome

SHOWN_OF_EACH = 12
BEFORE_UPDATE = "save it there before you update."
AFTER_UPDATE = (
    "when it says that the file has changed on disk, choose Revert, which reloads it, not Overwrite. What you typed "
    "there since it was last saved is in the browser only: copy it first."
)


def passed_exercises(folder: Path) -> set[str]:
    """Ids of exercises that the workspace's progress file knows as passed; none where there is no such file."""
    from grader.progress import FOLDER, Progress, ProgressError

    path = folder / FOLDER / "progress.sqlite"
    try:
        standings = Progress(path).standings() if path.exists() else {}
    except ProgressError:
        return set()  # It complains where progress is shown; here it only adds a sentence.
    return {name for name, standing in standings.items() if standing.status == "passed"}


def lines_of(outcome: Outcome, passed: set[str], *, dry_run: bool) -> Iterator[str]:
    """The lines about one file."""
    told = {
        "updated": "would be updated" if dry_run else "updated",
        "new": "would be copied: a new lesson" if dry_run else "new lesson",
        "current": "up to date",
        "refused": "NOT updated",
        "left": "left alone",
    }
    yield f"{outcome.name}: {told[outcome.state]}"
    yield from (f"  {note}" for note in outcome.notes)
    for title, items in (("came in", outcome.came_in), ("kept", outcome.kept), ("look again", outcome.look)):
        # What needs a look is told in full: it is what the learner has to do.
        yield from _listed(title, items, len(items) if title == "look again" else SHOWN_OF_EACH)
    for name in outcome.changed_exercises:
        if name in passed:
            yield f"  {name}: your pass stays in your progress, but it is of the old version until you check again."
    if outcome.backup:
        yield f"  as it was before: {outcome.backup}"


def _listed(title: str, items: Sequence[str], most: int) -> Iterator[str]:
    if not items:
        return
    yield f"  {title} ({len(items)}):"
    yield from (f"    {item}" for item in items[:most])
    if len(items) > most:
        yield f"    and {len(items) - most} more"


def summary(outcomes: Sequence[Outcome], *, dry_run: bool) -> str:
    """The last line."""
    counts = {state: sum(each.state == state for each in outcomes) for state in ("updated", "new", "refused")}
    if not any(counts.values()):
        return "Every lesson is up to date."
    would = "would be " if dry_run else ""
    told = [f"{count} {would if state != 'refused' else ''}{state}" for state, count in counts.items() if count]
    ending = " Nothing was written: this was a dry run." if dry_run else ""
    return f"{', '.join(told)}.{ending}"
