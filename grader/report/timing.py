"""How long things took: each exercise's calls over all learners, and each submission as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grader.cohort.result import SubmissionResult


@dataclass(frozen=True)
class ExerciseTiming:
    """Wall seconds of all calls of one exercise, over the learners whose answer was called."""

    exercise_id: str
    title: str
    seconds: tuple[float, ...]
    median: float
    ninetieth: float
    slowest: float
    slowest_learner: str


def exercise_timing(results: Sequence[SubmissionResult]) -> tuple[ExerciseTiming, ...]:
    """Exercises that were called at least once, in the lesson's order."""
    called: dict[str, list[tuple[float, str]]] = {}
    titles: dict[str, str] = {}
    for submission in results:
        for result in submission.results:
            titles.setdefault(result.exercise_id, result.title)
            if result.cases:
                called.setdefault(result.exercise_id, []).append((result.seconds, submission.learner))
    found = []
    for exercise_id, title in titles.items():
        if exercise_id in called:
            seconds = tuple(sorted(second for second, _ in called[exercise_id]))
            median, ninetieth = (float(number) for number in np.quantile(seconds, [0.5, 0.9]))
            slowest, learner = max(called[exercise_id])
            found.append(ExerciseTiming(exercise_id, title, seconds, median, ninetieth, slowest, learner))
    return tuple(found)


def slowest_submissions(results: Sequence[SubmissionResult], count: int) -> tuple[SubmissionResult, ...]:
    """Those that took most wall time."""
    return tuple(sorted(results, key=lambda result: (-result.seconds, result.learner))[:count])
