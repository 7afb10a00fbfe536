"""Cells of a lesson's notebook: which are ours, whether two hold the same, and how a report names one."""

from __future__ import annotations

import re
from typing import Any

# `grader build` numbers prose and demo cells anew when one comes or goes; every other id of ours is an exercise's.
NUMBERED = re.compile(r"l\d\d-(prose|demo)-\d+")
DEFINES = re.compile(r"^(?:async def|def|class)\s+(\w+)", re.MULTILINE)
LABEL_CHARACTERS = 60

Cell = Any  # nbformat's NotebookNode


def is_permanent(identity: str) -> bool:
    """Whether an id of a shipped cell is an exercise's: it names the same cell in every version."""
    return NUMBERED.fullmatch(identity) is None


def is_answer(cell: Cell) -> bool:
    """Whether a shipped cell is the one in which an answer is written."""
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def grade_id(cell: Cell) -> str:
    """The name that nbgrader's metadata gives a cell; it survives editors that draw new ids."""
    named = cell.metadata.get("nbgrader")
    return str(named.get("grade_id", "")) if isinstance(named, dict) else ""


def answer_name(cell: Cell) -> str:
    """The function or class that a stub defines, "" if there is none."""
    found = DEFINES.search(cell.source)
    return found.group(1) if found else ""


def defines(cell: Cell, name: str) -> bool:
    """Whether a code cell defines the function or class `name`, or assigns to it."""
    return cell.cell_type == "code" and bool(
        name and re.search(rf"^((async def|def|class)\s+{name}\b|{name}\s*=)", cell.source, re.MULTILINE)
    )


def text_of(cell: Cell) -> tuple[str, str]:
    """What two cells share when they hold the same: type and source, but for white space at the ends of lines."""
    lines = cell.source.replace("\r\n", "\n").rstrip().split("\n")
    return cell.cell_type, "\n".join(line.rstrip() for line in lines)


def label(cell: Cell) -> str:
    """A few words by which a learner finds the cell."""
    lines = [line.strip() for line in cell.source.splitlines()]
    told = [line for line in lines if line and not line.startswith(("<!--", "```", "import ", "from "))] or ["(empty)"]
    first = told[0].lstrip("#> ").strip() if cell.cell_type == "markdown" else told[0]
    kind = {"markdown": "text", "code": "code"}.get(cell.cell_type, cell.cell_type)
    return f'{kind} "{first[:LABEL_CHARACTERS].rstrip()}{"..." if len(first) > LABEL_CHARACTERS else ""}"'
