"""What a workspace's own files say of its learner. Trouble becomes a sentence to show; nothing here raises it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from course.home.choices import Choices, read_choices
from grader.progress import Attempt, Progress, ProgressError, Standing, progress_path


@dataclass(frozen=True)
class Learner:
    """standings: by exercise id. last: the latest attempt, None before the first. problems: sentences to show."""

    workspace: Path
    standings: Mapping[str, Standing] = field(default_factory=dict)
    last: Attempt | None = None
    choices: Choices = field(default_factory=Choices)
    problems: tuple[str, ...] = ()


def read_learner(workspace: Path) -> Learner:
    """Progress, placement and hours of the learner of this workspace, as far as they can be read."""
    if not workspace.is_dir():
        return Learner(
            workspace,
            problems=(
                f"Your workspace {workspace} is not there any more. Stop the course with Ctrl-C in its terminal and "
                "start it again with: course lab. It makes the folder and copies the notebooks anew.",
            ),
        )
    choices, problem = read_choices(workspace)
    problems = [problem] if problem else []
    standings: Mapping[str, Standing] = {}
    last = None
    path = progress_path(workspace)
    try:
        if path.exists() or path.parent.exists():
            progress = Progress(path)
            problems += [progress.notice] if progress.notice else []
            standings, last = progress.standings(), progress.last_attempt()
    except ProgressError as error:
        problems.append(
            f"Your progress cannot be read, so this page shows every exercise as not started: {error} "
            "Your notebooks are untouched."
        )
    return Learner(workspace, standings, last, choices, tuple(problems))
