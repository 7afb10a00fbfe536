"""The portfolio as the home page offers it: what was written, and `course portfolio` run for the learner."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from course.portfolio.write import DRAFT, FOLDER, PAGE
from course.workspace import WorkspaceError

MOST_SECONDS = 600  # Answers are executed and scored again, intervals drawn anew: L17's runs alone took 14 s.


@dataclass(frozen=True)
class WrittenPortfolio:
    """The page in a workspace, and when it was written (ISO 8601). draft: the draft lines' path, from the workspace."""

    page: Path
    written: str
    draft: str = f"{FOLDER}/{DRAFT}"


def written_portfolio(workspace: Path) -> WrittenPortfolio | None:
    """What was last written; None before the first time, or where it cannot be seen."""
    page = workspace / FOLDER / PAGE
    try:
        seconds = page.stat().st_mtime
    except OSError:
        return None
    return WrittenPortfolio(page, datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds"))


def write_portfolio_apart(workspace: Path) -> None:
    """Write it in a process of its own: it needs pandas, which this server does without. Raises WorkspaceError."""
    command = [sys.executable, "-m", "course.cli", "portfolio", "--workspace", str(workspace)]
    try:
        done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WorkspaceError(f"The portfolio was not written: {error}. In a terminal: course portfolio") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"`course portfolio` ended with status {done.returncode}"]
        raise WorkspaceError(said[-1])
