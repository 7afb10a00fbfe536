"""Cells that an update adds beside a learner's own: new versions, and the heading over answers without an exercise.

The new version is shown as text, not as code that runs: "Run all" must go on doing what the learner made it do.
"""

from __future__ import annotations

import hashlib
import re

from course.update.cells import Cell, is_answer
from grader.notebook_format import nbformat

METADATA = "course"  # in a cell's metadata: {"course": {"mark_of": id, "sha256": of the mark as written}}
VANISHED_ID = "course-update-answers-kept"
VANISHED_TITLE = (
    "## Answers to exercises that are no longer in this lesson\n\n"
    "The lesson's new version has no such exercise any more. What you wrote is kept here; nothing checks it."
)


def mark(shipped: Cell) -> Cell:
    """A text cell that shows the new version of a cell whose learner keeps their own."""
    if is_answer(shipped):
        title = (
            "**This exercise changed.** Your answer is above, as you wrote it. Below is the new stub: compare "
            "signature and docstring, then run the check again."
        )
    else:
        title = (
            "**The course has a new version of the cell above.** Yours is kept, since you changed it. The new one is "
            "below; copy from it what you want, then delete this cell."
        )
    body = fenced(shipped.source) if shipped.cell_type == "code" else shipped.source
    source = f"> {title}\n\n{body}"
    identity = hashlib.sha256(f"{shipped.id}\n{source}".encode("utf-8", "replace")).hexdigest()[:12]
    return nbformat.v4.new_markdown_cell(
        source, id=f"new-{identity}", metadata={METADATA: {"mark_of": shipped.id, "sha256": _digest(source)}}
    )


def fenced(code: str) -> str:
    """Code as Markdown, in a fence that is longer than any in the code."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}python\n{code}\n{fence}"


def marked(cell: Cell) -> str:
    """The id of the shipped cell of which this is a mark that nobody edited since; "" for any other cell."""
    data = cell.metadata.get(METADATA)
    if not isinstance(data, dict) or data.get("sha256") != _digest(cell.source):
        return ""
    return str(data.get("mark_of", ""))


def point_mark_at(cell: Cell, identity: str) -> None:
    """The marked cell has another id in the version that comes in."""
    cell.metadata[METADATA]["mark_of"] = identity


def vanished_title() -> Cell:
    """The heading over answers whose exercises are gone."""
    return nbformat.v4.new_markdown_cell(VANISHED_TITLE, id=VANISHED_ID)


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()
