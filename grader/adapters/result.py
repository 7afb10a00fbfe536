"""What grading one adapter gave: plain frozen data with a dict form, and what its learner is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

# todo: nothing handed in. refused: not loaded, `problem` says why. crashed: the process that answered died.
STATUSES = ("todo", "refused", "graded", "crashed")


@dataclass(frozen=True)
class GroupResult:
    """One group of hidden questions. Intervals are 95 %, as fractions of 1: low and high of the share that is right
    (Wilson), gain_low and gain_high of what it is above the base model's share (paired bootstrap).
    """

    group: str
    questions: int
    correct: int
    low: float
    high: float
    base_correct: int
    gain_low: float
    gain_high: float
    outcomes: Mapping[str, int]
    points: float
    max_points: float

    @property
    def share(self) -> float:
        """The share that is right, as a fraction of 1."""
        return self.correct / self.questions

    @property
    def sentence(self) -> str:
        """The result in words. It tells kinds and counts, never a question."""
        gain = 100 * (self.share - self.base_correct / self.questions)
        text = (
            f"{self.group}: {self.correct} of {self.questions} right, {100 * self.share:.0f} % "
            f"(95 % interval {100 * self.low:.0f} to {100 * self.high:.0f}); base model {self.base_correct}; "
            f"gain {gain:.0f} points ({100 * self.gain_low:.0f} to {100 * self.gain_high:.0f}); "
            f"{self.points:g} of {self.max_points:g} points."
        )
        wrong = ", ".join(f"{count} {name}" for name, count in self.outcomes.items())
        return f"{text} Wrong answers: {wrong}." if wrong else text


@dataclass(frozen=True)
class AdapterResult:
    """One graded adapter. sha256: of its files. version: of hidden set and checks; it tells nothing of the seed."""

    learner: str
    lesson: str
    status: str
    max_points: float
    version: str
    sha256: str = ""
    groups: tuple[GroupResult, ...] = ()
    problem: str = ""

    @property
    def points(self) -> float:
        """Points earned."""
        return sum(group.points for group in self.groups)

    @property
    def verdict(self) -> tuple[Any, ...]:
        """What must not depend on when, where or in which order it was graded."""
        return self.status, self.problem, self.groups

    @property
    def feedback(self) -> str:
        """What its learner may read."""
        if self.status == "todo":
            return f"No adapter was found: {self.problem}."
        if self.status == "crashed":  # `problem` is the instructor's to read: it may hold anything of our process.
            return "The evaluation of the adapter did not come to its end; your instructor will run it again."
        if self.problem:
            return f"The adapter was not graded: {self.problem}."
        return "\n".join(group.sentence for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"points": self.points, "feedback": self.feedback}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AdapterResult:
        """The inverse of `to_dict`."""
        known = {field.name: data[field.name] for field in fields(cls)}
        return cls(**{**known, "groups": tuple(GroupResult(**group) for group in data["groups"])})
