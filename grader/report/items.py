"""Item analysis: how hard each exercise was, and whether it tells strong learners from weak ones.

Discrimination is the corrected item-total correlation: the point-biserial correlation of passing the exercise with the
points earned on all others (Henrysson 1963), from -1 to 1. Near 0 or below, those who fail it do as well elsewhere as
those who pass: the exercise measures something else, or misleads.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grader.cohort.result import SubmissionResult
from grader.result import STATUSES, Result

FEWEST_FOR_CORRELATION = 5


@dataclass(frozen=True)
class Misconception:
    """A known wrong answer and how many gave it; likely: how many more agree with it on some cases only."""

    name: str
    hint: str
    learners: int
    likely: int


@dataclass(frozen=True)
class Item:
    """One exercise over all learners whose notebook could be read.

    counts: status -> learners. pass_rate: of the learners for whom it is not broken; None without any. discrimination:
    None when too few learners or no spread. median_seconds: of those who were called; median_tries: where known.
    """

    exercise_id: str
    title: str
    max_points: float
    counts: Mapping[str, int]
    pass_rate: float | None
    discrimination: float | None
    mean_points: float | None
    median_seconds: float | None
    median_tries: float | None
    misconceptions: tuple[Misconception, ...]


def analyse(
    results: Sequence[SubmissionResult], tries: Mapping[tuple[str, str], int] | None = None
) -> tuple[Item, ...]:
    """Every exercise, in the lesson's order. tries: (learner, exercise id) -> failed attempts at the desk."""
    order: dict[str, Result] = {}
    for submission in results:
        for result in submission.results:
            order.setdefault(result.exercise_id, result)
    return tuple(_item(exercise_id, results, tries or {}) for exercise_id in order)


def _item(exercise_id: str, submissions: Sequence[SubmissionResult], tries: Mapping[tuple[str, str], int]) -> Item:
    mine = [(each, result) for each in submissions for result in each.results if result.exercise_id == exercise_id]
    sound = [(each, result) for each, result in mine if result.status != "broken"]
    called = [result.seconds for _, result in sound if result.status != "todo"]
    known = [tries[each.learner, exercise_id] for each, _ in mine if (each.learner, exercise_id) in tries]
    passed = [result.passed for _, result in sound]
    rest = [each.points - result.points for each, result in sound]
    counts = Counter(result.status for _, result in mine)
    return Item(
        exercise_id,
        mine[0][1].title,
        mine[0][1].max_points,
        {status: counts[status] for status in STATUSES},
        sum(passed) / len(passed) if passed else None,
        point_biserial(passed, rest),
        statistics.mean(result.points for _, result in sound) if sound else None,
        statistics.median(called) if called else None,
        statistics.median(known) if known else None,
        _misconceptions([result for _, result in mine]),
    )


def point_biserial(passed: Sequence[bool], rest: Sequence[float]) -> float | None:
    """None when it is not defined: too few learners, or all alike on one side."""
    if len(passed) < FEWEST_FOR_CORRELATION or len(set(passed)) < 2 or len(set(rest)) < 2:
        return None
    from scipy.stats import pointbiserialr

    return float(pointbiserialr(passed, rest).statistic)


def _misconceptions(results: Sequence[Result]) -> tuple[Misconception, ...]:
    named = [result for result in results if result.misconception]
    hints = {result.misconception: result.hint for result in named}
    certain = Counter(result.misconception for result in named if result.certain)
    likely = Counter(result.misconception for result in named if not result.certain)
    order = sorted(hints, key=lambda name: (-certain[name], -likely[name], name))
    return tuple(Misconception(name, hints[name], certain[name], likely[name]) for name in order)
