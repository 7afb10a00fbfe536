"""Where the marks of each chart stand, in SVG units; the template draws them. No colours and no words here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grader.cohort.result import SubmissionResult
from grader.report.items import Item
from grader.report.timing import ExerciseTiming
from grader.result import STATUSES

# From right to wrong, so that a bar's left edge is the pass rate.
BAR_ORDER = ("passed", "failed", "crashed", "todo", "broken")
SHORTEST_SECONDS = 1e-4


@dataclass(frozen=True)
class Segment:
    """One status in a stacked bar."""

    status: str
    x: float
    width: float
    count: int


@dataclass(frozen=True)
class Mark:
    """One point. number: of the exercise, from 1."""

    x: float
    y: float
    number: int


@dataclass(frozen=True)
class Tick:
    """One labelled line of an axis."""

    at: float
    label: str


def stacked_bar(counts: Mapping[str, int], width: float) -> list[Segment]:
    """Segments whose widths add up to `width`; statuses without a learner are left out."""
    total = sum(counts[status] for status in STATUSES)
    segments, x = [], 0.0
    for status in BAR_ORDER:
        if counts[status]:
            share = width * counts[status] / total
            segments.append(Segment(status, x, share, counts[status]))
            x += share
    return segments


@dataclass(frozen=True)
class Scatter:
    """Pass rate (x) against discrimination (y). zero: y of no discrimination; weak: of 0.2, under which to look."""

    width: float
    height: float
    marks: list[Mark]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    zero: float
    weak: float


def scatter(items: Sequence[Item], width: float = 440, height: float = 300) -> Scatter:
    """Exercises without a discrimination are left out. Marks that would cover each other are moved apart sideways."""
    found = [each.discrimination for each in items if each.discrimination is not None]
    lowest = min(-0.2, math.floor(min(found, default=0) * 5) / 5)

    def y(value: float) -> float:
        return height * (1 - value) / (1 - lowest)

    marks: list[Mark] = []
    for number, item in enumerate(items, 1):
        if item.discrimination is not None and item.pass_rate is not None:
            x, at = width * item.pass_rate, y(item.discrimination)
            while any(math.hypot(x - other.x, at - other.y) < 20 for other in marks):
                x += 21 if x < width - 40 else -21
            marks.append(Mark(x, at, number))
    steps = round((1 - lowest) / 0.2)
    y_ticks = [Tick(y(1 - 0.2 * step), f"{1 - 0.2 * step:.1f}".replace("-0.0", "0.0")) for step in range(steps + 1)]
    x_ticks = [Tick(width * share / 100, f"{share} %") for share in range(0, 101, 25)]
    return Scatter(width, height, marks, x_ticks, y_ticks, y(0), y(0.2))


@dataclass(frozen=True)
class Strip:
    """The whole class at once: a column per learner, a row per exercise."""

    width: float
    column: float
    row: float
    learners: list[SubmissionResult]


def strip(results: Sequence[SubmissionResult], width: float = 1160) -> Strip:
    """Learners by points, the best first. Never narrower than 4 a column: a large class scrolls."""
    ordered = sorted(results, key=lambda result: (-result.points, result.learner))
    column = min(24.0, max(4.0, width / max(1, len(ordered))))
    return Strip(column * len(ordered), column, 20.0, ordered)


@dataclass(frozen=True)
class TimeAxis:
    """A logarithmic axis of seconds. dots: exercise id -> x of each call; medians: exercise id -> x."""

    width: float
    ticks: list[Tick]
    dots: dict[str, list[float]]
    medians: dict[str, float]


def time_axis(timing: Sequence[ExerciseTiming], width: float = 500) -> TimeAxis:
    """From the power of ten below the shortest call to that above the longest."""
    seconds = [max(second, SHORTEST_SECONDS) for each in timing for second in each.seconds] or [1.0]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))
    high = max(high, low + 1)

    def x(second: float) -> float:
        return width * (math.log10(max(second, SHORTEST_SECONDS)) - low) / (high - low)

    ticks = [Tick(x(10.0**power), seconds_text(10.0**power)) for power in range(low, high + 1)]
    dots = {each.exercise_id: [x(second) for second in each.seconds] for each in timing}
    return TimeAxis(width, ticks, dots, {each.exercise_id: x(each.median) for each in timing})


def seconds_text(seconds: float) -> str:
    """0.0123 -> 12 ms; 3.2 -> 3.2 s."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"
