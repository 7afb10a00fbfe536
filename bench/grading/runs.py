"""One command timed from its start to its end, and the points it gave; two graders' points compared."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Scores = Mapping[str, Mapping[str, float]]
"""learner -> exercise id -> points"""

LONGEST_COMMAND_SECONDS = 3600


class BenchError(RuntimeError):
    """A run that failed, or graders that disagree; says which, with the end of what was printed."""


@dataclass(frozen=True)
class Run:
    """One grader's whole run. submissions: how many it graded; submission_seconds: mean of one, start-up left out."""

    grader: str
    submissions: int
    seconds: float
    processor_seconds: float
    scores: Scores
    submission_seconds: float

    @property
    def start_seconds(self) -> float:
        """What is left when each submission has been paid for."""
        return max(0.0, self.seconds - self.submissions * self.submission_seconds)

    def seconds_for(self, submissions: int) -> float:
        """Measured for its own number of submissions, extrapolated for another."""
        return self.seconds + (submissions - self.submissions) * self.submission_seconds


def timed(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """(wall seconds, processor seconds) of a command and all its children; raises BenchError."""
    before = _children_seconds()
    began = time.perf_counter()
    finished = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LONGEST_COMMAND_SECONDS,
        check=False,
    )
    seconds = time.perf_counter() - began
    if finished.returncode != 0:
        told = f"{finished.stdout}\n{finished.stderr}".strip()[-3000:]
        raise BenchError(f"`{' '.join(map(str, command))}` ended with status {finished.returncode}:\n{told}")
    return seconds, _children_seconds() - before


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def require_same_scores(ours: Run, theirs: Run) -> None:
    """Every learner whom both graded has the same points for every exercise; raises BenchError that names the first."""
    both = sorted(set(ours.scores) & set(theirs.scores))
    if len(both) < min(ours.submissions, theirs.submissions):
        raise BenchError(
            f"{ours.grader} graded {sorted(ours.scores)[:3]}... and {theirs.grader} {sorted(theirs.scores)[:3]}...: "
            f"only {len(both)} submissions are in both"
        )
    differing = [
        f"{learner}, {exercise}: {points:g} points from {ours.grader}, {theirs.scores[learner].get(exercise)} from "
        f"{theirs.grader}"
        for learner in both
        for exercise, points in ours.scores[learner].items()
        if theirs.scores[learner].get(exercise) != points
    ]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise BenchError(f"the graders disagree. {differing[0]}{more}. Their times cannot be compared.")
